"""What stands around a running server, as far as it was asked for: metrics, control, audit log, and the service manager's
watchdog."""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edge_runtime.errors import ServiceError, SwapRefused
from edge_runtime.runtime import Runtime, runtime_version
from edge_runtime.service.audit import AuditLog
from edge_runtime.service.audit_trail import AuditTrail
from edge_runtime.service.heart import PATIENCE_S
from edge_runtime.service.notify import Notifier, Watchdog, watchdog_interval_s
from edge_runtime.service.status import Status

if TYPE_CHECKING:
    from edge_runtime.links.mrd import MrdServer
    from edge_runtime.service.control import Say
    from edge_runtime.service.metrics_server import Answer, MetricsServer
    from edge_runtime.service.swap import Swapper


@dataclass(frozen=True)
class Around:
    """What was asked for.

    Attributes:
        metrics: host and port to tell them on.
        control: path of the socket by which the server is asked and given another bundle.
        trust, precision: of bundles that are swapped in, as the server was started with.
    """

    metrics: tuple[str, int] | None = None
    control: Path | None = None
    trust: Path | None = None
    precision: str | None = None


@dataclass(frozen=True)
class Life:
    """A running server's surroundings."""

    notifier: Notifier
    metrics: MetricsServer | None

    def ready(self, what: str) -> None:
        """Scanners can connect."""
        self.notifier.ready(what)

    def stopping(self, drain_s: float) -> None:
        """The server ends; what was measured is still reconstructed, for so long at most."""
        self.notifier.stopping("what was measured is reconstructed, then the server ends", drain_s + EXTRA_S)


EXTRA_S = 10.0
"""Beyond the time for reconstruction: one that runs comes to its end, images are sent and written."""


@contextlib.contextmanager
def living(runtime: Runtime, server: MrdServer, around: Around, audit: AuditLog | None) -> Iterator[Life]:
    """Brings up what was asked for, and takes it down again.

    Raises:
        ServiceError, OSError: the control socket or the metrics' address can't be had.
    """
    with contextlib.ExitStack() as stack:
        notifier = Notifier.of_environment()
        stack.callback(notifier.close)
        version = runtime_version()
        status = Status(runtime, server, version)
        runtime.observers.add(status)
        if audit is not None:
            trail = AuditTrail(audit)
            trail.started(runtime, version, {"python": platform.python_version(), "numpy": np.__version__})
            runtime.observers.add(trail)
            stack.callback(lambda: trail.stopped("gave up" if runtime.giving_up.is_set() else "drained"))
        swapper = None
        if around.control is not None:
            swapper = _control(stack, runtime, server, status, around, around.control, audit)
        metrics = None
        if around.metrics is not None:
            metrics = _metrics(stack, runtime, server, status, around.metrics, version)
        interval_s = watchdog_interval_s()
        if interval_s is not None:
            watchdog = Watchdog(notifier, runtime.heart, interval_s)
            stack.callback(watchdog.stop)
        yield Life(notifier, metrics)
        if swapper is not None:
            swapper.recent.forget()


def _metrics(
    stack: contextlib.ExitStack,
    runtime: Runtime,
    server: MrdServer,
    status: Status,
    address: tuple[str, int],
    version: str,
) -> MetricsServer:
    from http import HTTPStatus

    from edge_runtime.service.metrics import CONTENT_TYPE, Metrics
    from edge_runtime.service.metrics_server import TEXT, MetricsServer

    metrics = Metrics(runtime, version, lambda: server.sessions, lambda: len(runtime.heart.stuck(PATIENCE_S)))
    runtime.observers.add(metrics)

    def verdict(objection: str) -> Answer:
        good = HTTPStatus.SERVICE_UNAVAILABLE if objection else HTTPStatus.OK
        return good, TEXT, ((objection or "ok") + "\n").encode()

    routes = {
        "/metrics": lambda: (HTTPStatus.OK, CONTENT_TYPE, metrics.exposition()),
        "/healthz": lambda: verdict(status.unhealthy()),
        "/readyz": lambda: verdict(status.unready()),
    }
    try:
        serving = MetricsServer(*address, routes)
    except OSError as error:
        raise ServiceError(f"metrics on {address[0]}:{address[1]}: {error.strerror or error}") from None
    stack.callback(serving.close)
    return serving


def _control(
    stack: contextlib.ExitStack,
    runtime: Runtime,
    server: MrdServer,
    status: Status,
    around: Around,
    path: Path,
    audit: AuditLog | None,
) -> Swapper:
    from edge_runtime.service.control import ControlServer
    from edge_runtime.service.shadow import Limits
    from edge_runtime.service.swap import Swapper

    swapper = Swapper(
        runtime,
        busy=lambda: server.sessions > 0,
        stopping=lambda: server.stopping,
        trust=around.trust,
        precision=around.precision,
    )

    def tell_status(_: Mapping[str, Any], say: Say) -> Mapping[str, Any]:
        record = {**status.record(), "swap": swapper.state}
        if audit is not None:
            record["audit"] = {"sequence": audit.head.sequence, "digest": audit.head.digest}
        return {"done": True, **record}

    def swap(request: Mapping[str, Any], say: Say) -> Mapping[str, Any]:
        usual = Limits()
        file, margin, slower = (request.get(name) for name in ("bundle", "residual_margin", "time_margin"))
        if not isinstance(file, str) or not file.startswith("/") or "\0" in file:
            raise SwapRefused("bundle: an absolute path is expected")
        limits = Limits(
            _margin(margin, usual.residual_margin, "residual_margin"), _margin(slower, usual.time_margin, "time_margin")
        )
        unshadowed = request.get("unshadowed") is True
        made = swapper.swap(Path(file), limits, lambda text: say({"progress": text}), unshadowed=unshadowed)
        return {
            "done": True,
            "before": str(made.before),
            "model": str(made.now),
            "digest": made.now.bundle.digest,
            "comparison": None if made.comparison is None else vars(made.comparison),
        }

    runtime.observers.add(swapper)
    stack.callback(swapper.close)
    control = ControlServer(path, {"status": tell_status, "swap": swap})
    stack.callback(control.close)
    return swapper


def _margin(value: object, usual: float, name: str) -> float:
    if value is None:
        return usual
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 100:
        raise SwapRefused(f"{name} = {value!r}: a number from 0 to 100 is expected")
    return float(value)
