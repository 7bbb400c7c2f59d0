"""The native code under sanitizers: a coverage-guided fuzzer on the parser alone, and the tests of the kernels and the parser."""

from __future__ import annotations

import datetime
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from test_mrd_parser import META, SESSION, VARIED, XML

from edge_runtime.links.mrd_pack import pack_close, pack_config_file, pack_header, pack_image, pack_readouts, pack_text
from edge_runtime.scan import READOUT_DTYPE, ReadoutBatch

ROOT = Path(__file__).parents[2]
KERNELS = ROOT / "kernels"
FUZZED_S = 120
SOAKED_MINUTES = 60
MANY = 1_000_000
KEPT_CORPUS = ROOT / "build" / "fuzz-corpus"


def seeds() -> dict[str, bytes]:
    """Inputs of the fuzzer, which says how they are laid out: limits, pieces, stream."""
    readouts = ReadoutBatch(np.zeros(3, READOUT_DTYPE), np.ones((3, 2, 4), np.complex64))
    streams = {
        "session": SESSION,
        "varied": VARIED,
        "readouts": pack_readouts(readouts),
        "opening": pack_config_file("edge") + pack_header(XML),
        "image": pack_image(np.ones((2, 1, 3, 4), np.float32), {}, META),
        "close": pack_text("done") + pack_close(),
    }
    pieces = {"whole": b"", "tiny": bytes([0]), "mixed": bytes([130, 3, 60, 0])}
    return {
        f"{stream}-{piece}-{limits}": bytes([limits, len(pieces[piece])]) + pieces[piece] + streams[stream]
        for stream in streams
        for piece in pieces
        for limits in range(5)
    }


@pytest.fixture(scope="module")
def fuzzer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The fuzzer, built."""
    compiler = shutil.which("clang++")
    if compiler is None:
        pytest.skip("clang++ not installed: apt install clang libclang-rt-dev")
    target = tmp_path_factory.mktemp("fuzz") / "mrd_stream_fuzz"
    parts = ("mrd_stream", "lines", "ingest", "transform")
    sources = [KERNELS / "fuzz/mrd_stream_fuzz.cpp", *(KERNELS / f"cpu/{part}.cpp" for part in parts)]
    options = ["-std=gnu++17", "-g", "-O1", "-Wno-psabi", "-DEDGE_ISA=baseline"]
    checks = ["-fsanitize=fuzzer,address,undefined", "-fno-sanitize-recover=undefined"]
    folders = [f"-I{KERNELS / 'cpu'}", f"-I{KERNELS / 'include'}"]
    subprocess.run([compiler, *options, *checks, *folders, *sources, "-o", target], check=True)
    return target


def fuzz(fuzzer: Path, folder: Path, seconds: float, corpus: Path) -> int:
    """Runs it; returns how many mutated streams it has tried. What it finds worth keeping is added to the corpus."""
    corpus.mkdir(parents=True, exist_ok=True)
    for name, data in seeds().items():
        (corpus / name).write_bytes(data)
    limits = [f"-max_total_time={int(seconds)}", "-max_len=16384", "-timeout=20", "-rss_limit_mb=2048"]
    # Not a child of this process: libFuzzer asks for its largest memory so far, which Linux begins with that of whoever started it.
    start = ["timeout", str(int(seconds) + 300)]
    done = subprocess.run(
        [*start, fuzzer, *limits, "-print_final_stats=1", f"-artifact_prefix={folder}/", corpus],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-8000:]
    tried = re.search(r"stat::number_of_executed_units: (\d+)", done.stderr)
    assert tried is not None, done.stderr[-1000:]
    return int(tried[1])


@pytest.mark.full
def test_no_bytes_break_the_parser(fuzzer, tmp_path):
    assert fuzz(fuzzer, tmp_path, FUZZED_S, tmp_path / "corpus") > 1000


@pytest.mark.soak
def test_no_bytes_break_the_parser_for_long(fuzzer, tmp_path, capsys):
    minutes = float(os.environ.get("EDGE_SOAK_MINUTES", SOAKED_MINUTES))
    tried = fuzz(fuzzer, tmp_path, 60 * minutes, KEPT_CORPUS)
    kept = list(KEPT_CORPUS.iterdir())
    today = datetime.date.today().isoformat()
    size = sum(path.stat().st_size for path in kept)
    where = f"on {platform.machine()}, {minutes:g} minutes by `make test-soak`"
    text = (
        f"# Mutated streams, {today}\n\nThe fuzzer of the MRD parser (libFuzzer, ASan, UBSan) {where}:\n{tried:,} mutated "
        f"streams, none of which broke it; {len(kept):,} of {size:,} bytes are kept in `build/fuzz-corpus`,\n"
        "from which the next run goes on.\n"
    )
    with capsys.disabled():
        print(f"\n{text}")
    if tried >= MANY:
        (ROOT / "docs" / "soak" / f"{today}-fuzz.md").write_text(text, encoding="utf-8")
    assert tried >= MANY or minutes < SOAKED_MINUTES


SANITIZED = """
import importlib.util, sys
import numpy
spec = importlib.util.spec_from_file_location("edge_runtime._kernels", sys.argv[1])
sys.modules[spec.name] = module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
from edge_runtime import kernels
assert kernels._kernels is module
import pytest
sys.exit(pytest.main(sys.argv[2:]))
"""
"""Puts the sanitized extension in the installed one's place, then runs tests."""


PLANS = [f"tests/test_{name}_plan.py" for name in ("coil", "sense", "volume", "pack", "sensitivity", "adaptive")]


def run_sanitized(sanitizer: str, library: str, folder: Path, tests: list[str], **options: str) -> None:
    """Builds the extension with a sanitizer and runs tests on it.

    Args:
        library: the sanitizer's, which must be there before anything that it watches.
        options: environment variables.
    """
    nanobind = pytest.importorskip("nanobind")
    if shutil.which("cmake") is None:
        pytest.skip("cmake not installed: apt install cmake")
    paths = [f"-DPython_EXECUTABLE={sys.executable}", f"-Dnanobind_DIR={nanobind.cmake_dir()}"]
    subprocess.run(["cmake", "-S", KERNELS, "-B", folder, f"-DEDGE_SANITIZE={sanitizer}", *paths], check=True)
    subprocess.run(["cmake", "--build", folder, "--parallel", "2"], check=True)
    (extension,) = folder.glob("_kernels*.so")
    # An exception is only seen by the sanitizer if its library was there first, and the C++ library right after it.
    libraries = [
        subprocess.run(["c++", f"-print-file-name={name}"], capture_output=True, text=True, check=True).stdout.strip()
        for name in (library, "libstdc++.so")
    ]
    done = subprocess.run(
        [sys.executable, "-c", SANITIZED, extension, "-p", "no:cacheprovider", *tests],
        cwd=ROOT,
        env={**os.environ, "LD_PRELOAD": " ".join(libraries), **options},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-8000:]


@pytest.mark.full
def test_the_extension_is_sound_under_sanitizers(tmp_path):
    tests = ["tests/test_kernels.py", "tests/test_place.py", "tests/test_adjointness.py", *PLANS]
    tests += ["tests/property/test_mrd_parser.py", "tests/links/test_mrd_messages.py"]
    options = {
        "ASAN_OPTIONS": "detect_leaks=0",
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }  # Python keeps much until it ends
    run_sanitized("address,undefined", "libasan.so", tmp_path, tests, **options)


@pytest.mark.full
def test_threads_do_not_race(tmp_path):
    tests = ["tests/test_kernels.py", "tests/test_adjointness.py", *PLANS]
    run_sanitized("thread", "libtsan.so", tmp_path, [*tests, "-k", "thread or adjoint"], TSAN_OPTIONS="exitcode=66")
