"""What files and programs tell, as their documentation shows them. None of the Jetson's was read on one."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from edge_runtime.hil.bench.sensing import Watcher, usage
from edge_runtime.hil.bench.sensors import (
    Sensors,
    group_v1,
    group_v2,
    ina_power,
    listening_process,
    parse_tegrastats,
    rapl_energy_uj,
    temperatures,
)


def put(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_tegrastats_of_jetpack_6() -> None:
    line = (
        "05-22-2024 12:01:02 RAM 2790/7620MB (lfb 4x4MB) SWAP 0/3810MB (cached 0MB) CPU [12%@1510,8%@1510,off,off,0%@729,0%@729] "
        "EMC_FREQ 0% GR3D_FREQ 37%@[624] NVDEC off VIC off cpu@49.75C soc2@48.6C gpu@-256C tj@50.1C VDD_IN 4760mW/4701mW "
        "VDD_CPU_GPU_CV 720mW/700mW VDD_SOC 1480mW/1477mW"
    )
    found = parse_tegrastats(line)
    assert found == {
        "ram_mb": 2790, "gpu_percent": 37, "gpu_mhz": 624, "cpu_percent": 20, "cpu_mhz": pytest.approx((1510 * 2 + 729 * 2) / 4),
        "cpu_c": 49.75, "soc2_c": 48.6, "tj_c": 50.1, "vdd_in_w": 4.76, "vdd_cpu_gpu_cv_w": 0.72, "vdd_soc_w": 1.48,
    }  # fmt: skip


def test_tegrastats_of_older_releases() -> None:
    line = "RAM 1903/3964MB (lfb 2x2MB) CPU [24%@1224,off] GR3D_FREQ 0%@76 PLL@29C CPU@31.5C POM_5V_IN 2102/2085 POM_5V_CPU 368/368"
    found = parse_tegrastats(line)
    assert found["pom_5v_in_w"] == 2.102 and found["cpu_c"] == 31.5 and found["gpu_mhz"] == 76
    assert parse_tegrastats("") == {} == parse_tegrastats("nonsense 12")


def test_power_of_an_ina3221_is_volts_times_amperes(tmp_path: Path) -> None:
    put(
        tmp_path,
        {"hwmon0/name": "cpu_thermal\n", "hwmon0/in1_label": "x", "hwmon0/in1_input": "1", "hwmon0/curr1_input": "1"},
    )
    put(
        tmp_path,
        {
            "hwmon1/name": "ina3221\n",
            "hwmon1/in1_label": "VDD_IN\n",
            "hwmon1/in1_input": "5000\n",
            "hwmon1/curr1_input": "952\n",
        },
    )
    put(tmp_path, {"hwmon1/in2_label": "VDD_SOC\n", "hwmon1/in2_input": "5000\n"})  # no current: none is made up
    assert ina_power(tmp_path) == {"VDD_IN": pytest.approx(4.76)}


def test_rapl_begins_anew_at_its_end(tmp_path: Path) -> None:
    assert rapl_energy_uj(100, 400, 1000) == 300
    assert rapl_energy_uj(900, 100, 1000) == 200
    zone = "sys/class/powercap/intel-rapl:0"
    put(
        tmp_path,
        {f"{zone}/name": "package-0\n", f"{zone}/energy_uj": "1000000\n", f"{zone}/max_energy_range_uj": "9000000\n"},
    )
    sensors = Sensors(None, tmp_path)
    assert sensors.read().power_w == {}  # one reading is no power
    put(tmp_path, {f"{zone}/energy_uj": "3000000\n"})
    assert sensors.read().power_w["RAPL package-0"] > 0


def test_control_groups_of_both_versions() -> None:
    v2 = group_v2("50000 100000\n", "usage_usec 5\nnr_periods 200\nnr_throttled 50\nthrottled_usec 2500000\n")
    assert v2 == {"quota_cores": 0.5, "periods": 200, "throttled_periods": 50, "throttled_s": 2.5}
    v1 = group_v1("50000\n", "100000\n", "nr_periods 200\nnr_throttled 50\nthrottled_time 2500000000\n")
    assert v1 == v2
    assert group_v2("max 100000\n", "nr_throttled 0\n") == {} == group_v1("-1\n", "100000\n", "nr_periods 0\n")
    assert group_v2("", "") == {} == group_v1("", "", "")


def test_a_machine_that_tells_nothing_is_no_error(tmp_path: Path) -> None:
    reading = Sensors(7, tmp_path).read()
    assert (reading.cpu_s, reading.resident_mb, reading.clock_mhz, reading.power_w) == (None, None, None, {})
    seen = usage([{**reading.as_dict(), "clock_s": reading.at_s}])
    assert seen.cpu_cores is None and seen.resident_mb is None and seen.power_w is None and seen.temperature_c is None


def test_temperatures_beyond_belief_are_left_out(tmp_path: Path) -> None:
    put(tmp_path, {"thermal_zone0/type": "CPU-therm", "thermal_zone0/temp": "51500\n"})
    put(tmp_path, {"thermal_zone1/type": "GPU-therm", "thermal_zone1/temp": "-256000\n"})
    assert temperatures(tmp_path) == {"CPU-therm": 51.5}


def test_a_real_process_is_read_and_found_by_its_port() -> None:
    here = Sensors(os.getpid()).read()
    assert here.cpu_s is not None and here.cpu_s > 0
    assert here.resident_mb is not None and here.resident_mb > 5
    assert here.threads is not None and here.threads >= 1
    with socket.create_server(("127.0.0.1", 0)) as listener:
        assert listening_process(listener.getsockname()[1]) == os.getpid()
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        assert listening_process(silent.getsockname()[1]) is None


def test_the_watcher_says_what_the_machine_is_and_ends_with_its_input() -> None:
    command = [sys.executable, "-m", "edge_runtime.hil.bench.watch", "--pid", str(os.getpid())]
    done = subprocess.run(command, input="", capture_output=True, text=True, timeout=60, check=True)
    first, *readings = done.stdout.splitlines()
    assert '"machine"' in first and str(os.getpid()) in first
    assert readings and '"resident_mb"' in readings[0]


def test_readings_that_are_none_are_left_out_and_numbers_that_are_none_not_measured(tmp_path: Path) -> None:
    """A machine that is watched from afar may run another version, or fail."""
    lines = [
        '{"machine": {"cores": 2}, "process": 7}',
        "tegrastats: not found",
        '{"at_s": "soon"}',
        "[1]",
        "x" * (1 << 19),
        '{"at_s": 1.0, "cpu_s": NaN, "resident_mb": "much", "temperatures_c": {"CPU": Infinity, "GPU": 50}, "power_w": null}',
        '{"at_s": 2.0, "cpu_s": 1.5, "tegrastats": {"vdd_in_w": 4}}',
    ]
    (tmp_path / "said").write_text("\n".join(lines))
    with Watcher(["cat", str(tmp_path / "said")], 0.0) as watcher:
        watcher.await_first()
    sensed = watcher.sensed()
    assert sensed.machine == {"cores": 2} and sensed.process
    assert [one["clock_s"] for one in sensed.readings] == [1.0, 2.0]
    used = usage(sensed.readings)
    assert (used.temperature_c, used.resident_mb, used.cpu_cores, used.power_w) == (50, None, None, {"vdd_in_w": 4})
