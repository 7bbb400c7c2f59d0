"""What Linux says of the machine: the doctor looks once, a server goes on looking. It is read from files below a root that tests
may put elsewhere; nothing here changes anything.

Layouts after the kernel's documentation (``Documentation/ABI/testing/sysfs-class-thermal``, ``sysfs-devices-system-cpu``,
``Documentation/filesystems/proc.rst``, the device tree specification's root node) and, for Jetsons, NVIDIA's Jetson Linux Developer
Guide: ``/etc/nv_tegra_release`` and nvpmodel's status and configuration files.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

MOST_BYTES = 1 << 20
"""Of any file that is read."""

COLDEST_C, HOTTEST_C = -60.0, 150.0
"""Readings beyond are a sensor's way to say that it has none."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What was found; empty or ``None`` where nothing says it.

    Attributes:
        model: as the device tree or the maker's firmware calls the machine.
        compatible: what the device tree says it is compatible with, most special first.
        architecture: as ``uname -m`` has it.
        cpu: the processor's name.
        cpu_features: flags, or features, that all processors have.
        cores: processors that are online.
        memory_mb: that Linux has.
        governors: of processor frequencies that are in use.
        temperatures_c: degrees Celsius by the sensors' names.
        jetson_linux: release and revision of NVIDIA's Linux for Jetson, as ``36.4.3``.
        power_mode: name of the power mode of a Jetson.
    """

    model: str
    compatible: tuple[str, ...]
    architecture: str
    cpu: str
    cpu_features: frozenset[str]
    cores: int
    memory_mb: int
    governors: tuple[str, ...]
    temperatures_c: dict[str, float]
    jetson_linux: str | None
    power_mode: str | None

    @property
    def jetpack(self) -> int | None:
        """Major version of the JetPack that this Jetson Linux belongs to: 6 brings 36, 7 brings 38 and 39."""
        if self.jetson_linux is None:
            return None
        major = int(self.jetson_linux.partition(".")[0])
        return {32: 4, 34: 5, 35: 5, 36: 6, 38: 7, 39: 7}.get(major)


def detect(root: Path = Path("/"), architecture: str = "") -> Machine:
    """The machine below a root.

    Args:
        architecture: as ``uname -m`` has it, which is in no file.
    """
    processors = _processors(_text(root / "proc/cpuinfo"))
    features = [set(one.get("flags", one.get("features", "")).split()) for one in processors]
    names = ("model name", "hardware", "cpu implementer")
    tree = root / "proc/device-tree"
    return Machine(
        model=_text(tree / "model").strip("\0 \n") or _text(root / "sys/class/dmi/id/product_name").strip(),
        compatible=tuple(part for part in _text(tree / "compatible").split("\0") if part),
        architecture=architecture,
        cpu=next((one[name] for name in names for one in processors if one.get(name)), ""),
        cpu_features=frozenset(set.intersection(*features)) if features else frozenset(),
        cores=_count(_text(root / "sys/devices/system/cpu/online")) or len(processors),
        memory_mb=_memory_mb(_text(root / "proc/meminfo")),
        governors=_governors(root / "sys/devices/system/cpu"),
        temperatures_c=temperatures_c(root),
        jetson_linux=_jetson_linux(_text(root / "etc/nv_tegra_release")),
        power_mode=power_mode(root),
    )


def _text(path: Path) -> str:
    """Empty where there is no such file, or none that may be read."""
    try:
        with path.open("rb") as file:
            return file.read(MOST_BYTES).decode("utf-8", errors="replace")
    except OSError:
        return ""


def _processors(cpuinfo: str) -> list[dict[str, str]]:
    """One table of lower-case keys for each processor."""
    found = []
    for block in cpuinfo.split("\n\n"):
        pairs = (line.partition(":") for line in block.splitlines())
        table = {key.strip().lower(): value.strip() for key, _, value in pairs if value.strip()}
        if "processor" in table:
            found.append(table)
    return found


def _count(ranges: str) -> int:
    """Of processors in a list as ``0-3,6``."""
    total = 0
    for first, last in re.findall(r"(\d+)(?:-(\d+))?", ranges):
        total += int(last or first) - int(first) + 1
    return total


def _memory_mb(meminfo: str) -> int:
    found = re.search(r"^MemTotal:\s+(\d+) kB", meminfo, re.MULTILINE)
    return int(found[1]) >> 10 if found else 0


def _governors(cpus: Path) -> tuple[str, ...]:
    policies = sorted(cpus.glob("cpufreq/policy*/scaling_governor")) or sorted(
        cpus.glob("cpu*/cpufreq/scaling_governor")
    )
    return tuple(sorted({text for path in policies if (text := _text(path).strip())}))


def temperatures_c(root: Path = Path("/")) -> dict[str, float]:
    """The hottest reading of each type of zone; the kernel counts thousandths of a degree."""
    found: dict[str, float] = {}
    for zone in sorted((root / "sys/class/thermal").glob("thermal_zone*")):
        name, reading = _text(zone / "type").strip(), _text(zone / "temp").strip()
        if not name or not re.fullmatch(r"-?\d{1,9}", reading):
            continue
        degrees = int(reading) / 1000
        if COLDEST_C < degrees < HOTTEST_C:
            found[name] = max(degrees, found.get(name, degrees))
    return found


def _jetson_linux(release: str) -> str | None:
    found = re.search(r"# R(\d+) \(release\), REVISION: ([\d.]+)", release)
    return f"{found[1]}.{found[2]}" if found else None


def power_mode(root: Path = Path("/")) -> str | None:
    """Of a Jetson. nvpmodel's status holds a number (``pmode:0002``), its configuration the names."""
    found = re.search(r"pmode:(\d+)", _text(root / "var/lib/nvpmodel/status"))
    if found is None:
        return None
    number, configuration = int(found[1]), _text(root / "etc/nvpmodel.conf")
    names = {
        int(index): name for index, name in re.findall(r"<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+?)\s*>", configuration)
    }
    name: str = names.get(number, f"mode {number}")
    return name


THROTTLING = (
    "sys/class/hwmon/hwmon*/oc[0-9]*_event_cnt",  # Jetson: over-current events (Jetson Linux Developer Guide, power)
    "sys/devices/system/cpu/cpu[0-9]*/thermal_throttle/*_throttle_count",  # x86 (Documentation/ABI, sysfs-devices-system-cpu)
)
"""Files with the number of times that the hardware has slowed itself down, for heat or for current."""

UNDERVOLTAGE = "sys/class/hwmon/hwmon*/in0_lcrit_alarm"
"""1 while a Raspberry Pi's supply is too weak (Documentation/hwmon, driver rpi_volt)."""


def throttlings(root: Path = Path("/")) -> int:
    """How often the hardware has slowed itself down since it was switched on; 0 where nothing says it."""
    texts = (_text(path).strip() for pattern in THROTTLING for path in root.glob(pattern))
    return sum(int(text) for text in texts if re.fullmatch(r"\d{1,18}", text))


def undervoltage(root: Path = Path("/")) -> bool:
    """Whether the supply is too weak just now."""
    names = {path: _text(path.parent / "name").strip() for path in root.glob(UNDERVOLTAGE)}
    return any(name == "rpi_volt" and _text(path).strip() == "1" for path, name in names.items())


def processor(root: Path = Path("/")) -> str:
    """Name of the processor, or what stands for it; with the same name, the same instructions."""
    for one in _processors(_text(root / "proc/cpuinfo")):
        for key in ("model name", "cpu part", "hardware"):
            if one.get(key):
                return f"{one.get('cpu implementer', '')} {one[key]}".strip()
    return ""
