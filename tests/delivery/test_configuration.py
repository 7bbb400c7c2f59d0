"""The configuration of delivery says what is wrong with it, and never what is secret."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest
from delivery_objects import CALLBACK, DIMSE, HEAD, settings_of, settings_text
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.delivery.configuration import Token, WebPeer, load_delivery, parse_delivery
from edge_runtime.delivery.outbox.backoff import delay_s
from edge_runtime.delivery.outbox.windows import parse_windows
from edge_runtime.errors import DeliveryConfigurationError, NotAdmitted

WEB = '[[destination]]\nname = "web"\nkind = "web"\nurl = "https://pacs.example/dicom-web"\n'
TLS = '[destination.tls]\nauthorities = "ca.pem"\ncertificate = "edge.crt"\nkey = "edge.key"\n'


def test_a_whole_configuration(tmp_path: Path) -> None:
    text = settings_text(
        DIMSE + 'windows = ["22:00-06:00"]\nbandwidth_kbit_s = 512\n' + WEB + 'token_variable = "T"\n', callback=True
    )
    text += '[worklist]\nhost = "ris"\nport = 104\nae_title = "RIS"\nplain = true\n'
    settings = parse_delivery(text, "x", tmp_path)
    pacs, web = settings.destinations
    assert pacs.pace.bandwidth_bytes_per_s == 64000 and pacs.confirm == "commitment"
    assert isinstance(web.peer, WebPeer) and web.confirm == "qido" and web.verify == web.peer
    assert settings.outbox.folder == tmp_path / "outbox"
    assert settings.worklist is not None and settings.worklist.ae_title == "RIS" and settings.mpps is None
    assert settings.destination("web") is web
    with pytest.raises(DeliveryConfigurationError, match="known are pacs, web"):
        settings.destination("other")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = ", "not valid TOML"),
        (settings_text(""), r"\[\[destination\]\] is missing"),
        (settings_text(DIMSE).replace('review = "none"\n', ""), "outbox.review is missing"),
        (settings_text(DIMSE).replace('review = "none"', 'review = "maybe"'), "expected one of all, learned, none"),
        (settings_text(DIMSE + "colour = 1\n"), "unknown key colour"),
        (settings_text(DIMSE) + "[outbocks]\nx = 1\n", "unknown key outbocks.x"),
        (settings_text(DIMSE).replace("plain = true\n", "", 1), "sends patients' names unencrypted"),
        (settings_text(DIMSE + TLS), "either that or"),
        (settings_text(DIMSE.replace("14242", "0")), "port = 0: expected a whole number from 1"),
        (settings_text(DIMSE.replace("TESTPACS", "A" * 17)), "1 to 16 printable ASCII"),
        (settings_text(DIMSE + 'confirm = "prayer"\n'), "expected one of commitment, qido, none"),
        (settings_text(DIMSE + 'confirm = "qido"\n'), "verify.url is missing"),
        (settings_text(DIMSE + 'windows = ["25:00-06:00"]\n'), "such as '22:00-06:00'"),
        (settings_text(DIMSE + 'windows = ["Mo 22:00-06:00"]\n'), "days are Mon"),
        (settings_text(DIMSE + DIMSE), "each needs a name of its own"),
        (settings_text(DIMSE.replace('"pacs"', '"../pacs"', 1)), "letters, digits"),
        (settings_text(WEB.replace("https", "http")), "patients' names unencrypted"),
        (settings_text(WEB.replace("pacs.example", "me:secret@pacs.example")), "no user and no password"),
        (settings_text(WEB.replace("https://", "")), "https://host"),
        (settings_text(WEB + 'token_file = "a"\ntoken_variable = "b"\n'), "not both"),
        (settings_text(WEB + '[destination.tls]\nkey = "a"\n'), "certificate and key, or neither"),
        (settings_text(DIMSE + 'methods = ["guessed"]\n'), "expected some of"),
        (settings_text(DIMSE, callback=True).replace('["TESTPACS"]', "[]"), "at least one"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(DeliveryConfigurationError, match=said) as caught:
        parse_delivery(text, "delivery.toml", tmp_path)
    assert str(caught.value).startswith("delivery.toml") and "secret" not in str(caught.value)


def test_files_that_are_not_there_or_not_text(tmp_path: Path) -> None:
    with pytest.raises(DeliveryConfigurationError, match="No such file"):
        load_delivery(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_bytes(b"\xff")
    with pytest.raises(DeliveryConfigurationError, match="not UTF-8"):
        load_delivery(tmp_path / "bad.toml")


def test_a_token_is_read_each_time_and_never_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "token"
    token = Token(file)
    with pytest.raises(NotAdmitted, match="No such file"):
        token.read()
    for content in ("one\n", "two"):
        file.write_text(content)
        assert token.read() == content.strip()
    file.write_text("two\r\nX-Evil: 1")
    with pytest.raises(NotAdmitted, match="no bearer token") as caught:
        token.read()
    assert "Evil" not in str(caught.value)
    monkeypatch.setenv("EDGE_TOKEN", "three")
    assert Token(variable="EDGE_TOKEN").read() == "three"
    monkeypatch.delenv("EDGE_TOKEN")
    with pytest.raises(NotAdmitted, match="EDGE_TOKEN"):
        Token(variable="EDGE_TOKEN").read()


@pytest.mark.parametrize(
    ("windows", "moment", "is_open"),
    [
        (["22:00-06:00"], "2026-01-05 23:59", True),
        (["22:00-06:00"], "2026-01-05 05:59", True),
        (["22:00-06:00"], "2026-01-05 06:00", False),
        (["Fri 22:00-06:00"], "2026-01-10 03:00", True),  # Saturday morning belongs to Friday's
        (["Fri 22:00-06:00"], "2026-01-09 03:00", False),
        (["Sat,Sun 00:00-24:00"], "2026-01-11 12:00", True),
        (["Sat,Sun 00:00-24:00"], "2026-01-12 00:00", False),
        (["08:00-09:00", "10:00-11:00"], "2026-01-12 10:30", True),
    ],
)
def test_time_windows(windows: list[str], moment: str, is_open: bool) -> None:
    assert parse_windows(windows).open_at(datetime.datetime.fromisoformat(moment)) is is_open


@given(st.integers(1, 10**6), st.floats(0.1, 100), st.floats(100, 10**5), st.randoms(use_true_random=False))
def test_backoff_grows_to_its_limit_with_jitter(failures: int, first: float, longest: float, draw: object) -> None:
    wait = delay_s(failures, first, longest, draw)  # type: ignore[arg-type]
    whole = min(longest, first * 2.0 ** min(failures - 1, 60))
    assert whole / 2 * 0.999 <= wait <= whole * 1.001


def test_settings_are_relative_to_their_file(tmp_path: Path) -> None:
    assert settings_of(tmp_path, DIMSE).outbox.folder.parent == tmp_path
    assert HEAD and CALLBACK
