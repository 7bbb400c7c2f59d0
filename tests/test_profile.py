"""A wrong profile is refused with key, value and what is expected; the shipped ones load."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from conftest import PROFILE, USUAL_LIMITS, RunningServer, profile_of
from simulated import header_of, opening, readouts_of

from edge_runtime.errors import ProfileError
from edge_runtime.links.mrd_messages import Text
from edge_runtime.links.mrd_pack import pack_readouts
from edge_runtime.profile import (
    DEFAULT_PROFILE,
    USUAL_SCAN_MB,
    Compilation,
    available_profiles,
    load_profile,
    parse_profile,
)
from edge_runtime.runtime import open_runtime

GOOD = PROFILE.format(**USUAL_LIMITS)


def with_line(key: str, value: str) -> str:
    """The good profile with one key set to another TOML value."""
    lines = [f"{key} = {value}" if line.startswith(f"{key} =") else line for line in GOOD.splitlines()]
    return "\n".join(lines)


@pytest.mark.parametrize("name", available_profiles())
def test_shipped_profiles_load_under_their_own_name(name):
    assert load_profile(name).name == name


def test_the_default_profile_is_shipped():
    assert DEFAULT_PROFILE in available_profiles()


def test_a_profile_is_read_from_a_path(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(GOOD)
    assert load_profile(str(path)).session_bytes == USUAL_LIMITS["session_mb"] << 20


def test_a_profile_may_name_a_trust_store():
    assert parse_profile(GOOD, "here").trust is None
    assert parse_profile(GOOD + '\n[bundle]\ntrust = "/etc/trust"', "here").trust == Path("/etc/trust")
    with pytest.raises(ProfileError, match=r"bundle\.trust = 3: expected a text"):
        parse_profile(GOOD + "\n[bundle]\ntrust = 3", "here")


def test_a_profile_may_prefer_a_gpu_for_its_kernels():
    assert parse_profile(GOOD, "here").kernels == ("cpu",)
    with_kernels = GOOD.replace("[compute]", "[compute]\nkernels = {}")
    assert parse_profile(with_kernels.format('["cuda", "cpu"]'), "here").kernels == ("cuda", "cpu")
    for wrong in ('["gpu"]', '["cpu", "cpu"]'):
        with pytest.raises(ProfileError, match=r"compute\.kernels = .*: expected some of cuda, cpu, each once"):
            parse_profile(with_kernels.format(wrong), "here")


@pytest.mark.parametrize("session_mb", [16, 100, 512])
def test_the_parts_of_a_scan_make_up_its_memory(session_mb):
    profile = profile_of(session_mb=session_mb)
    assert profile.samples_bytes + 2 * profile.link_bytes == session_mb << 20


@pytest.mark.parametrize(
    ("key", "value", "shown", "expected"),
    [
        ("name", "3", "name = 3", "a text"),
        ("name", '""', "name = ''", "a text"),
        ("threads", "0", "compute.threads = 0", "1 to 256"),
        ("threads", "1.5", "compute.threads = 1.5", "a whole number"),
        ("threads", "true", "compute.threads = True", "a whole number"),
        ("threads", '"2"', "compute.threads = '2'", "a whole number"),
        ("reconstruction_workers", "65", "compute.reconstruction_workers = 65", "1 to 64"),
        ("engines", "[]", "compute.engines = []", "at least one"),
        ("engines", '"onnxruntime"', "compute.engines = 'onnxruntime'", "a list of texts"),
        ("precisions", "[8]", r"compute.precisions = \[8\]", "a list of texts"),
        ("session_mb", "15", "memory.session_mb = 15", "16 to 1048576"),
        ("total_mb", "63", "memory.total_mb = 63", "64 to 1073741824"),
        ("total_mb", "1e3", r"memory.total_mb = 1000.0", "a whole number"),
        ("sessions", "-1", "limits.sessions = -1", "1 to 1024"),
        ("idle_timeout_s", "0", "limits.idle_timeout_s = 0", "0.1 to 86400"),
        ("idle_timeout_s", "nan", "limits.idle_timeout_s = nan", "a number"),
        ("send_timeout_s", "inf", "limits.send_timeout_s = inf", "a number"),
        ("pending_slices", "0", "limits.pending_slices = 0", "1 to 65536"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_expected(key, value, shown, expected):
    with pytest.raises(ProfileError, match=f"^here: {shown}: expected .*{expected}".replace("[]", r"\[\]")):
        parse_profile(with_line(key, value), "here")


COMPILE = """
[compile]
cache = "/var/cache/engines"
usual = 192
largest = 320
workspace_mb = 128
dla_core = 1
"""


def test_what_engines_may_compile_can_be_left_out():
    assert parse_profile(GOOD, "here").compilation == Compilation()
    assert parse_profile(f"{GOOD}\n[compile]\nlargest = 128", "here").compilation == Compilation(usual=128, largest=128)
    expected = Compilation(Path("/var/cache/engines"), 192, 320, 128, 1)
    assert parse_profile(GOOD + COMPILE, "here").compilation == expected


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("cache", "3", "a text"),
        ("usual", "321", "16 to 320"),
        ("largest", "63", "64 to 4096"),
        ("workspace_mb", "0", "1 to 1048576"),
        ("dla_core", "-1", "0 to 15"),
        ("dla_core", "true", "a whole number"),
    ],
)
def test_a_wrong_value_of_what_engines_may_compile_is_named(key, value, expected):
    text = re.sub(rf"(?m)^{key} = .*", f"{key} = {value}", GOOD + COMPILE)
    with pytest.raises(ProfileError, match=rf"^here: compile\.{key} = .*: expected .*{expected}"):
        parse_profile(text, "here")


def test_a_profile_that_has_not_the_memory_for_its_sessions_is_refused():
    with pytest.raises(
        ProfileError, match=r"total_mb = 200: limits.sessions = 16 scans of 32 MB, .*, need 512; raise it"
    ):
        profile_of(session_mb=32, total_mb=200, sessions=16)


def test_a_usual_scan_is_what_the_profile_takes_it_for():
    profile = load_profile(DEFAULT_PROFILE)
    with open_runtime(profile, bundle=None, output=None) as runtime:
        server = RunningServer(runtime)
        try:
            with server.connect() as client:
                client.send(opening(header_of(256, 256, 512, coils=8), "edge"))
                silence = np.zeros((8, 256, 512), np.complex64)
                client.send(pack_readouts(readouts_of(silence, np.arange(86), last=False)))
                assert isinstance(client.receive(), Text)
                reserved_bytes = runtime.memory.total_bytes - runtime.memory.free_bytes
        finally:
            server.stop()
    assert USUAL_SCAN_MB - 4 < reserved_bytes / (1 << 20) <= USUAL_SCAN_MB


@pytest.mark.parametrize("key", ["name", "threads", "engines", "session_mb", "total_mb", "idle_timeout_s"])
def test_a_missing_key_is_named(key):
    text = "\n".join(line for line in GOOD.splitlines() if not line.startswith(f"{key} ="))
    with pytest.raises(ProfileError, match=f"{key} is missing"):
        parse_profile(text, "here")


def test_an_unknown_key_is_named():
    with pytest.raises(ProfileError, match=r"unknown key limits\.sesions"):
        parse_profile(GOOD + "\nsesions = 3", "here")


def test_toml_that_is_none_is_refused():
    with pytest.raises(ProfileError, match="not valid TOML"):
        parse_profile("name = ", "here")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("no-such-device", None, "does not exist; known are .*x86-cpu"),
        ("missing.toml", None, "No such file"),
        ("binary.toml", b"\xff\xfe\x00", "not UTF-8"),
    ],
)
def test_a_profile_that_cannot_be_read_says_why(tmp_path, monkeypatch, name, content, words):
    monkeypatch.chdir(tmp_path)
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ProfileError, match=words):
        load_profile(name)


def test_the_facts_of_a_gpu_are_whole_or_none():
    facts = '\n[gpu]\ncapability = "8.7"\nmultiprocessors = 8\nclock_mhz = 625\nmemory_gb_per_s = 68\nsource = "a data sheet"'
    gpu = parse_profile(GOOD + facts, "here").gpu
    assert gpu is not None
    assert (gpu.capability, gpu.multiprocessors, gpu.memory_gb_per_s) == ("8.7", 8, 68.0)
    with pytest.raises(ProfileError, match=r"gpu\.source is missing"):
        parse_profile(GOOD + facts.rpartition("\n")[0], "here")
    assert load_profile("jetson-orin-nano").gpu is not None
    assert load_profile("x86-cpu").gpu is None


def test_every_profile_has_a_budget_below_what_its_device_throttles_at() -> None:
    for name in available_profiles():
        profile = load_profile(name)
        budget = profile.budget
        assert profile.device is not None and budget.temperature_c is not None
        assert budget.temperature_c < profile.device.throttles_c
        assert budget.image_p90_ms and budget.resident_mb
