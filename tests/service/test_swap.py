"""Another bundle between two scans: what is taken, what is refused, and what comes back."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from conftest import PATIENCE_S, Replies, RunningServer, attribute
from simulated import (
    LINES,
    coil_maps,
    header_of,
    kspace_of,
    object_image,
    opening,
    readouts_of,
    scan_bytes,
    usual_kspace,
)

from edge_runtime.cli import main
from edge_runtime.errors import SwapRefused
from edge_runtime.links.mrd_pack import pack_close, pack_readouts
from edge_runtime.modalities.mri.sampling import uniform
from edge_runtime.runtime import Model
from edge_runtime.service.audit import AuditLog
from edge_runtime.service.audit_verify import read_lines, verify
from edge_runtime.service.observers import Observer
from edge_runtime.service.recent import RecentSlices
from edge_runtime.service.shadow import Limits
from edge_runtime.service.swap import PROBATION_SCANS, Swapper

EVERY_OTHER = np.flatnonzero(uniform(LINES, 2, acs_fraction=0.25))

SCAN = scan_bytes(readouts_of(usual_kspace(), EVERY_OTHER), configuration="edge")

WORSE = Limits(residual_margin=-0.5)
"""Half the running model's residual is asked for: what no model has."""

LENIENT = Limits(residual_margin=1.0, time_margin=100.0)
"""Times of models so small are noise."""


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def unheard(_: str) -> None:
    """Progress is nobody's business here."""


class Changes(Observer):
    """Waits for the model to change."""

    def __init__(self) -> None:
        self.why: list[str] = []
        self._changed = threading.Condition()

    def model_changed(self, model: Model, before: Model, why: str) -> None:
        with self._changed:
            self.why.append(why)
            self._changed.notify_all()

    def wait_for(self, count: int) -> list[str]:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.why) >= count, PATIENCE_S), f"only {self.why}"
            return list(self.why)


@dataclass
class Serving:
    server: RunningServer
    swapper: Swapper
    changes: Changes

    def scan(self, data: bytes = SCAN) -> Replies:
        return self.server.exchange(data)

    def bundle_of(self, replies: Replies) -> str:
        """Name and version of the model that made the learned image."""
        return attribute(
            next(image for image in replies.images if attribute(image, "EdgeMethod") == "learned"), "EdgeBundle"
        )

    def swap(self, path: Path, limits: Limits = LENIENT, **options: bool) -> None:
        self.swapper.swap(path, limits, unheard, **options)

    @property
    def in_use(self) -> str:
        return str(self.server.server._runtime.model)


@pytest.fixture
def serving(runtime_of, tiny_bundle) -> Iterator[Serving]:
    """A server that can be given another bundle."""
    with runtime_of(bundle=tiny_bundle) as runtime:
        server, changes = RunningServer(runtime), Changes()
        swapper = Swapper(runtime, busy=lambda: server.server.sessions > 0, stopping=lambda: server.server.stopping)
        runtime.observers.add(swapper)
        runtime.observers.add(changes)
        try:
            yield Serving(server, swapper, changes)
        finally:
            server.stop()
            swapper.close()


MakeBundle = Callable[..., Path]


@pytest.fixture
def make(tmp_path, signing_key) -> MakeBundle:
    """A bundle ``tiny 2``: a convolution times ``1 + exp(size / per - less)``, by the size of the network's input."""
    onnx = pytest.importorskip("onnx")

    def write(name: str = "two", per: float = 1.0, less: float = 1e9, gain: float = 0.01) -> Path:
        from edge_runtime.bundle import UnrolledSettings
        from export.pack import write_bundle

        node, tensor = onnx.helper.make_node, onnx.numpy_helper.from_array
        weights = gain * np.random.default_rng(3).standard_normal((2, 6, 3, 3)).astype(np.float32)
        graph = onnx.helper.make_graph(
            [
                node("Conv", ["image", "weights"], ["plain"], pads=[1, 1, 1, 1]),
                node("Size", ["image"], ["size"]),
                node("Cast", ["size"], ["real"], to=onnx.TensorProto.FLOAT),
                node("Div", ["real", "per"], ["divided"]),
                node("Sub", ["divided", "less"], ["exponent"]),
                node("Exp", ["exponent"], ["grown"]),
                node("Add", ["grown", "one"], ["gain"]),
                node("Mul", ["plain", "gain"], ["correction"]),
            ],
            "regulariser",
            [onnx.helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, [1, 6, "rows", "columns"])],
            [onnx.helper.make_tensor_value_info("correction", onnx.TensorProto.FLOAT, [1, 2, "rows", "columns"])],
            [
                tensor(weights.astype(np.float32), "weights"),
                *(tensor(np.float32(value), at) for value, at in ((per, "per"), (less, "less"), (1.0, "one"))),
            ],
        )
        model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9)
        path = tmp_path / f"{name}.edgebundle"
        write_bundle(
            path,
            name="tiny",
            version="2",
            settings=UnrolledSettings(2, 3, ((-3.0, 0.5, 0.2), (-3.0, 0.5, 0.2)), multiple=4),
            forms={"fp32": bytes(model.SerializeToString())},
            golden_input=np.random.default_rng(2).standard_normal((1, 6, 8, 12)).astype(np.float32),
            provenance={"training_data": {"sha256": "0" * 64, "volumes": ["none"]}},
            key=signing_key,
            licence="Apache-2.0",
            override="a test",
        )
        return path

    return write


GOLDEN, USUAL, LARGE = 6 * 8 * 12, 6 * 32 * 24, 6 * 64 * 24
"""Sizes of the network's input: golden, of the usual scan, of one with twice the lines."""

ONLY_USUAL_FAILS = {"per": 40.0, "less": 20.0}
ONLY_LARGE_FAILS = {"per": 50.0, "less": 95.0}
"""Beyond the exponential's 88 there is no finite number."""


def test_the_next_scan_has_the_new_model(serving, make):
    assert serving.bundle_of(serving.scan()) == "tiny 1"
    heard: list[str] = []
    made = serving.swapper.swap(make(), LENIENT, heard.append)
    assert (str(made.before), str(made.now)) == ("tiny 1 fp32", "tiny 2 fp32")
    assert made.comparison is not None and made.comparison.slices == 1
    assert made.comparison.residual_ratio == pytest.approx(1, abs=0.5)
    assert [text.split(" ")[-1] for text in heard] == ["ready", "slices", heard[2].split(" ")[-1], "on"]
    assert serving.bundle_of(serving.scan()) == "tiny 2"


def test_a_scan_that_runs_keeps_its_model(serving, make):
    serving.scan()
    readouts = readouts_of(usual_kspace(), EVERY_OTHER)
    half = len(readouts) // 2
    with serving.server.connect() as client:
        client.send(opening(configuration="edge") + pack_readouts(readouts[:half]))
        until(lambda: serving.server.server._runtime.memory.reserved_bytes > 1 << 20)
        serving.swap(make(), unshadowed=True)
        client.send(pack_readouts(readouts[half:]) + pack_close())
        assert serving.bundle_of(client.replies()) == "tiny 1"
    assert serving.bundle_of(serving.scan()) == "tiny 2"


def test_probation_ends_after_some_scans_and_gives_its_memory_back(serving, make):
    serving.scan()
    reserved = serving.server.server._runtime.memory.reserved_bytes
    serving.swap(make())
    assert "on probation for 3 more scans" in serving.swapper.state
    assert serving.server.server._runtime.memory.reserved_bytes > reserved
    for _ in range(PROBATION_SCANS):
        serving.scan(scan_bytes(readouts_of(usual_kspace())))  # classical: shows nothing of the model
    assert "on probation for 3 more scans" in serving.swapper.state
    for _ in range(PROBATION_SCANS):
        serving.scan()
    until(lambda: serving.swapper.state == "no swap")
    assert serving.in_use == "tiny 2 fp32"
    assert serving.changes.why == ["swap"]


@pytest.mark.parametrize(
    ("limits", "said"),
    [(WORSE, "held-out residual is"), (Limits(1.0, 0.0), None)],
)
def test_a_model_that_is_worse_on_the_last_scans_is_refused(limits, said, serving, make, monkeypatch):
    if said is None:
        monkeypatch.setattr("edge_runtime.service.shadow.LEAST_EXTRA_S", -1e3)
        said = "ms where the running model takes"
    serving.scan()
    with pytest.raises(SwapRefused, match=said):
        serving.swap(make(), limits)
    assert serving.in_use == "tiny 1 fp32"
    assert serving.bundle_of(serving.scan()) == "tiny 1"


def test_a_model_that_is_not_finite_on_the_last_scans_is_refused(serving, make):
    serving.scan()
    with pytest.raises(SwapRefused, match=r"failed on a slice of scan .*not finite"):
        serving.swap(make(**ONLY_USUAL_FAILS))
    assert serving.bundle_of(serving.scan()) == "tiny 1"


def test_what_fails_in_its_first_scans_is_rolled_back(serving, make):
    serving.scan()
    path = make(**ONLY_LARGE_FAILS)
    serving.swap(path)
    assert serving.bundle_of(serving.scan()) == "tiny 2"
    large = header_of(lines=2 * LINES)
    kspace = kspace_of(object_image(2 * LINES), coil_maps(lines=2 * LINES), 48, noise=0.01)
    lines = np.flatnonzero(uniform(2 * LINES, 2, acs_fraction=0.25))
    replies = serving.scan(scan_bytes(readouts_of(kspace, lines), header=large, configuration="edge"))
    assert [method for method, _ in replies.kinds()] == ["classical"]  # nobody's image is lost
    assert "not finite" in replies.text
    assert serving.changes.wait_for(2)[1].startswith("roll-back: scan ")
    assert serving.in_use == "tiny 1 fp32"
    assert serving.bundle_of(serving.scan()) == "tiny 1"
    with pytest.raises(SwapRefused, match="was rolled back before"):
        serving.swap(path)


def test_what_has_worse_evidence_in_its_first_scans_is_rolled_back(serving, make):
    serving.swap(make(), WORSE, unshadowed=True)
    serving.scan()
    assert "held-out residual is" in serving.changes.wait_for(2)[1]
    assert serving.in_use == "tiny 1 fp32"


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda path: path.unlink(), "must be able to read it"),
        (lambda path: path.write_bytes(b"PK"), "BundleMalformed"),
        (lambda path: path.write_bytes(path.read_bytes()[:-200]), "Bundle"),
        (lambda path: path.write_bytes(path.read_bytes().replace(b'"tiny"', b'"tinx"')), "Bundle"),
    ],
)
def test_a_file_that_is_no_sound_bundle_is_refused(damage, said, serving, make):
    path = make()
    damage(path)
    serving.scan()
    with pytest.raises(SwapRefused, match=said):
        serving.swap(path)
    assert serving.bundle_of(serving.scan()) == "tiny 1"


def test_other_reasons_to_refuse(serving, make, tiny_bundle, runtime_of):
    with pytest.raises(SwapRefused, match="nothing to try it on"):
        serving.swap(make())
    with pytest.raises(SwapRefused, match="is in use already"):
        serving.swap(tiny_bundle)
    with serving.swapper._one_at_a_time, pytest.raises(SwapRefused, match="another swap"):
        serving.swap(make())
    memory = serving.server.server._runtime.memory
    taken = memory.free_bytes - (1 << 20)
    assert memory.take(taken)
    with pytest.raises(SwapRefused, match=r"a second model needs \d+ MB"):
        serving.swap(make(), unshadowed=True)
    memory.take(-taken)
    serving.scan()
    serving.server.server.stop()
    with pytest.raises(SwapRefused, match="the server is stopping"):
        serving.swap(make())
    with runtime_of() as classical:
        swapper = Swapper(classical, busy=lambda: False, stopping=lambda: False)
        with pytest.raises(SwapRefused, match="classical images only"):
            swapper.swap(make(), LENIENT, unheard)
        swapper.close()


def test_who_goes_before_the_end_leaves_the_running_model(serving, make):
    serving.scan()

    def gone(text: str) -> None:
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        serving.swapper.swap(make(), LENIENT, gone)
    assert serving.in_use == "tiny 1 fp32"
    serving.swap(make())  # and the next may


def test_a_bundle_that_is_replaced_on_disk_while_in_use_does_not_matter(runtime_of, tiny_bundle, make, tmp_path):
    path = tmp_path / "in-use.edgebundle"
    shutil.copy(tiny_bundle, path)
    with runtime_of(bundle=path) as runtime:
        server = RunningServer(runtime)
        try:
            first = server.exchange(SCAN)
            with path.open("r+b") as file:  # in place, as cp does
                file.truncate(100)
                file.write(b"\0" * 5000)
            second = server.exchange(SCAN)
            path.unlink()
            third = server.exchange(SCAN)
        finally:
            server.stop()
    for replies in (second, third):
        for image, same in zip(first.images, replies.images, strict=True):
            np.testing.assert_array_equal(image.pixels, same.pixels)
            assert attribute(image, "EdgeMethod") == attribute(same, "EdgeMethod")


def test_kept_slices_are_bounded_and_give_way_to_scans(serving):
    runtime = serving.server.server._runtime
    for _ in range(6):
        serving.scan()
    kept = serving.swapper.recent.latest()
    assert len(kept) == 4
    assert len({one.scan_id for one in kept}) == 4
    one = kept[0]
    few = RecentSlices(runtime.memory, 0, most_bytes=2 * one.size_bytes + 10)
    assert all(few.keep(str(number), one.samples, one.calibration) for number in range(3))
    assert [each.scan_id for each in few.latest()] == ["2", "1"]
    assert few.latest()[0].samples.hybrid is not one.samples.hybrid
    small = RecentSlices(runtime.memory, 0, most_bytes=one.size_bytes - 1)
    assert not small.keep("0", one.samples, one.calibration)
    modest = RecentSlices(runtime.memory, runtime.memory.total_bytes)
    assert not modest.keep("0", one.samples, one.calibration)
    few.forget()
    assert few.latest() == []


# ----------------------------------------------------------------------------------------- the whole way, from the command line


def test_swap_and_status_by_the_socket_and_the_audit_log_of_it(runtime_of, tiny_bundle, make, tmp_path, capsys):
    from edge_runtime.service.life import Around, living

    control, log = tmp_path / "control", tmp_path / "audit.jsonl"
    audit = AuditLog(log)
    with runtime_of(bundle=tiny_bundle) as runtime:
        server = RunningServer(runtime)
        try:
            with living(runtime, server.server, Around(control=control), audit):
                ask = ("--control", str(control))
                assert main(["status", *ask]) == 0
                assert "model     tiny 1 fp32 on onnxruntime" in capsys.readouterr().out
                assert main(["swap", str(make()), *ask]) == 1
                assert "--unshadowed" in capsys.readouterr().err
                server.exchange(SCAN)
                assert main(["swap", str(make()), *ask, "--json", "--margin", "1", "--slower", "100"]) == 0
                said = json.loads(capsys.readouterr().out)
                assert (said["before"], said["model"], said["comparison"]["slices"]) == (
                    "tiny 1 fp32",
                    "tiny 2 fp32",
                    1,
                )
                assert main(["swap", str(make(name="other", gain=0.02)), *ask, "--margin", "1", "--slower", "100"]) == 0
                printed = capsys.readouterr()
                assert "is in use from the next scan on, in place of tiny 2 fp32" in printed.out
                assert "is tried on the last 1 slices" in printed.err
                assert main(["status", *ask, "--json"]) == 0
                status = json.loads(capsys.readouterr().out)
                assert (status["scans"], status["images"], status["state"], status["stuck"]) == (1, 2, "serving", [])
                assert status["model"]["version"] == "2" and "probation" in status["swap"]
                assert status["audit"]["sequence"] == audit.head.sequence
        finally:
            server.stop()
    audit.close()
    assert not control.exists()
    assert main(["status", "--control", str(control)]) == 1
    assert f"does a server run with --control {control}" in capsys.readouterr().err
    verdict = verify(log, status["audit"]["digest"])
    assert verdict.intact, verdict.broken
    events = [line.entry for line in read_lines(log)]
    names = [entry["event"] for entry in events]
    assert names == ["start", "swap_refused", "scan_begun", "scan_ended", "swap", "swap", "stop"]
    assert events[0]["model"]["digest"] == events[2]["model"]["digest"] == events[4]["before"]["digest"]
    assert events[2]["scan"] == events[3]["scan"]
    assert events[3]["images"] == {"learned final": 1, "classical final": 1}
    assert events[3]["outcome"] == "complete"
    assert events[6]["reason"] == "drained"


@pytest.mark.full
def test_a_network_that_was_never_trained_is_refused_in_place_of_the_shipped_one(runtime_of, make):
    """At the limits that hold where nobody says otherwise, on the demo's scan."""
    from edge_runtime.bundle import DEFAULT_BUNDLE
    from edge_runtime.demo.run import SCAN as DEMO
    from edge_runtime.hil.player import play
    from edge_runtime.links.files import open_recording

    with runtime_of(bundle=DEFAULT_BUNDLE, session_mb=256) as runtime:
        server = RunningServer(runtime)
        swapper = Swapper(runtime, busy=lambda: False, stopping=lambda: False)
        runtime.observers.add(swapper)
        try:
            play(open_recording(DEMO, None), server.server.host, server.server.port)
            with pytest.raises(SwapRefused, match=r"held-out residual is 1\.\d+ times the running model's"):
                swapper.swap(make(gain=0.3), Limits(), unheard)
            assert str(runtime.model).startswith("brain2d")
        finally:
            server.stop()
            swapper.close()
