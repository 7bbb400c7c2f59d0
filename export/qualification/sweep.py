"""`edge-export sweep`: every form of several models on every case, on this machine or on a Dask cluster.

A task is one model on one case, and small: its name goes to a worker, which makes the case from its own copy of the data and sends
rows back. Results are kept as they come; where and in which order they were made does not show in the table.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from edge_runtime.bundle.manifest import settings_document
from edge_runtime.errors import EdgeRuntimeError
from export.digest import made_by
from export.qualification.cases import CaseName, Sources, foreign_volumes
from export.qualification.extent import Extent
from export.qualification.judge import Models, Row, outcome, summary
from export.qualification.subject import Subject
from export.remembered import Remembered, differences
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
        """Reads the volumes."""
        return Sources(load_volumes(self.volumes), foreign_volumes(self.volumes), self.recordings)


@dataclass(frozen=True)
class Answer:
    """What a process answers to a task.

    Attributes:
        rows: of every method, as JSON has them.
        identity: of models, data, code and libraries as they are in that process.
        where: the address of a cluster's worker.
    """

    rows: list[dict[str, Any]]
    identity: Mapping[str, str]
    where: str = ""


class _Worker:
    """What a process needs to judge any task. It opens the data and makes each model ready once; what it holds goes with it, at the
    end of the sweep, and is not sent to other processes: these open their own."""

    def __init__(self, subjects: Sequence[Subject], data: Data) -> None:
        self.subjects, self.data = tuple(subjects), data
        self._begin()

    def _begin(self) -> None:
        self._ready: dict[int, Models] = {}
        self._sources: Sources | None = None
        self._identity: dict[str, str] = {}
        self._opening = threading.Lock()  # a worker of a cluster may have several threads

    def __getstate__(self) -> tuple[tuple[Subject, ...], Data]:
        return self.subjects, self.data

    def __setstate__(self, state: tuple[tuple[Subject, ...], Data]) -> None:
        self.subjects, self.data = state
        self._begin()

    def judge(self, task: Task) -> Answer:
        subject, name = task
        with self._opening:
            if subject not in self._ready:
                self._ready[subject] = self.subjects[subject].models(threads=1)
            models = self._ready[subject]
        return Answer([asdict(row) for row in outcome(name, self.sources(), models).rows], self.identity())

    def sources(self) -> Sources:
        with self._opening:
            if self._sources is None:
                self._sources = self.data.open()
            return self._sources

    def identity(self) -> dict[str, str]:
        """All that a row hangs on."""
        sources = self.sources()
        with self._opening:
            if not self._identity:
                models = "".join(map(_digest, self.subjects))
                self._identity = {
                    "models": hashlib.sha256(models.encode()).hexdigest(),
                    "data": sources.identity(),
                    **_MADE_BY,
                }
            return self._identity


_MADE_BY = made_by(__name__)
"""Of the code that this process runs: taken when it is imported, since files may change while a worker goes on with what it has."""


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
        SweepFailed: the cluster could not do it, or one of its workers has other data, code or libraries than this process.
    """
    out.mkdir(parents=True, exist_ok=True)
    worker = _Worker(subjects, data)
    names = list(worker.sources().names(extent.draws, extent.off_draws, extent.seed))
    known = Remembered(out / "judged.jsonl", worker.identity())
    if said := known.beginning():
        report(said)
    tasks = [(number, name) for number in range(len(subjects)) for name in names]
    waiting = [task for task in tasks if not known.has(_label(task))]
    done = len(tasks) - len(waiting)
    for task, found_of_task in _on_cluster(worker, waiting, scheduler) if scheduler else _here(worker, waiting):
        _check_identity(found_of_task, worker.identity())
        known.keep(_label(task), found_of_task.rows)
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


def _check_identity(one: Answer, identity: Mapping[str, str]) -> None:
    if one.identity != identity:
        differing = differences(one.identity, identity, ("there", "here"))
        raise SweepFailed(
            f"worker {one.where}: judges with another {differing}: give it the same files and the same installation, "
            "and start it anew"
        )


def _here(worker: _Worker, tasks: Sequence[Task]) -> Iterator[tuple[Task, Answer]]:
    for task in tasks:
        yield task, worker.judge(task)


def _on_cluster(worker: _Worker, tasks: Sequence[Task], scheduler: str) -> Iterator[tuple[Task, Answer]]:
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


def _judge(worker: _Worker, task: Task) -> Answer:
    import distributed

    return replace(worker.judge(task), where=distributed.get_worker().address)


def _title(subject: Subject) -> str:
    return f"{subject.name} {subject.version} ({_digest(subject)[:8]})"


def _digest(subject: Subject) -> str:
    """SHA-256 of all that decides a model's images: its graphs, and how the device runs them."""
    document = {"forms": subject.digests(), **settings_document(subject.settings)}
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def _label(task: Task) -> str:
    return f"{task[0]} {task[1]!r}"
