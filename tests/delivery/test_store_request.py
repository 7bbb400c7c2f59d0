"""Requests that are encoded here are those that pynetdicom would send, and nobody takes their answers."""

from __future__ import annotations

import io
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from delivery_objects import write_images
from hypothesis import given
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.uid import UID, ExplicitVRLittleEndian, MRImageStorage
from pynetdicom import AE, evt
from pynetdicom.dimse_messages import C_STORE_RQ
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.dsutils import encode
from pynetdicom.presentation import build_context

from edge_runtime.delivery.configuration import DicomPeer
from edge_runtime.delivery.destinations.association import Association, associated, undisturbed
from edge_runtime.delivery.destinations.store_request import Answer, _command, store
from edge_runtime.errors import DeliveryError


@given(
    st.from_regex(r"1\.2(\.[1-9][0-9]{0,8}){0,5}", fullmatch=True), st.integers(1, 65535), st.sampled_from([0, 1, 2])
)
def test_the_command_is_that_of_the_library(uid: str, number: int, priority: int) -> None:
    request = C_STORE()
    request.MessageID, request.Priority = number, priority
    request.AffectedSOPClassUID, request.AffectedSOPInstanceUID = MRImageStorage, UID(uid)
    request.DataSet = io.BytesIO(b"\0\0")
    message = C_STORE_RQ()
    message.primitive_to_message(request)
    assert _command(str(MRImageStorage), uid, number, priority) == encode(message.command_set, True, True)


class Server:
    """Keeps the bytes that arrive; answers with what it is told to."""

    def __init__(self) -> None:
        self.entity = AE(ae_title="SERVER")
        self.entity.add_supported_context(MRImageStorage, [ExplicitVRLittleEndian])
        self.entity.maximum_pdu_size = 4096
        self.received: dict[str, bytes] = {}
        self.status = 0x0000
        self._server = self.entity.start_server(
            ("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, self._store)]
        )
        self.port = int(self._server.server_address[1])

    def _store(self, event: Any) -> int:
        self.received[str(event.request.AffectedSOPInstanceUID)] = event.request.DataSet.getvalue()
        if self.status == 0xDEAD:
            event.assoc.abort()
        return self.status

    def close(self) -> None:
        self._server.shutdown()


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()


def peer(server: Server) -> DicomPeer:
    return DicomPeer("127.0.0.1", server.port, "SERVER", timeout_s=10)


def send(association: Association, path: Path, number: int) -> Answer:
    context = association.context_id(str(MRImageStorage), str(ExplicitVRLittleEndian))
    assert context is not None
    uid = str(dcmread(path).SOPInstanceUID)
    return store(
        association.pynetdicom,
        context,
        path,
        sop_class_uid=str(MRImageStorage),
        sop_instance_uid=uid,
        number=number,
        priority=0,
    )


CONTEXTS = [build_context(MRImageStorage, ExplicitVRLittleEndian)]


def test_files_arrive_byte_by_byte_in_pdus_of_the_receiver(tmp_path: Path, server: Server) -> None:
    paths = write_images(tmp_path, 3, 64)
    with associated("EDGE1", peer(server), CONTEXTS) as association, undisturbed(association) as alone:
        assert alone
        for number, path in enumerate(paths):
            assert send(association, path, number + 1) == Answer(0x0000)
        server.status = 0xC000
        assert send(association, paths[0], 9).status == 0xC000
    for path in paths:
        whole = path.read_bytes()
        assert whole.endswith(server.received[str(dcmread(path).SOPInstanceUID)])
        assert len(server.received[str(dcmread(path).SOPInstanceUID)]) > 64 * 64 * 2


def test_an_abort_is_no_answer(tmp_path: Path, server: Server) -> None:
    (path,) = write_images(tmp_path, 1)
    server.status = 0xDEAD
    with associated("EDGE1", peer(server), CONTEXTS) as association, undisturbed(association):
        assert send(association, path, 1) == Answer(None)


def test_an_answer_to_something_else_is_none(tmp_path: Path, server: Server) -> None:
    (path,) = write_images(tmp_path, 1)
    other = C_STORE()
    other.MessageIDBeingRespondedTo, other.Status = 77, 0x0000
    with associated("EDGE1", peer(server), CONTEXTS) as association, undisturbed(association):
        association.pynetdicom.dimse.msg_queue.put((1, other))
        assert send(association, path, 1) == Answer(None)
        assert not association.pynetdicom.is_established


def test_nobody_takes_an_answer(server: Server) -> None:
    """What waits in the queue of messages stays there for the sender; afterwards the reactor works again."""
    answer = C_STORE()
    with associated("EDGE1", peer(server), CONTEXTS) as association:
        messages = association.pynetdicom.dimse.msg_queue
        with undisturbed(association) as alone:
            assert alone
            association.pynetdicom._reactor_checkpoint.set()  # as `send_c_store` does after each answer
            messages.put((1, answer))
            time.sleep(0.1)
            assert messages.get_nowait() == (1, answer)
        messages.put((None, None))
        deadline = time.monotonic() + 10
        while not messages.empty():
            assert time.monotonic() < deadline, "the reactor does not go on"
            time.sleep(0.01)


class _Sluggish(threading.Event):
    """A reactor that waits there goes on late, as on a busy machine."""

    draw = random.Random(0)

    def wait(self, timeout: float | None = None) -> bool:
        done = super().wait(timeout)
        time.sleep(self.draw.uniform(0.001, 0.012))
        return done


def test_a_reactor_that_goes_on_late_takes_no_answer(tmp_path: Path, server: Server) -> None:
    """It says that it waits, is held up, and then looks for messages although it was told to wait (pynetdicom 3.0.4).

    With `send_c_store` 6 of 208 answers were lost in this way.
    """
    paths = write_images(tmp_path, 20)
    for _ in range(5):
        server.received.clear()
        with associated("EDGE1", peer(server), CONTEXTS) as association:
            sluggish = _Sluggish()
            sluggish.set()
            association.pynetdicom._reactor_checkpoint = sluggish
            time.sleep(0.05)  # it is there now
            with undisturbed(association) as alone:
                assert alone
                for number, path in enumerate(paths):
                    time.sleep(_Sluggish.draw.uniform(0, 0.01))
                    assert send(association, path, number + 1) == Answer(0x0000)
        assert len(server.received) == len(paths)


def test_what_is_no_file_is_refused(tmp_path: Path, server: Server) -> None:
    path = tmp_path / "no.dcm"
    path.write_bytes(bytes(200))
    with (
        associated("EDGE1", peer(server), CONTEXTS) as association,
        undisturbed(association),
        pytest.raises(DeliveryError, match="not a DICOM file"),
    ):
        store(association.pynetdicom, 1, path, sop_class_uid="1.2", sop_instance_uid="1.2", number=1, priority=0)
