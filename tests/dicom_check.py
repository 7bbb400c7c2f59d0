"""What others say of our DICOM files."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest


def complaints(path: Path, iod: str = "MRImage") -> list[str]:
    """Error lines of dciodvfy, which writes them to stderr. Its dictionary predates Synthetic Data (0008,001C)."""
    if shutil.which("dciodvfy") is None:
        pytest.skip("dciodvfy (Debian dicom3tools) is not installed")
    done = subprocess.run(["dciodvfy", str(path)], capture_output=True, check=False)
    lines = (done.stdout + done.stderr).decode("utf-8", "replace").splitlines()
    assert iod in lines, lines  # it knew what it looked at
    return [line for line in lines if line.startswith("Error") and "(0x0008,0x001c)" not in line]
