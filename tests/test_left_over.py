"""What one session skipped is what the next runs, and what is marked full; nothing runs twice and nothing is lost."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

TESTS = """
import os, pytest
package = pytest.mark.skipif(not os.environ.get("PACKAGE"), reason="no package")

def test_always():
    pass

@package
def test_with_a_package():
    pass

@pytest.mark.full
def test_that_takes_minutes():
    pass
"""
MODULE = """
import os, pytest
if not os.environ.get("PACKAGE"):
    pytest.skip("no package", allow_module_level=True)

def test_of_a_module():
    pass
"""
PASSED = "PASSED"


def run(folder: Path, *options: str, package: str) -> set[str]:
    """Names of the tests that passed."""
    environment = {**os.environ, "PACKAGE": package, "PYTHONPATH": str(Path(__file__).parent)}
    command = [sys.executable, "-m", "pytest", "-p", "left_over", "-p", "no:cacheprovider", "-v", *options, str(folder)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return {line.split("::")[1].split()[0] for line in done.stdout.splitlines() if PASSED in line}


def test_what_was_skipped_runs_where_its_package_is(tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = full: minutes\n")
    (tmp_path / "test_some.py").write_text(TESTS)
    (tmp_path / "test_module.py").write_text(MODULE)
    record = tmp_path / "build" / "skipped.txt"
    assert run(tmp_path, "-m", "not full", "--skipped-to", str(record), package="") == {"test_always"}
    assert run(tmp_path, "--left-over", str(record), package="1") == {
        "test_with_a_package", "test_that_takes_minutes", "test_of_a_module",
    }  # fmt: skip
