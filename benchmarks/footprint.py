"""What the runtime costs beside time: start-up, memory, disk."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.brain_phantom import phantom
from benchmarks.latency import play_once
from benchmarks.records import Record, summarise
from benchmarks.server import ROOT, serving
from edge_runtime.profile import DEFAULT_PROFILE, load_profile

START_TARGET_MS = 1000.0
MEMORY_TARGET_MB = 300.0
INSTALL_TARGET_MB = 250.0
MEGABYTE = 1e6

STARTS = 15
PROCESSES = 5

INSTALLERS = ("pip", "setuptools", "pkg_resources", "_distutils_hack", "distutils-precedence")
"""What a fresh environment holds before anything is installed into it."""


def start(quick: bool) -> list[Record]:
    """Process start to listening."""
    times = []
    for _ in range(2 if quick else STARTS):
        with serving() as server:
            times.append(server.start_ms)
    note = (
        "from starting the process to its announced address, with the bundle loaded and its golden outputs reproduced; "
        f"files are in the page cache but perhaps for the first start, which took {times[0]:.0f} ms"
    )
    threads = load_profile(DEFAULT_PROFILE).threads
    return [
        summarise("start.cold_ms", times, unit="ms", better="lower", threads=threads, target=START_TARGET_MS, note=note)
    ]


def memory(quick: bool) -> list[Record]:
    """Peak memory of a server that has reconstructed the scan of the latency figure; a fresh process each time."""
    scan = phantom()
    before, after = [], []
    for _ in range(1 if quick else PROCESSES):
        with serving() as server:
            before.append(server.peak_bytes() / MEGABYTE)
            play_once(server, scan)
            after.append(server.peak_bytes() / MEGABYTE)
    note = (
        "VmHWM of the server process after 256 x 256, 8 coils, R = 4 with previews, learned and classical images and DICOM; "
        f"{before[0]:.0f} MB once it listens; 1 MB = 10^6 bytes"
    )
    threads = load_profile(DEFAULT_PROFILE).threads
    return [
        summarise(
            "memory.peak_mb", after, unit="MB", better="lower", threads=threads, target=MEMORY_TARGET_MB, note=note
        )
    ]


def install(quick: bool) -> list[Record]:
    """Size of a fresh environment after ``pip install .``; quick or not, there is one."""
    build = ROOT / "build"
    build.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=build, prefix="install-") as folder:
        environment = Path(folder) / "environment"
        _run(sys.executable, "-m", "venv", str(environment))
        python = str(environment / "bin" / "python")
        _run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", str(ROOT))
        (packages,) = environment.glob("lib/python3*/site-packages")
        sizes = {
            entry.name: _size(entry) / MEGABYTE for entry in packages.iterdir() if not entry.name.startswith(INSTALLERS)
        }
    largest = sorted(sizes, key=lambda name: sizes[name], reverse=True)[:5]
    note = "site-packages after pip install ., without pip and setuptools, byte code included; 1 MB = 10^6 bytes; largest: "
    note += ", ".join(f"{name} {sizes[name]:.0f}" for name in largest)
    total = sum(sizes.values())
    return [summarise("install.size_mb", [total], unit="MB", better="lower", target=INSTALL_TARGET_MB, note=note)]


def _size(entry: Path) -> int:
    """Bytes of a file, or of all files below a folder."""
    files = entry.rglob("*") if entry.is_dir() else [entry]
    return sum(file.lstat().st_size for file in files if not file.is_dir())


def _run(*command: str) -> None:
    """Raises:
    RuntimeError: the command failed; says what it printed.
    """
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: exit code {done.returncode}: {(done.stdout + done.stderr)[-2000:]}")
