"""Broken kernels must be found out: every barrier deleted, indices shifted, factors forgotten."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
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


CHANGES = {
    "block.cuh": [
        ("index / stride * pass.length + within", "index / stride * pass.length + within + 1"),
        ("2 * (R - 1) * within", "2 * (R - 1) * index"),
        ("line - k * stride;", "line - k * stride + (k > 1);"),
        ("thread / 32 * blockDim.x + threadIdx.x] = value", "threadIdx.x] = value"),
        ("turned < 32", "turned < 16"),
    ],
    "group.cuh": [
        ("index + lines.length / 2", "index + (lines.length + 1) / 2"),
        ("geometry.columns ? array[at + 1] : none", "geometry.columns ? array[at] : none"),
        ("memory + (group.geometry.staging ? group.size : 0)", "memory"),
    ],
    "sense.cu": [
        ("total(line, coil ? total(line) + part : part)", "total(line, part)"),
        ("group.mask(base + q)", "group.mask(base)"),
        ("ratio(energy * going, sum", "ratio(energy, sum"),
        ("scaled(direction(line), lambda)", "scaled(direction(line), 2.0f * lambda)"),
        ("from + scaled(to - from, share)", "from + scaled(to, share)"),
    ],
    "coils.cu": [
        ("samples.measured[line] ? load", "true ? load"),
        ("coil * samples.coil_stride", "coil * samples.line_stride"),
        ("(begin + made) * geometry.coils", "made * geometry.coils"),
        ("coil ? powers[element(at)] + power : power", "power"),
    ],
    "ingest.cu": [
        ("sample < count && whitening", "sample <= count && whitening"),
        ("2 * blockIdx.y * pairs, coils", "2 * pairs, coils"),
        (
            "values[i].x += factor.x * value.x - factor.y * value.y",
            "values[i].x += factor.x * value.x + factor.y * value.y",
        ),
        ("at + length - length / 2", "at + length / 2"),
        ("column - plan.columns / 2;", "column - (plan.columns + 1) / 2;"),
        ("make_float2(to->x + re, to->y + im)", "make_float2(re, im)"),
        ("count > 0 ? sums[at]", "true ? sums[at]"),
    ],
    "pack.cu": [
        ("line >= planes.phase_encodes || column >= planes.columns", "line >= planes.phase_encodes"),
        ("quantized<T>(value.y", "quantized<T>(value.x"),
        ("inside ? value : 0.0f", "value"),
    ],
}
"""What a file says once, and what it must not."""


def changes() -> Iterator[Mutant]:
    for file, pairs in CHANGES.items():
        text = (KERNELS / file).read_text()
        for old, new in pairs:
            assert text.count(old) == 1, f"{file}: {text.count(old)} times {old}"
            yield Mutant(file, text.index(old), old, new)


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
