"""Engines that failed are remembered, on this device and with these versions, until somebody releases them."""

from __future__ import annotations

import json
import os
from dataclasses import fields, replace
from pathlib import Path

import pytest

from edge_runtime.engines import quarantine
from edge_runtime.engines.quarantine import CRASHES_WHILE_RUNNING, Case, Kind, Quarantine
from edge_runtime.errors import EngineError

OURS = Case("openvino", "openvino 2025.3.0 CPU", "AMD EPYC", "a" * 64, "int8")


@pytest.fixture
def folder(tmp_path: Path) -> Quarantine:
    return Quarantine(tmp_path / "cache")


def test_what_failed_is_known_with_its_reason(folder):
    assert folder.failure(OURS) is None
    folder.note(OURS, Kind.GOLDEN, "golden outputs differ" + " very much" * 1000)
    mark = folder.failure(OURS)
    assert mark is not None and mark.quarantined
    assert mark.kind is Kind.GOLDEN and mark.why.startswith("golden outputs differ very much")
    assert len(mark.why) == quarantine.MAX_REASON
    assert str(mark).startswith("golden outputs: golden outputs differ")
    assert folder.marks() == [mark]


@pytest.mark.parametrize("name", [field.name for field in fields(Case)])
def test_it_counts_where_every_line_agrees(folder, name):
    folder.note(OURS, Kind.HUNG, "no answer")
    assert folder.failure(replace(OURS, **{name: f"{getattr(OURS, name)}, another"})) is None


def test_a_new_version_takes_the_place_of_the_mark_of_the_old_one(folder):
    folder.note(OURS, Kind.HUNG, "no answer")
    newer = replace(OURS, version="openvino 2026.1.0 CPU")
    folder.note(newer, Kind.GOLDEN, "differs")
    assert folder.failure(OURS) is None
    assert [mark.case for mark in folder.marks()] == [newer]


def test_one_crash_while_running_is_a_suspicion_and_two_are_enough(folder):
    for crash in range(1, CRASHES_WHILE_RUNNING + 1):
        mark = folder.note(OURS, Kind.CRASHED_RUNNING, "Fatal Python error: Segmentation fault")
        assert (mark.count, mark.quarantined) == (crash, crash >= CRASHES_WHILE_RUNNING)
    assert folder.note(OURS, Kind.CRASHED_LOADING, "Fatal Python error: Aborted").quarantined


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{}", b'{"kind": 1}', b"\xff\xff", b"[" * 50_000, b" " * (quarantine.MAX_MARK_BYTES + 1)]
)
def test_a_mark_that_can_not_be_read_still_marks_and_can_be_released(folder, content):
    folder.note(OURS, Kind.HUNG, "anything")
    folder.file(OURS).write_bytes(content)
    mark = folder.failure(OURS)
    assert mark is not None and mark.quarantined and mark.why == quarantine.UNREADABLE
    (listed,) = folder.marks()
    assert (listed.case.engine, listed.case.precision) == ("openvino", "int8")
    assert folder.release() == [listed]
    assert folder.failure(OURS) is None


def test_only_what_is_wanted_is_released(folder):
    for engine in ("openvino", "tensorrt"):
        folder.note(replace(OURS, engine=engine), Kind.HUNG, "no answer")
    gone = folder.release(lambda mark: mark.case.engine == "tensorrt")
    assert [mark.case.engine for mark in gone] == ["tensorrt"]
    assert [mark.case.engine for mark in folder.marks()] == ["openvino"]


def test_marks_are_bounded_and_the_oldest_go(folder, monkeypatch):
    monkeypatch.setattr(quarantine, "MOST_MARKS", 3)
    for number in range(5):
        path = folder.file(folder.note(replace(OURS, bundle=f"{number}" * 64), Kind.HUNG, "no answer").case)
        if path.exists():
            os.utime(path, (number, number))
        folder.note(replace(OURS, bundle=f"{number}" * 64), Kind.HUNG, "no answer")
    assert len(folder.marks()) == 3


def test_a_disk_that_takes_nothing_ends_nothing(folder, caplog):
    folder.path.parent.joinpath("cache").write_text("a file where the folder should be")
    assert folder.note(OURS, Kind.HUNG, "no answer").quarantined
    assert "can't be written, the next start knows nothing of it" in caplog.text


def test_nothing_half_written_stays(folder, monkeypatch):
    folder.note(OURS, Kind.HUNG, "the first")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    folder.note(OURS, Kind.GOLDEN, "another")
    assert [path.suffix for path in folder.path.iterdir()] == [".json"]
    assert "the first" in str(folder.failure(OURS))


def test_only_this_user_may_write_there(folder):
    folder.note(OURS, Kind.HUNG, "no answer")
    assert folder.path.stat().st_mode & 0o077 == 0
    assert json.loads(folder.file(OURS).read_text())["engine"] == "openvino"


def test_a_path_may_begin_at_home_where_there_is_one(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Quarantine.at(Path("~/engines")).path == tmp_path / "engines"
    with pytest.raises(EngineError, match=r"~nobody-here/engines: .*compile\.cache of the hardware profile"):
        Quarantine.at(Path("~nobody-here/engines"))
