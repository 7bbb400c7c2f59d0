"""`edge-export sweep`: every form of several models on every case, on this machine or on a Dask cluster.

A task is one model on one case, and small: its name goes to a worker, which makes the case from its own copy of the data and sends
rows back. Results are kept as they come; where and in which order they were made does not show in the table.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edge_runtime.errors import EdgeRuntimeError
from export.digest import made_by
from export.qualification.cases import CaseName, Sources, foreign_volumes
from export.qualification.extent import Extent
from export.qualification.judge import Models, Row, judged, summary
from export.qualification.subject import Subject
from export.remembered import Remembered
from export.simulate.volumes import load_volumes

CONNECT_S = 20

Task = tuple[int, CaseName]
"""Which model, by its place, and which case."""


class SweepFailed(EdgeRuntimeError):
    """A scheduler that can't be reached, or a task that no worker could finish."""


@dataclass(frozen=True)
class Data:
    """Where cases come from, as every worker must find it: the same folders with the same content.

    Attributes:
        volumes: folder.
        recordings: files.
    """

    volumes: Path
    recordings: tuple[Path, ...]

    def open(self) -> Sources:
        """Reads it, once a process."""
        return _opened(self)


@functools.lru_cache(maxsize=2)
def _opened(data: Data) -> Sources:
    return Sources(load_volumes(data.volumes), foreign_volumes(data.volumes), data.recordings)


@dataclass(frozen=True, eq=False)
class _Worker:
    """What a process needs to judge any task; models are made ready once."""

    subjects: tuple[Subject, ...]
    data: Data

    def judge(self, task: Task) -> list[dict[str, Any]]:
        subject, name = task
        return [asdict(row) for row in judged(name, self.data.open(), self._models(subject))]

    def _models(self, subject: int) -> Models:
        key = tuple(sorted(self.subjects[subject].digests().items()))
        if key not in _READY:
            _READY[key] = self.subjects[subject].models(threads=1)
        return _READY[key]


_READY: dict[tuple[tuple[str, str], ...], Models] = {}


def sweep(
    subjects: Sequence[Subject],
    data: Data,
    extent: Extent,
    out: Path,
    report: Callable[[str], None],
    scheduler: str | None = None,
) -> list[tuple[str, Row]]:
    """Rows with the model they are of, by model and case; writes ``sweep.json`` and ``sweep.md`` into a folder.

    Args:
        report: told in words how far it is.
        scheduler: address of a Dask cluster's; without it, everything is done here.

    Raises:
        SweepFailed: the cluster could not do it.
    """
    out.mkdir(parents=True, exist_ok=True)
    worker = _Worker(tuple(subjects), data)
    names = list(data.open().names(extent.draws, extent.off_draws, extent.seed))
    known = Remembered(out / "judged.jsonl", _identity(worker))
    if said := known.beginning():
        report(said)
    tasks = [(number, name) for number in range(len(subjects)) for name in names]
    waiting = [task for task in tasks if not known.has(_label(task))]
    done = len(tasks) - len(waiting)
    for task, rows in _on_cluster(worker, waiting, scheduler) if scheduler else _here(worker, waiting):
        known.keep(_label(task), rows)
        done += 1
        report(f"{done} of {len(tasks)}: {_title(subjects[task[0]])}, {task[1]}")
    found = [(_title(subjects[task[0]]), Row(**row)) for task in tasks for row in known.value(_label(task))]
    document = [{"model": model, **asdict(row)} for model, row in found]
    (out / "sweep.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    (out / "sweep.md").write_text(table(found), encoding="utf-8")
    return found


def table(found: Sequence[tuple[str, Row]]) -> str:
    """Markdown: a line a model, method, group and acceleration; median and, in brackets, worst case."""
    lines = [
        "| model | group | R | cases | method | NRMSE | PSNR, dB | SSIM | flagged |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    groups: dict[tuple[str, str, int, str], list[Row]] = {}
    for model, row in found:
        groups.setdefault((model, row.group, row.acceleration, row.method), []).append(row)
    for (model, group, acceleration, method), rows in groups.items():
        lines.append(f"| {model} | {group} | {acceleration} | {len(rows)} | {method} | {' | '.join(summary(rows))} |")
    return "\n".join(lines) + "\n"


def _here(worker: _Worker, tasks: Sequence[Task]) -> Iterator[tuple[Task, list[dict[str, Any]]]]:
    for task in tasks:
        yield task, worker.judge(task)


def _on_cluster(worker: _Worker, tasks: Sequence[Task], scheduler: str) -> Iterator[tuple[Task, list[dict[str, Any]]]]:
    """Results as they become ready. Tasks of a worker that dies are done by another, until the scheduler holds a task to be what
    kills them; one that raises would raise again, and is not repeated."""
    import distributed

    try:
        client = distributed.Client(scheduler, timeout=CONNECT_S)  # type: ignore[no-untyped-call]
    except (OSError, TimeoutError, ValueError) as error:
        raise SweepFailed(f"--dask {scheduler}: no scheduler answers there: {error}") from error
    with client:
        # The result of a task, which is done again when all workers that have it die; scattered data would be lost with them.
        shared = client.submit(_itself, worker, pure=False)
        futures = {client.submit(_judge, shared, task, pure=False): task for task in tasks}
        for future in distributed.as_completed(futures):  # type: ignore[no-untyped-call]
            try:
                yield futures[future], future.result()
            except distributed.KilledWorker as error:
                raise SweepFailed(
                    f"{futures[future][1]}: {error.allowed_failures + 1} workers died over it, the last at "
                    f"{error.last_worker.address}: give workers more memory, or raise distributed.scheduler.allowed-failures "
                    "where the scheduler runs"
                ) from error
            except Exception as error:  # whatever a worker raised, or what became of it
                raise SweepFailed(f"{futures[future][1]}: {type(error).__name__}: {error}") from error


def _itself(worker: _Worker) -> _Worker:
    return worker


def _judge(worker: _Worker, task: Task) -> list[dict[str, Any]]:
    return worker.judge(task)


def _title(subject: Subject) -> str:
    digest = hashlib.sha256(repr(sorted(subject.digests().items())).encode()).hexdigest()
    return f"{subject.name} {subject.version} ({digest[:8]})"


def _label(task: Task) -> str:
    return f"{task[0]} {task[1]!r}"


def _identity(worker: _Worker) -> dict[str, str]:
    """All that a row hangs on."""
    models = [(sorted(subject.digests().items()), subject.settings) for subject in worker.subjects]
    return {
        "models": hashlib.sha256(repr(models).encode()).hexdigest(),
        "data": worker.data.open().identity(),
        **made_by(__name__),
    }
