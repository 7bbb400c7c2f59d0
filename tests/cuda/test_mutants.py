"""Broken kernels must be found out: every barrier deleted, indices shifted, factors forgotten."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
KERNELS = HERE.parents[1] / "kernels" / "cuda"
pytestmark = pytest.mark.cuda

BARRIERS = re.compile(r"__syncthreads\(\);|__syncthreads_or(?=\()")


@dataclass(frozen=True)
class Mutant:
    """A change of one file that must show.

    Attributes:
        at: where ``old`` begins in the file.
    """

    file: str
    at: int
    old: str
    new: str

    def __str__(self) -> str:
        line = (KERNELS / self.file).read_text()[: self.at].count("\n") + 1
        return f"{self.file}:{line} {self.old} -> {self.new or 'nothing'}"

    def apply(self, folder: Path) -> None:
        text = (folder / self.file).read_text()
        (folder / self.file).write_text(text[: self.at] + self.new + text[self.at + len(self.old) :])


def barriers() -> list[Mutant]:
    return [
        Mutant(path.name, found.start(), found[0], "")
        for path in sorted(KERNELS.glob("*.cu*"))
        for found in BARRIERS.finditer(path.read_text())
    ]


def change(file: str, old: str, new: str) -> Mutant:
    text = (KERNELS / file).read_text()
    assert text.count(old) == 1, f"{file}: {text.count(old)} times {old}"
    return Mutant(file, text.index(old), old, new)


def changes() -> list[Mutant]:
    return [
        change("block.cuh", "index / stride * pass.length + within", "index / stride * pass.length + within + 1"),
        change("block.cuh", "2 * (R - 1) * within", "2 * (R - 1) * index"),
        change("block.cuh", "line - k * stride;", "line - k * stride + (k > 1);"),
        change("block.cuh", "thread / 32 * blockDim.x + threadIdx.x] = value", "threadIdx.x] = value"),
        change("block.cuh", "unsigned turned = blockDim.x; turned < 32", "unsigned turned = blockDim.x; turned < 16"),
        change("sense.cu", "total(line, coil ? total(line) + part : part)", "total(line, part)"),
        change("sense.cu", "z[q] = scaled(z[q], group.mask(base + q))", "z[q] = scaled(z[q], group.mask(base))"),
        change(
            "group.cuh",
            "const int moved = index + lines.length / 2",
            "const int moved = index + (lines.length + 1) / 2",
        ),
        change(
            "group.cuh",
            "column + 1 < geometry.columns ? array[at + 1] : none",
            "column + 1 < geometry.columns ? array[at] : none",
        ),
        change("sense.cu", "ratio(energy * going, sum", "ratio(energy, sum"),
        change("sense.cu", "scaled(direction(line), lambda)); });", "scaled(direction(line), 2.0f * lambda)); });"),
        change("group.cuh", "memory + (group.geometry.staging ? group.size : 0)", "memory"),
        change("coils.cu", "samples.measured[line] ? load", "true ? load"),
        change(
            "coils.cu",
            "coil * samples.coil_stride + line * samples.line_stride",
            "coil * samples.line_stride + line * samples.coil_stride",
        ),
        change("coils.cu", "matrix + (begin + made) * geometry.coils + coil", "matrix + made * geometry.coils + coil"),
        change("coils.cu", "coil ? powers[element(at)] + power : power", "power"),
        change(
            "pack.cu",
            "if (line >= planes.phase_encodes || column >= planes.columns) return;",
            "if (line >= planes.phase_encodes) return;",
        ),
        change("pack.cu", "quantized<T>(value.y, planes.quantization)", "quantized<T>(value.x, planes.quantization)"),
        change("pack.cu", "inside ? value : 0.0f", "value"),
    ]  # fmt: skip


MUTANTS = {str(mutant): mutant for mutant in [*barriers(), *changes()]}


@pytest.fixture(scope="module")
def noticed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bool]:
    """Which mutants somebody has noticed; as many at once as there are cores."""

    def judge(name: str) -> bool:
        folder = tmp_path_factory.mktemp("mutant")
        shutil.copytree(KERNELS, folder / "cuda")
        MUTANTS[name].apply(folder / "cuda")
        kernels = built(folder / "cuda", folder / "kernels")
        return any(run(kernels, order).returncode != 0 for order in ("forward", "reverse"))

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return dict(zip(MUTANTS, pool.map(judge, MUTANTS), strict=True))


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_broken_kernel_is_found_out(mutant, noticed):
    assert noticed[mutant]


def test_the_kernels_as_they_are_pass():
    kernels = Path(os.environ["EDGE_DRIVER_KERNELS"])
    for order in ("forward", "reverse"):
        verdict = run(kernels, order)
        assert verdict.returncode == 0, verdict.stdout + verdict.stderr


def built(folder: Path, out: Path) -> Path:
    command = [sys.executable, str(HERE / "build.py"), "--kernels-only", str(folder), "--out", str(out)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return out


def run(kernels: Path, order: str) -> subprocess.CompletedProcess[str]:
    """What `check_plans` finds with these kernels."""
    environment = {**os.environ, "EDGE_DRIVER_KERNELS": str(kernels), "EDGE_DRIVER_ORDER": order}
    command = [sys.executable, str(HERE / "check_plans.py")]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
