"""What the next start sees of a process that is gone: real processes, real signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from edge_runtime.engines import crumbs
from edge_runtime.engines.crumbs import LOADING, RUNNING, Crumbs, account, scan_at_work
from edge_runtime.engines.quarantine import Case, Kind, Mark, Quarantine

OURS = Case("openvino", "openvino 2025.3.0 CPU", "AMD EPYC", "a" * 64, "int8")
OTHER = Case("onnxruntime", "onnxruntime 1.32.0 CPUExecutionProvider", "AMD EPYC", "a" * 64, "int8")

CODE = """
    import ctypes, os, signal, sys, threading, time
    from pathlib import Path
    from edge_runtime.engines.crumbs import *
    from edge_runtime.engines.crumbs import scan_at_work
    from edge_runtime.engines.quarantine import Case
    ours, other = (Case(name, version, "AMD EPYC", "a" * 64, "int8") for name, version in (
        ("openvino", "openvino 2025.3.0 CPU"), ("onnxruntime", "onnxruntime 1.32.0 CPUExecutionProvider")))
    crumbs = Crumbs(Path(sys.argv[1]))
    scan_at_work.set("a-scan")
"""


def left_by(folder: Path, code: str) -> tuple[int, list[Mark]]:
    """How a process ended that ran the code, and what is made of what it left."""
    program = textwrap.dedent(CODE) + textwrap.dedent(code)
    ended = subprocess.run([sys.executable, "-c", program, str(folder)], capture_output=True, check=False, timeout=60)
    return ended.returncode, account(folder, Quarantine(folder))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".json"))


@pytest.mark.parametrize("number", ["SIGSEGV", "SIGABRT", "SIGBUS", "SIGFPE", "SIGILL"])
def test_an_engine_that_takes_the_process_down_while_it_is_made_ready_is_quarantined(tmp_path, number):
    code, marks = left_by(tmp_path, f"with crumbs.doing(LOADING, ours): os.kill(os.getpid(), signal.{number})")
    assert code == -getattr(signal, number)
    (mark,) = marks
    assert (mark.case, mark.kind, mark.quarantined) == (OURS, Kind.CRASHED_LOADING, True)
    assert "Fatal Python error" in mark.why
    assert names(tmp_path) == []


def test_a_real_fault_in_a_thread_of_native_code_is_seen(tmp_path):
    code, marks = left_by(
        tmp_path,
        """
        def fault():
            with crumbs.doing(RUNNING, ours):
                ctypes.string_at(0)
        threading.Thread(target=fault).start()
        time.sleep(60)
        """,
    )
    assert code == -signal.SIGSEGV
    assert [(mark.kind, mark.count, mark.quarantined) for mark in marks] == [(Kind.CRASHED_RUNNING, 1, False)]
    assert "Segmentation fault" in marks[0].why


def test_the_scan_is_named_and_the_second_crash_is_one_too_many(tmp_path):
    crash = "with crumbs.doing(RUNNING, ours): os.abort()"
    _, (first,) = left_by(tmp_path, crash)
    _, (second,) = left_by(tmp_path, crash)
    assert "while the engine ran scan a-scan" in first.why
    assert (first.quarantined, second.quarantined) == (False, True)


def test_where_two_were_at_work_each_is_suspected_only(tmp_path):
    _, marks = left_by(tmp_path, "with crumbs.doing(RUNNING, other), crumbs.doing(LOADING, ours): os.abort()")
    assert {mark.case for mark in marks} == {OURS, OTHER}
    assert not any(mark.quarantined for mark in marks)


@pytest.mark.parametrize(
    "ending",
    [
        "with crumbs.doing(RUNNING, ours): os.kill(os.getpid(), signal.SIGKILL)",  # killed, or out of memory
        "with crumbs.doing(RUNNING, ours): os.kill(os.getpid(), signal.SIGTERM)",
        "with crumbs.doing(RUNNING, ours): os._exit(3)",
        "os.abort()",  # no engine was at work
    ],
)
def test_nobody_is_blamed_for_what_was_not_an_engine(tmp_path, ending):
    assert left_by(tmp_path, ending)[1] == []
    assert names(tmp_path) == []


def test_crumbs_of_an_earlier_boot_tell_nothing(tmp_path, monkeypatch):
    program = textwrap.dedent(CODE) + "with crumbs.doing(LOADING, ours): os.abort()"
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, check=False, timeout=60)
    (tmp_path / "boot").write_text("another")
    monkeypatch.setattr(crumbs, "BOOT_ID", tmp_path / "boot")
    assert account(tmp_path, Quarantine(tmp_path)) == []
    assert names(tmp_path) == ["boot"]


def test_what_a_living_process_does_is_its_own(tmp_path):
    ours = Crumbs(tmp_path)
    try:
        with ours.doing(LOADING, OURS):
            assert account(tmp_path, Quarantine(tmp_path)) == []
            assert len(names(tmp_path)) == 2
    finally:
        ours.close()
    assert names(tmp_path) == []


def test_more_runs_than_there_are_slots_go_on(tmp_path):
    import contextlib

    ours = Crumbs(tmp_path)
    scan_at_work.set("x" * 5000)
    with contextlib.ExitStack() as stack:
        for _ in range(crumbs.SLOTS + 3):
            stack.enter_context(ours.doing(RUNNING, OURS))
    assert (tmp_path / names(tmp_path)[0]).stat().st_size <= (crumbs.SLOTS + 1) * crumbs.SLOT_BYTES
    with ours.doing(RUNNING, OURS):
        pass
    ours.close()


@pytest.mark.parametrize("content", [b"", b"\xff" * 100, b"{}", b"[]\n", os.urandom(17 * 1024)])
def test_what_can_not_be_read_is_cleared_away(tmp_path, content):
    (tmp_path / "process-1.crumbs").write_bytes(content)
    (tmp_path / "process-1.last-words").write_text("Fatal Python error: Aborted")
    assert account(tmp_path, Quarantine(tmp_path)) == []
    assert names(tmp_path) == []
