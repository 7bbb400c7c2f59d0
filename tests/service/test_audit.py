"""The audit log: what is changed shows, what a crash tears is mended, and what the disk does not take is told."""

from __future__ import annotations

import json
import resource
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.cli import main
from edge_runtime.errors import AuditError
from edge_runtime.service.audit import NOTHING_BEFORE, AuditLog, digest_of, earlier_paths, head_path
from edge_runtime.service.audit_verify import read_lines, verify


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


def written(path: Path, count: int = 5, **options: int) -> Path:
    log = AuditLog(path, **options)
    for number in range(count):
        assert log.write("event", number=number)
    log.close()
    return path


def entries(path: Path) -> list[dict]:
    return [line.entry for line in read_lines(path)]


def test_each_line_names_the_one_before(path):
    lines = written(path).read_bytes().splitlines()
    first, second = json.loads(lines[0]), json.loads(lines[1])
    assert list(first) == ["sequence", "time", "event", "number", "previous"]
    assert (first["sequence"], first["event"], first["previous"]) == (1, "event", NOTHING_BEFORE)
    assert second["previous"] == digest_of(lines[0])
    verdict = verify(path)
    assert (verdict.intact, verdict.lines, verdict.head.digest) == (True, 5, digest_of(lines[-1]))


def test_only_its_user_may_read_it(path):
    written(path)
    assert {stat.S_IMODE(one.stat().st_mode) for one in (path, head_path(path))} == {0o600}


def test_another_start_goes_on_where_the_log_ends(path):
    written(written(path), 2)
    assert [one["sequence"] for one in entries(path)] == list(range(1, 8))
    assert verify(path).intact


def test_one_process_a_log(path):
    log = AuditLog(path)
    with pytest.raises(AuditError, match="another process writes it"):
        AuditLog(path)
    log.close()
    AuditLog(path).close()


def test_a_link_is_not_followed(path, tmp_path):
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(AuditError):
        AuditLog(path)


def test_threads_write_whole_lines(path):
    log = AuditLog(path)
    threads = [threading.Thread(target=lambda: [log.write("event") for _ in range(20)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log.close()
    assert verify(path).lines == 80


# -------------------------------------------------------------------------------------------------------- what is changed


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, bytes]:
    """A log and its head."""
    path = written(tmp_path_factory.mktemp("audit") / "audit.jsonl")
    return path.read_bytes(), head_path(path).read_bytes()


@given(data=st.data())
def test_any_changed_byte_shows(data, untouched, tmp_path_factory):
    content, head = untouched
    at = data.draw(st.integers(0, len(content) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda value: value != content[at]))
    path = tmp_path_factory.mktemp("changed") / "audit.jsonl"
    path.write_bytes(content[:at] + bytes([byte]) + content[at + 1 :])
    head_path(path).write_bytes(head)
    assert not verify(path).intact


@pytest.mark.parametrize(
    ("change", "where"),
    [
        (lambda lines: lines[1:], ""),
        (lambda lines: [*lines[:2], *lines[3:]], "line 3: does not continue"),
        (lambda lines: [lines[0], lines[2], lines[1], *lines[3:]], "line 2: does not continue"),
        (lambda lines: [*lines[:2], lines[1], *lines[2:]], "line 3: does not continue"),
        (lambda lines: lines[:-1], "lines 5 to 5 are missing from the end"),
        (lambda lines: lines[:1], "lines 2 to 5 are missing from the end"),
        (lambda lines: [*lines[:2], b"[" * 100_000, *lines[2:]], "line 3: no JSON object"),
        (lambda lines: [*lines[:2], b"7", *lines[2:]], "line 3: no JSON object"),
        (lambda lines: [*lines[:2], b'{"sequence": true, "previous": ""}', *lines[2:]], "line 3: has no sequence"),
    ],
)
def test_the_first_broken_line_is_named(change, where, untouched, path):
    content, head = untouched
    path.write_bytes(b"".join(line + b"\n" for line in change(content.splitlines())))
    head_path(path).write_bytes(head)
    verdict = verify(path)
    if where:
        assert where in verdict.broken
    else:  # old lines may be taken away from a log; that is told
        assert verdict.intact and "begins with line 2" in verdict.notes[0]


def test_a_log_that_was_written_anew_whole_lacks_the_head_that_was_kept_elsewhere(path):
    written(path)
    kept = verify(path).head.digest
    written(path, 3)
    assert verify(path, kept).intact  # it leads there still
    for one in (path, head_path(path)):
        one.unlink()
    written(path)  # a forger's chain is sound
    assert verify(path).intact
    assert kept in verify(path, kept).broken


def test_without_its_head_file_the_log_says_what_cannot_be_told(untouched, path):
    path.write_bytes(untouched[0])
    assert "can't be told" in verify(path).notes[0]


# ------------------------------------------------------------------------------------------------------- crashes and disks


@pytest.mark.parametrize("torn", [b"{", b'{"sequence":6,"time":"2026-', b"\x00" * 4000])
def test_a_torn_line_is_taken_out_and_told(torn, path):
    with written(path).open("ab") as file:
        file.write(torn)
    assert "torn by a crash" in verify(path).broken
    written(path, 1)
    assert verify(path).intact
    mended = entries(path)[5]
    assert (mended["event"], mended["torn_bytes"]) == ("mended", len(torn))


def test_a_damaged_last_line_does_not_begin_the_count_anew(path):
    lines = written(path).read_bytes().splitlines()
    path.write_bytes(b"\n".join([*lines[:-1], b"\xff" * 40]) + b"\n")
    written(path, 1)
    assert entries(path)[-1]["sequence"] == 6
    assert "line 5: no JSON object" in verify(path).broken


WRITES_FOR_EVER = """
import sys
from pathlib import Path
from edge_runtime.service.audit import AuditLog
log = AuditLog(Path(sys.argv[1]), most_bytes=4000)
print("begun", flush=True)
while True:
    log.write("event", text="x" * 200)
"""


def test_a_killed_writer_leaves_a_whole_log(path):
    for _ in range(3):
        with subprocess.Popen([sys.executable, "-c", WRITES_FOR_EVER, str(path)], stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None and writer.stdout.readline() == b"begun\n"
            try:
                writer.wait(0.3)
            except subprocess.TimeoutExpired:
                writer.send_signal(signal.SIGKILL)
    written(path, 1)
    verdict = verify(path)
    assert verdict.intact, verdict.broken
    assert verdict.lines == verdict.head.sequence > 10


@pytest.fixture
def full_at() -> Iterator:
    """Makes the kernel refuse what goes beyond a file's size, in the middle of a write."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_what_the_disk_does_not_take_is_told_when_it_does_again(path, full_at, caplog):
    log = AuditLog(path)
    assert log.write("before")
    full_at(path.stat().st_size + 20)
    assert not log.write("while it is full")
    assert not log.write("while it is full")
    assert "could not be written" in caplog.text
    full_at(resource.RLIM_INFINITY)
    assert log.write("after")
    log.close()
    assert [one["event"] for one in entries(path)] == ["before", "lost", "after"]
    assert entries(path)[1]["lines"] == 2
    assert verify(path).intact


def test_a_folder_that_can_not_be_written_is_told_at_the_start(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(AuditError, match="audit log"):
        AuditLog(tmp_path / "file" / "audit.jsonl")


# ------------------------------------------------------------------------------------------------------------ earlier files


def test_the_chain_goes_on_through_files(path):
    written(path, 40, most_bytes=1000)
    earlier = earlier_paths(path)
    assert len(earlier) > 3
    assert all(one.stat().st_size < 1300 for one in earlier)
    assert [one["sequence"] for one in entries(path)] == list(range(1, verify(path).lines + 1))
    assert json.loads(path.read_bytes().splitlines()[0])["event"] == "continued"
    assert verify(path).intact
    changed = earlier[1].read_bytes().replace(b'"event":"event"', b'"event":"evens"', 1)
    earlier[1].write_bytes(changed)
    assert earlier[1].name in verify(path).broken
    earlier[0].unlink()
    earlier[1].unlink()
    verdict = verify(path)
    assert verdict.intact and "in files that are not here" in verdict.notes[0]
    earlier[3].unlink()
    assert "does not continue" in verify(path).broken


def test_a_crash_while_a_new_file_is_begun_breaks_nothing(path):
    written(path)
    path.rename(path.with_name("audit.jsonl.000001"))
    written(path, 1)
    assert verify(path).lines == 6
    assert verify(path).intact


# ---------------------------------------------------------------------------------------------------------- the command line


def test_verify_and_show(path, capsys):
    written(path)
    assert main(["audit", "verify", str(path)]) == 0
    assert capsys.readouterr().out.startswith("whole: 5 lines")
    assert main(["audit", "verify", str(path), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["intact"], said["lines"], said["last_sequence"]) == (True, 5, 5)
    assert main(["audit", "verify", str(path), "--expect", said["head"]]) == 0
    assert main(["audit", "verify", str(path), "--expect", "0" * 64]) == 1
    capsys.readouterr()
    assert main(["audit", "show", str(path), "--last", "2"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in shown] == ["4", "5"]
    assert shown[-1].endswith("event number=4")
    path.write_bytes(path.read_bytes().replace(b"2", b"3", 1))
    assert main(["audit", "verify", str(path)]) == 1
    assert "BROKEN: audit.jsonl line" in capsys.readouterr().out
    assert main(["audit", "verify", str(path / "missing")]) == 1
