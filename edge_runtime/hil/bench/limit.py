"""Holds a process to a share of the processors by a control group of its own, version 1 or 2; needs the right to make one."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from types import TracebackType

from edge_runtime.errors import BenchError

PERIOD_US = 100_000
ROOT = Path("/sys/fs/cgroup")


class CpuLimit:
    """A control group with a CPU quota.

    Args:
        cores: processors that all of its processes may use together, such as 0.5.

    Raises:
        BenchError: no such group can be made here; says why.
    """

    def __init__(self, cores: float, root: Path = ROOT) -> None:
        self._cores, self._root = cores, root
        self._folder: Path | None = None

    def __enter__(self) -> CpuLimit:
        quota = max(1000, round(self._cores * PERIOD_US))
        name = f"edge-bench-{os.getpid()}-{time.monotonic_ns()}"
        first = self._root / "cpu"
        try:
            if (first / "cpu.cfs_quota_us").exists():
                self._folder = first / name
                self._folder.mkdir()
                (self._folder / "cpu.cfs_period_us").write_text(str(PERIOD_US))
                (self._folder / "cpu.cfs_quota_us").write_text(str(quota))
            else:
                self._folder = self._root / name
                with contextlib.suppress(OSError):  # it may be on already
                    (self._root / "cgroup.subtree_control").write_text("+cpu")
                self._folder.mkdir()
                (self._folder / "cpu.max").write_text(f"{quota} {PERIOD_US}")
        except OSError as error:
            self.__exit__(None, None, None)
            raise BenchError(
                f"--cpu-limit {self._cores:g}: no control group can be made under {self._root}: {error.strerror or error}; "
                "it needs root, and the cpu controller"
            ) from None
        return self

    def add(self, process_id: int) -> None:
        """Puts a process, with all its threads, into the group."""
        assert self._folder is not None
        try:
            (self._folder / "cgroup.procs").write_text(str(process_id))
        except OSError as error:
            raise BenchError(f"--cpu-limit: process {process_id} can't be held: {error.strerror or error}") from None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._folder is None or not self._folder.is_dir():
            return
        for _ in range(50):  # a process that has just ended stays in it for a moment
            try:
                self._folder.rmdir()
                return
            except OSError:
                time.sleep(0.1)
