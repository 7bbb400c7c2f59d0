"""Work follows the heat: down while it is hot, up when it was cool for a while, and still in between."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

sys.path.append(str(Path(__file__).parent.parent / "doctor"))
from machine_trees import ORIN_NANO, RASPBERRY_PI_5, X86, plant, zones

from edge_runtime.counters import Counters
from edge_runtime.deadline.heat import Heat, HeatWatch, Reading, after_reading
from edge_runtime.deadline.policy import Thermal

THERMAL = Thermal(lower_at_c=90, recover_at_c=83, throttles_c=95, hold_s=15, cool_s=60)
MOST = 5
degrees = st.floats(20, 120)
readings = st.builds(Reading, st.none() | degrees, st.booleans())
heats = st.builds(
    Heat, st.integers(0, MOST), st.floats(-100, 0), st.floats(-100, 0), st.sampled_from(["", "91 C"])
)  # fmt: skip


def levels(temperatures, every_s=5.0, thermal=THERMAL):
    heat, found = Heat(), []
    for number, hottest_c in enumerate(temperatures):
        heat = after_reading(heat, number * every_s, Reading(hottest_c), thermal, MOST)
        found.append(heat.level)
    return found


def test_it_goes_down_while_hot_and_up_when_cool_step_by_step():
    found = levels([80, 91, 91, 91, 91, 91, *[80] * 30])
    assert found[:6] == [0, 1, 1, 1, 2, 2]  # the first at once, the next after hold_s
    assert found[6:17] == [2] * 11  # cool for less than a minute
    assert found[17] == 1 and found[-1] == 0


def test_where_the_hardware_slows_down_every_reading_counts():
    assert levels([96, 96, 96]) == [1, 2, 3]
    heat = Heat()
    for moment in range(3):
        heat = after_reading(heat, moment, Reading(60.0, throttled=True), THERMAL, MOST)
    assert heat.level == 3 and heat.why == "60 C, it has slowed itself down"


@given(heats, st.floats(0, 1000), st.booleans(), degrees, degrees)
def test_hotter_never_gives_more_work(heat, now_s, throttled, one, other):
    cooler, hotter = (
        after_reading(heat, now_s, Reading(at, throttled), THERMAL, MOST) for at in (min(one, other), max(one, other))
    )
    assert hotter.level >= cooler.level
    assert cooler.level >= 0 and hotter.level <= MOST
    assert abs(hotter.level - heat.level) <= 1


@given(st.lists(readings, max_size=80))
def test_up_and_down_never_follow_each_other_closely(sequence):
    heat, lowered_s = Heat(), -1e9
    for number, reading in enumerate(sequence):
        now_s, before = 5.0 * number, heat.level
        heat = after_reading(heat, now_s, reading, THERMAL, MOST)
        if heat.level > before:
            lowered_s = now_s
        elif heat.level < before:
            assert now_s - lowered_s >= THERMAL.cool_s


@given(degrees, st.integers(0, MOST))
def test_at_one_temperature_it_goes_one_way(hottest_c, level):
    heat, found = Heat(level, -1000.0, -1000.0), [level]
    for number in range(200):
        heat = after_reading(heat, 5.0 * number, Reading(hottest_c), THERMAL, MOST)
        found.append(heat.level)
    assert found in (sorted(found), sorted(found, reverse=True))


@given(st.floats(83.01, 89.99), st.integers(0, MOST))
def test_between_the_limits_nothing_changes(hottest_c, level):
    heat = Heat(level, -1000.0)
    assert after_reading(heat, 0.0, Reading(hottest_c), THERMAL, MOST) == heat


def watch(root, **thermal):
    told = []
    counters = Counters()
    limits = replace(THERMAL, **{"hold_s": 0.0, "cool_s": 0.0, **thermal})
    return HeatWatch(limits, counters, MOST, lambda: told.append("mode"), root), counters, told


def zone(root, reading):
    (root / "sys/class/thermal/thermal_zone0/temp").write_text(f"{reading}\n")


@pytest.mark.parametrize("machine", [ORIN_NANO, RASPBERRY_PI_5, X86])
def test_a_machine_is_watched_by_its_files(tmp_path, machine):
    heat, counters, told = watch(plant(tmp_path, machine))
    heat.look()
    assert heat.heat.level == 0
    zone(tmp_path, 97_000)
    heat.look()
    heat.look()
    assert heat.heat.level == 2
    assert (counters.value("heat_level"), counters.value("hottest_c")) == (2, 97)
    zone(tmp_path, 50_000)
    for _ in range(3):
        heat.look()
    assert heat.heat.level == 0 and told == []


def test_over_current_on_a_jetson_lowers_the_work(tmp_path):
    alarm = "sys/class/hwmon/hwmon1/oc3_event_cnt"
    heat, _, _ = watch(plant(tmp_path, {**ORIN_NANO, alarm: "4\n"}))
    heat.look()
    assert heat.heat.level == 0  # what happened before is past
    plant(tmp_path, {alarm: "5\n"})
    heat.look()
    assert heat.heat.level == 1
    heat.look()
    assert heat.heat.level == 0


def test_a_processor_that_counts_its_throttling_is_believed(tmp_path):
    count = "sys/devices/system/cpu/cpu0/thermal_throttle/package_throttle_count"
    heat, _, _ = watch(plant(tmp_path, {**X86, count: "0\n"}))
    plant(tmp_path, {count: "1\n"})
    heat.look()
    assert heat.heat.level == 1


def test_a_weak_supply_of_a_raspberry_pi_lowers_the_work(tmp_path):
    hwmon = "sys/class/hwmon/hwmon2"
    heat, _, _ = watch(
        plant(tmp_path, {**RASPBERRY_PI_5, f"{hwmon}/name": "rpi_volt\n", f"{hwmon}/in0_lcrit_alarm": "1\n"})
    )
    heat.look()
    heat.look()
    assert heat.heat.level == 2


def test_another_power_mode_is_another_device(tmp_path):
    heat, _, told = watch(plant(tmp_path, ORIN_NANO))
    heat.look()
    plant(tmp_path, {"var/lib/nvpmodel/status": "pmode:0002\n"})
    heat.look()
    heat.look()
    assert told == ["mode"]


def test_without_sensors_nothing_is_lowered(tmp_path):
    heat, counters, _ = watch(tmp_path)
    heat.look()
    assert heat.heat.level == 0 and "hottest_c" not in {name for name, _ in counters.snapshot()}


def test_the_thread_ends_when_it_is_told_to(tmp_path):
    heat, _, _ = watch(plant(tmp_path, {**X86, **zones(cpu="96000\n")}), poll_s=0.01)
    heat.start()
    heat.stop()
    assert heat.heat.level >= 1
