"""Whose turn it is when a destination comes back: neither an object that broke a connection nor one that it can't take keeps the
others from leaving."""

from __future__ import annotations

import contextlib
import http.server
import json
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from conftest import PATIENCE_S
from delivery_objects import DIMSE, add_images, settings_of, write_images
from pydicom import dcmread
from pydicom.filebase import DicomBytesIO

from edge_runtime.delivery.destinations.courier import Settle
from edge_runtime.delivery.outbox.sender import Sender, deliver_now
from edge_runtime.delivery.outbox.states import State, Urgency
from edge_runtime.delivery.outbox.store import Delivery, Lost, Outbox, Sent
from edge_runtime.errors import Unreachable

PACE = "associations = 1\n"


class Line:
    """A destination whose line is down at first: the object on it is lost, and a few connections can't be made."""

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.connections = 0

    def send(self, objects: Iterator[Delivery], kinds: Collection[tuple[str, str]], settle: Settle) -> None:
        self.connections += 1
        if self.connections == 1:
            settle(next(objects), Lost("the line is cut"))
            raise Unreachable("the line is cut")
        if self.connections <= self.failures:
            raise Unreachable("nobody answers")
        for delivery in objects:
            settle(delivery, Sent(kept=True))

    def confirm(self, objects: Sequence[Delivery]) -> dict[int, bool]:
        return {one.id: True for one in objects}


def test_an_emergency_at_which_the_line_broke_does_not_end_every_turn(tmp_path: Path) -> None:
    settings, line = settings_of(tmp_path, DIMSE + PACE), Line(failures=4)
    with Outbox(settings.outbox.folder) as outbox:
        paths = write_images(tmp_path / "images", 101)
        add_images(outbox, paths[:1], urgency=Urgency.EMERGENCY)
        add_images(outbox, paths[1:])
        sender = Sender(settings, outbox, courier_of=lambda _: line, seed=1)
        sender.start()
        deadline = time.monotonic() + PATIENCE_S
        while {one.state for one in outbox.deliveries()} != {State.COMMITTED} and time.monotonic() < deadline:
            time.sleep(0.05)
        sender.stop()
        assert sender.join(PATIENCE_S)
        assert {one.state for one in outbox.deliveries()} == {State.COMMITTED}
    assert line.connections < 20


class _Archive(http.server.BaseHTTPRequestHandler):
    """Takes objects by STOW-RS, and answers 500 to every request that holds a certain one."""

    poison = ""
    stored: set[str] = set()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        boundary = b"--" + self.headers["Content-Type"].partition("boundary=")[2].encode()
        parts = [part.partition(b"\r\n\r\n")[2] for part in body.split(boundary)[1:-1]]
        uids = [str(dcmread(DicomBytesIO(part)).SOPInstanceUID) for part in parts]
        if self.poison in uids:
            self.send_response(500)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.stored.update(uids)
        answer = {"00081199": {"vr": "SQ", "Value": [{"00081155": {"vr": "UI", "Value": [uid]}} for uid in uids]}}
        content = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/dicom+json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def archive(poison: str) -> Iterator[tuple[int, set[str]]]:
    handler = type("Archive", (_Archive,), {"poison": poison, "stored": set()})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_address[1], handler.stored  # type: ignore[attr-defined]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


WEB = """
[[destination]]
name = "pacs"
kind = "web"
url = "http://127.0.0.1:{port}/dicom-web"
plain = true
confirm = "none"
attempts = 2
first_retry_s = 0.05
longest_retry_s = 0.1
"""


def test_one_object_at_which_a_server_fails_ends_as_a_dead_letter_and_the_others_arrive(tmp_path: Path) -> None:
    paths = write_images(tmp_path / "images", 12)
    poison = str(dcmread(paths[0]).SOPInstanceUID)
    with archive(poison) as (port, stored):
        settings = settings_of(tmp_path, WEB.format(port=port))
        with Outbox(settings.outbox.folder) as outbox:
            uids = add_images(outbox, paths)
            sender = Sender(settings, outbox, seed=1)
            sender.start()
            deadline = time.monotonic() + PATIENCE_S
            while len(stored) < 11 and time.monotonic() < deadline:
                time.sleep(0.05)
            # Whether it is the server's fault shows when others get through.
            number = 12
            while outbox.deliveries()[0].state is not State.DEAD and time.monotonic() < deadline:
                add_images(outbox, write_images(tmp_path / str(number), 1, seed=number))
                number += 1
                sender.notify()
                time.sleep(0.2)
            sender.stop()
            assert sender.join(PATIENCE_S)
            first, *others = outbox.deliveries()
    assert set(uids) - stored == {poison}
    assert first.state is State.DEAD
    assert "status 500" in first.reason
    assert State.DEAD not in {one.state for one in others}


def test_an_object_that_no_dicomdir_can_name_keeps_nothing_from_the_medium(tmp_path: Path) -> None:
    medium = tmp_path / "medium"
    medium.mkdir()
    settings = settings_of(
        tmp_path,
        '[[destination]]\nname = "pacs"\nkind = "folder"\npath = "medium"\ndicomdir = true\nfirst_retry_s = 0.1\n',
    )
    paths = write_images(tmp_path / "images", 3)
    nameless = dcmread(paths[1])
    del nameless.PatientID
    nameless.save_as(paths[1])
    with Outbox(settings.outbox.folder) as outbox:
        add_images(outbox, paths)
        assert not deliver_now(settings, outbox, Sender(settings, outbox, seed=1), threading.Event())
        states = [one.state for one in outbox.deliveries()]
        assert states == [State.COMMITTED, State.DEAD, State.COMMITTED]
        assert "DICOMDIR" in outbox.deliveries()[1].reason
