"""Results of long work outlive an interruption, and are not taken for those of anything else."""

from __future__ import annotations

from pathlib import Path

import pytest

from export.remembered import Remembered

BEFORE = {"graph": "aa" * 32, "onnxruntime": "1.22.0"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    known = Remembered(tmp_path / "kept.jsonl", BEFORE)
    assert known.beginning() == ""
    known.keep("a", 0.1 + 0.2)
    known.keep("b", {"times": [1.5]})
    return tmp_path / "kept.jsonl"


def test_the_same_work_goes_on_with_the_same_values(path: Path) -> None:
    known = Remembered(path, dict(BEFORE))
    assert known.remembered("a", lambda: pytest.fail("it is known")) == 0.1 + 0.2
    assert known.beginning() == f"{path}: goes on with 2 results of an earlier run"


def test_a_torn_last_line_is_dropped(path: Path) -> None:
    text = path.read_text()
    path.write_text(text + text.splitlines()[0][:30])
    known = Remembered(path, BEFORE)
    assert known.has("a") and known.has("b")
    known.keep("c", 1)
    assert Remembered(path, BEFORE).value("c") == 1


def test_wherever_the_last_line_is_torn_the_rest_is_kept(path: Path) -> None:
    whole = path.read_bytes()
    first, last = whole.splitlines(keepends=True)
    for length in range(1, len(last)):
        path.write_bytes(first + last[:length])
        known = Remembered(path, BEFORE)
        assert known.has("a") and not known.has("b")
        assert path.read_bytes() == first
    path.write_bytes(whole)


def test_a_whole_file_is_left_as_it_is(path: Path) -> None:
    before = path.stat()
    assert Remembered(path, BEFORE).has("b")
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_what_is_no_result_is_dropped(path: Path) -> None:
    whole = path.read_bytes()
    path.write_bytes(b'7\n{"identity": {}}\n\xff\n' + whole)
    assert Remembered(path, BEFORE).value("b") == {"times": [1.5]}
    assert path.read_bytes() == whole


def test_results_of_something_else_are_passed_over_and_it_is_said_of_what(path: Path) -> None:
    now = {**BEFORE, "onnxruntime": "1.23.0", "code": "cc" * 32}
    known = Remembered(path, now)
    assert not known.has("a")
    said = known.beginning()
    assert "begins anew" in said and "onnxruntime (1.22.0 before, 1.23.0 now)" in said
    assert f"code (none before, {'c' * 16} now)" in said and "graph" not in said


def test_results_of_before_identities_had_parts_are_passed_over(path: Path) -> None:
    path.write_text('{"identity": "deadbeef", "name": "a", "value": 1}\n')
    known = Remembered(path, BEFORE)
    assert not known.has("a") and "graph (none before" in known.beginning()


def test_who_goes_back_finds_the_old_results(path: Path) -> None:
    Remembered(path, {**BEFORE, "onnxruntime": "1.23.0"}).keep("a", 7)
    known = Remembered(path, BEFORE)
    assert known.value("a") == 0.1 + 0.2 and "goes on with 2" in known.beginning()
