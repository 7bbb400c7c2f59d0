"""What the doctor finds missing, on machines of `machine_trees`, and its command on this one."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from conftest import profile_of
from machine_trees import JETPACK_7, ORIN_NANO, RASPBERRY_PI_5, X86, jetson, plant, zones

from edge_runtime.cli import main
from edge_runtime.cuda import device
from edge_runtime.doctor import State, detect, examine, profile_for
from edge_runtime.profile import load_profile


@pytest.fixture(autouse=True)
def _no_gpu(monkeypatch):
    monkeypatch.setattr(device, "driver", None)
    monkeypatch.setattr(device, "missing", "No module named 'pycuda'", raising=False)
    device.first_device.cache_clear()


def findings(root, files, architecture, profile, bundle=None):
    machine = detect(plant(root, files), architecture)
    return {one.name: one for one in examine(machine, load_profile(profile), bundle)}


def test_the_profile_of_the_device_tree_fits_best(tmp_path):
    assert profile_for(detect(plant(tmp_path / "a", ORIN_NANO), "aarch64")) == "jetson-orin-nano"
    assert profile_for(detect(plant(tmp_path / "b", RASPBERRY_PI_5), "aarch64")) == "arm-cpu"
    assert profile_for(detect(plant(tmp_path / "c", X86), "x86_64")) == "x86-cpu"
    unknown = {**ORIN_NANO, "proc/device-tree/compatible": "acme,anvil\0"}
    assert profile_for(detect(plant(tmp_path / "d", unknown), "aarch64")) == "arm-cpu"


def test_a_jetson_in_order_lacks_nothing_of_its_own(tmp_path):
    found = findings(tmp_path, ORIN_NANO, "aarch64", "jetson-orin-nano")
    for name in ("device", "processor", "JetPack", "cores", "memory, MB", "temperature, C", "frequency governor"):
        assert found[name].state is State.GOOD, found[name]
    assert found["power mode"].state is State.WARNING  # 25W; the profile reckons with 15W
    assert "15W" in found["power mode"].mend


def test_kernels_without_a_gpu_are_a_warning_where_the_profile_permits_the_cpu(tmp_path):
    found = findings(tmp_path, ORIN_NANO, "aarch64", "jetson-orin-nano")
    assert found["kernels on cuda"].state is State.WARNING
    assert "pip install 'edge-runtime[jetson]'" in found["kernels on cuda"].mend
    assert found["kernels on cpu"].state is State.GOOD
    alone = replace(load_profile("jetson-orin-nano"), kernels=("cuda",))
    (kernels,) = (one for one in examine(detect(tmp_path, "aarch64"), alone, None) if one.name == "kernels on cuda")
    assert kernels.state is State.BAD


@pytest.mark.parametrize(
    ("changed", "name", "state", "text"),
    [
        ({"proc/meminfo": "MemTotal: 2000000 kB\n"}, "memory, MB", State.BAD, "lower memory.total_mb"),
        ({"proc/meminfo": "MemTotal: 4000000 kB\n"}, "memory of the device, MB", State.WARNING, "is for 8 GB"),
        ({"sys/devices/system/cpu/online": "0-1\n"}, "cores", State.BAD, "the profile needs 4: set compute.threads"),
        ({"etc/nv_tegra_release": JETPACK_7}, "JetPack", State.WARNING, "the profile is for JetPack 6"),
        ({"etc/nv_tegra_release": ""}, "JetPack", State.BAD, "install JetPack 6"),
        ({"var/lib/nvpmodel/status": ""}, "power mode", State.WARNING, "look with nvpmodel -q"),
        (zones(cpu_thermal="101000\n"), "temperature, C", State.BAD, "it slows down at 99: let it cool"),
        (zones(cpu_thermal="92000\n"), "temperature, C", State.WARNING, "look at its cooling"),
        (
            {"sys/devices/system/cpu/cpufreq/policy0/scaling_governor": "powersave\n"},
            "frequency governor",
            State.WARNING,
            "cpupower frequency-set",
        ),
        ({"proc/device-tree/compatible": "acme,anvil\0"}, "device", State.WARNING, "take arm-cpu, or write one"),
    ],
)
def test_what_is_missing_is_said_with_its_mend(tmp_path, changed, name, state, text):
    found = findings(tmp_path, {**ORIN_NANO, **changed}, "aarch64", "jetson-orin-nano")[name]
    assert (found.state, text in found.mend) == (state, True), found


def test_a_profile_of_another_architecture_does_not_run(tmp_path):
    found = findings(tmp_path, X86, "x86_64", "jetson-orin-nano")["device"]
    assert (found.state, found.mend) == (State.BAD, "profile jetson-orin-nano is for aarch64: take x86-cpu")


def test_an_old_processor_runs_more_slowly(tmp_path):
    files = {**X86, "proc/cpuinfo": "processor : 0\nflags : fpu sse2\n\n"}
    found = findings(tmp_path, files, "x86_64", "x86-cpu")["processor"]
    assert (found.state, found.found) == (State.WARNING, "without avx2, fma")


def test_no_engine_at_all_is_bad_and_one_is_enough(tmp_path):
    machine = detect(plant(tmp_path, X86), "x86_64")
    for engines, state in ((("tensorrt",), State.BAD), (("tensorrt", "onnxruntime"), State.WARNING)):
        profile = replace(profile_of(), engines=engines)
        found = {one.name: one for one in examine(machine, profile, None)}
        assert found["engine tensorrt"].state is state
        assert "JetPack" in found["engine tensorrt"].mend


def test_a_bundle_that_would_be_refused_is_bad(tmp_path, tiny_bundle):
    assert findings(tmp_path / "a", X86, "x86_64", "x86-cpu", tiny_bundle)["bundle"].state is State.GOOD
    found = findings(tmp_path / "b", X86, "x86_64", "x86-cpu", tmp_path / "missing.edgebundle")["bundle"]
    assert (found.state, found.found) == (State.BAD, "BundleMissing")


def test_the_command_examines_this_machine(capsys, tmp_path):
    code = main(["doctor", "--json", "--classical-only"])
    told = json.loads(capsys.readouterr().out)
    states = [finding["state"] for finding in told["findings"]]
    assert code == (1 if "bad" in states else 0)
    assert told["machine"]["cores"] >= 1
    main(["doctor", "--classical-only", "--profile", told["profile"]])
    text = capsys.readouterr().out
    assert text.startswith(f"profile {told['profile']}:")
    assert text.count("\n") >= len(states)


def test_thor_is_told_apart_from_orin(tmp_path):
    files = jetson("NVIDIA Jetson AGX Thor", "nvidia,p4071-0000+p3834-0008 nvidia,p3834-0008", 14, 125_772, JETPACK_7)
    assert profile_for(detect(plant(tmp_path, files), "aarch64")) == "jetson-thor"
