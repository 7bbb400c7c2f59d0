"""The scanner's own reading of MRD: against ismrmrd's, against the runtime's packer, and against bytes that are none."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import ismrmrd
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ismrmrd.serialization import ConfigFile, ProtocolDeserializer, ProtocolSerializer
from simulated import readouts_of, scan_bytes, usual_kspace

from edge_runtime.demo.run import SCAN
from edge_runtime.hil.bench.wire import (
    MOST_TEXT_BYTES,
    Answer,
    AnswerReader,
    CloseMessage,
    ImageMessage,
    Key,
    TextMessage,
    WireError,
    pack_close,
    pack_config,
    read_script,
)
from edge_runtime.links.mrd_pack import pack_image, pack_text


def test_a_scanner_loads_nothing_of_the_runtimes_links() -> None:
    """A bug of the receiving side can't be hidden by the same code on this one."""
    look = "import sys, edge_runtime.hil.bench.scanner; print(sorted(n for n in sys.modules if n.startswith('edge_runtime')))"
    loaded = subprocess.run([sys.executable, "-c", look], check=True, capture_output=True, text=True).stdout
    assert "hil.bench.wire" in loaded
    for foreign in ("links", "session", "_kernels", "hil.player", "scan'"):
        assert f"edge_runtime.{foreign}" not in loaded


def test_a_script_holds_every_byte_of_the_recording() -> None:
    script = read_script(SCAN)
    data = SCAN.read_bytes()
    assert (
        script.header + b"".join(one.message for one in script.readouts) + pack_close() == data[len(pack_config("")) :]
    )
    assert script.size_bytes == len(data) - 1026 - 2
    assert len(script.readouts) == 104
    assert [key.slice for key in script.keys] == [0, 1]
    assert [one.key for one in script.readouts[:8]] == [None] * 8  # of noise


def test_keys_are_those_that_ismrmrd_reads(tmp_path: Path) -> None:
    counters = {"slice": 3, "contrast": 1, "phase": 2, "repetition": 7, "set": 5}
    path = tmp_path / "scan.mrd"
    path.write_bytes(scan_bytes(readouts_of(usual_kspace(), **counters)))
    script = read_script(path)
    assert set(script.keys) == {Key(**counters)}
    _, _, *acquisitions = ProtocolDeserializer(io.BytesIO(path.read_bytes())).deserialize()
    assert len(acquisitions) == len(script.readouts)
    for acquisition in acquisitions:
        idx = acquisition.idx
        assert Key(idx.slice, idx.contrast, idx.phase, idx.repetition, idx.set) == Key(**counters)


@pytest.mark.parametrize(
    "flag",
    [
        ismrmrd.ACQ_IS_NOISE_MEASUREMENT,
        ismrmrd.ACQ_IS_PARALLEL_CALIBRATION,
        ismrmrd.ACQ_IS_NAVIGATION_DATA,
        ismrmrd.ACQ_IS_PHASECORR_DATA,
        ismrmrd.ACQ_IS_DUMMYSCAN_DATA,
        ismrmrd.ACQ_IS_RTFEEDBACK_DATA,
    ],
)
def test_readouts_that_are_no_lines_of_an_image_have_no_key(flag: int, tmp_path: Path) -> None:
    path = tmp_path / "scan.mrd"
    path.write_bytes(
        scan_bytes(readouts_of(usual_kspace(), flags=1 << (flag - 1), last=False), readouts_of(usual_kspace()))
    )
    keys = [one.key for one in read_script(path).readouts]
    assert keys[: len(keys) // 2] == [None] * (len(keys) // 2)
    assert None not in keys[len(keys) // 2 :]


def test_what_a_scanner_says_is_what_ismrmrd_hears() -> None:
    heard = list(ProtocolDeserializer(io.BytesIO(pack_config("edge") + pack_close())).deserialize())
    assert len(heard) == 1 and isinstance(heard[0], ConfigFile) and str(heard[0]) == "edge"
    with pytest.raises(WireError, match="1023"):
        pack_config("x" * 1024)


@pytest.mark.parametrize("dtype", [np.uint16, np.int16, np.float32, np.complex64])
def test_images_of_ismrmrd_are_understood(dtype: type[np.generic]) -> None:
    pixels = (np.arange(2 * 3 * 5).reshape(2, 1, 3, 5) * 3).astype(dtype)
    image = ismrmrd.Image.from_array(pixels, transpose=False)
    image.slice, image.contrast, image.phase, image.repetition, image.set = 4, 1, 2, 6, 3
    image.meta = {"EdgeMethod": "learned"}
    stream = io.BytesIO()
    with ProtocolSerializer(stream) as out:
        out.serialize("note: hello")
        out.serialize(image)
    text, came, closed = AnswerReader().feed(stream.getvalue())
    assert text == TextMessage("note: hello") and closed == CloseMessage()
    assert isinstance(came, ImageMessage)
    assert came.key == Key(4, 1, 2, 6, 3)
    assert np.array_equal(np.frombuffer(came.pixels, came.pixel_type).reshape(came.shape), pixels)
    assert b"learned" in came.attributes


@given(st.data())
def test_answers_do_not_depend_on_how_they_come_in_pieces(data: st.DataObject) -> None:
    pixels = np.arange(6, dtype=np.float32).reshape(1, 1, 2, 3)
    stream = pack_text("a") + pack_image(pixels, {"slice": 1}, "<x/>") + pack_text("ö\0") + pack_close()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    reader = AnswerReader()
    answers: list[Answer] = []
    for first, last in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        answers += reader.feed(stream[first:last])
    assert [type(one) for one in answers] == [TextMessage, ImageMessage, TextMessage, CloseMessage]
    assert answers[2] == TextMessage("ö") and not reader.holds_more
    with pytest.raises(WireError, match="after the server's CLOSE"):
        list(reader.feed(b"\0"))


@given(st.binary(max_size=400))
def test_a_server_that_talks_nonsense_is_refused_or_waited_for(noise: bytes) -> None:
    """Never another error, and never more held than came."""
    try:
        list(AnswerReader().feed(noise))
    except WireError:
        pass


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        (b"\x05\0" + (MOST_TEXT_BYTES + 1).to_bytes(4, "little"), "a text of"),
        (b"\x05\0\x01\0\0\0\xff", "UTF-8"),
        (b"\xfe\x03" + bytes(206), "version 0 and data_type 0"),
        (b"\xfe\x03\x01\0\x05\0" + b"\0" * 202, "0 x 0 x 0 x 0 pixels"),
        (b"\xfe\x03\x01\0\x05\0" + b"\xff" * 202, "65535 x 65535"),
        (b"\xf0\x03", "message 1008"),
    ],
)
def test_claims_that_no_image_has_are_refused_before_anything_is_kept(answer: bytes, complaint: str) -> None:
    with pytest.raises(WireError, match=complaint):
        list(AnswerReader().feed(answer))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda data: data[:-2], "without CLOSE"),
        (lambda data: data[:-40], "ends at"),
        (lambda data: data[:1026] + pack_close(), "without header"),
        (lambda data: b"\x07\0" + data, "message 7"),
        (lambda data: data + b"\x04\0", "follows CLOSE"),
        (lambda data: data[:5], "ends at 1026, the file at 5"),
        (lambda data: b"\xf0\x03\0", "ends within a message"),
    ],
)
def test_damaged_recordings_are_refused_by_name(
    change: object, complaint: str, tmp_path: Path, whole_scan: bytes
) -> None:
    assert callable(change)
    path = tmp_path / "damaged.mrd"
    path.write_bytes(change(whole_scan))
    with pytest.raises(WireError, match=rf"damaged\.mrd.*{complaint}"):
        read_script(path)
    with pytest.raises(WireError, match="No such file"):
        read_script(tmp_path / "missing.mrd")
