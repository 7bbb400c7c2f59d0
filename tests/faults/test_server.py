"""Whatever a client does, it gets a text that names the fault, nothing measured is lost, and the server serves the next."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import re
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from conftest import PATIENCE_S, attribute
from simulated import (
    COILS,
    COLUMNS,
    LINES,
    SAMPLES,
    centre_out,
    coil_maps,
    header_of,
    kspace_of,
    object_image,
    opening,
    readouts_of,
    scan_bytes,
    usual_kspace,
    with_spaces,
)

from edge_runtime import session
from edge_runtime.errors import Abandoned, BudgetExceeded
from edge_runtime.links import mrd, mrd_sender
from edge_runtime.links.mrd_header import format_header
from edge_runtime.links.mrd_messages import WAVEFORM_HEADER, Close, ImageMessage, Text
from edge_runtime.links.mrd_pack import (
    pack_close,
    pack_config_file,
    pack_config_text,
    pack_header,
    pack_image,
    pack_readouts,
    pack_text,
    parse_meta_attributes,
)
from edge_runtime.memory import Reservation
from edge_runtime.modalities.mri.sampling import uniform
from edge_runtime.scan import EncodingSpace, Image, Limit, ReadoutBatch, ReadoutFlag
from edge_runtime.session import Session

KSPACE = usual_kspace()
HALF = np.arange(LINES // 4, 3 * LINES // 4)
"""Phase encodes of a scan that is cut off; the centre of k-space is among them."""

FINAL = [("classical", "final"), ("zero_filled", "final")]
INCOMPLETE = [("classical", "incomplete"), ("zero_filled", "incomplete")]


def half_a_scan() -> bytes:
    return scan_bytes(readouts_of(KSPACE, HALF, last=False), close=False)


BEGUN = opening() + pack_readouts(readouts_of(KSPACE, np.arange(LINES // 3), last=False))
"""The first third of a linear scan: it is answered with a text, which shows that the session is open."""


USUAL = {"sessions": 16, "session_mb": 512, "total_mb": 2048}
"""Of the shipped profile."""


class NobodyListens:
    """Takes what a session answers."""

    def text(self, message: str) -> None: ...

    def image(self, image: Image, series: int, index: int) -> None: ...

    def has_room(self, size_bytes: int) -> bool:
        return True

    def wait_for_room(self, size_bytes: int) -> None: ...


def report_of(server: Any) -> dict[str, Any]:
    (path,) = server.wait_for_files("*/report.json")
    report: dict[str, Any] = json.loads(path.read_text())
    return report


# ----------------------------------------------------------------------------------------------------- what must work


def test_a_whole_scan_gives_final_images(serve, whole_scan):
    replies = serve().exchange(whole_scan)
    assert replies.kinds() == FINAL
    assert replies.closed


def test_an_image_has_the_reconstructed_matrix_of_the_header(serve, whole_scan):
    image = serve().exchange(whole_scan).images[0]
    assert image.pixels.shape == (1, 1, LINES, COLUMNS)


def test_the_zero_filled_image_of_a_full_scan_is_the_object(serve):
    stream = scan_bytes(readouts_of(usual_kspace(noise=0.0)))
    image = serve().exchange(stream).images[1].pixels[0, 0]
    np.testing.assert_allclose(image, np.abs(object_image()), atol=1e-4)


def test_every_final_image_is_a_dicom_file(serve, whole_scan):
    server = serve()
    server.exchange(whole_scan)
    kinds = {pydicom.dcmread(path).SeriesDescription for path in server.files("*/*/*.dcm")}
    assert len(server.files("*/*/*.dcm")) == len(kinds) == len(FINAL)


def test_the_wire_and_dicom_call_a_method_by_the_same_name(serve, whole_scan):
    server = serve()
    wire = {attribute(image, "SeriesDescription") for image in server.exchange(whole_scan).images}
    files = [pydicom.dcmread(path) for path in server.files("*/*/*.dcm")]
    assert wire == {file.SeriesDescription.removesuffix(" GEOMETRY UNKNOWN") for file in files}
    assert wire == {"Classical recon", "Zero-filled recon"}


def test_a_simulated_scan_says_so_on_the_wire(serve):
    header = replace(header_of(), simulated=True)
    replies = serve().exchange(scan_bytes(readouts_of(KSPACE), header=header))
    assert [attribute(image, "EdgeSimulated") for image in replies.images] == ["1", "1"]


def test_a_measured_scan_is_not_called_simulated(serve, whole_scan):
    assert "EdgeSimulated" not in serve().exchange(whole_scan).images[0].attributes


def test_the_log_says_what_became_of_a_scan(serve, whole_scan, caplog):
    caplog.set_level(logging.INFO, "edge_runtime.links.mrd")
    server = serve()
    server.exchange(whole_scan)
    server.stop()
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.INFO]
    assert len(said) == 1
    assert f"{LINES} readouts, {len(FINAL)} images" in said[0]


def test_memory_is_given_back_once_when_no_scanner_has_come_for_a_while(serve, whole_scan, monkeypatch):
    given = threading.Semaphore(0)
    give = mrd.return_unused
    monkeypatch.setattr(mrd, "return_unused", lambda: (give(), given.release()))
    monkeypatch.setattr(mrd, "RETURN_MEMORY_S", 0.1)
    server = serve()
    assert not given.acquire(timeout=1)  # nothing was taken yet
    server.exchange(whole_scan)
    assert given.acquire(timeout=PATIENCE_S)
    assert not given.acquire(timeout=1)
    server.exchange(whole_scan)
    assert given.acquire(timeout=PATIENCE_S)


def test_missing_directions_are_noted_on_the_wire_and_in_the_report(serve):
    batch = readouts_of(KSPACE)
    batch.header["read_direction"] = batch.header["phase_direction"] = 0
    server = serve()
    replies = server.exchange(scan_bytes(batch))
    said = "Geometry unknown because the scanner sent no directions"
    assert all(said in parse_meta_attributes(image.attributes)["EdgeNotes"] for image in replies.images)
    assert said in report_of(server)["notes"]


def test_the_report_names_every_image(serve, whole_scan):
    server = serve()
    server.exchange(whole_scan)
    report = report_of(server)
    assert [(image["method"], image["completeness"]) for image in report["images"]] == FINAL
    assert report["readouts"] == LINES
    assert report["error"] == ""


def test_the_learned_image_comes_first_and_carries_held_out_evidence(serve, tiny_bundle):
    every_other = np.flatnonzero(uniform(LINES, 2, acs_fraction=0.25))
    stream = scan_bytes(readouts_of(KSPACE, every_other), configuration="edge-all")
    replies = serve(bundle=tiny_bundle).exchange(stream)
    assert [method for method, _ in replies.kinds()] == ["learned", "classical", "zero_filled"]
    said = parse_meta_attributes(replies.images[0].attributes)
    assert float(said["EdgeHeldOutResidual"][0]) > 0
    assert float(said["EdgeHeldOutRms"][0]) > 0
    assert 0 <= float(said["EdgeLearnedShare"][0]) <= 1
    assert "held-out" in said["EdgeLearnedShareSource"][0]


def test_a_correction_that_nothing_confirms_says_so_on_the_wire_in_the_report_and_in_dicom(serve, tiny_bundle):
    lines = np.r_[2, 10 : LINES - 10, LINES - 2]
    server = serve(bundle=tiny_bundle)
    learned, classical = server.exchange(scan_bytes(readouts_of(KSPACE, lines), configuration="edge")).images
    said = "applied in full, unconfirmed: no samples could be held out"
    attributes = parse_meta_attributes(learned.attributes)
    assert said in attributes["EdgeNotes"][-1]
    assert "EdgeLearnedShare" not in attributes
    assert said not in classical.attributes
    of_learned, of_classical = report_of(server)["images"]
    assert (of_learned["evidence"]["learned_share"], of_learned["evidence"]["learned_share_source"]) == (None, said)
    assert of_classical["evidence"]["learned_share_source"] == ""
    comments = pydicom.dcmread(of_learned["dicom"]).ImageComments
    assert comments.count(said) == 1
    assert "confirmed by" not in comments


def test_overridden_quality_limits_are_told_on_the_wire_in_the_report_and_in_dicom(serve, tiny_bundle):
    server = serve(bundle=tiny_bundle)
    learned, classical = server.exchange(scan_bytes(readouts_of(KSPACE), configuration="edge")).images
    assert parse_meta_attributes(learned.attributes)["EdgeBundleOverride"] == ["a test"]
    assert "EdgeBundleOverride" not in parse_meta_attributes(classical.attributes)
    of_learned, of_classical = report_of(server)["images"]
    assert of_learned["provenance"]["bundle_override"] == "a test"
    assert of_classical["provenance"]["bundle_override"] == ""
    assert "its quality limits were overridden: a test" in pydicom.dcmread(of_learned["dicom"]).ImageComments


def test_sessions_at_once_each_get_their_own_image(serve):
    server = serve(sessions=4)
    brightness = [1.0, 2.0, 4.0, 8.0]
    streams = [scan_bytes(readouts_of(np.complex64(value) * usual_kspace(0.0))) for value in brightness]
    peaks: dict[int, float] = {}
    ready = threading.Barrier(len(streams))

    def scan(number: int) -> None:
        with server.connect() as client:
            middle = len(streams[number]) // 2
            client.send(streams[number][:middle])
            ready.wait()  # all four are in the middle of their scans
            client.send(streams[number][middle:])
            peaks[number] = float(client.replies().images[-1].pixels.max())

    threads = [threading.Thread(target=scan, args=(number,)) for number in range(len(streams))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = np.abs(object_image()).max() * np.array(brightness)
    np.testing.assert_allclose([peaks[number] for number in range(4)], expected, rtol=1e-3)


def test_a_centre_out_scan_is_previewed_before_it_ends(serve):
    order = centre_out()
    with serve().connect() as client:
        client.send(opening() + pack_readouts(readouts_of(KSPACE, order[: LINES // 2], last=False)))
        while not isinstance(message := client.receive(), ImageMessage):
            assert message is not None
        assert "EdgeCompleteness</name><value>preview" in message.attributes
        client.send(pack_readouts(readouts_of(KSPACE, order[LINES // 2 :])) + pack_close())
        assert client.replies().kinds() == FINAL


def test_previews_come_at_the_chosen_shares(serve):
    """The scanner waits for each, and rests for longer than one takes: a pace at which the next is worth its while."""
    order = centre_out()
    shares = []
    with serve().connect() as client:
        client.send(opening())
        for first in range(0, LINES, LINES // 4):
            part = order[first : first + LINES // 4]
            time.sleep(0.5)
            client.send(pack_readouts(readouts_of(KSPACE, part, last=part[-1] == order[-1])))
            for _ in FINAL:
                while not isinstance(message := client.receive(), ImageMessage):
                    assert message is not None
            shares.append(message.attributes.split("EdgeMeasuredShare</name><value>")[1][:4])
    assert shares == ["0.25", "0.50", "0.75", "1.00"]


def test_previews_are_not_kept_as_dicom(serve):
    server = serve()
    order = centre_out()
    with server.connect() as client:
        client.send(opening() + pack_readouts(readouts_of(KSPACE, order[: LINES // 2], last=False)))
        while not isinstance(client.receive(), ImageMessage):
            pass
        client.send(pack_readouts(readouts_of(KSPACE, order[LINES // 2 :])) + pack_close())
        client.replies()
    assert len(server.files("*/*/*.dcm")) == len(FINAL)


def test_a_linear_scan_is_told_what_is_awaited(serve):
    with serve().connect() as client:
        client.send(BEGUN)
        message = client.receive()
        assert isinstance(message, Text)
        assert message.text.startswith("waiting:") and f"phase encode {LINES // 2}" in message.text


def test_a_scan_without_the_flag_that_ends_a_slice_is_final_at_close(serve):
    replies = serve().exchange(scan_bytes(readouts_of(KSPACE, last=False)))
    assert replies.kinds() == FINAL


def test_a_header_that_ends_in_nul_is_read(serve):
    stream = pack_config_file("edge-classical") + pack_header(format_header(header_of()).encode() + b"\0")
    replies = serve().exchange(stream + pack_readouts(readouts_of(KSPACE)) + pack_close())
    assert replies.kinds() == FINAL


def test_waveforms_and_texts_between_readouts_are_taken_note_of(serve):
    waveform = np.zeros((), WAVEFORM_HEADER)
    waveform["channels"], waveform["samples"] = 2, 3
    between = b"\x02\x04" + waveform.tobytes() + bytes(24) + pack_text("patient moved")
    messages = [opening(), between, pack_readouts(readouts_of(KSPACE)), between, pack_close()]
    server = serve()
    assert server.exchange(b"".join(messages)).kinds() == FINAL
    assert report_of(server)["left_out"] == {"waveform": 2}


def test_repetitions_come_one_after_another(serve):
    header = header_of(limits={"repetition": Limit(0, 1, 0)})
    batches = [readouts_of(KSPACE, repetition=repetition) for repetition in range(2)]
    replies = serve().exchange(scan_bytes(*batches, header=header))
    assert sorted(int(image.header["repetition"]) for image in replies.images) == [0, 0, 1, 1]


# ------------------------------------------------------------------------------------------- scans that end too early


def test_half_a_scan_then_close_gives_an_image_marked_incomplete(serve):
    replies = serve().exchange(half_a_scan() + pack_close())
    assert replies.kinds() == INCOMPLETE
    assert f"{len(HALF)} of {LINES} expected phase encodes" in replies.images[-1].attributes


ACCELERATED = header_of(acceleration=2)
WITH_ACS = np.flatnonzero(uniform(LINES, 2, acs_fraction=0.375))
"""22 phase encodes; the 12 in the centre make up in number for some that are missing further out."""


@pytest.mark.parametrize("close", [True, False])
def test_an_accelerated_scan_that_ends_early_is_incomplete_for_all_its_acs(serve, close):
    batch = readouts_of(KSPACE, WITH_ACS[:17], last=False)
    replies = serve().exchange(scan_bytes(batch, header=ACCELERATED, close=close))
    assert replies.kinds() == INCOMPLETE
    notes = parse_meta_attributes(replies.images[-1].attributes)["EdgeNotes"]
    assert f"phase encodes 0 to {WITH_ACS[16]} of 0 to 31 were reached" in notes
    assert not any("of 16 expected" in note for note in notes)


def test_an_accelerated_scan_without_the_flag_that_ends_a_slice_is_final_when_its_lines_are_all_there(serve):
    batch = readouts_of(KSPACE, WITH_ACS, last=False)
    assert serve().exchange(scan_bytes(batch, header=ACCELERATED)).kinds() == FINAL


def test_a_slice_that_is_ended_with_lines_missing_says_how_many(serve):
    replies = serve().exchange(scan_bytes(readouts_of(KSPACE, np.arange(25))))
    assert replies.kinds() == FINAL
    assert f"25 of {LINES} expected phase encodes were measured" in replies.images[0].attributes
    whole = serve().exchange(scan_bytes(readouts_of(KSPACE)))
    assert not any("expected phase encodes" in image.attributes for image in whole.images)


def test_half_a_scan_then_the_end_of_the_stream_gives_an_image_and_the_reason(serve):
    replies = serve().exchange(half_a_scan())
    assert replies.kinds() == INCOMPLETE
    assert "without CLOSE" in replies.text


def test_half_a_scan_then_a_lost_connection_is_saved(serve):
    server = serve()
    with server.connect() as client:
        client.send(opening() + pack_readouts(readouts_of(KSPACE, centre_out()[: LINES // 2], last=False)))
        while not isinstance(client.receive(), ImageMessage):  # a preview: the readouts have arrived
            pass
        client.vanish()
    report = report_of(server)
    assert [image["completeness"] for image in report["images"]][-2:] == ["incomplete", "incomplete"]
    assert report["error"]
    assert len(server.files("*/*_incomplete_*/*.dcm")) == len(INCOMPLETE)


@pytest.mark.parametrize("leave", ["vanish", "half_close"])
def test_a_client_that_has_gone_leaves_its_place_before_its_images_are_made(serve, whole_scan, monkeypatch, leave):
    made = threading.Event()
    reconstruct = session.reconstruct

    def slow(*arguments):
        assert made.wait(PATIENCE_S)
        return reconstruct(*arguments)

    monkeypatch.setattr(session, "reconstruct", slow)
    server = serve(sessions=1, idle_timeout_s=PATIENCE_S)
    with server.connect() as first:
        first.send(opening() + pack_readouts(readouts_of(KSPACE, HALF, last=False)))
        getattr(first, leave)()
        with server.connect() as second:  # admitted while the first one's image waits
            second.send(whole_scan)
            threading.Timer(0.5, made.set).start()
            replies = second.replies()
    assert replies.kinds() == FINAL, replies.text


def test_a_preview_that_is_left_out_is_told(serve, monkeypatch):
    """The final image is due while the preview is made, which then gives way."""
    begun, ended = threading.Event(), threading.Event()
    calibrated = Session._calibration

    def slow(self, *arguments):
        begun.set()
        ended.wait(PATIENCE_S)
        return calibrated(self, *arguments)

    monkeypatch.setattr(Session, "_calibration", slow)
    monkeypatch.setattr(session, "reconstruct", abandoning(session.reconstruct))
    server = serve()
    order = centre_out()
    with server.connect() as client:
        client.send(opening() + pack_readouts(readouts_of(KSPACE, order[: LINES // 2], last=False)))
        assert begun.wait(PATIENCE_S)
        client.send(pack_readouts(readouts_of(KSPACE, order[LINES // 2 :])) + pack_close())
        threading.Timer(0.5, ended.set).start()
        replies = client.replies()
    assert replies.kinds() == FINAL
    assert "no preview: slice 0 at 50%: the final image is due sooner" in replies.text
    assert report_of(server)["no_preview"] == ["slice 0 at 50%: the final image is due sooner"]


def abandoning(reconstruct):
    """As the learned reconstruction does, before its first step."""

    def wrapped(samples, calibration, learned, plans, wanted=lambda: True, *rest):
        if not wanted():
            raise Abandoned("the image is not wanted any more")
        return reconstruct(samples, calibration, learned, plans, wanted, *rest)

    return wrapped


def test_a_second_scan_that_comes_with_the_images_of_the_first_is_refused(serve, whole_scan):
    with serve().connect() as client:
        client.send(whole_scan)
        client.send(whole_scan)
        replies = client.replies()
    assert replies.kinds() == FINAL
    assert replies.texts == [
        "error: message = bytes after CLOSE: a second scan on the same connection; open a connection for each scan"
    ]
    assert replies.closed


def test_a_readout_cut_off_saves_those_before_it(serve):
    replies = serve().exchange(half_a_scan()[:-10])
    assert replies.kinds() == INCOMPLETE
    assert f"{len(HALF) - 1} of {LINES}" in replies.images[-1].attributes
    assert "ACQUISITION" in replies.text


def test_a_stalled_client_gets_its_incomplete_image_and_others_are_served_meanwhile(serve, whole_scan):
    server = serve(idle_timeout_s=0.5)
    with server.connect() as stalled:
        stalled.send(half_a_scan())
        assert server.exchange(whole_scan).kinds() == FINAL
        replies = stalled.replies()
    assert replies.kinds() == INCOMPLETE
    assert "nothing was received for 0.5 s" in replies.text


def test_a_client_that_drips_its_header_does_not_keep_its_place(serve, whole_scan):
    server = serve(idle_timeout_s=0.6, sessions=1)
    with server.connect() as slow:
        slow.send(pack_config_file("edge-classical"))
        for byte in range(1026, 1050):
            slow.send(opening()[byte : byte + 1])
            time.sleep(0.05)
        assert "no complete header came within 0.6 s" in slow.replies().text
    assert server.exchange(whole_scan).kinds() == FINAL


def test_a_client_that_drips_its_readouts_does_not_keep_its_place(serve, whole_scan):
    server = serve(idle_timeout_s=0.6, sessions=1)
    with server.connect() as slow:
        slow.send(half_a_scan())
        readout = pack_readouts(readouts_of(KSPACE, [0], last=False))
        for byte in range(24):
            slow.send(readout[byte : byte + 1])
            time.sleep(0.05)
        replies = slow.replies()
    assert "no message was completed for 0.6 s" in replies.text
    assert replies.kinds() == INCOMPLETE
    assert server.exchange(whole_scan).kinds() == FINAL


def test_a_message_that_is_long_and_comes_steadily_has_its_time(serve, monkeypatch):
    monkeypatch.setattr(mrd, "SLOWEST_BYTES_PER_S", 1 << 10)
    text = pack_text("x" * (12 << 10))
    with serve(idle_timeout_s=0.5).connect() as slow:
        slow.send(opening())
        for first in range(0, len(text), 1 << 10):
            slow.send(text[first : first + (1 << 10)])
            time.sleep(0.1)
        slow.send(pack_readouts(readouts_of(KSPACE)) + pack_close())
        assert slow.replies().kinds() == FINAL


@pytest.mark.parametrize("vanish", [True, False])
def test_a_connection_without_a_byte_leaves_nothing_behind(serve, whole_scan, vanish):
    """As a load balancer looks whether the port is open."""
    server = serve()
    with server.connect() as probe:
        if vanish:
            probe.vanish()
    server.exchange(whole_scan)
    server.stop()
    assert len(server.server.reports) == len(server.files("*")) == 1


def test_a_client_that_says_nothing_is_told_so_and_leaves_nothing_behind(serve):
    server = serve(idle_timeout_s=0.5)
    with server.connect() as silent:
        replies = silent.replies()
    assert replies.texts == ["error: nothing was received for 0.5 s"]
    assert replies.closed
    server.stop()
    assert not server.files("*")


def test_stopping_the_server_saves_what_is_measured(serve):
    server = serve()
    with server.connect() as client:
        client.send(opening() + pack_readouts(readouts_of(KSPACE, centre_out()[: LINES // 2], last=False)))
        while not isinstance(client.receive(), ImageMessage):
            pass
        server.stop()
        replies = client.replies()
    assert replies.kinds() == INCOMPLETE
    assert "stopping" in replies.text
    assert len(server.files("*/*_incomplete_*/*.dcm")) == len(INCOMPLETE)


def test_stopping_the_server_ends_a_client_that_never_pauses(serve):
    server = serve()
    with server.connect() as client:
        client.send(BEGUN)
        assert isinstance(client.receive(), Text)
        server.server.stop()
        deadline = time.monotonic() + PATIENCE_S
        while server.thread.is_alive():
            client.send(pack_text("still here"))
            assert time.monotonic() < deadline, "the server did not stop"


@pytest.mark.parametrize(
    ("stream", "reason"),
    [
        pytest.param(pack_close(), "awaiting the configuration", id="only CLOSE"),
        pytest.param(pack_config_file("edge") + pack_close(), "awaiting the header", id="no header"),
        pytest.param(opening() + pack_close(), "no readouts", id="no readouts"),
        pytest.param(
            scan_bytes(readouts_of(KSPACE, np.arange(LINES // 4), last=False)), "centre of k-space", id="no centre"
        ),
        pytest.param(
            scan_bytes(readouts_of(KSPACE, flags=ReadoutFlag.IS_NAVIGATION_DATA)), "IS_NAVIGATION_DATA", id="navigators"
        ),
        pytest.param(
            scan_bytes(readouts_of(KSPACE, flags=ReadoutFlag.IS_NOISE_MEASUREMENT)), "no image lines", id="noise only"
        ),
        pytest.param(
            scan_bytes(readouts_of(KSPACE, flags=ReadoutFlag.IS_PARALLEL_CALIBRATION)),
            "no image lines",
            id="calibration only",
        ),
        pytest.param(
            scan_bytes(readouts_of(KSPACE, encoding_space=1)), "encoding_space_ref", id="another encoding space"
        ),
        pytest.param(scan_bytes(readouts_of(np.zeros_like(KSPACE))), "no signal", id="all zeros"),
    ],
)
def test_a_scan_of_which_no_image_is_possible_is_told_why(serve, stream, reason):
    replies = serve().exchange(stream)
    assert not replies.images
    assert reason in replies.text
    assert replies.closed


# ------------------------------------------------------------------------------------------------- refused by its name


def changed(index: int, **fields: Any) -> ReadoutBatch:
    """The usual readouts, one of them with other header fields."""
    batch = readouts_of(KSPACE)
    for name, value in fields.items():
        batch.header[name][index] = value
    return batch


def with_sample(value: complex) -> ReadoutBatch:
    batch = readouts_of(KSPACE)
    batch.samples[20, 1, 3] = value
    return batch


def header_xml(change: Callable[[str], str]) -> bytes:
    return pack_config_file("edge-classical") + pack_header(change(format_header(header_of())))


def altered(batch: ReadoutBatch, offset: int, value: bytes) -> bytes:
    """The scan with bytes of its first readout's header (at an offset of the ISMRMRD structure) overwritten."""
    start = len(opening()) + 2 + offset
    stream = scan_bytes(batch)
    return stream[:start] + value + stream[start + len(value) :]


def spaces(encoded: tuple[int, int, int], recon: tuple[int, int, int]) -> bytes:
    sides = (240.0, 240.0, 5.0)
    header = with_spaces(header_of(), encoded=EncodingSpace(encoded, sides), recon=EncodingSpace(recon, sides))
    return opening(replace(header, encoding=replace(header.encoding, limits={})))


BOMB = '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;">]>'
THIEF = '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]>'
WIDER = kspace_of(object_image(), coil_maps(), SAMPLES + 16)
ONE_MORE_COIL = kspace_of(object_image(), coil_maps(COILS + 1), SAMPLES)

FAULTS = {
    "unknown message id": (opening() + b"\x4d\x00", "message id = 77"),
    "oversized text": (opening() + b"\x05\x00\xff\xff\xff\xff", "TEXT = 4294967295"),
    "oversized header": (pack_config_file("edge") + b"\x03\x00\xff\xff\xff\x7f", "HEADER = 2147483647"),
    "unknown configuration": (pack_config_file("fastest"), "configuration = fastest"),
    "configuration that is no text": (b"\x01\x00" + b"\xff" * 1024, "CONFIG_FILE"),
    "header before configuration": (pack_header(format_header(header_of())), "header"),
    "readout before header": (pack_config_file("edge") + pack_readouts(readouts_of(KSPACE)), "readout"),
    "second configuration": (opening() + pack_config_file("edge"), "second scan on the same connection"),
    "second header": (
        opening() + pack_header(format_header(header_of())),
        "second scan on the same connection",
    ),
    "second scan after CLOSE": (scan_bytes(readouts_of(KSPACE)) + opening(), "second scan on the same connection"),
    "image from a client": (opening() + pack_image(np.ones((1, 1, 2, 2), np.float32), {}), "IMAGE"),
    "XML that is none": (pack_config_file("edge") + pack_header("<ismrmrdHeader><enc"), "well-formed"),
    "XML of something else": (pack_config_file("edge") + pack_header("<svg/>"), "ismrmrdHeader"),
    "entity expansion": (header_xml(lambda xml: xml.replace("<ismrmrdHeader", BOMB + "<ismrmrdHeader", 1)), "attack"),
    "external entity": (header_xml(lambda xml: xml.replace("<ismrmrdHeader", THIEF + "<ismrmrdHeader", 1)), "attack"),
    "matrix of words": (header_xml(lambda xml: xml.replace(f">{LINES}<", ">many<")), "many"),
    "3D": (opening(with_spaces(header_of(), encoded=EncodingSpace((SAMPLES, LINES, 8), (480, 320, 40)))), "matrixSize.z"),
    "EPI": (header_xml(lambda xml: xml.replace("cartesian", "epi")), "trajectory = epi"),
    "radial": (header_xml(lambda xml: xml.replace("cartesian", "radial")), "trajectory = radial"),
    "expected lines of words": (opening(header_of(parameters={"edge_expected_lines": "all"})), "edge_expected_lines = all"),
    "no expected lines": (opening(header_of(parameters={"edge_expected_lines": "0"})), "edge_expected_lines = 0"),
    "encoded matrix beyond the budget": (spaces((4096, 4096, 1), (256, 256, 1)), "the profile grants 48 MB for samples"),
    "reconstructed matrix beyond the budget": (spaces((64, 64, 1), (4096, 4096, 1)), "the profile grants 48 MB for samples"),
    "newer protocol": (altered(readouts_of(KSPACE), 0, b"\x09\x00"), "version = 9"),
    "no samples": (altered(readouts_of(KSPACE), 34, b"\x00\x00"), "number_of_samples = 0"),
    "NaN sample": (scan_bytes(with_sample(complex("nan"))), "scan_counter 20"),
    "infinite sample": (scan_bytes(with_sample(complex("inf"))), "scan_counter 20"),
    "NaN position": (scan_bytes(changed(20, position=(np.nan, 0, 0))), "finite numbers"),
    "phase encode outside the matrix": (scan_bytes(changed(20, phase_encode=5000)), "kspace_encode_step_1 = 5000"),
    "partition outside the matrix": (scan_bytes(changed(20, partition=3)), "kspace_encode_step_2 = 3"),
    "duplicated readout": (scan_bytes(changed(20, phase_encode=19)), "kspace_encode_step_1 = 19"),
    "reversed image lines": (scan_bytes(changed(20, flags=ReadoutFlag.IS_REVERSE)), "echo-planar"),
    "compressed samples": (scan_bytes(changed(20, flags=ReadoutFlag.COMPRESSION2)), "COMPRESSION"),
    "more samples than the header says": (opening() + pack_readouts(readouts_of(WIDER)), f"number_of_samples = {SAMPLES + 16}"),
    "other number of coils": (
        opening() + pack_readouts(readouts_of(KSPACE, HALF, last=False)) + pack_readouts(readouts_of(ONE_MORE_COIL, [1])),
        f"active_channels = {COILS + 1}",
    ),
    "readout after the end of its slice": (
        opening() + pack_readouts(readouts_of(KSPACE, HALF)) + pack_readouts(readouts_of(KSPACE, [1], last=False)),
        "LAST_IN_SLICE",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_named_and_the_next_scan_succeeds(serve, whole_scan, name):
    stream, words = FAULTS[name]
    server = serve()
    replies = server.exchange(stream)
    errors = [text for text in replies.texts if text.startswith("error:")]
    assert len(errors) == 1
    assert words in errors[0]
    assert replies.closed
    assert server.exchange(whole_scan).kinds() == FINAL


@pytest.mark.parametrize(
    "name",
    [
        "NaN sample",
        "infinite sample",
        "NaN position",
        "phase encode outside the matrix",
        "partition outside the matrix",
        "duplicated readout",
        "compressed samples",
        "other number of coils",
    ],
)
def test_what_was_measured_before_a_fault_becomes_an_incomplete_image(serve, name):
    replies = serve().exchange(FAULTS[name][0])
    assert replies.kinds() == INCOMPLETE


def test_one_bad_session_does_not_touch_another(serve):
    server = serve()
    stream = scan_bytes(readouts_of(KSPACE))
    with server.connect() as client:
        client.send(stream[: len(stream) // 2])
        for name in ("NaN sample", "unknown message id", "entity expansion"):
            server.exchange(FAULTS[name][0])
        client.send(stream[len(stream) // 2 :])
        assert client.replies().kinds() == FINAL


# -------------------------------------------------------------------------------------- what is not the client's fault


def test_too_many_sessions_are_told_to_come_again(serve, whole_scan):
    server = serve(sessions=1)
    with server.connect() as first:
        first.send(BEGUN)
        assert isinstance(first.receive(), Text)
        refused = server.exchange(whole_scan)
        assert "busy" in refused.text
        assert refused.closed
        first.send(pack_readouts(readouts_of(KSPACE, np.arange(LINES // 3, LINES))) + pack_close())
        assert first.replies().kinds() == FINAL


def test_a_scan_beyond_the_memory_of_all_is_refused_until_another_has_ended(serve):
    server = serve(session_mb=128, total_mb=136, sessions=2)
    header = header_of(256, 256, 512, coils=12)  # 6 MB a slice
    wide = np.zeros((12, 256, 512), np.complex64)
    with server.connect() as first:
        first.send(opening(header) + pack_readouts(readouts_of(wide, np.arange(86), last=False)))
        assert "waiting:" in first.receive().text
        refused = server.exchange(opening(header))
        assert not refused.images
        assert re.match(r"error: memory of a scan = 93 MB: \d+ of the profile's 136 MB are free", refused.texts[0])
        first.send(pack_close())
        first.replies()
        first.half_close()
    for _ in range(1000):
        replies = server.exchange(opening(header) + pack_close())
        if "are free" not in replies.text:  # else the server has not seen yet that the first has left
            break
    assert "no readouts" in replies.text


def test_as_many_small_scans_as_the_profile_states_are_served_at_once(serve):
    sessions = USUAL["sessions"]
    server = serve(**USUAL)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(server.connect()) for _ in range(sessions)]
        for client in clients:
            client.send(BEGUN)
            assert "waiting:" in client.receive().text
        for client in clients:
            client.send(pack_readouts(readouts_of(KSPACE, np.arange(LINES // 3, LINES))) + pack_close())
            assert client.replies().kinds() == FINAL


def test_the_memory_of_a_scan_follows_its_open_slices_and_ends_with_it(runtime_of):
    kspace = kspace_of(object_image(256, 64), coil_maps(8, 256, 64))
    header = header_of(256, 64, 64, coils=8, limits={"slice": Limit(0, 11, 0)})  # 1 MB a slice
    with runtime_of(output=None) as runtime:
        session = Session(runtime, NobodyListens(), "a-scan")
        session.configure("edge-classical")
        session.begin(header)
        free = [runtime.memory.free_bytes]
        for number in range(3):
            session.readouts(readouts_of(kspace, [1], last=False, slice=number))
            free.append(runtime.memory.free_bytes)
        assert np.diff(free).tolist() == [0, -3 << 20, -3 << 20]
        session.close()
        session.release()
        assert runtime.memory.free_bytes == runtime.profile.total_bytes


def test_a_slice_for_which_other_scans_left_no_memory_ends_the_scan_and_keeps_the_others(runtime_of):
    kspace = kspace_of(object_image(256, 64), coil_maps(8, 256, 64))
    header = header_of(256, 64, 64, coils=8, limits={"slice": Limit(0, 11, 0)})
    with runtime_of(output=None) as runtime:
        session = Session(runtime, NobodyListens(), "a-scan")
        session.configure("edge-classical")
        session.begin(header)
        session.readouts(readouts_of(kspace, last=False))
        others = Reservation(runtime.memory)
        others.require(runtime.memory.free_bytes - (2 << 20))
        with pytest.raises(BudgetExceeded, match="memory of a scan"):
            session.readouts(readouts_of(kspace, [1], last=False, slice=1))
        session.abort("no memory")
        assert [image["slice"] for image in session.report.images if image["completeness"] == "incomplete"] == [0, 0]


def test_a_large_readout_before_the_header_is_refused_before_memory_is_taken(serve):
    many = readouts_of(np.zeros((128, 1, 8192), np.complex64), [0])
    replies = serve().exchange(pack_config_file("edge") + pack_readouts(many))
    assert "at most 4194304 are accepted" in replies.text


def test_a_client_that_does_not_read_its_images_holds_up_nobody(serve, whole_scan):
    """Its images (16 of 4 MB) overflow every buffer between the two; there is one reconstruction thread for all."""
    server = serve(send_timeout_s=3600)
    large = with_spaces(
        header_of(limits={"repetition": Limit(0, 7, 0)}), recon=EncodingSpace((1024, 1024, 1), (240, 320, 5))
    )
    deaf_stream = scan_bytes(*(readouts_of(KSPACE, repetition=r) for r in range(8)), header=large)
    with server.connect(receive_buffer=4096) as deaf:
        deaf.send(deaf_stream)
        server.wait_for_files("*/*/*.dcm")
        for _ in range(3):
            assert server.exchange(whole_scan).kinds() == FINAL
        assert deaf.replies().kinds() == 8 * FINAL  # nor is anything lost of its own


def test_a_client_that_takes_its_images_byte_by_byte_is_given_up(serve, monkeypatch):
    monkeypatch.setattr(mrd_sender, "SLOWEST_BYTES_PER_S", 1 << 30)
    server = serve(send_timeout_s=0.3)
    large = with_spaces(header_of(), recon=EncodingSpace((1024, 1024, 1), (240, 320, 5)))
    with server.connect(receive_buffer=4096) as slow:
        slow.send(scan_bytes(*(readouts_of(KSPACE, repetition=r) for r in range(4)), header=large))
        while not server.server.reports:
            slow.take(1)
    assert len(server.files("*/*/*.dcm")) == 8  # its images are kept all the same


def test_an_image_that_cannot_be_written_still_reaches_the_scanner(serve, whole_scan, tmp_path):
    output = tmp_path / "images"
    output.write_text("a file where the folder should be")
    replies = serve(output=output).exchange(whole_scan)
    assert replies.kinds() == FINAL
    assert "could not be written" in replies.text


def test_a_full_disk_is_told_and_the_image_still_reaches_the_scanner(serve, whole_scan, monkeypatch):
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    replies = serve().exchange(whole_scan)
    assert replies.kinds() == FINAL
    assert "No space left on device" in replies.text


def test_without_an_output_folder_images_only_go_back(serve, whole_scan, tmp_path):
    assert serve(output=None).exchange(whole_scan).kinds() == FINAL
    assert not list(Path(tmp_path).iterdir())


def test_messages_in_single_bytes_are_the_same_scan(serve, whole_scan):
    with serve().connect() as client:
        opened = len(opening())
        for position in range(opened - 40, opened + 40):
            client.send(whole_scan[(0 if position == opened - 40 else position) : position + 1])
        client.send(whole_scan[opened + 40 :])
        assert client.replies().kinds() == FINAL


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("factor", [1e30, 1e-30])
def test_samples_beyond_single_precision_are_refused_by_their_brightness(serve, factor):
    replies = serve().exchange(scan_bytes(readouts_of((KSPACE * factor).astype(np.complex64))))
    assert not replies.images
    assert "hold samples of up to" in replies.text and "send the samples in other units" in replies.text


def test_a_configuration_may_be_named_as_a_file_in_a_text_too(serve):
    stream = pack_config_text("edge-classical.xml\n") + scan_bytes(readouts_of(KSPACE))[1026:]
    assert serve().exchange(stream).kinds() == FINAL


def test_samples_so_large_that_their_transform_overflows_give_a_reason(serve, whole_scan):
    server = serve()
    batch = readouts_of(KSPACE)
    batch.samples[:] = 3e38
    replies = server.exchange(scan_bytes(batch))
    assert not replies.images
    assert "no image" in replies.text
    assert server.exchange(whole_scan).kinds() == FINAL


def test_close_is_the_last_thing_that_is_sent(serve, whole_scan):
    with serve().connect() as client:
        client.send(whole_scan)
        client.replies()
        assert not isinstance(client.receive(), Close)


def test_a_scan_of_many_slices_on_the_smallest_budget_loses_none(serve):
    """One slice may wait at a time: the scanner is slowed down instead of memory filled up."""
    lines, columns, slices = 256, 64, 12
    kspace = kspace_of(object_image(lines, columns), coil_maps(8, lines, columns))
    header = header_of(lines, columns, columns, coils=8, limits={"slice": Limit(0, slices - 1, 0)})
    batches = [readouts_of(kspace, centre_out(lines), slice=number) for number in range(slices)]
    replies = serve(session_mb=16).exchange(scan_bytes(*batches, header=header))
    assert replies.kinds().count(("classical", "final")) == slices
