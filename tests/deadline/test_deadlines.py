"""Scans through a real socket that are late, too many or made on a hot device: images come with less work and say so."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import PATIENCE_S, Replies, RunningServer, attribute, profile_of
from simulated import COILS, COLUMNS, LINES, header_of, opening, readouts_of, scan_bytes, usual_kspace

sys.path.append(str(Path(__file__).parent.parent / "doctor"))
from machine_trees import X86, plant

from edge_runtime import engines
from edge_runtime.bundle import DEFAULT_BUNDLE
from edge_runtime.deadline import Step
from edge_runtime.engines.onnxruntime import OnnxRuntimeEngine
from edge_runtime.links.mrd_messages import Text
from edge_runtime.links.mrd_pack import pack_close, pack_readouts, parse_meta_attributes
from edge_runtime.profile import Profile
from edge_runtime.runtime import open_runtime
from edge_runtime.scan import Limit

KSPACE = usual_kspace()
SCAN = scan_bytes(readouts_of(KSPACE), configuration="edge")
SIZE = (COILS, LINES, COLUMNS)
FULL, ONE, CLASSICAL_ONLY = Step("fp32", 2), Step("fp32", 1), Step("", 0)


def profile(image_ms: float | None, **changes: object) -> Profile:
    usual = profile_of(pending_slices=16)
    deadlines = replace(usual.deadlines, image_ms=image_ms, fewest_iterations={"tiny 1": 1})
    thermal = replace(usual.thermal, hold_s=0.0, cool_s=0.0, poll_s=600.0)
    return replace(usual, **{"deadlines": deadlines, "thermal": thermal, **changes})


@pytest.fixture
def serving(tiny_bundle, tmp_path) -> Iterator[Callable[..., RunningServer]]:
    with contextlib.ExitStack() as stack:

        def start(profile: Profile, bundle: Path = tiny_bundle, previews: tuple[float, ...] = ()) -> RunningServer:
            runtime = stack.enter_context(
                open_runtime(
                    profile,
                    bundle=bundle,
                    output=tmp_path / "out",
                    previews=previews,
                    machine=plant(tmp_path / "root", X86),
                )
            )
            running = RunningServer(runtime)
            stack.callback(running.stop)
            return running

        yield start


def degraded(replies: Replies) -> list[str]:
    """Of every image, what it says."""
    return [
        parse_meta_attributes(image.attributes).get("EdgeDegraded", [""])[0]
        for image in replies.images
        if attribute(image, "EdgeCompleteness") != "preview"
    ]


def reports(server: RunningServer, count: int) -> list[dict]:
    return [json.loads(path.read_text()) for path in server.wait_for_files("*/report.json", count)]


def heat_up(server: RunningServer, root: Path, degrees: int, times: int = 1) -> None:
    (root / "sys/class/thermal/thermal_zone0/temp").write_text(f"{1000 * degrees}\n")
    (root / "sys/class/thermal/thermal_zone1/temp").write_text("40000\n")
    for _ in range(times):
        server.server._runtime.scheduler.look()


def test_without_a_deadline_all_of_the_work_is_done_and_nothing_is_said(serving):
    server = serving(profile(None))
    assert degraded(server.exchange(SCAN)) == ["", ""]
    (report,) = reports(server, 1)
    assert report["degraded"] == [] and report["images"][0]["deadline"] is None


def test_what_took_too_long_is_made_with_fewer_iterations(serving, tmp_path):
    server = serving(profile(60_000))
    times = server.server._runtime.scheduler.times
    times.took(SIZE, FULL, 90.0, in_time=False)  # of this device, measured before
    replies = server.exchange(SCAN)
    assert replies.kinds() == [("learned", "final"), ("classical", "final")]
    said = "1 of 2 iterations of the network to be ready 60000 ms after the last readout: "
    for image in replies.images:
        attributes = parse_meta_attributes(image.attributes)
        assert attributes["EdgeDegraded"][0].startswith(said)
        assert any(note.startswith(f"less work than usual: {said}") for note in attributes["EdgeNotes"])
    assert f"degraded: slice 0: {said}" in replies.text
    (report,) = reports(server, 1)
    assert report["degraded"][0].startswith(f"slice 0: {said}")
    first = report["images"][0]
    assert first["provenance"]["degraded"].startswith(said)
    assert first["deadline"]["image_ms"] == 60_000 and first["deadline"]["met"] is True
    counters = server.server._runtime.counters
    assert counters.value("degraded", step="iterations", cause="deadline") == 1
    assert counters.value("deadline_images", outcome="met") == 1
    assert times.predicted(SIZE, (ONE,))[0] is not None  # and now it is measured


def test_an_image_of_fewer_iterations_is_the_one_that_the_first_of_them_make(serving):
    """Not another network: what `LearnedReconstruction` makes with its last iterations left out."""
    server = serving(profile(60_000))
    model = server.server._runtime.model
    ready, _ = model.lineup.ready("fp32")
    assert (ready.of(FULL).runs, ready.of(ONE).runs) == (2, 1)
    assert ready.of(ONE).regulariser is model.reconstruction.regulariser
    whole = server.exchange(SCAN).images[0].pixels
    server.server._runtime.scheduler.times.took(SIZE, FULL, 1e4, in_time=False)
    server.server._runtime.scheduler.times.took(SIZE, FULL, 1e4, in_time=False)
    fewer = server.exchange(SCAN).images[0].pixels
    assert fewer.shape == whole.shape and (fewer != whole).any()


def test_dicom_files_say_it_too(serving):
    pydicom = pytest.importorskip("pydicom")
    server = serving(profile(60_000))
    server.server._runtime.scheduler.times.took(SIZE, FULL, 90.0, in_time=False)
    server.exchange(SCAN)
    for path in server.wait_for_files("*/*/*.dcm", 2):
        file = pydicom.dcmread(path)
        assert "1 of 2 iterations of the network" in file.ImageComments


def test_where_nothing_else_is_in_time_the_image_is_classical(serving):
    server = serving(profile(60_000))
    for step in (FULL, ONE):
        server.server._runtime.scheduler.times.took(SIZE, step, 900.0, in_time=False)
    replies = server.exchange(SCAN)
    assert replies.kinds() == [("classical", "final")]
    assert degraded(replies)[0].startswith("no learned image to be ready 60000 ms after the last readout")
    assert not any(text.startswith("no image") for text in replies.texts)


def test_what_the_profile_does_not_let_give_way_does_not(serving):
    usual = profile(60_000)
    server = serving(replace(usual, deadlines=replace(usual.deadlines, steps=())))
    server.server._runtime.scheduler.times.took(SIZE, FULL, 900.0, in_time=False)
    assert degraded(server.exchange(SCAN)) == ["", ""]


def test_a_real_engine_that_is_slow_is_measured_and_then_spared(serving, monkeypatch):
    """No figure is put in: the first scan is late, by the engine's own doing, and the second is made otherwise."""

    class Slow(OnnxRuntimeEngine):
        def plan(self, onnx, threads, purpose=None):
            session = super().plan(onnx, threads)

            class Session:
                def run(self, batch):
                    if batch.shape != (1, 6, 8, 12):
                        time.sleep(1.0)
                    return session.run(batch)

            return Session()

    monkeypatch.setattr(engines, "REGISTRY", {**engines.REGISTRY, "onnxruntime": Slow})
    server = serving(profile(1900))
    assert degraded(server.exchange(SCAN)) == ["", ""]
    assert all(degraded(server.exchange(SCAN)))
    first, second = reports(server, 2)
    assert first["images"][0]["deadline"]["met"] is False
    assert first["images"][0]["deadline"]["over_ms"]["learned"] > 0
    assert second["degraded"]


def test_scans_that_come_faster_than_they_can_be_made_lose_no_slice_and_no_readout(serving, monkeypatch):
    slices = 12

    class Slow(OnnxRuntimeEngine):
        def plan(self, onnx, threads, purpose=None):
            session = super().plan(onnx, threads)

            class Session:
                def run(self, batch):
                    if batch.shape != (1, 6, 8, 12):
                        time.sleep(0.2)
                    return session.run(batch)

            return Session()

    monkeypatch.setattr(engines, "REGISTRY", {**engines.REGISTRY, "onnxruntime": Slow})
    server = serving(profile(1000))
    header = header_of(limits={"slice": Limit(0, slices - 1)})
    batches = [readouts_of(KSPACE, slice=number) for number in range(slices)]
    replies = server.exchange(scan_bytes(*batches, header=header, configuration="edge"))
    (report,) = reports(server, 1)
    made = {(image["slice"], image["method"]) for image in report["images"]}
    assert {number for number, method in made if method == "classical"} == set(range(slices))
    assert report["readouts"] == slices * LINES and not report["no_image"]
    assert len(report["degraded"]) >= slices // 2  # 12 slices of 0.4 s do not fit into a second
    learned = [number for number, method in sorted(made) if method == "learned"]
    assert learned, "the first slices had time"
    assert replies.closed


def test_a_hot_device_does_less_and_recovers_step_by_step(serving, tmp_path):
    server, root = serving(profile(None), previews=(0.5,)), tmp_path / "root"
    heat_up(server, root, 97)  # level 1: no previews
    with server.connect() as client:
        client.send(opening(configuration="edge"))
        client.send(pack_readouts(readouts_of(KSPACE, range(LINES * 3 // 4), last=False)))
        said = client.receive()
        assert isinstance(said, Text) and said.text == "no preview: slice 0 at 50%: the device is hot"
        client.send(pack_readouts(readouts_of(KSPACE, range(LINES * 3 // 4, LINES))) + pack_close())
        assert degraded(client.replies()) == ["", ""]
    heat_up(server, root, 97)  # level 2: the first step
    replies = server.exchange(SCAN)
    assert degraded(replies) == 2 * ["1 of 2 iterations of the network since the device is hot (97 C)"]
    heat_up(server, root, 97)
    replies = server.exchange(SCAN)
    assert replies.kinds() == [("classical", "final")]
    assert degraded(replies) == ["no learned image since the device is hot (97 C)"]
    heat_up(server, root, 97, times=20)  # as little as it gets: never no image at all
    assert server.exchange(SCAN).kinds() == [("classical", "final")]
    counters = server.server._runtime.counters
    assert counters.value("degraded", step="classical", cause="heat") == 2
    assert counters.value("previews_left_out", cause="heat") >= 1
    heat_up(server, root, 86, times=5)  # no longer hot, not yet cool
    assert server.exchange(SCAN).kinds() == [("classical", "final")]
    level = server.server._runtime.scheduler.heat.level
    heat_up(server, root, 60, times=level - 2)
    assert degraded(server.exchange(SCAN))[0].startswith("1 of 2 iterations")
    heat_up(server, root, 60, times=2)
    assert degraded(server.exchange(SCAN)) == ["", ""]


def test_a_less_precise_form_that_is_qualified_takes_over_when_it_is_ready(serving, tmp_path):
    """The bundle that ships, whose INT8 form keeps its limits: FP32 first, by this profile."""
    usual = profile(None)
    server = serving(replace(usual, precisions=("fp32", "int8")), bundle=DEFAULT_BUNDLE)
    lineup = server.server._runtime.model.lineup
    assert lineup.steps == (Step("fp32", 3), Step("int8", 3), CLASSICAL_ONLY)
    assert degraded(server.exchange(SCAN)) == ["", ""]
    heat_up(server, tmp_path / "root", 97, times=2)
    said = degraded(server.exchange(SCAN))[0]
    assert said.startswith(("no learned image: int8: not made ready yet", "int8 in place of fp32"))
    deadline = time.monotonic() + PATIENCE_S
    while lineup.ready("int8")[0] is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    replies = server.exchange(SCAN)
    assert degraded(replies) == 2 * ["int8 in place of fp32 since the device is hot (97 C)"]
    assert attribute(replies.images[0], "EdgePrecision") == "int8"


def test_a_bundle_whose_limits_were_overridden_has_no_other_form_to_give(serving, tiny_bundle):
    server = serving(replace(profile(None), precisions=("fp32", "int8")))
    assert server.server._runtime.model.lineup.steps == (FULL, ONE, CLASSICAL_ONLY)
