"""A skip that nobody expects fails a strict run, and only a strict one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

UNEXPECTED = "the program is not installed"
EXPECTED = "realdata: no recorded scans in /nowhere"


@pytest.mark.parametrize(
    ("reason", "strict", "code"),
    [(UNEXPECTED, "1", 1), (UNEXPECTED, "", 0), (EXPECTED, "1", 0)],
    ids=["unexpected", "not strict", "expected"],
)
@pytest.mark.parametrize("whole_module", [True, False])
def test_skips(tmp_path: Path, reason: str, strict: str, code: int, whole_module: bool) -> None:
    where = f"pytest.skip({reason!r}" + (", allow_module_level=True)" if whole_module else ")")
    body = f"{where}\n" if whole_module else f"def test_it():\n    {where}\n"
    (tmp_path / "test_skipping.py").write_text(f"import pytest\n{body}\ndef test_passes():\n    pass\n")
    environment = {**os.environ, "EDGE_STRICT_SKIPS": strict, "PYTHONPATH": str(Path(__file__).parent)}
    command = [sys.executable, "-m", "pytest", "-p", "strict_skips", "-p", "no:cacheprovider", str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == (5 if whole_module and code == 0 else code), (
        done.stdout
    )  # 5: pytest's "nothing collected"
    named = [line for line in done.stdout.splitlines() if "not expected" in line]
    assert len(named) == code
    assert all("test_skipping.py" in line and reason in line for line in named)
