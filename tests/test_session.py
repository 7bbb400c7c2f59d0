"""What a session schedules, says and keeps, with the pool's work done when the test says so."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
from conftest import profile_of
from pools import Pool
from simulated import COLUMNS, LINES, centre_out, header_of, readouts_of, scan_bytes, usual_kspace

from edge_runtime.errors import ProgramRefused, ScanRefused
from edge_runtime.modalities.mri.assemble import Assembler
from edge_runtime.modalities.mri.reconstruct import calibrate
from edge_runtime.runtime import Runtime, open_runtime
from edge_runtime.scan import Image, Limit, Method, ReadoutBatch, ReadoutFlag
from edge_runtime.session import Session

KSPACE = usual_kspace()
ORDER = centre_out()


class Scanner:
    """Keeps what it is sent."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.images: list[Image] = []
        self.on_image: Callable[[Image], None] = lambda image: None
        self.room = True
        self.waited_for: list[int] = []

    def text(self, message: str) -> None:
        self.texts.append(message)

    def image(self, image: Image, series: int, index: int) -> None:
        self.images.append(image)
        self.on_image(image)

    def has_room(self, size_bytes: int) -> bool:
        return self.room

    def wait_for_room(self, size_bytes: int) -> None:
        self.waited_for.append(size_bytes)

    def kinds(self) -> list[tuple[str, str]]:
        return [(image.method.value, image.completeness.value) for image in self.images]


class Clock:
    """Time passes when the test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr("edge_runtime.session.time.monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.fixture
def pool() -> Pool:
    return Pool()


@pytest.fixture
def scanner() -> Scanner:
    return Scanner()


@pytest.fixture
def runtime(tiny_bundle, pool) -> Iterator[Runtime]:
    with open_runtime(profile_of(), bundle=tiny_bundle, output=None) as opened:
        yield replace(opened, pool=pool)


@pytest.fixture
def session(runtime, scanner, pool) -> Iterator[Session]:
    """One that has its header; whatever a test leaves undone is done at its end."""
    session = Session(runtime, scanner, "a-scan")
    session.configure("edge")
    session.begin(header_of())
    yield session
    pool.work()
    session.close()


def part(first: float, last: float) -> ReadoutBatch:
    """A share of the usual scan, which runs from the centre outwards."""
    lines = ORDER[round(first * LINES) : round(last * LINES)]
    return readouts_of(KSPACE, lines, last=last == 1)


BOTH = ["learned", "classical"]
PREVIEWS = [(method, "preview") for method in BOTH]
FINALS = [(method, "final") for method in BOTH]

# ------------------------------------------------------------------------------------------------------------ previews


def test_a_preview_that_has_begun_brings_both_images(session, scanner, pool):
    def go_on(image: Image) -> None:
        scanner.on_image = lambda image: None
        session.readouts(part(0.5, 1))  # the final image is wanted now

    session.readouts(part(0, 0.5))
    scanner.on_image = go_on
    pool.work()
    assert sorted(scanner.kinds()) == sorted(PREVIEWS + FINALS)
    assert [kind for kind in scanner.kinds() if kind in PREVIEWS] == PREVIEWS


def test_a_preview_gives_way_to_the_final_image_while_the_network_runs(session, scanner, pool, monkeypatch):
    session.readouts(part(0, 0.5))
    model = session._runtime.model
    run = type(model.reconstruction.regulariser).run
    runs = []

    def overtaken(regulariser, batch):
        runs.append(batch)
        if len(runs) == 1:
            session.readouts(part(0.5, 1))  # the final image is wanted now
        return run(regulariser, batch)

    monkeypatch.setattr(type(model.reconstruction.regulariser), "run", overtaken)
    pool.work()
    assert scanner.kinds() == FINALS
    assert len(runs) == 1 + model.reconstruction.settings.iterations
    assert not session.report.no_image


def test_a_network_that_fails_in_a_preview_does_not_fail_the_scan(session, scanner, pool, monkeypatch):
    """With few lines a program of others may lack calibration lines that the whole scan has."""
    regulariser = type(session._runtime.model.reconstruction.regulariser)

    def refused(regulariser, batch):
        raise ProgramRefused("3 calibration lines among the image's own")

    with monkeypatch.context() as patched:
        patched.setattr(regulariser, "run", refused)
        session.readouts(part(0, 0.5))
        pool.work()
    session.readouts(part(0.5, 1))
    pool.work()
    assert scanner.kinds() == [("classical", "preview"), *FINALS]
    assert not session.report.no_image
    assert "no preview: slice 0 at 50%: ProgramRefused: 3 calibration lines among the image's own" in scanner.texts


def test_a_preview_that_a_final_image_overtook_is_not_begun(session, scanner, pool):
    session.readouts(part(0, 0.5))
    session.readouts(part(0.5, 1))
    pool.work()
    assert scanner.kinds() == FINALS


def test_a_preview_for_which_there_was_no_room_comes_when_there_is(session, scanner, pool):
    pool.room = False
    session.readouts(part(0, 0.3))
    pool.room = True
    session.readouts(part(0.3, 0.4))
    pool.work()
    assert scanner.kinds() == PREVIEWS
    assert scanner.images[0].measured_share == pytest.approx(round(0.4 * LINES) / LINES)
    session.readouts(part(0.4, 0.45))  # the share of 25 % has been shown
    pool.work()
    assert scanner.kinds() == PREVIEWS


@pytest.mark.usefixtures("clock")
def test_a_preview_that_was_due_while_another_was_made_comes_next(session, scanner, pool):
    session.readouts(part(0, 0.3))
    session.readouts(part(0.3, 0.6))
    pool.work()
    session.readouts(part(0.6, 0.7))
    pool.work()
    shares = [image.measured_share for image in scanner.images if image.method is Method.LEARNED]
    np.testing.assert_allclose(shares, [round(0.3 * LINES) / LINES, round(0.7 * LINES) / LINES])


@pytest.mark.parametrize(("elapsed_s", "shown"), [(6.0, [0.3, 0.6]), (4.0, [0.3])])
def test_a_preview_that_the_final_image_would_overtake_is_not_begun(session, scanner, pool, clock, elapsed_s, shown):
    """The first takes three seconds; at 60 % of a scan two thirds of what it took so far are left, less the lead of the network's
    runs for the final image."""
    begun = clock.now

    def take(image: Image) -> None:
        clock.now += 1.5

    scanner.on_image = take
    session.readouts(part(0, 0.3))
    pool.work()
    clock.now = begun + elapsed_s
    session.readouts(part(0.3, 0.6))
    pool.work()
    shares = [image.measured_share for image in scanner.images if image.method is Method.LEARNED]
    np.testing.assert_allclose(shares, [round(share * LINES) / LINES for share in shown])


def test_no_preview_is_made_for_a_scanner_that_does_not_take_them(session, scanner, pool):
    scanner.room = False
    session.readouts(part(0, 0.5))
    pool.work()
    assert not scanner.images


def test_the_readouts_wait_where_the_images_of_the_next_slice_have_no_room(session, scanner):
    session.readouts(readouts_of(KSPACE))
    assert scanner.waited_for == [len(BOTH) * LINES * COLUMNS * 4]


def test_slices_that_are_measured_in_turn_do_not_all_copy_their_samples(runtime, scanner, pool, monkeypatch):
    header = header_of(limits={"slice": Limit(0, 9, 0)})
    session = Session(runtime, scanner, "a-scan")
    session.configure("edge")
    session.begin(header)
    copied = []
    snapshot = type(session._assembler).snapshot
    monkeypatch.setattr(type(session._assembler), "snapshot", lambda *one: copied.append(one) or snapshot(*one))
    for first in (0.0, 0.25, 0.5):
        for number in range(10):
            batch = part(first, first + 0.25)
            batch.header["slice"] = number
            session.readouts(batch)
    workers = runtime.profile.reconstruction_workers
    assert len(copied) == workers + 1  # whatever is due, so many wait
    pool.work()
    for number in range(10):
        batch = part(0.75, 1)
        batch.header["slice"] = number
        session.readouts(batch)
    pool.work()
    session.close()
    finals = [kind for kind in scanner.kinds() if kind in FINALS]
    assert len(finals) == 10 * len(FINALS)


def test_nothing_is_copied_for_a_pool_that_is_full(session, pool, monkeypatch):
    def copied(*_: object) -> None:
        raise AssertionError("a copy that nobody can use")

    for name in ("snapshot", "calibration_snapshot"):
        monkeypatch.setattr(Assembler, name, copied)
    pool.room = False
    for first in np.arange(0, 0.9, 0.1):
        session.readouts(part(first, first + 0.1))
    monkeypatch.undo()


# ---------------------------------------------------------------------------------------------------- the end of slices


def test_repetitions_without_flags_become_images_when_the_next_begins(session, scanner):
    for repetition in range(4):
        session.readouts(readouts_of(KSPACE, last=False, repetition=repetition))
    assert scanner.kinds() == 3 * FINALS
    assert [image.key.repetition for image in scanner.images] == [0, 0, 1, 1, 2, 2]


def test_a_repetition_that_the_next_one_cut_short_is_incomplete(session, scanner):
    session.readouts(part(0, 0.5))
    session.readouts(readouts_of(KSPACE, repetition=1))
    assert scanner.kinds() == [*((method, "incomplete") for method in BOTH), *FINALS]
    assert f"{LINES // 2} of {LINES} expected phase encodes were measured" in scanner.images[0].notes


# --------------------------------------------------------------------------------------------------------- calibration

OUTER = np.arange(0, LINES, 4)
SEPARATE_ACS = readouts_of(KSPACE, np.arange(12, 20), flags=ReadoutFlag.IS_PARALLEL_CALIBRATION, last=False)


def test_repetitions_without_an_acs_of_their_own_use_the_latest_and_say_so(session, scanner):
    session.readouts(SEPARATE_ACS)
    for repetition in range(3):
        session.readouts(readouts_of(KSPACE, OUTER, repetition=repetition))
    first, *later = [image for image in scanner.images if image.method is Method.CLASSICAL]
    for image in later:
        np.testing.assert_allclose(image.pixels, first.pixels, rtol=1e-3, atol=1e-3 * first.pixels.max())
    said = "calibrated with the separate ACS of repetition 0"
    assert [said in image.notes for image in (first, *later)] == [False, True, True]
    assert not any("no ACS" in note for image in scanner.images for note in image.notes)


@pytest.fixture
def calibrations(monkeypatch) -> list[int]:
    """The numbers of lines that calibrations are made from."""
    sizes: list[int] = []

    def counted(hybrid, measured, plans):
        made = calibrate(hybrid, measured, plans)
        sizes.append(made.acs.stop - made.acs.start)
        return made

    monkeypatch.setattr("edge_runtime.session.calibrate", counted)
    return sizes


def take_in(session: Session, pool: Pool, lines: object, *, last: bool = False) -> None:
    """A line at a time, with all the time in the world between them."""
    batch = readouts_of(KSPACE, lines, last=last)
    for number in range(len(batch)):
        session.readouts(batch[number : number + 1])
        pool.work()


def test_a_separate_acs_is_calibrated_while_image_lines_still_arrive(session, pool, calibrations):
    session.readouts(SEPARATE_ACS)
    take_in(session, pool, OUTER[:3])
    assert calibrations == [8]


def test_an_acs_is_calibrated_once_for_previews_and_the_final_image(session, scanner, pool, calibrations):
    session.readouts(SEPARATE_ACS)
    take_in(session, pool, [12, 16, 0, 4, 8, 1, 2, 3, 5, 20, 24, 28, 22, 26, 30, 31, 29, 27], last=True)
    assert scanner.kinds() == [*PREVIEWS, *PREVIEWS, *FINALS]
    assert calibrations[-1] == 9
    assert calibrations.count(9) == 1


def test_what_a_preview_was_calibrated_with_serves_the_final_image(session, scanner, pool, calibrations):
    session.readouts(readouts_of(KSPACE, [*range(12, 20)], last=False))  # grows, so that nothing is made ahead
    pool.work()
    session.readouts(readouts_of(KSPACE, [0, 2, 4]))
    assert scanner.kinds() == [*PREVIEWS, *FINALS]
    assert calibrations == [8]
    assert "calibration_ahead" in session.report.images[2]["stages_s"]


def test_an_acs_that_grows_after_it_was_calibrated_is_calibrated_again(session, pool, calibrations):
    """An interleaved order brings the centre in pieces: the last piece counts."""
    take_in(session, pool, [*range(14, 18), 0, 1, *range(10, 14), *range(18, 22), 2, 3])
    assert calibrations[0] == 4
    made_ahead = len(calibrations)
    assert calibrations[-1] == 12
    take_in(session, pool, [4], last=True)
    assert len(calibrations) == made_ahead


# ------------------------------------------------------------------------------------------------- what nobody foresaw


def test_a_reconstruction_that_breaks_is_told_and_the_next_slice_is_made(session, scanner, monkeypatch):
    def broken(*_: object) -> None:
        raise ZeroDivisionError("a defect")

    with monkeypatch.context() as patch:
        patch.setattr("edge_runtime.session.reconstruct", broken)
        session.readouts(readouts_of(KSPACE))
    session.readouts(readouts_of(KSPACE, repetition=1))
    session.close()
    assert scanner.kinds() == FINALS
    assert [text for text in scanner.texts if "no image" in text] == [
        "no image: a reconstruction failed: ZeroDivisionError: a defect"
    ]


# ----------------------------------------------------------------------------------------------- scans that hold nothing


def test_lines_that_were_refused_are_not_said_to_be_no_image_lines(session, scanner):
    session.readouts(readouts_of(KSPACE, [0], last=False))
    odd = ReadoutBatch(readouts_of(KSPACE, [1]).header, readouts_of(KSPACE, [1]).samples[:, :, :8])
    with pytest.raises(ScanRefused) as refused:
        session.readouts(odd)
    session.abort(str(refused.value))
    assert "no image lines" not in "".join(scanner.texts)


def test_a_scan_refused_at_its_first_line_says_that_nothing_came_before(session, scanner):
    with pytest.raises(ScanRefused) as refused:
        session.readouts(readouts_of(KSPACE, [1], phase_encode=LINES))
    session.abort(str(refused.value))
    assert scanner.texts[-1] == "no image: no line that an image can be made of came before the error"


# ---------------------------------------------------------------------------------------------------------- the report


def test_every_image_says_how_long_each_of_its_stages_took(session, pool):
    for lines in ([*range(12, 20)], [0]):  # the ACS, and a line that does not add to it
        session.readouts(readouts_of(KSPACE, lines, last=False))
    pool.work()
    session.readouts(readouts_of(KSPACE, np.arange(2, 10, 2)))
    learned, classical = session.report.images[2:]
    assert "calibration_ahead" not in session.report.images[0]["stages_s"]
    shared = ["ingest", "queued", "calibration_ahead", "calibration"]
    assert [*learned["stages_s"]] == [*shared, "learned", "recon_matrix", "send"]
    assert [*classical["stages_s"]] == ["classical", "recon_matrix", "send"]
    assert all(seconds >= 0 for image in session.report.images for seconds in image["stages_s"].values())


def test_no_moment_of_a_slice_belongs_to_two_stages(session, monkeypatch):
    """Every look at the clock is one second later than the one before."""
    ticks = itertools.count()
    monkeypatch.setattr("edge_runtime.session.time.monotonic", lambda: float(next(ticks)))
    first = next(ticks)
    session.readouts(readouts_of(KSPACE))
    total = sum(sum(image["stages_s"].values()) for image in session.report.images)
    assert 0 < total <= next(ticks) - first


def test_a_clock_that_is_set_back_makes_no_latency_negative(session, monkeypatch):
    days = itertools.count(0, -86400)
    monkeypatch.setattr("edge_runtime.session.time.time", lambda: float(next(days)))
    session.readouts(readouts_of(KSPACE))
    assert all(0 <= image["latency_s"] < 3600 for image in session.report.images)


def test_a_dicom_file_is_a_stage_of_its_own(serve):
    server = serve()
    server.exchange(scan_bytes(readouts_of(KSPACE)))
    (path,) = server.wait_for_files("*/report.json")
    images = json.loads(path.read_text())["images"]
    assert [[*image["stages_s"]][-1] for image in images] == ["dicom", "dicom"]


def test_a_scan_without_end_keeps_its_earlier_records_on_disk(serve, monkeypatch):
    monkeypatch.setattr("edge_runtime.report.MOST_ENTRIES", 3)
    server = serve()
    batches = [readouts_of(KSPACE, repetition=number) for number in range(4)]
    dark = readouts_of(0 * KSPACE, repetition=4)
    server.exchange(scan_bytes(*batches, dark, header=header_of(limits={"repetition": Limit(0, 4, 0)})))
    (path,) = server.wait_for_files("*/report.json")
    report = json.loads(path.read_text())
    earlier = [json.loads(line) for line in (path.parent / "earlier_images.jsonl").read_text().splitlines()]
    assert report["earlier"] == {"images": len(earlier)}
    assert len(report["images"]) <= 3
    repetitions = [image["repetition"] for image in earlier + report["images"]]
    assert repetitions == [0, 0, 1, 1, 2, 2, 3, 3]
    assert len(report["no_image"]) == 1


# ------------------------------------------------------------------------------------------------------- a server that ends


def test_what_waits_when_the_server_gives_up_is_named_and_not_reconstructed(session, scanner, runtime):
    session.readouts(part(0, 0.2))
    runtime.giving_up.set()
    session.abort("the server is stopping")
    assert not scanner.images
    assert any("slice 0: the server was told to stop" in text for text in session.report.no_image)
