"""When runs of the network are made before the last readout, and that the image is the same however readouts come."""

from __future__ import annotations

import threading
import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pools import Pool

from edge_runtime.ahead import MOST_KINDS, Ahead, Pace, Steps, Took
from edge_runtime.bundle import DEFAULT_BUNDLE
from edge_runtime.demo.run import SCAN
from edge_runtime.links.files import open_recording
from edge_runtime.modalities.mri import reconstruct as made_by
from edge_runtime.profile import DEFAULT_PROFILE, load_profile
from edge_runtime.runtime import open_runtime
from edge_runtime.scan import Completeness, Image, Method
from edge_runtime.session import Session

# ---------------------------------------------------------------------------------------------------------------- pace


def steps_of(took_s: float | None, runs: int = 3) -> Steps:
    took = Took()
    steps = Steps(runs, took, 8, 256, 256)
    if took_s is not None:
        steps.ended(took_s)
    return steps


def test_the_pace_is_that_of_the_readouts_so_far():
    pace = Pace.of(passed_s=3.0, readouts=31, share=0.75)
    assert (pace.left_s, pace.interval_s) == pytest.approx((1.0, 0.1))
    assert Pace.of(passed_s=3.0, readouts=1, share=1.0) == Pace(left_s=0.0, interval_s=3.0)


def test_the_first_run_of_all_is_made_at_once():
    """Nobody knows how long it takes."""
    assert steps_of(None).is_due(Pace(1e9, 1.0), 0)


def test_runs_begin_as_late_as_they_can():
    steps = steps_of(0.1)
    assert [steps.lead_s(Pace(1, 0.01), done) for done in range(3)] == pytest.approx([0.34, 0.23, 0.12])
    assert not steps.is_due(Pace(0.35, 0.01), 0)
    assert steps.is_due(Pace(0.33, 0.01), 0)
    assert not steps.is_due(Pace(0.24, 0.01), 1)


@given(st.floats(0, 10), st.floats(1e-4, 1), st.floats(1e-3, 3), st.integers(0, 2))
def test_less_time_never_makes_a_run_less_due(left_s, interval_s, took_s, done):
    steps = steps_of(took_s)
    if steps.is_due(Pace(left_s, interval_s), done):
        assert steps.is_due(Pace(left_s / 2, interval_s), done)
    if not steps.begins_anew(Pace(left_s, interval_s)):
        assert not steps.begins_anew(Pace(left_s / 2, interval_s))


def test_what_took_longer_is_believed_at_once_and_what_took_less_slowly():
    took = Took()
    for seconds, known in [(1.0, 1.0), (2.0, 2.0), (1.0, 1.75), (4.0, 4.0)]:
        took.note(seconds, "work")
        assert took.seconds("work") == pytest.approx(known)
    assert took.seconds("other work") is None


def test_the_memory_of_times_is_bounded():
    took = Took()
    for size in range(2 * MOST_KINDS):
        took.note(1.0, "work", size)
    assert took.seconds("work", 2 * MOST_KINDS - 1) == 1.0
    assert took.seconds("work", 0) is None


# ---------------------------------------------------------------------------------------------- what an image goes on from


def test_an_image_waits_for_the_run_that_is_being_made():
    ahead, counts = Ahead(), np.array([1, 0], np.int32)
    ahead.running.acquire()

    def end() -> None:
        time.sleep(0.05)
        ahead.begun, ahead.calibration, ahead.counts = "begun", "calibration", counts  # type: ignore[assignment]
        ahead.running.release()

    thread = threading.Thread(target=end)
    thread.start()
    assert ahead.finished_with("calibration", counts) == "begun"  # type: ignore[arg-type]
    thread.join()


def test_lines_that_were_measured_again_or_another_calibration_start_it_anew():
    counts = np.array([1, 0, 1], np.int32)
    ahead = Ahead(begun="begun", calibration="calibration", counts=counts)  # type: ignore[arg-type]
    assert ahead.finished_with("calibration", np.array([1, 1, 1], np.int32))  # type: ignore[arg-type]
    assert ahead.finished_with("calibration", np.array([2, 1, 1], np.int32)) is None  # type: ignore[arg-type]
    assert ahead.finished_with("another", counts) is None  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------------- whole sessions


class Scanner:
    def __init__(self) -> None:
        self.images: list[Image] = []

    def text(self, message: str) -> None: ...

    def image(self, image: Image, series: int, index: int) -> None:
        self.images.append(image)

    def has_room(self, size_bytes: int) -> bool:
        return True

    def wait_for_room(self, size_bytes: int) -> None: ...

    def learned(self) -> dict[int, Image]:
        return {
            image.key.slice: image
            for image in self.images
            if image.method is Method.LEARNED and image.completeness is Completeness.FINAL
        }


@pytest.fixture(scope="module")
def runtime():
    with open_runtime(load_profile(DEFAULT_PROFILE), bundle=DEFAULT_BUNDLE, output=None) as opened:
        yield opened


def play(runtime, monkeypatch, rng: np.random.Generator | None) -> tuple[Scanner, Session]:
    """The demo's scan, whose pool works after some readouts and lets others pass, and whose clock goes as the dice fall; without
    any, nothing is done before the last readout."""
    scanner, pool, now = Scanner(), Pool(), [1000.0]
    with monkeypatch.context() as patched:
        patched.setattr("edge_runtime.session.time.monotonic", lambda: now[0])
        session = Session(replace(runtime, pool=pool), scanner, "a-scan")
        session.configure("edge")
        recording = open_recording(SCAN)
        session.begin(recording.header)
        for batch in recording.readouts():
            for index in range(len(batch)):
                session.readouts(batch[index : index + 1])
                if rng is not None:
                    now[0] += rng.uniform(0, 0.02)
                    if rng.random() < 0.7:
                        pool.work()
        pool.work()
        session.close()
    return scanner, session


def test_however_readouts_come_the_image_is_the_one_made_at_once(runtime, monkeypatch):
    at_once = play(runtime, monkeypatch, None)[0].learned()
    tolerance = runtime.model.reconstruction.tolerance
    kept: list[int] = []
    goes_on = made_by.goes_on

    def watched(begun, runs, visible, power, scale, noise, limit):
        found = goes_on(begun, runs, visible, power, scale, noise, limit)
        if limit == tolerance and found:
            kept.append(begun.runs)
        return found

    monkeypatch.setattr(made_by, "goes_on", watched)
    for seed in range(4):
        scanner, session = play(runtime, monkeypatch, np.random.default_rng(seed))
        assert not session.report.no_image
        assert scanner.learned().keys() == at_once.keys()
        for number, image in scanner.learned().items():
            expected = at_once[number].pixels
            assert np.linalg.norm(image.pixels - expected) <= tolerance * np.linalg.norm(expected)
            assert image.evidence.held_out_samples == at_once[number].evidence.held_out_samples
    assert len(kept) > 4, "hardly an image went on from runs that were made ahead: the comparison would prove nothing"
    assert max(kept) == runtime.model.reconstruction.runs
