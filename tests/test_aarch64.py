"""The wheel for 64-bit ARM, cross-compiled, in an emulated CPython: the only place where the NEON kernels run. Emulation shows what
they compute; neither how fast, nor what the weaker memory ordering of a real device would bring to light."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SYSROOT = ROOT / "build/aarch64/sysroot"
FETCHED = SYSROOT / ".complete"
TESTS = [
    "test_kernels.py",
    "test_adjointness.py",
    "test_sense_plan.py",
    "test_volume_plan.py",
    "test_coil_plan.py",
    "test_adaptive_plan.py",
    "test_sensitivity_plan.py",
    "test_pack_plan.py",
    "test_place.py",
    "links/test_mrd_messages.py",
    "property/test_mrd_parser.py",
]
NOT_FOR_MINUTES = "not at_any_byte and not what_is_damaged and not any_matrix"
"""Sweeps through every byte, which an emulated Python is slow at; they show no more of the kernels than the rest."""

pytestmark = pytest.mark.full

Run = Callable[..., None]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Runs the emulated Python with the wheel, which is built first; the sysroot is used as it is, nothing is fetched."""
    for program in ("aarch64-linux-gnu-g++", "qemu-aarch64", "cmake"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} not installed: apt install g++-aarch64-linux-gnu qemu-user cmake")
    if not FETCHED.exists():
        pytest.skip(f"aarch64: no {SYSROOT.relative_to(ROOT)}: make cross-aarch64 fetches it")
    subprocess.run(["make", f"--assume-old={FETCHED.relative_to(ROOT)}", "cross-aarch64"], cwd=ROOT, check=True)
    (wheel,) = SYSROOT.parent.glob("*.whl")
    folder = tmp_path_factory.mktemp("aarch64")
    shutil.unpack_archive(wheel, folder / "wheel", "zip")

    def start(*arguments: object) -> None:
        done = subprocess.run(
            [SYSROOT / "usr/bin/python", *map(str, arguments)],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(folder / "wheel")},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-8000:]

    return start


def test_the_kernels_and_the_parser_pass_their_tests(run: Run) -> None:
    run("-m", "pytest", "-p", "no:cacheprovider", "-k", NOT_FOR_MINUTES, *(ROOT / "tests" / name for name in TESTS))


def test_the_demo_gives_the_images_that_it_gives_here(run: Run, tmp_path: Path) -> None:
    # An emulated device keeps no deadline, and a run of the network takes as long there as one that hangs elsewhere.
    slow = tmp_path / "slow.toml"
    usual = (ROOT / "hw_profiles" / "x86-cpu.toml").read_text(encoding="utf-8").splitlines()
    lines = [
        "grace_s = 600" if line.startswith("grace_s") else line for line in usual if not line.startswith("image_ms")
    ]
    slow.write_text("\n".join(lines), encoding="utf-8")
    demo = ["-m", "edge_runtime.cli", "demo", "--previews", "none", "--profile", slow, "--out"]
    run(*demo, tmp_path / "aarch64")
    subprocess.run([sys.executable, *demo, tmp_path / "here"], cwd=tmp_path, capture_output=True, check=True)
    there, here = (json.loads((tmp_path / name / "report.json").read_text())["quality"] for name in ("aarch64", "here"))
    assert [image["method"] for image in there] == ["zero_filled", "classical", "learned"] * 2  # slices
    for image, expected in zip(there, here, strict=True):
        # Sums are rounded differently, INT8 makes steps of that, and runs ahead of the last readout are too slow there.
        tolerance = 5e-3 if image["method"] == "learned" else 1e-5
        assert image["nrmse"] == pytest.approx(expected["nrmse"], abs=tolerance)
