"""``edge-runtime outbox`` and ``edge-runtime pacs check`` as an operator uses them."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from delivery_objects import DIMSE, add_images, settings_text, write_images
from delivery_parts import Authority, Receiver
from pydicom.uid import MRImageStorage

from benchmarks.peers.pacs import Orthanc
from edge_runtime.cli import main
from edge_runtime.delivery.configuration import load_delivery
from edge_runtime.delivery.outbox.states import State
from edge_runtime.delivery.outbox.store import Outbox

pytest_plugins = ["pacs_fixtures"]  # real PACS, for the tests of delivery alone

Run = Callable[..., tuple[int, str]]


@pytest.fixture
def configuration(tmp_path: Path) -> Path:
    path = tmp_path / "delivery.toml"
    path.write_text(settings_text(DIMSE))
    return path


@pytest.fixture
def run(configuration: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: str) -> tuple[int, str]:
        code = main([*arguments, "--config", str(configuration)])
        return code, capsys.readouterr().out

    return call


@pytest.fixture
def outbox(configuration: Path) -> Iterator[Outbox]:
    with Outbox(load_delivery(configuration).outbox.folder) as opened:
        yield opened


def test_an_operator_reviews_and_releases(run: Run, outbox: Outbox, tmp_path: Path) -> None:
    add_images(outbox, write_images(tmp_path / "in", 3), state=State.HELD)
    code, said = run("outbox", "list")
    assert code == 0 and "pacs: 3 held" in said and "1 held     pacs learned final" in said
    assert run("outbox", "release", "1", "2") == (0, "2 changed\n")
    assert run("outbox", "hold", "2")[0] == 0
    assert run("outbox", "urgency", "1", "--to", "emergency")[0] == 0
    record = json.loads(run("outbox", "list", "--json", "--state", "queued")[1])
    (row,) = record["deliveries"]
    assert (row["number"], row["urgency"], row["state"]) == (1, "emergency", "queued")
    assert record["destinations"][0]["held"] == 2
    assert run("outbox", "release", "--all", "--destination", "pacs") == (0, "2 changed\n")
    assert json.loads(run("outbox", "purge", "3", "--unconfirmed", "--json")[1]) == {"removed": 1}
    assert "Nobody" not in run("outbox", "list", "--everything")[1], "no patient's name"


def test_wrong_usage(run: Run, outbox: Outbox, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("outbox", "release", "99")[0] == 1
    for wrong in (
        ["outbox", "release"],
        ["outbox", "release", "1", "--all"],
        ["outbox", "hold", "1", "--destination", "pacs"],
        ["outbox", "hold", "x"],
        ["outbox", "purge", "1"],
        ["outbox", "list", "--state", "gone"],
        ["pacs", "check", "nobody"],
    ):
        with pytest.raises(SystemExit) as ended:
            run(*wrong)
        assert ended.value.code == 2, wrong
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["outbox", "list"])
    assert "EDGE_DELIVERY is not set" in capsys.readouterr().err


def test_what_can_not_be_delivered_now_says_why(run: Run, outbox: Outbox, tmp_path: Path, configuration: Path) -> None:
    with socket.socket() as nobody:  # bound, and nobody listens
        nobody.bind(("127.0.0.1", 0))
        port = nobody.getsockname()[1]
        configuration.write_text(settings_text(DIMSE.replace("14242", str(port))))
        add_images(outbox, write_images(tmp_path / "in", 2))
        code, said = run("outbox", "deliver", "--json")
    record = json.loads(said)
    assert code == 1 and record["counts"]["pacs"] == {"queued": 2} and "nothing listens" in record["reasons"]["pacs"]


def checked(run: Run, configuration: Path, port: int, **changes: str) -> str:
    text = DIMSE.replace("14242", str(port)).replace("timeout_s = 5", "timeout_s = 1")
    for old, new in changes.items():
        text = text.replace(old, new)
    configuration.write_text(settings_text(text))
    code, said = run("pacs", "check", "pacs", "--json")
    findings = json.loads(said)["pacs"]
    assert (code == 0) is all(one["good"] for one in findings)
    return " / ".join(str(one["found"]) for one in findings)


def test_a_check_of_a_pacs_that_works(run: Run, configuration: Path) -> None:
    with free_port() as port, Receiver(port).running():
        said = checked(run, configuration, port, TESTPACS="RECEIVER")
    assert "answers EDGE1, unencrypted" in said and "takes MR images" in said and "storage commitment" in said


def test_a_check_asks_for_what_is_to_be_sent(run: Run, configuration: Path) -> None:
    with free_port() as port, Receiver(port).running():
        compress = 'plain = true\ncompress = "always"\n'
        said = checked(run, configuration, port, TESTPACS="RECEIVER", **{"plain = true\n": compress})
        assert "takes no compressed images" in said
        enhanced = 'plain = true\nobjects = "enhanced"\n'
        said = checked(run, configuration, port, TESTPACS="RECEIVER", **{"plain = true\n": enhanced})
        assert "C-STORE of Enhanced MR Image Storage is not allowed" in said
    assert MRImageStorage


def test_a_check_explains_what_is_wrong(run: Run, configuration: Path, tmp_path: Path) -> None:
    with free_port() as port:
        with Receiver(port).running():
            assert "it has no AE title 'TESTPACS'" in checked(run, configuration, port)
        assert "nothing listens there" in checked(run, configuration, port)
        unknown = {'"127.0.0.1"': '"no-such-host.invalid"'}
        assert "no address is known for that name" in checked(run, configuration, port, **unknown)
        server = ThreadingHTTPServer(("127.0.0.1", port), BaseHTTPRequestHandler)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        assert "a web server (HTTP) is there" in checked(run, configuration, port)
        server.shutdown()
        server.server_close()
        thread.join()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert "it hangs" in checked(run, configuration, silent.getsockname()[1])


def test_a_check_tells_a_tls_port_from_a_plain_one(run: Run, configuration: Path, tmp_path: Path) -> None:
    import ssl

    authority = Authority(tmp_path / "ca")
    certificate, key = authority.issue("pacs")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with free_port() as port, Receiver(port).running(context):
        said = checked(run, configuration, port, TESTPACS="RECEIVER")
        assert "it wants TLS" in said, said


def test_a_check_of_folders_and_the_worklist(run: Run, configuration: Path, tmp_path: Path) -> None:
    folder = '[[destination]]\nname = "usb"\nkind = "folder"\npath = "usb"\n'
    worklist = '[worklist]\nhost = "127.0.0.1"\nport = {port}\nae_title = "RECEIVER"\nplain = true\n'
    with free_port() as port, Receiver(port).running():
        configuration.write_text(settings_text(folder) + worklist.format(port=port))
        code, said = run("pacs", "check")
        assert code == 1 and "is the medium in?" in said and "good  echo: RECEIVER" in said
        (tmp_path / "usb").mkdir()
        code, said = run("pacs", "check")
        assert code == 0 and "can be written to" in said
        configuration.write_text(settings_text(folder + "mounted = true\n"))
        assert "no medium is mounted" in run("pacs", "check")[1]


@pytest.mark.full
def test_orthanc_does_not_know_this_device(orthanc: Orthanc, run: Run, configuration: Path) -> None:
    configuration.write_text(settings_text(DIMSE).replace("EDGE1", "STRANGER"))
    code, said = run("pacs", "check", "pacs")
    assert code == 1 and "BAD" in said, said


@pytest.mark.full
def test_deliver_once(orthanc: Orthanc, run: Run, configuration: Path, outbox: Outbox, tmp_path: Path) -> None:
    configuration.write_text(settings_text(DIMSE, callback=True))
    uids = add_images(outbox, write_images(tmp_path / "in", 3))
    code, said = run("outbox", "deliver", "--json")
    assert code == 0 and json.loads(said)["counts"] == {"pacs": {"committed": 3}}
    assert orthanc.instances() == set(uids)


class free_port:  # noqa: N801
    """A port that nobody listens on."""

    def __enter__(self) -> int:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return int(probe.getsockname()[1])

    def __exit__(self, *_: object) -> None:
        """Nothing is held."""
