"""What the doctor sees of machines; their files are written after each device's documented layout (`machine_trees`)."""

from __future__ import annotations

import platform

import pytest
from hypothesis import given
from hypothesis import strategies as st
from machine_trees import ORIN_NANO, RASPBERRY_PI_5, THOR, X86, plant

from edge_runtime.doctor import detect


def test_a_jetson_orin(tmp_path):
    machine = detect(plant(tmp_path, ORIN_NANO), "aarch64")
    assert machine.model == "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super"
    assert machine.compatible[1:] == ("nvidia,p3767-0005", "nvidia,tegra234")
    assert (machine.cores, machine.memory_mb) == (6, 7619)
    assert {"asimd", "asimddp"} <= machine.cpu_features
    assert (machine.jetson_linux, machine.jetpack, machine.power_mode) == ("36.4.3", 6, "25W")
    assert machine.governors == ("schedutil",)
    assert machine.temperatures_c == {"cpu-thermal": 48.125, "gpu-thermal": 46.5, "tj-thermal": 49.0}


def test_a_sensor_that_has_nothing_to_say_is_left_out(tmp_path):
    assert "cv0-thermal" not in detect(plant(tmp_path, ORIN_NANO)).temperatures_c


def test_a_jetson_thor(tmp_path):
    machine = detect(plant(tmp_path, THOR), "aarch64")
    assert (machine.jetson_linux, machine.jetpack, machine.cores) == ("38.2.0", 7, 14)
    assert "nvidia,p3834-0008" in machine.compatible


def test_a_raspberry_pi(tmp_path):
    machine = detect(plant(tmp_path, RASPBERRY_PI_5), "aarch64")
    assert machine.model == "Raspberry Pi 5 Model B Rev 1.0"
    assert (machine.jetson_linux, machine.jetpack, machine.power_mode) == (None, None, None)
    assert machine.temperatures_c == {"cpu-thermal": 61.45}


def test_a_computer_without_a_device_tree(tmp_path):
    machine = detect(plant(tmp_path, X86), "x86_64")
    assert (machine.model, machine.cpu, machine.compatible) == ("NUC11PAHi5", "AMD EPYC", ())
    assert machine.governors == ("performance", "powersave")
    assert "avx2" in machine.cpu_features


def test_features_are_those_that_all_processors_have(tmp_path):
    files = {**X86, "proc/cpuinfo": "processor : 0\nflags : a b\n\nprocessor : 1\nflags : b c\n\n"}
    assert detect(plant(tmp_path, files)).cpu_features == {"b"}


def test_nothing_to_read_is_nothing_found(tmp_path):
    machine = detect(tmp_path, "riscv64")
    assert (machine.model, machine.cores, machine.memory_mb, machine.temperatures_c) == ("", 0, 0, {})
    assert machine.jetpack is None


@pytest.mark.parametrize("number", ["0", "7"])
def test_a_power_mode_without_a_name_is_its_number(tmp_path, number):
    machine = detect(plant(tmp_path, {**ORIN_NANO, "var/lib/nvpmodel/status": f"pmode:000{number}\n"}))
    assert machine.power_mode == ("15W" if number == "0" else "mode 7")


@given(st.dictionaries(st.sampled_from(sorted(ORIN_NANO)), st.text(max_size=200)))
def test_no_content_breaks_it(tmp_path_factory, files):
    detect(plant(tmp_path_factory.mktemp("machine"), {**ORIN_NANO, **files}))


def test_this_machine_is_seen():
    machine = detect(architecture=platform.machine())
    assert machine.cores >= 1
    assert machine.memory_mb > 100
