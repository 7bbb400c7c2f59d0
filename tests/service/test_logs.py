"""Logs say what happened, and never what a scanner said."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import urllib.request
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import PATIENCE_S, PROFILE, USUAL_LIMITS, Client
from simulated import header_of, opening, readouts_of, scan_bytes, usual_kspace

from edge_runtime.errors import DeviceError, HeaderError
from edge_runtime.links.mrd_header import format_header
from edge_runtime.links.mrd_messages import ImageMessage
from edge_runtime.links.mrd_pack import (
    pack_close,
    pack_config_file,
    pack_config_text,
    pack_header,
    pack_image,
    pack_readouts,
    pack_text,
)
from edge_runtime.scan import Patient, Scanner, Study
from edge_runtime.service.logs import JsonFormatter, TextFormatter, of_scan

ROOT = Path(__file__).parents[2]
CANARY = "Zugvogel"
"""No word of ours."""

FORMATTERS = [JsonFormatter(), TextFormatter()]


def record_of(
    message: str, *arguments: object, name: str = "edge_runtime.session", error: Exception | None = None
) -> logging.LogRecord:
    info = None if error is None else (type(error), error, error.__traceback__)
    return logging.LogRecord(name, logging.WARNING, "session.py", 7, message, arguments, info)


def caught(error: Exception) -> Exception:
    try:
        raise error
    except Exception as same:
        return same


def test_a_line_is_an_object_with_fixed_names():
    with of_scan("20261127T000000Z-0001"):
        entry = json.loads(JsonFormatter().format(record_of("%d readouts\nlost", 3)))
    assert list(entry) == ["time", "level", "logger", "message", "thread", "scan"]
    assert entry["time"].endswith("Z") and len(entry["time"]) == 24
    assert (entry["level"], entry["message"]) == ("warning", "3 readouts\nlost")
    assert entry["scan"] == "20261127T000000Z-0001"
    assert "\n" not in JsonFormatter().format(record_of("a\nb"))
    assert "scan" not in json.loads(JsonFormatter().format(record_of("outside")))


@pytest.mark.parametrize("formatter", FORMATTERS)
def test_words_of_errors_that_may_be_a_patients_are_withheld(formatter):
    for error in (ValueError(CANARY), HeaderError("patientName", CANARY, f"not {CANARY}"), RuntimeError(CANARY)):
        text = formatter.format(record_of("failed", error=caught(error)))
        assert CANARY not in text
        assert type(error).__name__ in text
        assert "test_logs.py" in text  # where
    assert "no driver" in formatter.format(record_of("failed", error=caught(DeviceError("no driver"))))


@pytest.mark.parametrize("formatter", FORMATTERS)
def test_of_other_libraries_only_the_place_is_told(formatter):
    text = formatter.format(record_of("Invalid value for VR PN: %s", CANARY, name="pydicom"))
    assert CANARY not in text
    assert "pydicom" in text and "line 7" in text


def test_a_long_message_is_cut():
    assert len(TextFormatter().format(record_of("x" * 10_000))) < 2200


# ----------------------------------------------------------------------------------- a whole server, fed with marked data


def marked_header(**parameters: str):
    """A header in which every text is the canary."""
    return replace(
        header_of(parameters={f"user{CANARY}": CANARY, **parameters}),
        patient=Patient(identifier=CANARY, name=CANARY, birth_date="19700101"),
        study=Study(identifier=CANARY, description=CANARY, accession_number=CANARY, referring_physician=CANARY),
        scanner=Scanner(manufacturer=CANARY, model=CANARY, institution=CANARY, station=CANARY, receiver_coils=4),
        measurement_id=CANARY,
        protocol_name=CANARY,
    )


def marked_scans() -> list[bytes]:
    """Scans that go well, and all kinds that do not."""
    readouts = readouts_of(usual_kspace())
    header = marked_header()
    xml = format_header(header)
    head = pack_config_file("edge-classical")
    text = xml.decode() if isinstance(xml, bytes) else xml

    def with_xml(changed: str) -> bytes:
        return head + pack_header(changed.encode() if isinstance(xml, bytes) else changed) + pack_readouts(readouts)

    bad = readouts_of(usual_kspace())
    bad.samples[3, 0, 0] = complex("nan")
    image = pack_image(
        readouts.samples[:1, :1, None].real.astype("float32"), {}, f"<ismrmrdMeta>{CANARY}</ismrmrdMeta>"
    )
    return [
        scan_bytes(readouts, header=header),
        scan_bytes(readouts, header=header, configuration="edge-all"),
        opening(header) + pack_text(CANARY) + pack_readouts(readouts) + pack_close(),
        opening(header) + pack_readouts(readouts),  # without CLOSE
        scan_bytes(bad, header=header),
        scan_bytes(readouts, header=header, configuration=CANARY),
        pack_config_text(f"<{CANARY}/>") + pack_header(xml),
        opening(header) + image,
        opening(header) + opening(header),
        with_xml(text.replace("cartesian", CANARY)),
        with_xml(text.replace("<x>48</x>", f"<x>{CANARY}</x>")),
        with_xml(text.replace("</ismrmrdHeader>", f"<{CANARY}>")),
        with_xml(text.replace("</ismrmrdHeader>", f"&{CANARY};</ismrmrdHeader>")),
        with_xml(f"<{CANARY}/>"),
        with_xml(f"<!DOCTYPE {CANARY}>" + text[text.index("<ismrmrdHeader") :]),
        head + pack_header(CANARY.encode() if isinstance(xml, bytes) else CANARY),
        CANARY.encode() * 200,
    ]


@pytest.mark.parametrize("form", ["json", pytest.param("text", marks=pytest.mark.full)])
def test_no_patient_data_in_logs_metrics_and_audit(form, tmp_path, tiny_bundle, trust_folder):
    (tmp_path / "test.toml").write_text(PROFILE.format(**USUAL_LIMITS))
    command = [
        sys.executable,
        "-W",
        "always",
        "-m",
        "edge_runtime.cli",
        "serve",
        "--port",
        "0",
        "--json",
        "--log",
        form,
    ]
    command += ["--profile", str(tmp_path / "test.toml"), "--bundle", str(tiny_bundle), "--trust", str(trust_folder)]
    command += ["--metrics", "0", "--audit", str(tmp_path / "audit.jsonl"), "--out", str(tmp_path / "out")]
    said = tmp_path / "stderr"
    with (
        said.open("w") as stderr,
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=stderr, text=True) as server,
    ):
        try:
            assert server.stdout is not None
            address = json.loads(server.stdout.readline())
            images, answers = 0, ""
            for scan in marked_scans():
                with Client(address["port"]) as client:
                    client.send(scan)
                    client.half_close()
                    replies = client.replies()
                    images += sum(isinstance(image, ImageMessage) for image in replies.images)
                    answers += replies.text
            with urllib.request.urlopen(
                f"http://127.0.0.1:{address['metrics']['port']}/metrics", timeout=PATIENCE_S
            ) as page:
                metrics = page.read().decode()
            server.send_signal(signal.SIGTERM)
            assert server.wait(PATIENCE_S) == 0
            rest = server.stdout.read()
        finally:
            server.kill()
    assert images >= 9
    assert CANARY in answers  # the scanner that sent it is told
    logged, audit = said.read_text(), (tmp_path / "audit.jsonl").read_text()
    assert 'edge_errors_total{kind="HeaderError"}' in metrics
    assert audit.count('"scan_begun"') >= 6
    assert "sent a text of 8 characters" in logged
    assert logged.count("ended early") >= 8
    for text in (logged, audit, metrics, rest):
        assert CANARY not in text
        assert CANARY.lower() not in text.lower()
        assert "19700101" not in text and "1970-01-01" not in text
    if form == "json":
        entries = [json.loads(line) for line in logged.splitlines()]
        assert any("scan" in entry for entry in entries)


def test_warnings_and_failures_of_threads_are_logged_without_their_words(tmp_path):
    code = (
        "import threading, warnings; from edge_runtime.service.logs import logging_as\n"
        f"def fail(): raise ValueError('{CANARY}')\n"
        "with logging_as('json'):\n"
        f"    warnings.warn('{CANARY}')\n"
        "    thread = threading.Thread(target=fail, name='one'); thread.start(); thread.join()"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, env=dict(os.environ))
    first, second = (json.loads(line) for line in done.stderr.splitlines())
    assert first["logger"] == "py.warnings"
    assert (second["message"], second["error"]) == ("one failed", "ValueError")
    assert CANARY not in done.stderr
    with warnings.catch_warnings():
        warnings.simplefilter("error")
