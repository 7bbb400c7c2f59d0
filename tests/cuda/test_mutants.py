"""Broken kernels must be found out: every barrier deleted, indices shifted, factors forgotten."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
KERNELS = HERE.parents[1] / "kernels" / "cuda"
pytestmark = pytest.mark.cuda

BARRIERS = re.compile(r"__sync(threads|warp)\(\);|__syncthreads_or(?=\()")


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
        ("column + 1 < columns ? at[1] : none", "column + 1 < columns ? at[0] : none"),
        ("memory + (group.geometry.staging ? group.size : 0)", "memory"),
    ],
    "sense.cu": [
        ("total(line, coil ? total(line) + part : part)", "total(line, part)"),
        ("group.mask(base + q)", "group.mask(base)"),
        ("ratio(energy * going, sum", "ratio(energy, sum"),
        ("scaled(direction(line), lambda)", "scaled(direction(line), 2.0f * lambda)"),
        ("from + scaled(to - from, share)", "from + scaled(to, share)"),
    ],
    "volume.cu": [
        ("pair(blockIdx.y * blockDim.x + threadIdx.x)", "pair(threadIdx.x)"),
        ("+ threadIdx.y; at < rows", "; at < rows"),
        ("inside && part < gridDim.x", "inside && part < 1"),
        ("ratio(before * solve.going(mine, before), mine", "ratio(before, mine"),
        ("ratio(mine.total(left), mine.total(energy))", "ratio(mine.total(energy), mine.total(left))"),
        ("rows.total(right) * (tolerance * tolerance)", "rows.total(right) * tolerance"),
        ("scaled(pair_of(direction[at]), lambda)", "scaled(pair_of(direction[at]), 2.0f * lambda)"),
        ("scaled(pair_of(solve.x[at]), solve.lambda)", "pair_of(solve.x[at])"),
        ("(along.frequency[position] + half) % along.length", "along.frequency[position]"),
        ("column + 1 < columns && counts[1]", "column + 1 < columns && counts[0]"),
        ("scaled(where(mask, sample), scale)", "scaled(sample, scale)"),
        ("row(volume, 0, z, 0) + group.index] = mask", "row(volume, 0, 0, z) + group.index] = mask"),
        ("(partition + partitions / 2) % partitions", "(partition + (partitions + 1) / 2) % partitions"),
        ("coil ? total(at) + part : part", "part"),
        ("first_coil ? group(sum, to) + total(at) : total(at)", "total(at)"),
        ("if (less) value", "if (!less) value"),
    ],
    "samples.cuh": [
        ("samples.measured[line] ? load", "true ? load"),
        ("coil * samples.coil_stride", "coil * samples.line_stride"),
    ],
    "rank_one.cuh": [
        ("from[k * n + i]", "from[i * n + k]"),
        ("at < n * n;", "at < n * n - 1;"),
    ],
    "adaptive.cu": [
        ("unsigned turned = 1; turned < 32", "unsigned turned = 4; turned < 32"),
        ("if (power > most)", "if (power < most)"),
        ("coil * slice.groups + blockIdx.x] = power", "coil * slice.groups + blockIdx.x] = powers.first"),
        ("bool inside = line < lines && pair", "bool inside = pair"),
        ("bool inside = line < lines && pair < slice.pairs", "bool inside = line < lines"),
        ("blockIdx.x * blockDim.y + threadIdx.y,", "blockIdx.x * blockDim.y,"),
        ("interpolated(left, right, second.weight)", "interpolated(left, right, first.weight)"),
    ],
    "coils.cu": [
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
        ("value.y * turn.x - value.x * turn.y", "value.y * turn.x + value.x * turn.y"),
        ("im = unturned * turn.y", "im = re * turn.y"),
    ],
    "sensitivity.cu": [
        ("blockIdx.x < blockIdx.y", "blockIdx.x <= blockIdx.y"),
        ("unknown % g.kernel();", "unknown % g.kernel_lines;"),
        ("first < g.windows()", "first + kTile <= g.windows()"),
        ("packed({value.re, -value.im})", "packed(value)"),
        ("partial[threadIdx.x / 32] = value", "partial[0] = value"),
        ("partial + step % 2 * warps", "partial"),
        ("vectors + (step + 1) % 2 * size", "vectors + step % 2 * size"),
        ("at / kPanel * kPanel);", "at / kPanel * kPanel + kPanel);"),
        ("whole.x * floor", "floor"),
        ("later / kPanel * kPanel", "later / kPanel * kPanel + kPanel"),
        ("i <= j ? sum.im : -sum.im", "sum.im"),
        ("both ? factor_of(power.second, 1)", "both ? factor_of(power.second, 0)"),
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


INCLUDES = re.compile(r'^#include "(.+)"', re.MULTILINE)


def sources_with(file: str) -> list[str]:
    """The ``.cu`` files that a file is, or that it is included in, without their ending."""
    included = {path.name: set(INCLUDES.findall(path.read_text())) for path in KERNELS.glob("*.cu*")}
    touched = {file}
    while more := {name for name, files in included.items() if files & touched} - touched:
        touched |= more
    return sorted(Path(name).stem for name in touched if name.endswith(".cu"))


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_broken_kernel_is_found_out(mutant: str, tmp_path: Path) -> None:
    """Of the kernels that it is in, plan after plan is asked until one has noticed."""
    shutil.copytree(KERNELS, tmp_path / "cuda")
    MUTANTS[mutant].apply(tmp_path / "cuda")
    for source in sources_with(MUTANTS[mutant].file):
        kernels = built(tmp_path / "cuda", tmp_path / f"kernels-{source}", source)
        if any(run(kernels, order, source).returncode != 0 for order in ("forward", "reverse")):
            return
    pytest.fail("nobody noticed")


def test_the_kernels_as_they_are_pass():
    kernels = Path(os.environ["EDGE_DRIVER_KERNELS"])
    for order in ("forward", "reverse"):
        verdict = run(kernels, order)
        assert verdict.returncode == 0, verdict.stdout + verdict.stderr


def built(folder: Path, out: Path, source: str) -> Path:
    """One ``.cu`` file's library; the others are those that are there."""
    command = [
        sys.executable,
        str(HERE / "build.py"),
        "--kernels-only",
        str(folder),
        "--out",
        str(out),
        "--only",
        source,
    ]
    subprocess.run(command, check=True, capture_output=True, text=True)
    for library in Path(os.environ["EDGE_DRIVER_KERNELS"]).resolve().glob("*.so"):
        if library.name != f"lib{source}.so":
            (out / library.name).symlink_to(library)
    return out


def run(kernels: Path, order: str, *plans: str) -> subprocess.CompletedProcess[str]:
    """What `check_plans` finds with these kernels."""
    environment = {**os.environ, "EDGE_DRIVER_KERNELS": str(kernels), "EDGE_DRIVER_ORDER": order}
    command = [sys.executable, str(HERE / "check_plans.py"), *plans]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
