"""What tests of several packages share: a tiny model bundle, runtimes and a running server."""

from __future__ import annotations

import contextlib
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sense_problems
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import settings
from left_over import (  # noqa: F401
    pytest_addoption,
    pytest_note_module,
    pytest_note_test,
    pytest_select_left_over,
    pytest_write_skipped,
)
from simulated import readouts_of, scan_bytes, usual_kspace
from strict_skips import pytest_sessionfinish, pytest_terminal_summary  # noqa: F401

from edge_runtime import _kernels
from edge_runtime.bundle import trust_store
from edge_runtime.bundle.signature import format_public_key
from edge_runtime.kernels import instruction_set
from edge_runtime.links.mrd import MrdServer
from edge_runtime.links.mrd_messages import Close, ImageMessage, Message, MessageReader, Text
from edge_runtime.links.mrd_pack import parse_meta_attributes
from edge_runtime.profile import Profile, parse_profile
from edge_runtime.runtime import Runtime, open_runtime
from export.keys import SigningKey

settings.register_profile("edge", deadline=None)  # a busy machine is no defect
settings.load_profile("edge")

PROFILE = """
name = "test"
description = "small limits"
[compute]
threads = {threads}
reconstruction_workers = 1
engines = ["onnxruntime"]
precisions = ["fp32"]
[memory]
session_mb = {session_mb}
total_mb = {total_mb}
[limits]
sessions = {sessions}
idle_timeout_s = {idle_timeout_s}
send_timeout_s = {send_timeout_s}
pending_slices = {pending_slices}
"""
USUAL_LIMITS = {
    "threads": 1,
    "session_mb": 64,
    "total_mb": 1024,
    "sessions": 8,
    "idle_timeout_s": 20.0,
    "send_timeout_s": 5.0,
    "pending_slices": 8,
}
PATIENCE_S = 30.0
"""How long a test waits for what must come; no test measures times."""


def profile_of(**limits: float) -> Profile:
    return parse_profile(PROFILE.format(**{**USUAL_LIMITS, **limits}), "test profile")


ON_A_GPU = [pytest.param(f"cuda, threads {order}", marks=pytest.mark.cuda) for order in ("forward", "reverse")]


@pytest.fixture(params=[*_kernels.instruction_sets(), *ON_A_GPU])
def kernels_on(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Each instruction set, and the GPU: the test driver runs a block's threads in one order, then in the other."""
    if request.param not in _kernels.instruction_sets():
        monkeypatch.setattr(sense_problems, "running_on", "cuda")
        monkeypatch.setenv("EDGE_DRIVER_ORDER", request.param.split()[-1])
        yield request.param
        return
    best = instruction_set()
    _kernels.choose_instruction_set(request.param)
    yield request.param
    _kernels.choose_instruction_set(best)


@pytest.fixture(params=_kernels.instruction_sets())
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each instruction set that this processor runs, in use during the test."""
    best = instruction_set()
    _kernels.choose_instruction_set(request.param)
    yield request.param
    _kernels.choose_instruction_set(best)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A TensorRT on the test driver's GPU (tests/trt/made_tensorrt.py), and what shall go wrong with it."""
    monkeypatch.syspath_prepend(Path(__file__).parent / "trt")
    from made_tensorrt import Made, install

    from edge_runtime.cuda.device import first_device

    made = Made()
    monkeypatch.setitem(sys.modules, "tensorrt", None)  # put back afterwards
    install(made)
    first_device.cache_clear()
    yield made
    first_device.cache_clear()
    sys.modules.pop("edge_runtime.engines.tensorrt", None)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test notes of engines is nobody else's."""
    monkeypatch.setenv("CACHE_DIRECTORY", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="session")
def tiny_graph() -> bytes:
    """One small convolution as an ONNX graph."""
    onnx = pytest.importorskip("onnx")
    weights = 0.01 * np.random.default_rng(1).standard_normal((2, 6, 3, 3)).astype(np.float32)
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Conv", ["image", "weights"], ["correction"], pads=[1, 1, 1, 1])],
        "regulariser",
        [onnx.helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, [1, 6, "rows", "columns"])],
        [onnx.helper.make_tensor_value_info("correction", onnx.TensorProto.FLOAT, [1, 2, "rows", "columns"])],
        [onnx.numpy_helper.from_array(weights, "weights")],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9)
    return bytes(model.SerializeToString())


@pytest.fixture(scope="session")
def signing_key() -> SigningKey:
    """The key of the tests' bundles; everybody knows it, and no device trusts it."""
    return SigningKey(Ed25519PrivateKey.from_private_bytes(bytes(range(32))))


@pytest.fixture(scope="session", autouse=True)
def trust_folder(tmp_path_factory: pytest.TempPathFactory, signing_key: SigningKey) -> Iterator[Path]:
    """The shipped trust store with the tests' key in it, as the one that is used where none is named."""
    folder = tmp_path_factory.mktemp("trust")
    for path in trust_store.DEFAULT_TRUST.glob("*.pem"):
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "tests.pem").write_text(format_public_key(signing_key.public))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trust_store, "DEFAULT_TRUST", folder)
        yield folder


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory, tiny_graph: bytes, signing_key: SigningKey) -> Path:
    """A bundle whose regulariser is one small convolution: the real path, without training and without torch."""
    from edge_runtime.bundle import UnrolledSettings
    from export.pack import write_bundle

    path = tmp_path_factory.mktemp("bundle") / "tiny.edgebundle"
    write_bundle(
        path,
        name="tiny",
        version="1",
        settings=UnrolledSettings(2, 3, ((-3.0, 0.5, 0.2), (-3.0, 0.5, 0.2)), multiple=4),
        forms={"fp32": tiny_graph},
        golden_input=np.random.default_rng(2).standard_normal((1, 6, 8, 12)).astype(np.float32),
        provenance={"training_data": {"sha256": "0" * 64, "volumes": ["none"]}},
        key=signing_key,
        licence="Apache-2.0",
        override="a test",
    )
    return path


@dataclass
class Replies:
    """What a server sent back until it closed the connection."""

    texts: list[str] = field(default_factory=list)
    images: list[ImageMessage] = field(default_factory=list)
    closed: bool = False

    @property
    def text(self) -> str:
        return "\n".join(self.texts)

    def kinds(self) -> list[tuple[str, str]]:
        """Method and completeness of every image but the previews, in the order they came."""
        kinds = [(attribute(image, "EdgeMethod"), attribute(image, "EdgeCompleteness")) for image in self.images]
        return [kind for kind in kinds if kind[1] != "preview"]


def heed_hangups() -> None:
    """In a process that begins: whoever runs the tests may have been started by nohup, which is inherited."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def attribute(image: ImageMessage, name: str) -> str:
    """The first value of one of an image's meta attributes."""
    return parse_meta_attributes(image.attributes)[name][0]


class Client:
    """One connection to a server."""

    def __init__(self, port: int, receive_buffer: int | None = None) -> None:
        self._socket = socket.socket()
        if receive_buffer is not None:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self._socket.settimeout(PATIENCE_S)
        self._socket.connect(("127.0.0.1", port))
        self._messages = iter(MessageReader(self._socket.recv_into))

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def send(self, data: bytes) -> None:
        """Sends as much as the server takes: one that has refused the scan closes early."""
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            self._socket.sendall(data)

    def receive(self) -> Message | None:
        """The next message; None at the end of the stream."""
        with contextlib.suppress(ConnectionResetError):
            return next(self._messages, None)
        return None

    def take(self, count: int) -> None:
        """Some bytes of what the server has sent, whatever they are."""
        with contextlib.suppress(ConnectionResetError):
            self._socket.recv(count)

    def replies(self) -> Replies:
        """Everything until the server's CLOSE or the end of the stream."""
        replies = Replies()
        while (message := self.receive()) is not None:
            if isinstance(message, Text):
                replies.texts.append(message.text)
            elif isinstance(message, ImageMessage):
                replies.images.append(message)
            elif isinstance(message, Close):
                replies.closed = True
                break
        return replies

    def half_close(self) -> None:
        """Says that nothing more comes, but goes on listening."""
        self._socket.shutdown(socket.SHUT_WR)

    def vanish(self) -> None:
        """Resets the connection, as a crash or a pulled plug and a reboot do."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()


class RunningServer:
    """A server in a thread, and clients for it."""

    def __init__(self, runtime: Runtime) -> None:
        self.output = runtime.output
        self.server = MrdServer(runtime, port=0)
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()

    def connect(self, receive_buffer: int | None = None) -> Client:
        return Client(self.server.port, receive_buffer)

    def exchange(self, data: bytes) -> Replies:
        """Sends bytes, then listens until the server closes."""
        with self.connect() as client:
            client.send(data)
            client.half_close()
            return client.replies()

    def stop(self) -> None:
        self.server.stop()
        self.thread.join(PATIENCE_S)
        assert not self.thread.is_alive(), "the server did not stop"

    def files(self, pattern: str) -> list[Path]:
        assert self.output is not None
        return sorted(self.output.glob(pattern))

    def wait_for_files(self, pattern: str, count: int = 1) -> list[Path]:
        deadline = time.monotonic() + PATIENCE_S
        while len(found := self.files(pattern)) < count:
            assert time.monotonic() < deadline, f"only {found} of {count} {pattern}"
            time.sleep(0.02)
        return found


StartServer = Callable[..., RunningServer]
OpenRuntime = Callable[..., AbstractContextManager[Runtime]]


@pytest.fixture
def runtime_of(tmp_path: Path) -> OpenRuntime:
    """Opens a runtime with small limits: ``bundle`` and ``output`` as in `open_runtime`, limits as in the profile."""

    def start(bundle: Path | None = None, output: Path | None = tmp_path, **limits: Any) -> Any:
        return open_runtime(profile_of(**limits), bundle=bundle, output=output)

    return start


@pytest.fixture
def serve(runtime_of: OpenRuntime) -> Iterator[StartServer]:
    """Starts servers that end with the test."""
    with contextlib.ExitStack() as stack:

        def start(**options: Any) -> RunningServer:
            running = RunningServer(stack.enter_context(runtime_of(**options)))
            stack.callback(running.stop)
            return running

        yield start


@pytest.fixture(scope="session")
def whole_scan() -> bytes:
    """A sound scan of one slice, from configuration to CLOSE."""
    return scan_bytes(readouts_of(usual_kspace()))
