"""TensorRT on NVIDIA's GPUs, 10.3 (JetPack 6) to 11; the extra ``jetson``, beside the TensorRT that comes with JetPack.

A graph is compiled on the device that runs it, into an engine that `compiled` keeps. Networks are strongly typed: precision is
what the graph says (casts to FP16, Q/DQ for INT8), and nothing here lowers it. What changes between versions is looked up by its
name, and integers of enumerations never are: they differ.

API: NVIDIA TensorRT Python API reference, 10.3 and 11.4; PyCUDA owns the context, the stream and all memory but TensorRT's own.
"""

from __future__ import annotations

import hashlib
import logging
import math
import re
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorrt as trt

from edge_runtime.arrays import DeviceArray
from edge_runtime.bundle.versions import version_in, version_numbers
from edge_runtime.cuda.device import Device, DevicePlan, dotted, open_device
from edge_runtime.engines import Purpose, Session, Size, Tensor
from edge_runtime.engines.compiled import CompiledFolder, Identity
from edge_runtime.errors import (
    CompilationFailed,
    DeviceFailed,
    EngineDeviceLost,
    EngineError,
    EngineFileRefused,
    EngineMemory,
    OutOfDeviceMemory,
    PluginMissing,
)

log = logging.getLogger(__name__)

PRECISIONS = {"fp32": 20, "fp16": 20, "int8": 20}
"""Before the engines of a CPU. Which of the precisions is fastest is measured (`edge-export compile --on-device`), not known."""

FIRST, BELOW = "10.3", "12"
"""Versions of TensorRT: 10.3 is JetPack 6; before it strong typing and the calls used here were not what they are."""

DLA_PRECISIONS = ("fp16", "int8")

MAX_ERRORS_KEPT = 32
MAX_SAID = 1000

OUT_OF_MEMORY = re.compile(r"out of memory|outofmemory|insufficient memory|cudaErrorMemoryAllocation", re.IGNORECASE)
NO_PLUGIN = re.compile("plugin not found|no importer registered|could not find plugin", re.IGNORECASE)
"""How TensorRT's parser says that it does not know an operator: it takes those that are not its own for plugins."""

SYMMETRIC = "TensorRT takes symmetric INT8 only: quantize activations as QInt8 with ActivationSymmetric"


class _Log(trt.ILogger):  # type: ignore[misc]
    """TensorRT's messages: into the log, and the last errors for whoever asks why a call returned nothing.

    TensorRT keeps the first logger it is given for the whole process, so there is one; what several threads do at once may mix.
    """

    def __init__(self) -> None:
        trt.ILogger.__init__(self)
        self._errors: deque[str] = deque(maxlen=MAX_ERRORS_KEPT)
        self._count = 0

    def log(self, severity: Any, msg: str) -> None:
        """Called by TensorRT, from any of its threads."""
        if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR):
            self._errors.append(" ".join(msg.split()))
            self._count += 1
            log.error("tensorrt: %s", msg)
        elif severity == trt.ILogger.WARNING:
            log.warning("tensorrt: %s", msg)
        else:
            log.debug("tensorrt: %s", msg)

    def now(self) -> int:
        """A moment, for `since`."""
        return self._count

    def since(self, moment: int) -> str:
        """Errors that came after a moment, in one line; empty where there were none."""
        fresh = min(self._count - moment, len(self._errors))
        return "; ".join(list(self._errors)[len(self._errors) - fresh :])[:MAX_SAID]


LOG = _Log()

UNSAID = "it does not say why"


class TensorRtEngine:
    """The first GPU, through TensorRT.

    Raises:
        NoDevice, DriverTooOld: see `open_device`.
        EngineError: a version of TensorRT that this does not speak.
    """

    name, takes_dla = "tensorrt", True

    def __init__(self) -> None:
        number = version_numbers(version_in(trt.__version__) or "0")
        if not version_numbers(FIRST) <= number < version_numbers(BELOW):
            raise EngineError(
                f"TensorRT {trt.__version__} is installed, {FIRST} to below {BELOW} are needed: JetPack 6 and 7 bring one"
            )
        self._device = open_device()

    def version(self) -> str:
        return f"tensorrt {trt.__version__} {self._device.name}"

    def score(self, precision: str) -> int:
        return PRECISIONS.get(precision, 0)

    def conditions(self, purpose: Purpose | None) -> str:
        return f"{self._device.description}, {purpose}"

    def held_bytes(self, live_bytes: int, graph_bytes: Sequence[int]) -> int:
        return 0  # all of it is there from the beginning

    def plan(self, onnx: bytes, threads: int, purpose: Purpose | None = None) -> Session:
        """Loads the engine of a graph, which is compiled first where there is none of this device: that takes minutes.

        Raises:
            PluginMissing: an operator is neither TensorRT's nor a registered plugin's.
            CompilationFailed: the compiler gave up.
            EngineError: the graph, or something of the purpose, is none that TensorRT takes.
            OutOfDeviceMemory, DeviceFailed: see `Device.use`.
        """
        if purpose is None:
            raise EngineError(
                "tensorrt compiles graphs for sizes and keeps them in a folder, and was told neither: of bundles it runs "
                "unrolled networks, no programs"
            )
        folder, identity = CompiledFolder.at(purpose.cache), self.identity(onnx, purpose)
        with self._device.use():
            try:
                compiled = folder.engine(identity)
                if compiled is not None:
                    return TensorRtSession(self._device, compiled, folder, identity, purpose)
            except EngineFileRefused as error:
                log.warning("%s: it is compiled anew", error)
            log.info("tensorrt compiles %s of bundle %s, which takes minutes", purpose.precision, purpose.bundle[:16])
            compiled, timing = compile_graph(self._device, onnx, purpose, folder.timing(identity))
            folder.keep_timing(identity, timing)
            folder.keep_engine(identity, compiled)
            try:
                return TensorRtSession(self._device, compiled, folder, identity, purpose)
            except EngineFileRefused:  # fresh from the compiler: another would be no better
                folder.discard(identity)
                raise

    def identity(self, onnx: bytes, purpose: Purpose) -> Identity:
        """What an engine that this device compiles of a graph is of."""
        return Identity(
            bundle=purpose.bundle,
            precision=purpose.precision,
            graph=hashlib.sha256(onnx).hexdigest(),
            compiler=f"tensorrt {trt.__version__}",
            gpu=self._device.model,
            capability=".".join(str(part) for part in self._device.capability),
            driver=dotted(self._device.driver_version),
            profile=str(purpose),
        )


class TensorRtSession(DevicePlan):
    """An engine, ready: its memory, for images of the largest size, is there from the beginning.

    Args:
        compiled: the engine, serialised.
        folder, identity: where it is kept, and as what.

    Raises:
        EngineFileRefused: TensorRT does not take the engine.
        EngineError: it has not one input and one output of single precision.
        OutOfDeviceMemory: as it says.
    """

    def __init__(
        self, device: Device, compiled: bytes, folder: CompiledFolder, identity: Identity, purpose: Purpose
    ) -> None:
        super().__init__(device)
        self._folder, self._identity = folder, identity
        moment = LOG.now()
        self._runtime = _made(trt.Runtime)  # lives as long as its engine
        if purpose.dla_core is not None:
            self._runtime.DLA_core = purpose.dla_core
        self._engine = self._runtime.deserialize_cuda_engine(compiled)
        if self._engine is None:
            refuse_for_memory(device, said := LOG.since(moment))
            raise EngineFileRefused(
                f"{folder.engine_file(identity)}: TensorRT {trt.__version__} does not take it: {said or UNSAID}"
            )
        self._context = self._engine.create_execution_context()
        if self._context is None:
            refuse_for_memory(device, said := LOG.since(moment))
            raise EngineError(f"tensorrt can't make an execution context: {said or UNSAID}")
        self._input, self._output = _names(self._engine)
        shape = tuple(self._engine.get_tensor_shape(self._input))
        self._least, self._most = _sized(shape, purpose.least), _sized(shape, purpose.most)
        if not self._context.set_input_shape(self._input, self._most):
            raise EngineError(f"tensorrt does not take an input of shape {self._most}, for which it was compiled")
        self._largest = tuple(self._context.get_tensor_shape(self._output))
        with device.use():
            self._batch = self._port((math.prod(self._most),), np.float32)
            self._result = self._port((math.prod(self._largest),), np.float32)
            self._bind(self._batch.address, self._result.address)

    def discard(self) -> None:
        self._folder.discard(self._identity)

    def run(self, batch: Tensor) -> Tensor:
        if batch.dtype != np.float32:  # the engine would read its bytes as if they were
            raise EngineError(
                f"tensorrt failed on an input of shape {batch.shape}: float32 is expected, {batch.dtype} came"
            )
        # A ReLU makes zeros of what is not a number: the output would look sound. What is on the GPU already is not fetched for
        # that: an image that is not finite stays so when the output is added to it.
        if isinstance(batch, np.ndarray) and not np.isfinite(batch).all():
            raise EngineError(f"tensorrt was given values that are not finite, in an input of shape {batch.shape}")
        if len(batch.shape) != len(self._most) or not all(
            low <= came <= high for low, came, high in zip(self._least, batch.shape, self._most)
        ):
            raise EngineError(
                f"tensorrt failed on an input of shape {batch.shape}: it was compiled for {self._least} to {self._most}; "
                "compile.largest of the hardware profile sets the most rows and columns"
            )
        try:
            with self._turn():
                output: Tensor = self._infer(batch)
                sound = np.isfinite(output).all()  # waits for it
        except OutOfDeviceMemory as error:
            raise EngineMemory(f"tensorrt failed on an input of shape {batch.shape}: {error}") from error
        except DeviceFailed as error:
            raise EngineDeviceLost(f"tensorrt failed on an input of shape {batch.shape}: {error}") from error
        if not sound:
            raise EngineError(f"tensorrt returned values that are not finite for an input of shape {batch.shape}")
        return output

    def _infer(self, batch: Any) -> Any:
        moment, failed = LOG.now(), f"tensorrt failed on an input of shape {batch.shape}"
        if not self._context.set_input_shape(self._input, batch.shape):
            raise _failure(failed, LOG.since(moment))
        shape = tuple(self._context.get_tensor_shape(self._output))
        if min(shape, default=0) < 1 or math.prod(shape) > math.prod(self._largest):
            raise EngineError(f"{failed}: its output would have the shape {shape}; {LOG.since(moment) or UNSAID}")
        if isinstance(batch, DeviceArray):
            made = self._device.array(shape, np.float32)
            self._bind(batch.address, made.address)
        else:
            self._bind(self._batch.send_part(batch, self._stream), self._result.address)
        if not self._context.execute_async_v3(self._stream.handle):
            self._stream.synchronize()
            raise _failure(failed, LOG.since(moment))
        if isinstance(batch, DeviceArray):
            return made
        output: Tensor = self._result.fetch_part(shape, self._stream)
        self._stream.synchronize()
        return np.array(output)

    def _bind(self, source: int | np.uint64, target: int | np.uint64) -> None:
        """Where the next inference reads and writes."""
        for name, address in ((self._input, source), (self._output, target)):
            if not self._context.set_tensor_address(name, int(address)):
                raise EngineError(f"tensorrt does not take the address of {name}")


def _failure(what: str, said: str) -> EngineError:
    """Of a run, by what TensorRT says of it."""
    kind = EngineMemory if OUT_OF_MEMORY.search(said) else EngineError
    return kind(f"{what}: {said or UNSAID}")


def _names(engine: Any) -> tuple[str, str]:
    """Input and output.

    Raises:
        EngineError: there are others, or they are not of single precision.
    """
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    modes = [engine.get_tensor_mode(name) for name in names]
    types = [engine.get_tensor_dtype(name) for name in names]
    if len(names) != 2 or set(modes) != {trt.TensorIOMode.INPUT, trt.TensorIOMode.OUTPUT}:
        raise EngineError(f"the graph has the tensors {', '.join(names)}: one input and one output are needed")
    if any(kind != trt.DataType.FLOAT for kind in types):
        raise EngineError(
            f"the graph has tensors of types {', '.join(str(kind) for kind in types)}: single precision is needed at both "
            "ends, whatever is computed between them"
        )
    source = modes.index(trt.TensorIOMode.INPUT)
    return names[source], names[1 - source]


def _sized(shape: tuple[int, ...], size: Size) -> tuple[int, ...]:
    """The shape ``(1, channels, rows, columns)`` of one image: what the graph leaves open is filled in."""
    return tuple(wanted if axis < 0 else axis for axis, wanted in zip(shape, (1, shape[1], *size)))


def _made(maker: Callable[[Any], Any]) -> Any:
    """A builder or runtime.

    Raises:
        EngineError: the library returned none, of which the bindings make a TypeError.
    """
    moment = LOG.now()
    try:
        return maker(LOG)
    except TypeError as error:
        raise EngineError(f"tensorrt {trt.__version__} can't be used here: {LOG.since(moment) or error}") from error


def compile_graph(device: Device, onnx: bytes, purpose: Purpose, timing: bytes) -> tuple[bytes, bytes]:
    """The engine of a graph, serialised, and what was measured on the way; in `Device.use`.

    Args:
        timing: what was measured before.

    Raises:
        PluginMissing, CompilationFailed, EngineError, OutOfDeviceMemory: as they say.
    """
    moment = LOG.now()
    builder = _made(trt.Builder)
    network = builder.create_network(strongly_typed())
    parser = trt.OnnxParser(network, LOG)
    if not parser.parse(onnx):
        refuse_graph([parser.get_error(index) for index in range(parser.num_errors)])
    config = builder.create_builder_config()
    # Single precision means single precision; TF32, which rounds factors to 10 bits, is on unless it is cleared.
    config.clear_flag(trt.BuilderFlag.TF32)
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, purpose.workspace_mb << 20)
    if purpose.dla_core is not None:
        use_dla(builder, config, purpose)
    _optimise_for(builder, network, config, purpose)
    cache = config.create_timing_cache(timing)
    if cache is None or not config.set_timing_cache(cache, False):  # damaged, or of another device
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, False)
    compiled = builder.build_serialized_network(network, config)
    if compiled is None:
        refuse_for_memory(device, said := LOG.since(moment))
        raise CompilationFailed(f"tensorrt {trt.__version__} can't compile {purpose.precision}: {said or UNSAID}")
    return bytes(compiled), bytes(cache.serialize())


def strongly_typed() -> int:
    """The network's creation flags: precision comes from the graph alone. Its bit is 1 in TensorRT 10 and 0 in 11.

    Raises:
        EngineError: this TensorRT has no such flag.
    """
    flag = trt.NetworkDefinitionCreationFlag.__members__.get("STRONGLY_TYPED")
    if flag is None:
        raise EngineError(f"TensorRT {trt.__version__} has no strongly typed networks: {FIRST} or later is needed")
    return 1 << int(flag)


def use_dla(builder: Any, config: Any, purpose: Purpose) -> None:
    """Compiles for the deep learning accelerator; layers that it does not have stay on the GPU.

    Raises:
        EngineError: this device or version has none, or it does not compute this precision or several sizes.
    """
    cores = builder.num_DLA_cores
    mend = "leave compile.dla_core out of the hardware profile"
    if purpose.dla_core is None or not 0 <= purpose.dla_core < cores:
        raise EngineError(
            f"DLA core {purpose.dla_core} is wanted, TensorRT {trt.__version__} finds {cores} on this device (10.3 to 10.7 and "
            f"11.4.1 know those of Orin, none is on Thor and Orin Nano): {mend}"
        )
    if purpose.precision not in DLA_PRECISIONS:
        raise EngineError(f"the DLA does not compute {purpose.precision}, but {' and '.join(DLA_PRECISIONS)}: {mend}")
    if not purpose.least == purpose.usual == purpose.most:
        raise EngineError(f"the DLA takes images of one size, not from {purpose.least} to {purpose.most}: {mend}")
    config.default_device_type = trt.DeviceType.DLA
    config.DLA_core = purpose.dla_core
    config.set_flag(trt.BuilderFlag.GPU_FALLBACK)


def _optimise_for(builder: Any, network: Any, config: Any, purpose: Purpose) -> None:
    """One optimisation profile: one image at a time, of the sizes of the purpose.

    Raises:
        EngineError: the graph has no such input.
    """
    if network.num_inputs != 1:
        raise EngineError(f"the graph has {network.num_inputs} inputs: one is needed")
    tensor = network.get_input(0)
    shape = tuple(tensor.shape)
    if len(shape) != 4 or shape[1] < 1:
        raise EngineError(f"the graph's input has the shape {shape}: (1, channels, rows, columns) is needed")
    profile = builder.create_optimization_profile()
    least, usual, most = (_sized(shape, size) for size in (purpose.least, purpose.usual, purpose.most))
    profile.set_shape(tensor.name, least, usual, most)
    if config.add_optimization_profile(profile) < 0:
        raise EngineError(f"tensorrt does not take sizes from {purpose.least} to {purpose.most}")


def refuse_graph(found: list[Any]) -> None:
    """Raises what the parser's errors mean.

    Raises:
        PluginMissing: an operator is unknown.
        EngineError: whatever else is wrong.
    """
    said = " ".join("; ".join(error.desc() for error in found).split())[:MAX_SAID] or UNSAID
    operator, node = (found[0].node_operator(), found[0].node_name()) if found else ("", "")
    if NO_PLUGIN.search(said):
        raise PluginMissing(
            f"operator {operator} (node {node!r}) is neither one of TensorRT {trt.__version__} nor a registered plugin: register "
            f"its creator (ours: tensorrt_plugin.register_plugins) before it is planned, or export the model without it ({said})"
        )
    where = f" at {operator} {node!r}" if operator else ""
    mend = f"; {SYMMETRIC}" if re.search("zero.?point", said, re.IGNORECASE) else ""
    raise EngineError(f"tensorrt {trt.__version__} can't read the graph{where}: {said}{mend}")


def refuse_for_memory(device: Device, said: str) -> None:
    """Raises where a lack of memory is what TensorRT complains of; in `Device.use`.

    Raises:
        OutOfDeviceMemory: it is.
    """
    if OUT_OF_MEMORY.search(said):
        free, total = device.memory_mb()
        raise OutOfDeviceMemory(
            f"{device.name} has {free:.0f} of {total:.0f} MB left, which is not enough for TensorRT ({said}): lower "
            "compile.largest or compile.workspace_mb of the hardware profile, or end other programs"
        )
