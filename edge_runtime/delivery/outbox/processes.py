"""Which process something belongs to, and whether that process is still there."""

from __future__ import annotations

import functools
import os
from pathlib import Path


def this_process() -> str:
    """This process among all of this machine, ever: its boot, its number, and when it started."""
    return _identity(os.getpid())


def is_running(identity: str) -> bool:
    """Whether the process of `this_process` is still there."""
    number = identity.split("_")[0]
    return number.isdecimal() and _started(int(number)) is not None and _name(int(number)) == identity


@functools.lru_cache(maxsize=4)
def _identity(number: int) -> str:
    return _name(number)


def _name(number: int) -> str:
    return f"{number}_{_started(number)}_{_boot()}"


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip().replace("-", "")


def _started(number: int) -> int | None:
    """When a process started, in clock ticks since the boot; ``None`` where there is none, or where it is dead."""
    try:
        fields = Path(f"/proc/{number}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])
