"""Files of ``/proc``, ``/sys`` and ``/etc`` as each device is documented to have them; none was copied from a device."""

from __future__ import annotations

from pathlib import Path

ARM_FEATURES = "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp"
NVPMODEL = """# comments are skipped
< POWER_MODEL ID=0 NAME=15W >
CPU_ONLINE CORE_0 1
< POWER_MODEL ID=1 NAME=25W >
< POWER_MODEL ID=2 NAME=MAXN_SUPER >
< PM_CONFIG DEFAULT=1 >
"""


def arm_cpuinfo(cores: int) -> str:
    return "".join(
        f"processor\t: {core}\nBogoMIPS\t: 62.50\nFeatures\t: {ARM_FEATURES}\nCPU implementer\t: 0x41\nCPU part\t: 0xd42\n\n"
        for core in range(cores)
    )


def x86_cpuinfo(cores: int, flags: str) -> str:
    return "".join(
        f"processor\t: {core}\nvendor_id\t: AuthenticAMD\nmodel name\t: AMD EPYC\nflags\t\t: {flags}\nbogomips\t: 4900.00\n\n"
        for core in range(cores)
    )


def meminfo(megabytes: int) -> str:
    return f"MemTotal:       {megabytes << 10} kB\nMemFree:         1024 kB\n"


def zones(**temperatures: str) -> dict[str, str]:
    """Thermal zones by type; what a sensor's ``temp`` holds."""
    files: dict[str, str] = {}
    for index, (name, reading) in enumerate(temperatures.items()):
        zone = f"sys/class/thermal/thermal_zone{index}"
        files |= {f"{zone}/type": name.replace("_", "-") + "\n", f"{zone}/temp": reading}
    return files


def jetson(
    model: str, compatible: str, cores: int, memory_mb: int, release: str, pmode: str = "0001"
) -> dict[str, str]:
    return {
        "proc/device-tree/model": model + "\0",
        "proc/device-tree/compatible": compatible.replace(" ", "\0") + "\0",
        "proc/cpuinfo": arm_cpuinfo(cores),
        "proc/meminfo": meminfo(memory_mb),
        "sys/devices/system/cpu/online": f"0-{cores - 1}\n",
        "sys/devices/system/cpu/cpufreq/policy0/scaling_governor": "schedutil\n",
        "etc/nv_tegra_release": release,
        "etc/nvpmodel.conf": NVPMODEL,
        "var/lib/nvpmodel/status": f"pmode:{pmode}\n",
        **zones(cpu_thermal="48125\n", gpu_thermal="46500\n", cv0_thermal="-256000\n", tj_thermal="49000\n"),
    }


JETPACK_6 = "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64, DATE: Wed Jan  8 01:49:37 UTC 2025\n"
JETPACK_7 = "# R38 (release), REVISION: 2.0, GCID: 41844464, BOARD: generic, EABI: aarch64, DATE: Fri Aug 22 00:55:42 UTC 2025\n"

ORIN_NANO = jetson(
    "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super",
    "nvidia,p3768-0000+p3767-0005-super nvidia,p3767-0005 nvidia,tegra234",
    6, 7619, JETPACK_6,
)  # fmt: skip
THOR = jetson(
    "NVIDIA Jetson AGX Thor Developer Kit",
    "nvidia,p3971-0089+p3834-0008 nvidia,p3834-0008 nvidia,tegra264",
    14, 125_772, JETPACK_7,
)  # fmt: skip
RASPBERRY_PI_5 = {
    "proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.0\0",
    "proc/device-tree/compatible": "raspberrypi,5-model-b\0brcm,bcm2712\0",
    "proc/cpuinfo": arm_cpuinfo(4),
    "proc/meminfo": meminfo(8064),
    "sys/devices/system/cpu/online": "0-3\n",
    "sys/devices/system/cpu/cpufreq/policy0/scaling_governor": "ondemand\n",
    **zones(cpu_thermal="61450\n"),
}
X86 = {
    "sys/class/dmi/id/product_name": "NUC11PAHi5\n",
    "proc/cpuinfo": x86_cpuinfo(2, "fpu sse2 avx avx2 fma avx512f avx512_vnni"),
    "proc/meminfo": meminfo(15_800),
    "sys/devices/system/cpu/online": "0-1\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "powersave\n",
    "sys/devices/system/cpu/cpu1/cpufreq/scaling_governor": "performance\n",
    **zones(acpitz="27800\n", x86_pkg_temp="71000\n"),
}


def plant(root: Path, files: dict[str, str]) -> Path:
    """Writes the files below a root."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode())
    return root
