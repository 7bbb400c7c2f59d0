"""What the runtime costs beside time: start-up, memory, disk."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.brain_phantom import phantom, slices
from benchmarks.latency import play_once
from benchmarks.records import Record, summarise
from benchmarks.server import ROOT, serving
from edge_runtime.hil.player import play
from edge_runtime.links.files.recording import Recording
from edge_runtime.links.mrd_pack import parse_meta_attributes
from edge_runtime.profile import DEFAULT_PROFILE, load_profile
from edge_runtime.scan import Completeness, Method

START_TARGET_MS = 500.0
MEMORY_TARGET_MB = 300.0
IDLE_TARGET_MB = 120.0
SCAN_TARGET_MB = 250.0
SLICES = 20

IDLE_S = 1.0
SCAN_REPETITION_TIME_MS = 10.0
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
    before, after, idle = [], [], []
    for _ in range(1 if quick else PROCESSES):
        with serving("--metrics", "0") as server:
            time.sleep(IDLE_S)
            idle.append(server.resident_bytes() / MEGABYTE)
        with serving() as server:
            before.append(server.peak_bytes() / MEGABYTE)
            play_once(server, scan)
            after.append(server.peak_bytes() / MEGABYTE)
    note = (
        "VmHWM of the server process after 256 x 256, 8 coils, R = 4 with previews, learned and classical images and DICOM; "
        f"{before[0]:.0f} MB once it listens; 1 MB = 10^6 bytes"
    )
    threads = load_profile(DEFAULT_PROFILE).threads
    idle_note = (
        f"VmRSS of a server process with metrics, {IDLE_S:g} s after it has announced its address, before any scan; shared pages "
        "of libraries count; 1 MB = 10^6 bytes"
    )
    return [
        summarise(
            "memory.idle_mb", idle, unit="MB", better="lower", threads=threads, target=IDLE_TARGET_MB, note=idle_note
        ),
        summarise(
            "memory.peak_mb", after, unit="MB", better="lower", threads=threads, target=MEMORY_TARGET_MB, note=note
        ),
    ]


def memory_of_a_scan(quick: bool) -> list[Record]:
    """Peak memory of a server that has reconstructed a scan of many slices; a fresh process each time."""
    scan, threads = phantom(), load_profile(DEFAULT_PROFILE).threads
    count = 3 if quick else SLICES
    records = []
    for name, interleaved in (("memory.scan_mb", False), ("memory.scan_interleaved_mb", True)):
        recording, peaks = slices(scan, count, interleaved=interleaved), []
        for _ in range(1 if quick else PROCESSES):
            with serving() as server:
                _play_whole(server.host, server.port, recording, count)
                peaks.append(server.peak_bytes() / MEGABYTE)
        how = (
            "a line of each slice in turn, so that all are open to the end"
            if interleaved
            else "one slice after another"
        )
        note = (
            f"VmHWM of the server process after {count} slices of 256 x 256, 8 coils, R = 4, {how}, a line every "
            f"{SCAN_REPETITION_TIME_MS:g} ms; default options: previews, learned and classical images, DICOM; 1 MB = 10^6 bytes"
        )
        records.append(
            summarise(name, peaks, unit="MB", better="lower", threads=threads, target=SCAN_TARGET_MB, note=note)
        )
    return records


def _play_whole(host: str, port: int, recording: Recording, count: int) -> None:
    """Plays a scan of so many slices.

    Raises:
        RuntimeError: a slice has no final learned image.
    """
    result = play(recording, host, port, repetition_time_ms=SCAN_REPETITION_TIME_MS)
    said = [parse_meta_attributes(image.message.attributes) for image in result.images]
    final = [
        one
        for one in said
        if (one["EdgeMethod"], one["EdgeCompleteness"]) == ([Method.LEARNED.value], [Completeness.FINAL.value])
    ]
    if len(final) != count:
        raise RuntimeError(
            f"{len(final)} learned images of {count}; the server said {[text.text for text in result.texts]}"
        )


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
