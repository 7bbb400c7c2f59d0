"""A sweep gives the same table here, on a cluster, on a cluster that loses a worker, and after an interruption."""

from __future__ import annotations

import os
import signal
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_volumes import made_volume, write_volume

pytest.importorskip("distributed", reason="the extra 'export' is not installed")
pytest.importorskip("torch", reason="the extra 'export' is not installed")

import distributed
import torch

from edge_runtime.bundle.manifest import REGULARISER
from export.config import NetworkConfig
from export.families.unrolled import UnrolledNetwork
from export.qualification import sweep as sweeping
from export.qualification.cases import CaseName
from export.qualification.extent import Extent
from export.qualification.judge import Row
from export.qualification.subject import Subject
from export.qualification.sweep import Data, SweepFailed, _on_cluster, sweep, table
from export.quantization.run import settings_of
from export.split import regulariser_onnx

pytestmark = pytest.mark.full

EXTENT = Extent(draws=2, off_draws=0, seed=4)
TASKS = 2 * 2 * 3
"""Models, draws, accelerations."""


def subject(seed: int, iterations: int = 2) -> Subject:
    torch.manual_seed(seed)
    network = UnrolledNetwork(NetworkConfig(iterations, 2, (4, 6)))
    return Subject("made", "1", settings_of(network), {"fp32": {REGULARISER: regulariser_onnx(network)}}, {}, "a test")


@pytest.fixture(scope="module")
def models() -> list[Subject]:
    return [subject(0), subject(1)]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    return Data(write_volume(tmp_path_factory.mktemp("volumes")), ())


@pytest.fixture(scope="module")
def here(models: list[Subject], data: Data, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A sweep without a cluster: its folder and its table."""
    out = tmp_path_factory.mktemp("here")
    said: list[str] = []
    found = sweep(models, data, EXTENT, out, said.append)
    assert len(said) == TASKS and said[-1].startswith(f"{TASKS} of {TASKS}: ")
    assert {row.method for _, row in found} == {"learned fp32", "classical", "zero-filled"}
    assert len({model for model, _ in found}) == 2
    return out, (out / "sweep.md").read_text()


def rows_of(found: list[tuple[str, Row]], model: str) -> list[Row]:
    return [row for title, row in found if title.startswith(f"{model} ")]


def test_models_of_one_graph_that_are_run_otherwise_are_not_taken_for_each_other(data: Data, tmp_path: Path) -> None:
    short, long = subject(0), subject(0, iterations=4)
    assert short.digests() == long.digests()
    both = sweep([replace(short, name="short"), replace(long, name="long")], data, EXTENT, tmp_path / "both", print)
    alone = sweep([replace(long, name="long")], data, EXTENT, tmp_path / "alone", print)
    assert rows_of(both, "long") == rows_of(alone, "long") != rows_of(both, "short")
    short_title, long_title = dict.fromkeys(title for title, _ in both)
    assert short_title.removeprefix("short ") != long_title.removeprefix("long ")


@pytest.fixture
def cluster() -> Iterator[Any]:
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, host="127.0.0.1"
    ) as running:
        yield running


def test_a_cluster_that_loses_a_worker_gives_the_same_table(
    models: list[Subject], data: Data, here: tuple[Path, str], cluster: Any, tmp_path: Path
) -> None:
    with distributed.Client(cluster.scheduler_address) as client:
        first, second = client.run(os.getpid).values()
    assert first != second
    said: list[str] = []

    def kill_after_the_second(text: str) -> None:
        said.append(text)
        if len(said) == 2:
            os.kill(first, signal.SIGKILL)

    found = sweep(models, data, EXTENT, tmp_path, kill_after_the_second, cluster.scheduler_address)
    assert len(said) == TASKS
    assert table(found) == (tmp_path / "sweep.md").read_text() == here[1]


def other_volume(folder: Path) -> None:
    np.savez_compressed(folder / "mr_made.npz", vol=made_volume().voxels[:, ::-1] ** 2)


def test_a_cluster_that_saw_other_data_before_judges_what_is_there_now(
    models: list[Subject], cluster: Any, tmp_path: Path
) -> None:
    data = Data(write_volume(tmp_path / "volumes"), ())
    before = sweep(models[:1], data, EXTENT, tmp_path / "before", print, cluster.scheduler_address)
    other_volume(data.volumes)
    now = sweep(models[:1], data, EXTENT, tmp_path / "now", print, cluster.scheduler_address)
    assert now == sweep(models[:1], data, EXTENT, tmp_path / "here", print) != before


def test_workers_that_find_other_data_are_refused(
    models: list[Subject], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("there", "here"):
        write_volume(tmp_path / folder / "volumes")
    other_volume(tmp_path / "there" / "volumes")
    monkeypatch.chdir(tmp_path / "there")
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, processes=True, dashboard_address=None, host="127.0.0.1"
    ) as running:
        monkeypatch.chdir(tmp_path / "here")
        with pytest.raises(SweepFailed, match=r"worker tcp://127.0.0.1:\d+: judges with another data \(\w{16} there, "):
            sweep(models, Data(Path("volumes"), ()), EXTENT, Path("out"), print, running.scheduler_address)
        assert not Path("out/judged.jsonl").exists()


def test_workers_of_another_installation_are_refused(
    models: list[Subject], data: Data, cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = sweeping._MADE_BY
    monkeypatch.setattr(sweeping, "_MADE_BY", {**ours, "code": "cc" * 32, "onnxruntime": "1.0.0"})
    said = rf"another code \({ours['code'][:16]} there, c{{16}} here\), onnxruntime \({ours['onnxruntime']} there, 1\.0\.0 here\)"
    with pytest.raises(SweepFailed, match=said):
        sweep(models, data, EXTENT, tmp_path, print, cluster.scheduler_address)


@dataclass(frozen=True)
class Failing:
    """A worker that leaves a mark whenever it is asked, and fails."""

    marks: Path
    deadly: bool

    def judge(self, task: object) -> list[dict[str, Any]]:
        (self.marks / uuid.uuid4().hex).touch()
        if self.deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        raise ValueError("no such voxel")


TASK = (0, CaseName("recorded", "head.dat", 3, 4, 5))


def test_a_task_that_raises_is_not_repeated_and_is_named(cluster: Any, tmp_path: Path) -> None:
    with pytest.raises(SweepFailed, match=r"head\.dat slice 3, R = 4: ValueError: no such voxel"):
        list(_on_cluster(Failing(tmp_path, deadly=False), [TASK], cluster.scheduler_address))
    assert len(list(tmp_path.iterdir())) == 1


def test_a_task_that_kills_workers_ends_when_the_scheduler_has_seen_enough(cluster: Any, tmp_path: Path) -> None:
    allowed = cluster.scheduler.allowed_failures
    with pytest.raises(SweepFailed, match=rf"head\.dat slice 3, R = 4: {allowed + 1} workers died over it"):
        list(_on_cluster(Failing(tmp_path, deadly=True), [TASK], cluster.scheduler_address))
    assert len(list(tmp_path.iterdir())) == allowed + 1


def test_an_interrupted_sweep_goes_on_where_it_stopped(
    models: list[Subject], data: Data, here: tuple[Path, str]
) -> None:
    out, before = here
    kept = out / "judged.jsonl"
    lines = kept.read_text().splitlines(keepends=True)
    kept.write_text("".join(lines[:-3]) + lines[-1][:20])  # power was lost while a line was written
    said: list[str] = []
    sweep(models, data, EXTENT, out, said.append)
    assert len(said) == 4 and said[0].endswith(f"goes on with {TASKS - 3} results of an earlier run")
    assert said[1].startswith(f"{TASKS - 2} of {TASKS}: ")
    assert (out / "sweep.md").read_text() == before


def test_a_scheduler_that_is_not_there_is_named(
    models: list[Subject], data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("export.qualification.sweep.CONNECT_S", 1)
    with pytest.raises(SweepFailed, match=r"--dask tcp://127.0.0.1:9: no scheduler answers there"):
        sweep(models, data, EXTENT, tmp_path, lambda text: None, "tcp://127.0.0.1:9")
