"""Compiles ``kernels/cuda`` for the GPUs of Jetson-class computers: no CUDA toolkit, only NVRTC from PyPI.

    python kernels/cubins.py --out build/cubins

makes ``OUT/<cuda>/<gpu>/<kernels>.cubin``. JetPack 6's driver loads what CUDA 12.6 made, JetPack 7's what CUDA 13 made. The two
compilers are the packages ``nvidia-cuda-nvrtc-cu12`` (12.6) and ``nvidia-cuda-nvrtc`` (13).
"""

from __future__ import annotations

import argparse
import ctypes
import importlib.util
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
INCLUDES = (HERE / "include", HERE / "cuda")


@dataclass(frozen=True)
class Target:
    """A GPU, and the CUDA that its driver is of.

    Attributes:
        cuda: as major.minor.
        gpu: as NVRTC is told.
        compiler: NVRTC's file among the site-packages.
    """

    cuda: str
    gpu: str
    compiler: str


CUDA_12 = "nvidia/cuda_nvrtc/lib/libnvrtc.so.12"
CUDA_13 = "nvidia/cu13/lib/libnvrtc.so.13"

TARGETS = (
    Target("12.6", "sm_87", CUDA_12),  # Orin, JetPack 6
    Target("13", "sm_87", CUDA_13),  # Orin, JetPack 7
    Target("13", "sm_110", CUDA_13),  # Thor, JetPack 7
)


class CompilerError(Exception):
    """NVRTC is missing, or refused a source; with its words."""


class Nvrtc:
    """NVRTC's C interface, as far as a cubin needs it.

    Args:
        library: its file.
    """

    def __init__(self, library: Path) -> None:
        try:
            for builtins in library.parent.glob("libnvrtc-builtins.so.*"):  # which it would look for elsewhere
                ctypes.CDLL(str(builtins))
            self._library = ctypes.CDLL(str(library))
        except OSError as error:
            raise CompilerError(f"NVRTC can't be loaded: {error}") from error
        self._library.nvrtcGetErrorString.restype = ctypes.c_char_p
        major, minor = ctypes.c_int(), ctypes.c_int()
        self._call("nvrtcVersion", ctypes.byref(major), ctypes.byref(minor))
        self.version = f"{major.value}.{minor.value}"

    def gpus(self) -> set[str]:
        """All that it compiles for, such as ``sm_87``."""
        count = ctypes.c_int()
        self._call("nvrtcGetNumSupportedArchs", ctypes.byref(count))
        numbers = (ctypes.c_int * count.value)()
        self._call("nvrtcGetSupportedArchs", numbers)
        return {f"sm_{number}" for number in numbers}

    def compile(self, source: Path, gpu: str) -> bytes:
        """The cubin of one file for a GPU such as ``sm_87``."""
        program = ctypes.c_void_p()
        text = source.read_bytes()
        self._call("nvrtcCreateProgram", ctypes.byref(program), text, source.name.encode(), 0, None, None)
        options = [f"--gpu-architecture={gpu}", "--std=c++17", *(f"--include-path={path}" for path in INCLUDES)]
        words = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
        try:
            if self._library.nvrtcCompileProgram(program, len(options), words) != 0:
                raise CompilerError(f"{source.name} for {gpu} with NVRTC {self.version}:\n{self._log(program)}")
            return self._text(program, "nvrtcGetCUBIN")
        finally:
            self._call("nvrtcDestroyProgram", ctypes.byref(program))

    def _log(self, program: ctypes.c_void_p) -> str:
        return self._text(program, "nvrtcGetProgramLog").rstrip(b"\0").decode()

    def _text(self, program: ctypes.c_void_p, name: str) -> bytes:
        size = ctypes.c_size_t()
        self._call(f"{name}Size", program, ctypes.byref(size))
        buffer = ctypes.create_string_buffer(size.value)
        self._call(name, program, buffer)
        return buffer.raw

    def _call(self, name: str, *arguments: object) -> None:
        result = getattr(self._library, name)(*arguments)
        if result != 0:
            raise CompilerError(f"{name}: {self._library.nvrtcGetErrorString(result).decode()}")


def find_compiler(file: str) -> Path:
    """Where a package of PyPI has put NVRTC."""
    spec = importlib.util.find_spec("nvidia")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder).parent / file
        if path.exists():
            return path
    package = "nvidia-cuda-nvrtc-cu12==12.6.85" if file == CUDA_12 else "nvidia-cuda-nvrtc==13.0.88"
    raise CompilerError(f"{file} is not among the installed packages: pip install {package}")


def targets_of(gpu: str) -> tuple[Target, ...]:
    """Another GPU than Jetson's, with the CUDAs that know it: 12.6 is older than some, 13 has given others up.

    Raises:
        CompilerError: neither does.
    """
    both = Target("12.6", gpu, CUDA_12), Target("13", gpu, CUDA_13)
    known = tuple(target for target in both if gpu in Nvrtc(find_compiler(target.compiler)).gpus())
    if not known:
        raise CompilerError(f"{gpu}: neither CUDA 12.6 nor CUDA 13 compiles for it")
    return known


def compile_all(out: Path, targets: tuple[Target, ...] = TARGETS) -> Iterator[Path]:
    """Writes every kernel file's cubin for every target, and yields their paths as they are ready."""
    compilers = {file: Nvrtc(find_compiler(file)) for file in {target.compiler for target in targets}}

    def compile_one(target: Target, source: Path) -> Path:
        path = out / target.cuda / target.gpu / f"{source.stem}.cubin"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(compilers[target.compiler].compile(source, target.gpu))
        return path

    sources = sorted((HERE / "cuda").glob("*.cu"))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for done in as_completed(pool.submit(compile_one, target, source) for target in targets for source in sources):
            yield done.result()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder that the cubins go to")
    parser.add_argument(
        "--gpu", help="another one than Jetson's, such as sm_90: with CUDA 12.6, 13 or both, for it alone"
    )
    arguments = parser.parse_args()
    try:
        targets = targets_of(arguments.gpu) if arguments.gpu else TARGETS
        for path in compile_all(arguments.out, targets):
            print(f"{path} ({path.stat().st_size / 1000:.0f} kB)", flush=True)
    except CompilerError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
