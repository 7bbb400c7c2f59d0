"""A sweep gives the same table here, on a cluster, on a cluster that loses a worker, and after an interruption."""

from __future__ import annotations

import os
import signal
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from made_volumes import write_volume

pytest.importorskip("distributed", reason="the extra 'export' is not installed")
pytest.importorskip("torch", reason="the extra 'export' is not installed")

import distributed
import torch

from edge_runtime.bundle.manifest import REGULARISER
from export.config import NetworkConfig
from export.families.unrolled import UnrolledNetwork
from export.qualification.cases import CaseName
from export.qualification.extent import Extent
from export.qualification.subject import Subject
from export.qualification.sweep import Data, SweepFailed, _on_cluster, sweep, table
from export.quantization.run import settings_of
from export.split import regulariser_onnx

pytestmark = pytest.mark.full

EXTENT = Extent(draws=2, off_draws=0, seed=4)
TASKS = 2 * 2 * 3
"""Models, draws, accelerations."""


def subject(seed: int) -> Subject:
    torch.manual_seed(seed)
    network = UnrolledNetwork(NetworkConfig(2, 2, (4, 6)))
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
