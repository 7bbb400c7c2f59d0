"""What a machine tells of a process and of itself while it works: processor, memory, temperature, clock, power.

Read from files below a root that tests may put elsewhere. What a machine does not tell is ``None`` and shown as *not measured*.

Sources: ``Documentation/filesystems/proc.rst`` (``/proc/PID/stat``, ``status``, ``schedstat``), ``sysfs-class-thermal``,
``sysfs-devices-system-cpu``, ``Documentation/hwmon/ina3221.rst`` and ``sysfs-interface.rst`` (millivolts, milliamperes),
``Documentation/power/powercap/powercap.rst`` (``energy_uj`` of RAPL, which begins anew at ``max_energy_range_uj``),
``cgroup-v1/cpu`` and ``cgroup-v2.rst`` (``cpu.stat``), and NVIDIA's *tegrastats* in the Jetson Linux Developer Guide.
"""

from __future__ import annotations

import os
import re
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
MOST_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Reading:
    """One moment.

    Attributes:
        at_s: on the machine's monotonic clock.
        cpu_s: processor time that the process and the children it waited for have used.
        waited_s: time that its threads were ready and had no processor.
        resident_mb, threads: of the process.
        throttled_s, periods, throttled_periods: by the CPU limit of its control group.
        quota_cores: that limit.
        temperatures_c: by sensor.
        clock_mhz: mean of the processors.
        power_w: by rail, or RAPL's zones since the reading before.
        load: mean number of processes that want to run, of a minute.
    """

    at_s: float
    cpu_s: float | None = None
    waited_s: float | None = None
    resident_mb: float | None = None
    threads: int | None = None
    throttled_s: float | None = None
    periods: int | None = None
    throttled_periods: int | None = None
    quota_cores: float | None = None
    temperatures_c: dict[str, float] = field(default_factory=dict)
    clock_mhz: float | None = None
    power_w: dict[str, float] = field(default_factory=dict)
    load: float | None = None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class Sensors:
    """Reads them again and again.

    Args:
        process_id: of the server; None to read the machine alone.
        root: where proc and sys are.
    """

    def __init__(self, process_id: int | None, root: Path = Path("/")) -> None:
        self._root = root
        self._process = None if process_id is None else root / f"proc/{process_id}"
        self._energy: dict[str, tuple[float, int]] = {}

    def read(self) -> Reading:
        """One reading; a process that has ended leaves its part out."""
        cpu_s = waited_s = resident_mb = None
        threads: int | None = None
        group: dict[str, float] = {}
        if self._process is not None:
            cpu_s = _cpu_s(_text(self._process / "stat"))
            waited_s = self._waited_s(self._process)
            status = dict(re.findall(r"^(\w+):\s+(\d+)", _text(self._process / "status"), re.MULTILINE))
            resident_mb = int(status["VmRSS"]) / 1024 if "VmRSS" in status else None
            threads = int(status["Threads"]) if "Threads" in status else None
            group = self._group(self._process)
        load = re.match(r"([\d.]+) ", _text(self._root / "proc/loadavg"))
        return Reading(
            at_s=time.monotonic(),
            cpu_s=cpu_s,
            waited_s=waited_s,
            resident_mb=resident_mb,
            threads=threads,
            throttled_s=group.get("throttled_s"),
            periods=_whole(group.get("periods")),
            throttled_periods=_whole(group.get("throttled_periods")),
            quota_cores=group.get("quota_cores"),
            temperatures_c=temperatures(self._root / "sys/class/thermal"),
            clock_mhz=_clock_mhz(self._root),
            power_w={**ina_power(self._root / "sys/class/hwmon"), **self._rapl()},
            load=float(load[1]) if load else None,
        )

    def _waited_s(self, process: Path) -> float | None:
        """Run delay of all its threads (``schedstat``'s second number, nanoseconds)."""
        total, found = 0, False
        for stat in process.glob("task/*/schedstat"):
            parts = _text(stat).split()
            if len(parts) >= 2 and parts[1].isdecimal():
                total, found = total + int(parts[1]), True
        return total / 1e9 if found else None

    def _group(self, process: Path) -> dict[str, float]:
        """The control group's CPU limit and how often it held the process up; empty where it has none."""
        mounts = self._root / "sys/fs/cgroup"
        for line in _text(process / "cgroup").splitlines():
            _, _, rest = line.partition(":")
            controllers, _, path = rest.partition(":")
            inside = path.lstrip("/")
            if controllers == "":
                for top in (mounts, mounts / "unified"):
                    found = group_v2(_text(top / inside / "cpu.max"), _text(top / inside / "cpu.stat"))
                    if found:
                        return found
            elif "cpu" in controllers.split(","):
                for top in (mounts / controllers, mounts / "cpu", mounts / "cpu,cpuacct"):
                    folder = top / inside
                    found = group_v1(
                        _text(folder / "cpu.cfs_quota_us"),
                        _text(folder / "cpu.cfs_period_us"),
                        _text(folder / "cpu.stat"),
                    )
                    if found:
                        return found
        return {}

    def _rapl(self) -> dict[str, float]:
        power: dict[str, float] = {}
        for zone in sorted((self._root / "sys/class/powercap").glob("*rapl:*")):
            reading, name = _text(zone / "energy_uj").strip(), _text(zone / "name").strip() or zone.name
            if not reading.isdecimal():
                continue
            now, energy = time.monotonic(), int(reading)
            before = self._energy.get(zone.name)
            self._energy[zone.name] = (now, energy)
            if before is not None and now > before[0]:
                wrap = _text(zone / "max_energy_range_uj").strip()
                gained = rapl_energy_uj(before[1], energy, int(wrap) if wrap.isdecimal() else 0)
                power[f"RAPL {name}"] = gained / 1e6 / (now - before[0])
        return power


def _text(path: Path) -> str:
    """Empty where there is no such file, or none that may be read."""
    try:
        with path.open("rb") as file:
            return file.read(MOST_BYTES).decode("utf-8", errors="replace")
    except OSError:
        return ""


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)


def _cpu_s(stat: str) -> float | None:
    """Own and waited-for children's time of ``/proc/PID/stat``; the name in brackets may hold anything."""
    fields = stat.rpartition(")")[2].split()
    if len(fields) < 15 or not all(part.isdecimal() for part in fields[11:15]):
        return None
    return sum(int(part) for part in fields[11:15]) / TICKS_PER_S


def group_v2(maximum: str, stat: str) -> dict[str, float]:
    """``cpu.max`` (``50000 100000`` or ``max 100000``) and ``cpu.stat`` of a version 2 group; empty without a limit."""
    limit = re.match(r"(\d+) (\d+)", maximum)
    counts = dict(re.findall(r"^(\w+) (\d+)$", stat, re.MULTILINE))
    if limit is None or "nr_throttled" not in counts or not int(limit[2]):
        return {}
    return {
        "quota_cores": int(limit[1]) / int(limit[2]),
        "periods": float(counts.get("nr_periods", 0)),
        "throttled_periods": float(counts["nr_throttled"]),
        "throttled_s": int(counts.get("throttled_usec", 0)) / 1e6,
    }


def group_v1(quota: str, period: str, stat: str) -> dict[str, float]:
    """``cpu.cfs_quota_us``, ``cpu.cfs_period_us`` and ``cpu.stat`` of a version 1 group; empty without a limit."""
    counts = dict(re.findall(r"^(\w+) (\d+)$", stat, re.MULTILINE))
    if not quota.strip().isdecimal() or not period.strip().isdecimal() or not int(period):
        return {}
    return {
        "quota_cores": int(quota) / int(period),
        "periods": float(counts.get("nr_periods", 0)),
        "throttled_periods": float(counts.get("nr_throttled", 0)),
        "throttled_s": int(counts.get("throttled_time", 0)) / 1e9,
    }


COLDEST_C, HOTTEST_C = -60.0, 150.0
"""Readings beyond are a sensor's way to say that it has none."""


def temperatures(thermal: Path) -> dict[str, float]:
    """The hottest reading of each type of zone; the kernel counts thousandths of a degree."""
    found: dict[str, float] = {}
    for zone in sorted(thermal.glob("thermal_zone*")):
        name, reading = _text(zone / "type").strip(), _text(zone / "temp").strip()
        if name and re.fullmatch(r"-?\d{1,9}", reading) and COLDEST_C < int(reading) / 1000 < HOTTEST_C:
            found[name] = max(int(reading) / 1000, found.get(name, COLDEST_C))
    return found


def _clock_mhz(root: Path) -> float | None:
    """By cpufreq, kHz; else as ``/proc/cpuinfo`` has it, which a virtual machine makes up."""
    files = sorted((root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_cur_freq"))
    clocks = [int(text) / 1000 for file in files if (text := _text(file).strip()).isdecimal()]
    if not clocks:
        clocks = [
            float(one) for one in re.findall(r"^cpu MHz\s*:\s*([\d.]+)", _text(root / "proc/cpuinfo"), re.MULTILINE)
        ]
    return sum(clocks) / len(clocks) if clocks else None


def ina_power(hwmon: Path) -> dict[str, float]:
    """Watts by rail of the INA3221 and INA238 monitors of Jetson boards: volts times amperes of each labelled channel."""
    power: dict[str, float] = {}
    for chip in sorted(hwmon.glob("hwmon*")):
        if not re.fullmatch(r"ina\d+\w*", _text(chip / "name").strip()):
            continue
        for channel in range(1, 9):
            label = _text(chip / f"in{channel}_label").strip()
            volts, amperes = _text(chip / f"in{channel}_input").strip(), _text(chip / f"curr{channel}_input").strip()
            if label and volts.isdecimal() and re.fullmatch(r"-?\d+", amperes):
                power[label] = int(volts) * int(amperes) / 1e6
    return power


def rapl_energy_uj(before: int, after: int, wraps_at: int) -> int:
    """Energy between two readings of a counter that begins anew at its end."""
    return after - before if after >= before else after - before + wraps_at


def parse_tegrastats(line: str) -> dict[str, float]:
    """Numbers of a line of NVIDIA's *tegrastats*: ``ram_mb``, ``gpu_percent``, ``gpu_mhz``, ``cpu_percent``,
    ``cpu_mhz``, ``<sensor>_c``, ``<rail>_w``.

    Both spellings of its releases are known: ``CPU@45C`` and ``cpu@45.5C``, ``VDD_IN 4000mW/3900mW`` and
    ``VDD_IN 4000/3900``. A core
    that is off is left out.
    """
    found: dict[str, float] = {}
    if ram := re.search(r"\bRAM (\d+)/\d+MB", line):
        found["ram_mb"] = float(ram[1])
    if gpu := re.search(r"\bGR3D_FREQ (\d+)%(?:@\[?(\d+))?", line):
        found["gpu_percent"] = float(gpu[1])
        if gpu[2]:
            found["gpu_mhz"] = float(gpu[2])
    if cores := re.search(r"\bCPU \[([^\]]*)\]", line):
        loads = re.findall(r"(\d+)%@(\d+)", cores[1])
        if loads:
            found["cpu_percent"] = sum(float(load) for load, _ in loads)
            found["cpu_mhz"] = sum(float(clock) for _, clock in loads) / len(loads)
    for name, degrees in re.findall(r"\b([A-Za-z][\w-]*)@(-?[\d.]+)C\b", line):
        if COLDEST_C < float(degrees) < HOTTEST_C:
            found[f"{name.lower()}_c"] = float(degrees)
    for rail, milliwatts in re.findall(r"\b((?:VDD|VIN|POM|NC)\w*) (\d+)(?:mW)?/\d+(?:mW)?", line):
        found[f"{rail.lower()}_w"] = float(milliwatts) / 1000
    return found


def listening_process(port: int, root: Path = Path("/")) -> int | None:
    """The process on this machine that listens on a TCP port; None where there is none, or its files may not be read."""
    inodes = set()
    for table in ("tcp", "tcp6"):
        for line in _text(root / "proc/net" / table).splitlines()[1:]:
            parts = line.split()
            if len(parts) > 9 and parts[3] == "0A" and int(parts[1].rpartition(":")[2], 16) == port:
                inodes.add(f"socket:[{parts[9]}]")
    if not inodes:
        return None
    for process in (root / "proc").glob("[0-9]*"):
        try:
            if any(os.readlink(descriptor) in inodes for descriptor in (process / "fd").iterdir()):
                return int(process.name)
        except OSError:
            continue
    return None
