"""ONNX Runtime's GPU providers: their options as documented, and nothing that falls back in silence. No GPU is here.

What a build with the providers does without a GPU is shown where ``EDGE_ONNXRUNTIME_GPU`` names the Python of an environment
that has one: ``pip install onnxruntime-gpu==1.23.2 numpy``, and CUDA's libraries beside it for the rest
(nvidia-cuda-runtime-cu12, nvidia-cublas-cu12, nvidia-cudnn-cu12, nvidia-cufft-cu12, nvidia-curand-cu12).
"""

from __future__ import annotations

import json
import os
import subprocess
import textwrap
from pathlib import Path

import onnxruntime as ort
import pytest

from edge_runtime.bundle import load_bundle
from edge_runtime.engines import Purpose, choose_engine, rank_engines
from edge_runtime.engines import onnxruntime_gpu as gpu
from edge_runtime.errors import EngineError

PYTHON = os.environ.get("EDGE_ONNXRUNTIME_GPU", "")


def purpose(cache: Path, precision: str = "fp16", dla_core: int | None = None) -> Purpose:
    return Purpose("a" * 64, precision, (16, 16), (256, 256), (512, 512), cache, 512, dla_core)


@pytest.mark.parametrize("name", ["onnxruntime-cuda", "onnxruntime-tensorrt"])
def test_a_build_without_the_provider_is_told_and_passed_over(name):
    with pytest.raises(
        EngineError, match=rf"{name}: ONNX Runtime .* is built without .*ExecutionProvider.*onnxruntime-gpu"
    ):
        choose_engine((name,), "fp32")
    ranking = rank_engines((name, "onnxruntime"), "fp32")
    assert [engine.name for engine in ranking.engines] == ["onnxruntime"] and name in ranking.passed_over


def test_no_precision_is_lowered():
    assert gpu.cuda_options()["use_tf32"] == "0"
    for precision, expected in (("fp32", ("0", "0")), ("fp16", ("1", "0")), ("int8", ("0", "1"))):
        options = gpu.tensorrt_options(purpose(Path("/c"), precision), "image", 6)
        assert (options["trt_fp16_enable"], options["trt_int8_enable"]) == expected


def test_engines_are_compiled_for_the_sizes_of_the_profile_and_kept_in_its_folder(tmp_path):
    options = gpu.tensorrt_options(purpose(tmp_path), "image", 6)
    assert options["trt_profile_min_shapes"] == "image:1x6x16x16"
    assert options["trt_profile_opt_shapes"] == "image:1x6x256x256"
    assert options["trt_profile_max_shapes"] == "image:1x6x512x512"
    assert options["trt_engine_cache_path"] == str(tmp_path / "onnxruntime-tensorrt")
    assert options["trt_max_workspace_size"] == str(512 << 20)
    assert "trt_dla_enable" not in options
    assert gpu.tensorrt_options(purpose(tmp_path, dla_core=1), "image", 6)["trt_dla_core"] == "1"


def test_the_input_is_asked_of_the_graph_itself(tiny_bundle):
    assert gpu._input(load_bundle(tiny_bundle).forms["fp32"].onnx) == ("image", 6)
    with pytest.raises(EngineError, match=r"onnxruntime-tensorrt .* can't plan the graph"):
        gpu._input(b"no graph")


def test_a_provider_that_is_not_what_runs_is_refused(monkeypatch, tiny_bundle):
    """ONNX Runtime only warns of a provider that it does not have, and takes the CPU: a real session, caught."""
    monkeypatch.setattr(ort, "get_available_providers", lambda: [gpu.CUDA, "CPUExecutionProvider"])
    engine = gpu.OnnxRuntimeCudaEngine()
    with pytest.raises(
        EngineError, match=r"CUDAExecutionProvider could not be loaded, CPUExecutionProvider would run|can't plan"
    ):
        engine.plan(load_bundle(tiny_bundle).forms["fp32"].onnx, 1)


PROBE = """
    import json, sys
    from pathlib import Path
    from edge_runtime.engines import REGISTRY, Purpose
    from edge_runtime.errors import EngineError
    onnx, said = Path(sys.argv[1]).read_bytes(), {}
    for name in ("onnxruntime-cuda", "onnxruntime-tensorrt"):
        engine = REGISTRY[name]()
        purpose = Purpose("a" * 64, "fp32", (16, 16), (64, 64), (128, 128), Path(sys.argv[2]), 64)
        try:
            engine.plan(onnx, 1, purpose)
        except EngineError as error:
            said[name] = [engine.version(), engine.score("fp32"), str(error)]
    print(json.dumps(said))
"""


@pytest.mark.full
@pytest.mark.skipif(not PYTHON, reason="EDGE_ONNXRUNTIME_GPU names no Python with onnxruntime-gpu")
def test_a_real_build_without_a_gpu_is_an_error_and_never_the_cpu(tmp_path, tiny_bundle):
    (tmp_path / "graph.onnx").write_bytes(load_bundle(tiny_bundle).forms["fp32"].onnx)
    command = [PYTHON, "-c", textwrap.dedent(PROBE), str(tmp_path / "graph.onnx"), str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(Path(gpu.__file__).parents[2])}
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300, env=environment)
    said = json.loads(done.stdout.splitlines()[-1])
    assert set(said) == {"onnxruntime-cuda", "onnxruntime-tensorrt"}
    for name, (version, score, error) in said.items():
        assert version.startswith(f"{name} 1.") and score > 0
        assert "could not be loaded" in error or "can't plan the graph" in error


OPTIONS = """
    import json, sys
    import onnxruntime
    from pathlib import Path
    from edge_runtime.engines import onnxruntime_gpu as gpu
    from edge_runtime.errors import EngineError
    onnxruntime.preload_dlls(directory="")  # those of NVIDIA's packages beside it
    onnx, said = Path(sys.argv[1]).read_bytes(), {}
    ours = {name: value for name, value in gpu.cuda_options().items() if name != "device_id"}  # it asks for the device itself
    for case, more in (("ours", {}), ("unknown", {"no_such_option": "1"}), ("wrong", {"cudnn_conv_algo_search": "BEST"})):
        try:
            gpu._planned("cuda", onnx, 1, gpu.CUDA, {**ours, **more})
        except EngineError as error:
            said[case] = str(error)
    print(json.dumps(said))
"""


@pytest.mark.full
@pytest.mark.skipif(not PYTHON, reason="EDGE_ONNXRUNTIME_GPU names no Python with onnxruntime-gpu")
def test_a_real_cuda_provider_takes_every_option_and_then_misses_the_gpu(tmp_path, tiny_bundle):
    (tmp_path / "graph.onnx").write_bytes(load_bundle(tiny_bundle).forms["fp32"].onnx)
    command = [PYTHON, "-c", textwrap.dedent(OPTIONS), str(tmp_path / "graph.onnx")]
    environment = {**os.environ, "PYTHONPATH": str(Path(gpu.__file__).parents[2])}
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300, env=environment)
    said = json.loads(done.stdout.splitlines()[-1])
    if "could not be loaded" in said["ours"]:
        pytest.skip("EDGE_ONNXRUNTIME_GPU names no Python with CUDA's libraries")
    assert "provider option" not in said["ours"] and "cudaSetDevice" in said["ours"]
    assert 'Unknown provider option: "no_such_option"' in said["unknown"]
    assert 'Failed to parse provider option "cudnn_conv_algo_search"' in said["wrong"]
