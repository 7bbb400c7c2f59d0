"""A `tensorrt` whose classes and enumerations are those of the real bindings, and which computes with ONNX Runtime.

Graphs are "compiled" by writing them down with their profile, and run on what PyCUDA has copied to the test driver's device memory.
What the tests want to go wrong is set in `Made`.
"""

from __future__ import annotations

import base64
import ctypes
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import numpy as np
import onnxruntime as ort
from bindings import Checked, check_call, load_bindings


@dataclass
class Made:
    """What happened, and what shall go wrong.

    Attributes:
        networks, configs: that were made; the calls that set them up are in their attributes.
        compiled: how many graphs were.
        parser_errors: of every graph: description, operator, node.
        refuses: text of the error with which compiling ends; of every graph, or of that whose number is ``refuses_only``.
        refuses_to_load, refuses_context, refuses_to_run: likewise of what comes later.
        runs_until_it_fails: all sessions together.
        dla_cores: of the device.
        distortion: factor of every output.
        refuses_timing: timing caches other than empty ones are not taken.
        no_builder: the library returns none.
    """

    networks: list[Any] = field(default_factory=list)
    configs: list[Any] = field(default_factory=list)
    compiled: int = 0
    parser_errors: list[tuple[str, str, str]] = field(default_factory=list)
    refuses: str = ""
    refuses_only: int | None = None
    refuses_to_load: str = ""
    refuses_context: str = ""
    refuses_to_run: str = ""
    runs: int = 0
    runs_until_it_fails: int | None = None
    dla_cores: int = 0
    distortion: float = 1.0
    refuses_timing: bool = False
    no_builder: bool = False


def make_tensorrt(made: Made) -> ModuleType:
    """The module, for ``sys.modules["tensorrt"]``."""
    real = load_bindings()
    module = ModuleType("tensorrt")
    module.__dict__.update({name: value for name, value in vars(real).items() if not name.startswith("__")})
    module.__version__ = real.__version__
    for name, part in (("Builder", Builder), ("OnnxParser", Parser), ("Runtime", Runtime)):
        setattr(module, name, maker(getattr(real, name), part, made))
    return module


def maker(real_class: type, part: type, made: Made) -> Callable[..., Checked]:
    def make(*args: Any, **kwargs: Any) -> Checked:
        check_call(real_class, "__init__", args, kwargs)
        if part is Builder and made.no_builder:
            raise TypeError("pybind11::init(): factory function returned nullptr")  # as the bindings do
        return Checked(real_class, part(made, *args, **kwargs))

    return make


class Part:
    def __init__(self, made: Made, logger: Any) -> None:
        self.made, self.logger, self.real = made, logger, load_bindings()

    def checked(self, name: str, part: Any) -> Checked:
        return Checked(getattr(self.real, name), part)

    def fails(self, text: str) -> bool:
        """Whether it shall fail; then the logger is told why, as TensorRT does."""
        if text:
            self.logger.log(self.real.ILogger.ERROR, text)
        return bool(text)


class Builder(Part):
    @property
    def num_DLA_cores(self) -> int:  # noqa: N802
        return self.made.dla_cores

    def create_network(self, flags: int = 0) -> Checked:
        network = Network(flags)
        self.made.networks.append(network)
        return self.checked("INetworkDefinition", network)

    def create_builder_config(self) -> Checked:
        config = Config(self.made, self.logger)
        self.made.configs.append(config)
        return self.checked("IBuilderConfig", config)

    def create_optimization_profile(self) -> Checked:
        return self.checked("IOptimizationProfile", OptimizationProfile())

    def build_serialized_network(self, network: Checked, config: Checked) -> Checked | None:
        self.made.compiled += 1
        if self.made.refuses_only in (None, self.made.compiled) and self.fails(self.made.refuses):
            return None
        ((name, shapes),) = config.part.profiles[0].part.shapes.items()
        document = {
            "version": self.real.__version__,
            "input": name,
            "shapes": shapes,
            "onnx": base64.b64encode(network.part.onnx).decode(),
        }
        return self.checked("IHostMemory", json.dumps(document).encode())


class Network:
    def __init__(self, flags: int) -> None:
        self.flags, self.onnx = flags, b""

    @property
    def num_inputs(self) -> int:
        return len(self._session().get_inputs())

    def get_input(self, index: int) -> Checked:
        node = self._session().get_inputs()[index]
        return Checked(load_bindings().ITensor, Tensor(node.name, open_shape(node.shape)))

    def _session(self) -> ort.InferenceSession:
        return ort.InferenceSession(self.onnx, providers=["CPUExecutionProvider"])


def open_shape(shape: list[int | str]) -> tuple[int, ...]:
    """As TensorRT writes a shape of ONNX Runtime's, which has names where sizes are left open."""
    return tuple(size if isinstance(size, int) else -1 for size in shape)


@dataclass
class Tensor:
    name: str
    dims: tuple[int, ...]

    @property
    def shape(self) -> Any:
        return load_bindings().Dims(self.dims)


class Parser(Part):
    def __init__(self, made: Made, network: Checked, logger: Any) -> None:
        super().__init__(made, logger)
        self.network = network

    @property
    def num_errors(self) -> int:
        return len(self.made.parser_errors)

    def parse(self, model: bytes, path: str | None = None) -> bool:
        self.network.part.onnx = model
        return not self.made.parser_errors

    def get_error(self, index: int) -> Checked:
        return self.checked("ParserError", ParserError(*self.made.parser_errors[index]))


class ParserError:
    def __init__(self, text: str, operator: str, node: str) -> None:
        self.text, self.operator, self.node = text, operator, node

    def desc(self) -> str:
        return self.text

    def node_operator(self) -> str:
        return self.operator

    def node_name(self) -> str:
        return self.node


class Config(Part):
    def __init__(self, made: Made, logger: Any) -> None:
        super().__init__(made, logger)
        self.flags = {self.real.BuilderFlag.TF32}  # as it is in the beginning
        self.limits: dict[Any, int] = {}
        self.profiles: list[Checked] = []
        self.timing: Checked | None = None

    def set_flag(self, flag: Any) -> None:
        self.flags.add(flag)

    def clear_flag(self, flag: Any) -> None:
        self.flags.discard(flag)

    def set_memory_pool_limit(self, pool: Any, pool_size: int) -> None:
        self.limits[pool] = pool_size

    def add_optimization_profile(self, profile: Checked) -> int:
        self.profiles.append(profile)
        return len(self.profiles) - 1

    def create_timing_cache(self, serialized_timing_cache: bytes) -> Checked | None:
        if serialized_timing_cache and self.fails("the timing cache is damaged" if self.made.refuses_timing else ""):
            return None
        return self.checked("ITimingCache", Timing(serialized_timing_cache))

    def set_timing_cache(self, cache: Checked, ignore_mismatch: bool) -> bool:
        self.timing = cache
        return True


class Timing:
    def __init__(self, before: bytes) -> None:
        self.before = before

    def serialize(self) -> Checked:
        return Checked(load_bindings().IHostMemory, self.before + b"measured;")


class OptimizationProfile:
    def __init__(self) -> None:
        self.shapes: dict[str, list[tuple[int, ...]]] = {}

    def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:
        self.shapes[input] = [tuple(min), tuple(opt), tuple(max)]


class Runtime(Part):
    DLA_core = -1

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> Checked | None:
        if self.fails(self.made.refuses_to_load):
            return None
        return self.checked("ICudaEngine", Engine(self.made, self.logger, json.loads(serialized_engine)))


class Engine(Part):
    def __init__(self, made: Made, logger: Any, document: dict[str, Any]) -> None:
        super().__init__(made, logger)
        assert document["version"] == self.real.__version__
        self.shapes = document["shapes"]
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        graph = base64.b64decode(document["onnx"])
        self.session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        self.inputs = {node.name: node for node in self.session.get_inputs()}
        self.outputs = {node.name: node for node in self.session.get_outputs()}
        self.names = [*self.inputs, *self.outputs]

    @property
    def num_io_tensors(self) -> int:
        return len(self.names)

    def get_tensor_name(self, index: int) -> str:
        return self.names[index]

    def get_tensor_mode(self, name: str) -> Any:
        return self.real.TensorIOMode.INPUT if name in self.inputs else self.real.TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> Any:
        kind = {**self.inputs, **self.outputs}[name].type
        return {"tensor(float)": self.real.DataType.FLOAT, "tensor(float16)": self.real.DataType.HALF}[kind]

    def get_tensor_shape(self, name: str) -> Any:
        return self.real.Dims(open_shape({**self.inputs, **self.outputs}[name].shape))

    def create_execution_context(self) -> Checked | None:
        if self.fails(self.made.refuses_context):
            return None
        return self.checked("IExecutionContext", Context(self.made, self.logger, self))


class Context(Part):
    def __init__(self, made: Made, logger: Any, engine: Engine) -> None:
        super().__init__(made, logger)
        self.engine, self.addresses = engine, {}
        self.shape: tuple[int, ...] = ()

    def set_input_shape(self, name: str, shape: Any) -> bool:
        least, _, most = self.engine.shapes
        self.shape = tuple(shape)
        return len(shape) == len(most) and all(a <= b <= c for a, b, c in zip(least, shape, most))

    def get_tensor_shape(self, name: str) -> Any:
        batch, _, rows, columns = self.shape
        channels = self.engine.outputs[name].shape[1]
        return self.real.Dims((batch, channels, rows, columns))

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self.addresses[name] = memory
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        import pycuda.driver as cuda

        self.made.runs += 1
        if self.fails(self.made.refuses_to_run) or self.made.runs == self.made.runs_until_it_fails:
            return False
        # What was enqueued before comes first, as in a stream.
        assert ctypes.CDLL("libcuda.so.1").cuStreamSynchronize(ctypes.c_void_p(stream_handle)) == 0
        (source,), (target,) = self.engine.inputs, self.engine.outputs
        batch = np.empty(self.shape, np.float32)
        cuda.memcpy_dtoh(batch, self.addresses[source])
        output = self.engine.session.run(None, {source: batch})[0] * np.float32(self.made.distortion)
        cuda.memcpy_htod(self.addresses[target], np.ascontiguousarray(output))
        return True


def install(made: Made) -> ModuleType:
    """Makes ``import tensorrt`` find it, and the engine's module import it anew."""
    module = make_tensorrt(made)
    sys.modules["tensorrt"] = module
    sys.modules.pop("edge_runtime.engines.tensorrt", None)
    return module
