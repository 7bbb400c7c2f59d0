"""What the compilers made of the kernels: registers, spills and loads, against the budgets written here."""

from __future__ import annotations

import functools
import re
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path
from typing import NamedTuple

import pytest

from edge_runtime.cuda.adaptive import ADAPTIVE
from edge_runtime.cuda.groups import GEOMETRY
from edge_runtime.cuda.ingest import INGEST
from edge_runtime.cuda.pack import PLANES
from edge_runtime.cuda.samples import SAMPLES
from edge_runtime.cuda.sense import SLICE
from edge_runtime.cuda.sensitivity import SENSITIVITY
from edge_runtime.cuda.volume import SOLVE, VOLUME

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "kernels"))
import cubins  # noqa: E402

CUBINS = ROOT / "edge_runtime" / "cubins"
TOOLS = Path(sysconfig.get_path("purelib")) / "nvidia" / "cu13" / "bin"
TARGETS = ("12.6/sm_87", "13/sm_87", "13/sm_110")
pytestmark = pytest.mark.cuda


class Budget(NamedTuple):
    """Of one kernel.

    Attributes:
        registers: a thread; with 128 of them four blocks of 128 threads are resident, with 80 six.
        wide: loads of 16 bytes from the device's memory that it must have, at least.
        narrow: loads of 4 bytes from shared memory that it may have: of diagonals, and what one lane alone looks at.
    """

    registers: int
    wide: int
    narrow: int = 0


BUDGETS = {
    "adaptive_images": Budget(80, 1),
    "adaptive_maps": Budget(48, 1, 128),
    "adaptive_combine": Budget(64, 1),
    "coils_compress": Budget(64, 1),
    "coils_root_sum_of_squares": Budget(80, 1),
    **{
        f"{work}_{dtype}": Budget(32, 0)
        for work in ("pack", "fill", "unpack")
        for dtype in ("float32", "int8", "uint8")
    },
    "ingest_readouts": Budget(80, 0),
    "ingest_mean": Budget(32, 0),
    "sense_between": Budget(40, 2),
    "sense_sample_power": Budget(40, 1),
    "sense_set_maps": Budget(32, 1),
    "sense_set_samples": Budget(80, 1),
    "sense_normal": Budget(128, 8),
    "sense_gradient": Budget(128, 8),
    "sense_data_consistent": Budget(128, 8),
    "sense_regularised": Budget(128, 8),
    "sense_substituted": Budget(112, 1),
    "sense_line_search": Budget(112, 1),
    "sensitivity_gram": Budget(40, 0),
    "sensitivity_square": Budget(40, 8),
    "sensitivity_floor": Budget(48, 4),
    "sensitivity_factor": Budget(64, 10),
    "sensitivity_lags": Budget(48, 9),
    "sensitivity_maps_of_grid": Budget(48, 2, 128),
    "sensitivity_maps_of_image": Budget(64, 0),
    "volume_pack": Budget(40, 1),
    "volume_unpack": Budget(40, 2),
    "volume_set_samples": Budget(80, 1),
    "volume_forward_along": Budget(80, 2),
    "volume_mask_through": Budget(80, 1),
    "volume_inverse_along": Budget(80, 2),
    "volume_begin": Budget(48, 3),
    "volume_curvature": Budget(48, 2),
    "volume_step": Budget(48, 4),
    "volume_turn": Budget(48, 2),
}


class Resources(NamedTuple):
    registers: int
    local_bytes: int


@functools.cache
def resources(target: str) -> dict[str, Resources]:
    """Of every kernel of a target, as ``cuobjdump`` tells."""
    found = {}
    for cubin in sorted((CUBINS / target).glob("*.cubin")):
        text = tool("cuobjdump", "--dump-resource-usage", str(cubin))
        for name, registers, local in re.findall(r"Function (\w+):\s+REG:(\d+).*?LOCAL:(\d+)", text):
            found[name] = Resources(int(registers), int(local))
    return found


@functools.cache
def instructions(target: str) -> dict[str, list[str]]:
    """Of every kernel of a target, their names with all their suffixes."""
    found: dict[str, list[str]] = {}
    for cubin in sorted((CUBINS / target).glob("*.cubin")):
        for part in tool("nvdisasm", str(cubin)).split(".section\t.text.")[1:]:
            name = re.match(r"\w+", part)
            assert name is not None
            found[name[0]] = re.findall(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z0-9_.]+)", part)
    return found


def tool(name: str, *arguments: str) -> str:
    """What one of NVIDIA's tools prints; cuobjdump looks for nvdisasm beside it."""
    command = [str(TOOLS / name), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={"PATH": str(TOOLS)})
    return done.stdout


@pytest.mark.parametrize("target", TARGETS)
def test_every_kernel_has_a_budget(target):
    assert set(resources(target)) == set(BUDGETS) == set(instructions(target))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("kernel", BUDGETS)
def test_a_kernel_keeps_its_budget(target, kernel):
    used, listing = resources(target)[kernel], instructions(target)[kernel]
    assert used.registers <= BUDGETS[kernel].registers
    assert used.local_bytes == 0
    wide = [name for name in listing if re.match(r"LDG?\.E\.(\w+\.)*128", name)]
    assert len(wide) >= BUDGETS[kernel].wide
    narrow = [name for name in listing if re.match(r"LDS(\.U)?$", name)]
    assert len(narrow) <= BUDGETS[kernel].narrow, "arrays in shared memory are read 16 bytes at a time"


FIRST = [
    ("adaptive", ADAPTIVE),
    ("coils", GEOMETRY),
    ("pack", PLANES),
    ("sense", SLICE),
    ("sensitivity", SENSITIVITY),
    ("volume", VOLUME),
]


@pytest.mark.parametrize(("file", "first"), FIRST)
def test_what_kernels_are_told_is_as_long_as_the_compiler_has_it(file, first):
    assert parameter_sizes(file, 0) == {first.itemsize}


def test_what_ingest_is_told_is_as_long_as_the_compiler_has_it():
    assert INGEST.itemsize in parameter_sizes("ingest", 0)  # the kernel of means is told something else


def test_samples_are_as_long_as_the_compiler_has_them():
    assert parameter_sizes("coils", 1) == {SAMPLES.itemsize}
    assert SAMPLES.itemsize in parameter_sizes("adaptive", 1)


def test_a_solve_is_as_long_as_the_compiler_has_it():
    assert SOLVE.itemsize in parameter_sizes("volume", 1)


def parameter_sizes(file: str, ordinal: int) -> set[int]:
    """Of one parameter, of all kernels of a file."""
    text = tool("cuobjdump", "-elf", str(CUBINS / "13" / "sm_87" / f"{file}.cubin"))
    sizes = re.findall(rf"Ordinal :\s*0x{ordinal:x}\s+Offset\s*:\s*0x[0-9a-f]+\s+Size\s*:\s*0x([0-9a-f]+)", text)
    assert sizes
    return {int(size, 16) for size in sizes}


@pytest.mark.parametrize(
    ("gpu", "cudas"),
    [
        ("sm_70", ["12.6"]),
        ("sm_90", ["12.6", "13"]),
        ("sm_120", ["13"]),
    ],  # one given up by CUDA 13, one newer than 12.6
)
def test_another_gpu_is_compiled_for_by_who_knows_it(gpu, cudas):
    assert [target.cuda for target in cubins.targets_of(gpu)] == cudas


def test_a_gpu_that_nobody_compiles_for_is_told():
    with pytest.raises(cubins.CompilerError, match=r"sm_1: neither CUDA 12\.6 nor CUDA 13 compiles for it"):
        cubins.targets_of("sm_1")


def test_the_gpu_named_for_the_tests_on_a_device_is_compiled_for_whatever_is_there():
    """Also after a run without one."""
    command = ["make", "-n", "-o", ".venv-device/.ready", "test-device", "GPU=sm_90"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "kernels/cubins.py --out edge_runtime/cubins --gpu sm_90" in done.stdout


def test_a_wheel_brings_them(tmp_path):
    """git ignores what is made, and packages leave out what git ignores."""
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(tmp_path),
        str(ROOT),
    ]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    packed = {
        Path(name).relative_to("edge_runtime") for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".cubin")
    }
    assert packed == {path.relative_to(ROOT / "edge_runtime") for path in CUBINS.rglob("*.cubin")}
