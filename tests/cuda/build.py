"""Builds what the tests of the CUDA path run on: kernels for this processor, and a driver without a GPU.

    python tests/cuda/build.py --out build/cuda

makes ``OUT/driver/libcuda.so.1`` (see ``driver/driver.cpp``), the same without graphs in ``OUT/driver-without-graphs``, and
``OUT/kernels/lib*.so``, each file of ``kernels/cuda`` over ``driver/shim.hpp``. Wants a C++ compiler, and beside PyCUDA the header
files of CUDA 12.6 from PyPI (``requirements/cuda.txt``).
"""

from __future__ import annotations

import argparse
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent / "driver"
KERNELS = ROOT / "kernels"
GRAPHS = ("cuGraph*", "cuStreamBeginCapture*", "cuStreamEndCapture")
"""What a driver has for graphs."""

FLAGS = ("c++", "-std=c++17", "-O1", "-fPIC", "-shared", "-Wall", "-Wextra", "-Wno-unknown-pragmas")


def kernel_names(source: str) -> list[str]:
    """The entries of a ``.cu`` file."""
    return re.findall(r'extern "C" __global__ void (?:__launch_bounds__\([^)]*\)\s*)?(\w+)\(', source)


def build_kernels(cuda: Path, out: Path, only: str = "*") -> None:
    """One library for each ``.cu`` file of a folder.

    Args:
        cuda: the folder; its header files come before those of ``kernels``.
        out: where the libraries go.
        only: a file's name without its ending.
    """
    out.mkdir(parents=True, exist_ok=True)
    for source in sorted(cuda.glob(f"{only}.cu")):
        entries = "\n".join(
            f'        shim::Of<&{name}>::named("{name}", edge::memory),' for name in kernel_names(source.read_text())
        )
        unit = out / f"{source.stem}.cpp"
        unit.write_text(
            f'#include "shim.hpp"\n#include "{source}"\n'
            "namespace edge {\n"
            "alignas(16) float4 memory[(shim::kSharedLimit + shim::kWatched) / sizeof(float4)];\n"
            "}\n"
            '__attribute__((visibility("default"))) const std::vector<shim::Kernel>& kernels() asm("shim_kernels");\n'
            "const std::vector<shim::Kernel>& kernels() {\n"
            f"    static const std::vector<shim::Kernel> all = {{\n{entries}\n    }};\n"
            "    return all;\n}\n"
        )
        run(
            *FLAGS, "-fvisibility=hidden", f"-I{HERE}", f"-I{cuda}", f"-I{KERNELS / 'include'}", str(unit), "-o",
            str(out / f"lib{source.stem}.so"),
        )  # fmt: skip


def build_driver(out: Path, without_graphs: Path) -> None:
    """The driver, and of every other function that PyCUDA links a form that is not supported; once more without graphs."""
    out.mkdir(parents=True, exist_ok=True)
    without_graphs.mkdir(parents=True, exist_ok=True)
    includes = [f"-I{folder}" for folder in header_folders()]
    part = out / "driver.o"
    run(*FLAGS[:4], "-c", *FLAGS[5:], *includes, str(HERE / "driver.cpp"), "-o", str(part))
    defined = set(re.findall(r" T (cu\w+)", run("nm", str(part))))
    wanted = set(re.findall(r" U (cu\w+)", run("nm", "-D", str(pycuda_driver()))))
    stubs = out / "not_supported.c"
    stubs.write_text("".join(f"int {name}(void) {{ return 801; }}\n" for name in sorted(wanted - defined)))
    stub_part = out / "not_supported.o"
    run("cc", "-O2", "-fPIC", "-c", str(stubs), "-o", str(stub_part))
    hidden = out / "without_graphs.map"
    hidden.write_text(f"{{ global: *; local: {' '.join(f'{name};' for name in GRAPHS)} }};\n")
    for folder, options in ((out, ()), (without_graphs, (f"-Wl,--version-script={hidden}",))):
        library = str(folder / "libcuda.so.1")
        run("c++", "-shared", "-Wl,-soname,libcuda.so.1", *options, str(part), str(stub_part), "-ldl", "-o", library)


def header_folders() -> list[Path]:
    """Where the packages of PyPI have put ``cuda.h`` and ``cudaProfiler.h``."""
    spec = importlib.util.find_spec("nvidia")
    folders = [Path(folder) for folder in (spec.submodule_search_locations or [])] if spec else []
    return [folder / package / "include" for folder in folders for package in ("cuda_runtime", "cuda_profiler_api")]


def pycuda_driver() -> Path:
    """The extension that links ``libcuda.so.1``; found without importing it."""
    spec = importlib.util.find_spec("pycuda")
    assert spec is not None and spec.submodule_search_locations, "pycuda is not installed: make .venv-cuda/.ready"
    return next(Path(spec.submodule_search_locations[0]).glob("_driver*.so"))


def run(*command: str) -> str:
    """What a command prints; it must succeed, and its complaints are shown."""
    done = subprocess.run(command, text=True, stdout=subprocess.PIPE, check=False)
    if done.returncode != 0:
        raise SystemExit(f"failed: {' '.join(command)}")
    return done.stdout


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for everything")
    parser.add_argument(
        "--kernels-only", type=Path, metavar="CUDA", help="OUT gets the libraries of this folder's .cu files"
    )
    parser.add_argument("--only", default="*", metavar="NAME", help="of those files this one, without its ending")
    arguments = parser.parse_args()
    if arguments.kernels_only:
        build_kernels(arguments.kernels_only.resolve(), arguments.out, arguments.only)
        return 0
    build_kernels(KERNELS / "cuda", arguments.out / "kernels")
    build_driver(arguments.out / "driver", arguments.out / "driver-without-graphs")
    return 0


if __name__ == "__main__":
    sys.exit(main())
