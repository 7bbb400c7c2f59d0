#!/bin/sh
# TensorRT's Python bindings from PyPI, in several versions side by side, each with libraries that hold nothing but the functions which
# the bindings link (stub.cpp): NVIDIA's own are on no package index of Python's. 10.3 is JetPack 6, 10.13 is JetPack 7.
#
#   tests/trt/environment.sh .venv-tensorrt build/tensorrt
set -eu
venv=$1
out=$2
source=$(dirname "$0")/stub.cpp
rm -rf "$out"
for each in 10.3:tensorrt-cu12-bindings==10.3.0 10.13:tensorrt-cu13-bindings==10.13.3.9 11.4:tensorrt-cu13-bindings==11.4.0.106; do
    version=${each%%:*}
    major=${version%%.*}
    mkdir -p "$out/$version/lib"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --target "$out/$version/python" "${each#*:}"
    for name in nvinfer nvinfer_plugin nvonnxparser; do
        c++ -std=c++17 -O1 -shared -fPIC -Wall -Wextra -DTENSORRT_MAJOR="$major" "-Wl,-soname,lib$name.so.$major" "$source" \
            -o "$out/$version/lib/lib$name.so.$major"
    done
done
