"""The report that `make test-device` makes: what every test found out, in one file and on the screen."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pytest

from edge_runtime.cuda.device import Device, driver, open_device
from edge_runtime.runtime import runtime_version

REPORT = Path(__file__).resolve().parents[2] / "build" / "device.json"
TEST_DRIVER = "EDGE_DRIVER_KERNELS" in os.environ
"""Whether the GPU is none: `make test-cuda` tries the suite out."""


class Report:
    """What is sent in: the device, versions, and the findings of every test."""

    def __init__(self, device: Device) -> None:
        with device.use():
            _, total = driver.mem_get_info()
        self._findings: dict[str, Any] = {}
        self._about = {
            "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "gpu": device.name,
            "simulated": TEST_DRIVER,
            "compute_capability": ".".join(map(str, device.capability)),
            "multiprocessors": device.multiprocessors,
            "memory_mb": total >> 20,
            "driver": driver.get_driver_version(),
            "machine": platform.platform(),
            "jetpack": _first_line(Path("/etc/nv_tegra_release")),
            "power_mode": _first_line(Path("/var/lib/nvpmodel/status")),
            "versions": {name: _version(name) for name in ("pycuda", "numpy", "onnxruntime", "tensorrt")},
            "edge_runtime": runtime_version(),
        }

    def add(self, name: str, finding: Any) -> None:
        """A number, a text or a table of them."""
        self._findings[name] = finding

    def timed(self, name: str, action: Callable[[], object], runs: int = 50) -> None:
        """Milliseconds of an action that waits for what it launches, after a few that warm up; on the test driver one run."""
        times = []
        for _ in range(1 if TEST_DRIVER else runs + 5):
            begin = time.perf_counter()
            action()
            times.append(1e3 * (time.perf_counter() - begin))
        ordered = sorted(times[5:] or times)
        quantiles = {"p50": statistics.median(ordered), "p90": ordered[int(0.9 * len(ordered))], "max": ordered[-1]}
        self.add(f"{name}, ms", {key: round(value, 3) for key, value in quantiles.items()} | {"runs": len(ordered)})

    def write(self, path: Path) -> Iterator[str]:
        """Yields the same for the screen."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self._about | {"findings": self._findings}, indent=1) + "\n")
        yield f"{self._about['gpu']}, {self._about['machine']}: {path}"
        for name, finding in self._findings.items():
            yield f"{name}: {finding}"


@pytest.fixture(scope="session")
def report(request: pytest.FixtureRequest) -> Iterator[Report]:
    """Written and shown when the last test of the suite has ended."""
    made = Report(open_device())
    yield made
    plugins = request.config.pluginmanager
    with plugins.get_plugin("capturemanager").global_and_fixture_disabled():
        for line in made.write(REPORT):
            plugins.get_plugin("terminalreporter").write_line(line)


def _first_line(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()[0]
    except (OSError, IndexError):
        return None


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
