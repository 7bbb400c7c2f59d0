# Everything from a fresh clone: each target makes the environment it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
DATA ?= ../shared/data
CONSTRAINTS := -c requirements/constraints.txt

.PHONY: help demo test test-full test-cuda test-tensorrt test-device test-soak cubins gpu-tables cross-aarch64 test-arm64 bench suite suite-soak side-by-side compare train lint clean
help:  ## this list
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 15

KERNELS := $(wildcard kernels/*.* kernels/*/*.*)

$(VENV)/.device: pyproject.toml $(KERNELS) $(wildcard hw_profiles/*.toml edge_runtime/*/__init__.py export/*/__init__.py)
	$(PYTHON) -m venv $(VENV)
	$(PIP) -e . $(CONSTRAINTS)
	@touch $@

$(VENV)/.test: $(VENV)/.device
	$(PIP) -e '.[test,replay,twix]' $(CONSTRAINTS)
	@touch $@

$(VENV)/.export: $(VENV)/.test
	$(PIP) -e '.[export,openvino,bench]' $(CONSTRAINTS)
	@touch $@

$(VENV)/.peers: $(VENV)/.export requirements/peers.txt
	$(PIP) --no-deps -r requirements/peers.txt
	@touch $@

# fastMRI, MONAI and deepinv beside what .venv holds, whose site-packages it looks into too
$(VENV)-import/.ready: $(VENV)/.export requirements/import.txt
	$(PYTHON) -m venv --clear $(VENV)-import
	echo "import site; site.addsitedir('$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')')" \
		>"$$($(VENV)-import/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/beside.pth"
	$(VENV)-import/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements/import.txt
	@touch $@

# PyCUDA and NVIDIA's compilers, likewise beside .venv; neither a GPU nor a CUDA toolkit is needed
$(VENV)-cuda/.ready: $(VENV)/.test requirements/cuda.txt tests/cuda/environment.sh
	$(PYTHON) -m venv --clear $(VENV)-cuda
	echo "import site; site.addsitedir('$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')')" \
		>"$$($(VENV)-cuda/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/beside.pth"
	$(VENV)-cuda/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements/cuda.txt
	tests/cuda/environment.sh $(VENV)-cuda build/cuda
	@touch $@

# On a device: what its packages are made for, with its own CUDA toolkit; PyCUDA is built against it. TensorRT is one of the system's
# packages, which the environment sees too
$(VENV)-device/.ready: pyproject.toml $(KERNELS) requirements/device.txt
	$(PYTHON) -m venv --system-site-packages $(VENV)-device
	$(VENV)-device/bin/python -m pip install --quiet --disable-pip-version-check -e '.[test,jetson]' $(CONSTRAINTS)
	$(VENV)-device/bin/python -m pip install --quiet --disable-pip-version-check -r requirements/device.txt
	@touch $@

CUDA_SOURCES := $(wildcard kernels/cuda/* kernels/include/*)

edge_runtime/cubins/.ready: $(VENV)-cuda/.ready kernels/cubins.py $(CUDA_SOURCES)
	$(VENV)-cuda/bin/python kernels/cubins.py --out edge_runtime/cubins
	@touch $@

build/cuda/.ready: $(VENV)-cuda/.ready $(wildcard tests/cuda/*.py tests/cuda/driver/*) $(CUDA_SOURCES)
	$(VENV)-cuda/bin/python tests/cuda/build.py --out build/cuda
	@touch $@

# TensorRT's bindings in three versions, over libraries that hold nothing, and tensorrt-rtx, which compiles without a GPU
TENSORRT := build/tensorrt

$(VENV)-tensorrt/.ready: $(VENV)/.export $(VENV)-cuda/.ready requirements/tensorrt.txt tests/trt/environment.sh tests/trt/stub.cpp
	$(PYTHON) -m venv --clear $(VENV)-tensorrt
	for beside in $(VENV) $(VENV)-cuda; do \
		echo "import site; site.addsitedir('$$($$beside/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')')"; \
	done >"$$($(VENV)-tensorrt/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/beside.pth"
	$(VENV)-tensorrt/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements/tensorrt.txt
	tests/trt/environment.sh $(VENV)-tensorrt $(TENSORRT)
	@touch $@

demo: $(VENV)/.device  ## a simulated scan through a real socket: demo-out/
	$(BIN)/edge-runtime demo --out demo-out

lint: $(VENV)/.test  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy edge_runtime

test: lint  ## the suite without torch (minutes)
	$(BIN)/python -m pytest --skipped-to=build/skipped.txt

build/skipped.txt:
	$(MAKE) test

test-full: build/skipped.txt $(VENV)/.export $(VENV)-import/.ready test-cuda test-tensorrt  ## what `make test` leaves out: export, torch, GPU code, real programs; a skip that is not expected fails
	$(BIN)/mypy export benchmarks
	EDGE_STRICT_SKIPS=1 $(BIN)/python -m pytest --left-over=build/skipped.txt \
		-m 'not soak and not imports and not cuda and not device and not tensorrt'
	EDGE_STRICT_SKIPS=1 $(VENV)-import/bin/python -m pytest -m imports

cubins: edge_runtime/cubins/.ready  ## the GPU kernels, compiled for Jetson Orin and Thor: edge_runtime/cubins. GPU=sm_90 adds another
	$(if $(GPU),$(VENV)-cuda/bin/python kernels/cubins.py --out edge_runtime/cubins --gpu $(GPU))

test-cuda: build/cuda/.ready edge_runtime/cubins/.ready  ## the GPU kernels and their launches without a GPU: PyCUDA over a test driver
	export EDGE_STRICT_SKIPS=1 EDGE_DRIVER_KERNELS=build/cuda/kernels LD_LIBRARY_PATH=build/cuda/driver && \
		$(VENV)-cuda/bin/python -m pytest -n auto -m cuda && $(VENV)-cuda/bin/python -m pytest -m device

gpu-tables: $(VENV)/.export build/cuda/.ready edge_runtime/cubins/.ready  ## what the GPU's kernels move and should take: docs/gpu.md
	EDGE_DRIVER_KERNELS=build/cuda/kernels LD_LIBRARY_PATH=build/cuda/driver $(VENV)-cuda/bin/python -m benchmarks.gpu_prediction

test-device: $(VENV)-device/.ready  ## by hand on a device with an NVIDIA GPU: kernels, engines, times, memory, a soak; build/device.json to send in
	$(VENV)-device/bin/python kernels/cubins.py --out edge_runtime/cubins $(if $(GPU),--gpu $(GPU))
	EDGE_STRICT_SKIPS= $(VENV)-device/bin/python -m pytest -m device

build/imported/.ready: $(VENV)-import/.ready tests/export/imported_graphs.py $(wildcard export/adapters/*.py)
	$(VENV)-import/bin/python tests/export/imported_graphs.py --out build/imported
	@touch $@

# One process a version, since a process has one: the tests that need no version run with the first.
test-tensorrt: $(VENV)-tensorrt/.ready build/cuda/.ready edge_runtime/cubins/.ready build/imported/.ready  ## TensorRT's calls without a GPU: real bindings of 10.3, 10.13 and 11; graphs compiled by tensorrt-rtx
	for bindings in $(TENSORRT)/[0-9]*; do \
		echo "$$bindings"; \
		EDGE_STRICT_SKIPS=1 EDGE_TENSORRT=$$bindings EDGE_DRIVER_KERNELS=build/cuda/kernels LD_LIBRARY_PATH=build/cuda/driver \
			$(VENV)-tensorrt/bin/python -m pytest -m 'tensorrt or device' tests/trt tests/device/test_device_engines.py \
			--ignore tests/trt/test_tensorrt_rtx.py || exit 1; \
	done
	EDGE_STRICT_SKIPS=1 $(VENV)-tensorrt/bin/python -m pytest -m tensorrt tests/trt/test_tensorrt_rtx.py

test-soak: $(VENV)/.test  ## two hours; by hand. EDGE_SOAK_MINUTES=2 tries it out
	$(BIN)/python -m pytest -m soak

AARCH64 := build/aarch64

$(AARCH64)/sysroot/.complete: kernels/aarch64-sysroot.sh pyproject.toml | $(VENV)/.test
	kernels/aarch64-sysroot.sh $(AARCH64)/sysroot $(BIN)/python
	@touch $@

# The target's own Python makes the wheel, emulated, and so names and tags it right; CMake and the compiler run as what they are.
cross-aarch64: $(AARCH64)/sysroot/.complete  ## a wheel for 64-bit ARM, cross-compiled: build/aarch64
	rm -f $(AARCH64)/*.whl
	CMAKE_ARGS=-DCMAKE_TOOLCHAIN_FILE=$(CURDIR)/kernels/aarch64-linux-gnu.cmake $(AARCH64)/sysroot/usr/bin/python -c \
		'from scikit_build_core.build import build_wheel; build_wheel("$(AARCH64)")'

test-arm64: cross-aarch64 $(VENV)/.test  ## the wheel in an emulated 64-bit ARM root: import, kernels, parser, a golden reconstruction
	EDGE_STRICT_SKIPS=1 $(BIN)/python -m pytest -m full tests/test_aarch64.py

bench: $(VENV)/.peers  ## every benchmark beside its peer: build/bench.json
	$(BIN)/python -m benchmarks.run --out build/bench.json

# The scanner's bench on this device, by the rules of docs/benchmark.md; nothing else may run meanwhile
suite: $(VENV)/.device  ## the suite portable-brain on this device, eleven minutes: build/suite
	$(BIN)/edge-runtime bench run --duration 600 --warm-up 30 --cool-down 20 --realtime --out build/suite

suite-soak: $(VENV)/.device  ## the same for two hours: build/suite-soak
	$(BIN)/edge-runtime bench run --duration 7200 --warm-up 120 --cool-down 60 --realtime --out build/suite-soak

side-by-side: $(VENV)/.peers  ## other MRD servers on the same bench, PEERS="--peer NAME=HOST:PORT,CONFIGURATION": build/side-by-side
	$(BIN)/python -m benchmarks.side_by_side --out build/side-by-side $(PEERS)

compare: $(VENV)/.export  ## image quality on the real scans of DATA: build/quality.json and pictures
	$(BIN)/python -m benchmarks.quality --data $(DATA) --out build/quality.json --pictures build/pictures

# Who signs. The private half is nobody's but its maker's: without one, a key is made, and this checkout trusts it from then on.
KEY ?= build/keys/mine.pem

# Fully sampled raw scans that the model is judged on beside simulated ones.
RECORDINGS ?= $(wildcard $(DATA)/raw/siemens_twix/tutorials_04_*-164120.dat)

$(KEY): | $(VENV)/.export
	$(BIN)/edge-export key new $@

# Where the network trains, and how many processes simulate for it. The shipped weights: DEVICE=cuda WORKERS=14, refined
# with DEVICE=cpu on two threads.
DEVICE ?= cpu
WORKERS ?= 1

train: $(VENV)/.export $(KEY)  ## a bundle in place of the shipped one, from the committed configuration (DEVICE=cuda: 15 minutes and the refinement; else a day)
	$(BIN)/edge-export train export/configs/brain2d.toml --data $(DATA)/train --work build/brain2d --threads 1 \
		--device $(DEVICE) --workers $(WORKERS)  # one thread: sums depend on their number
	$(BIN)/edge-export refine export/configs/brain2d.toml --work build/brain2d --threads 2 --device $(DEVICE) --workers $(WORKERS)
	$(BIN)/edge-export quantize export/configs/brain2d.toml --data $(DATA)/validate --work build/brain2d
	$(BIN)/edge-export qualify export/configs/brain2d.toml --data $(DATA)/validate --work build/brain2d \
		$(foreach scan,$(RECORDINGS),--recording $(scan))
	$(BIN)/edge-export pack export/configs/brain2d.toml --work build/brain2d --key $(KEY) \
		--out edge_runtime/bundles/brain2d.edgebundle
	$(BIN)/edge-export key public $(KEY) --out edge_runtime/trust_keys/$(notdir $(KEY))

clean:  ## forget environments and results
	rm -rf $(VENV) $(VENV)-import $(VENV)-cuda $(VENV)-tensorrt $(VENV)-device edge_runtime/cubins build demo-out .pytest_cache .mypy_cache .ruff_cache .hypothesis
