#!/bin/sh
# PyCUDA from PyPI into an environment: built as on a device, but with nothing of CUDA there than the header files of
# requirements/cuda.txt, and an empty library in the place of the driver, which is linked and comes later.
#
#   tests/cuda/environment.sh .venv-cuda build/cuda
set -eu
venv=$1
work=$(mkdir -p "$2/pycuda" && cd "$2/pycuda" && pwd)
packages=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
mkdir -p "$work/include" "$work/lib"
ln -sf "$packages"/nvidia/cuda_runtime/include/* "$packages"/nvidia/cuda_profiler_api/include/* "$work/include/"
c++ -shared -fPIC -x c++ /dev/null -Wl,-soname,libcuda.so.1 -o "$work/lib/libcuda.so"
cat >"$work/.aksetup-defaults.py" <<END
CUDA_ROOT = "$work"
CUDA_ENABLE_CURAND = False
LDFLAGS = ["-Wl,--no-as-needed", "-L$work/lib", "-lcuda"]
END
cache=$("$venv/bin/python" -m pip cache dir 2>/dev/null) || cache=$work/cache  # where pip keeps none
HOME=$work "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --no-binary pycuda --cache-dir "$cache" \
    pycuda==2025.1.2
