"""What a machine lacks of what a profile asks for, in plain words, each with its mend."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from edge_runtime.bundle import load_bundle
from edge_runtime.bundle.trust_store import TrustStore
from edge_runtime.engines import REGISTRY
from edge_runtime.engines.quarantine import Quarantine
from edge_runtime.errors import DeviceError, EdgeRuntimeError
from edge_runtime.kernels import Plans, Workers, instruction_set
from edge_runtime.machine import Machine
from edge_runtime.profile import DeviceFacts, Profile, available_profiles, load_profile
from edge_runtime.runtime import prepare_model

SYSTEM_MB = 768
"""What the operating system and the runtime take beside scans."""

UNKNOWN_ENGINE, CANT_BE_USED = UNUSABLE = ("unknown", "can't be used")

LEAST_SHARE = 0.85
"""Of the memory that a data sheet promises, what Linux sees of it at least; the rest is the firmware's."""


class State(str, Enum):
    """How much a finding matters."""

    GOOD = "good"
    WARNING = "warning"
    """It runs, but not as the profile says."""
    BAD = "bad"
    """It does not run."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        found: what is there.
        mend: what to do about it; empty where it is good.
    """

    name: str
    state: State
    found: str
    mend: str = ""


def profile_for(machine: Machine) -> str:
    """The shipped profile that fits a machine best: of its device tree, else of its architecture."""
    fitting = ""
    for name in sorted(available_profiles()):
        device = load_profile(name).device
        if device is None or device.architecture != machine.architecture:
            continue
        if set(device.compatible) & set(machine.compatible):
            return name
        if not fitting and load_profile(name).gpu is None:
            fitting = name
    return fitting or "x86-cpu"


def examine(
    machine: Machine, profile: Profile, bundle: Path | None, trust: TrustStore | None = None
) -> Iterator[Finding]:
    """Looks at everything that the profile asks for, the cheapest first.

    Args:
        bundle: that would be served; ``None`` for classical images alone.
    """
    if profile.device is not None:
        yield from _device(machine, profile, profile.device)
    yield _at_least("cores", machine.cores, profile.threads, "set compute.threads to no more than there are")
    needed = profile.total_mb + SYSTEM_MB
    yield _at_least(
        "memory, MB", machine.memory_mb, needed, "lower memory.total_mb, or take a profile for a smaller device"
    )
    yield _governor(machine)
    yield from _temperature(machine, profile.device)
    yield from _kernels(profile)
    yield from _engines(profile)
    if bundle is not None:
        yield _bundle(bundle, profile, trust)


def _device(machine: Machine, profile: Profile, wanted: DeviceFacts) -> Iterator[Finding]:
    name = machine.model or machine.cpu or "a machine that does not say what it is"
    if wanted.architecture != machine.architecture:
        mend = f"profile {profile.name} is for {wanted.architecture}: take {profile_for(machine)}"
        yield Finding("device", State.BAD, f"{name}, {machine.architecture}", mend)
        return
    if wanted.compatible and not set(wanted.compatible) & set(machine.compatible):
        of = " or ".join(wanted.compatible)
        mend = f"profile {profile.name} is for {of}: take {profile_for(machine)}, or write one of your own"
        yield Finding("device", State.WARNING, name, mend)
    else:
        yield Finding("device", State.GOOD, name)
    if missing := [feature for feature in wanted.cpu_features if feature not in machine.cpu_features]:
        mend = "it runs, but slower than the profile reckons with"
        yield Finding("processor", State.WARNING, f"without {', '.join(missing)}", mend)
    else:
        yield Finding("processor", State.GOOD, f"{machine.cpu}, kernels for {instruction_set()}")
    if 0 < machine.memory_mb < LEAST_SHARE * 1024 * wanted.memory_gb:
        mend = f"profile {profile.name} is for {wanted.memory_gb} GB: take one for a smaller device"
        yield Finding("memory of the device, MB", State.WARNING, str(machine.memory_mb), mend)
    if wanted.jetpack is not None:
        yield _jetpack(machine, wanted.jetpack)
    if wanted.power_modes:
        yield _power_mode(machine, wanted.power_modes)


def _jetpack(machine: Machine, wanted: int) -> Finding:
    found = machine.jetson_linux
    if found is None:
        return Finding("JetPack", State.BAD, "no /etc/nv_tegra_release", f"install JetPack {wanted}")
    if machine.jetpack != wanted:
        named = f"JetPack {machine.jetpack}" if machine.jetpack else "an unknown JetPack"
        mend = f"the profile is for JetPack {wanted}: update, or take the profile of your JetPack"
        return Finding("JetPack", State.WARNING, f"Jetson Linux {found}, {named}", mend)
    return Finding("JetPack", State.GOOD, f"Jetson Linux {found}, JetPack {wanted}")


def _power_mode(machine: Machine, wanted: tuple[str, ...]) -> Finding:
    if machine.power_mode is None:
        return Finding(
            "power mode", State.WARNING, "unknown", "look with nvpmodel -q; the profile reckons with " + wanted[0]
        )
    if machine.power_mode not in wanted:
        mend = f"the profile reckons with {' or '.join(wanted)}: sudo nvpmodel -m the number that /etc/nvpmodel.conf gives it"
        return Finding("power mode", State.WARNING, machine.power_mode, mend)
    return Finding("power mode", State.GOOD, machine.power_mode)


def _at_least(name: str, found: int, needed: int, mend: str) -> Finding:
    if found == 0:
        return Finding(name, State.WARNING, "unknown", f"the profile needs {needed}")
    if found < needed:
        return Finding(name, State.BAD, str(found), f"the profile needs {needed}: {mend}")
    return Finding(name, State.GOOD, f"{found}, {needed} needed")


def _governor(machine: Machine) -> Finding:
    if "powersave" in machine.governors:
        mend = "a processor that sleeps late answers late: cpupower frequency-set -g performance, or schedutil"
        return Finding("frequency governor", State.WARNING, ", ".join(machine.governors), mend)
    return Finding("frequency governor", State.GOOD, ", ".join(machine.governors) or "none that Linux tells of")


def _temperature(machine: Machine, device: DeviceFacts | None) -> Iterator[Finding]:
    if not machine.temperatures_c:
        yield Finding("temperature", State.WARNING, "no sensor", "heat will not be seen coming")
        return
    limit = device.throttles_c if device is not None else DeviceFacts("").throttles_c
    sensor, degrees = max(machine.temperatures_c.items(), key=lambda item: item[1])
    if degrees >= limit:
        mend = f"it slows down at {limit:.0f}: let it cool, clear its air ways, or take a lower power mode"
        yield Finding("temperature, C", State.BAD, f"{sensor} {degrees:.0f}", mend)
    elif degrees >= limit - 10:
        yield Finding(
            "temperature, C",
            State.WARNING,
            f"{sensor} {degrees:.0f}",
            f"it slows down at {limit:.0f}: look at its cooling",
        )
    else:
        yield Finding("temperature, C", State.GOOD, f"{sensor} {degrees:.0f}, slows down at {limit:.0f}")


def _kernels(profile: Profile) -> Iterator[Finding]:
    for index, where in enumerate(profile.kernels):
        name = f"kernels on {where}"
        if where == "cpu":
            yield Finding(name, State.GOOD, instruction_set())
            continue
        try:
            Plans(Workers(1), "cuda")
        except DeviceError as error:
            last = index == len(profile.kernels) - 1
            yield Finding(name, State.BAD if last else State.WARNING, type(error).__name__, str(error))
        else:
            yield Finding(name, State.GOOD, _gpu_name())


def _gpu_name() -> str:
    from edge_runtime.cuda import open_device

    return open_device().name


def _engines(profile: Profile) -> Iterator[Finding]:
    found = []
    marks = Quarantine.at(profile.compilation.cache).marks()
    for name in profile.engines:
        try:
            version = REGISTRY[name]().version()
        except KeyError:
            found.append(
                Finding(f"engine {name}", State.WARNING, UNKNOWN_ENGINE, f"known are {', '.join(sorted(REGISTRY))}")
            )
        except (ImportError, EdgeRuntimeError) as error:
            found.append(Finding(f"engine {name}", State.WARNING, CANT_BE_USED, str(error)))
        else:
            failed = [mark for mark in marks if mark.case.engine == name and mark.case.version == version]
            state = State.WARNING if any(mark.quarantined for mark in failed) else State.GOOD
            said = "; ".join(f"{mark.case.precision} of bundle {mark.case.bundle[:16]}: {mark}" for mark in failed)
            mend = (
                f"it has failed here ({said}); to try it again: edge-runtime engines --release {name}" if said else ""
            )
            found.append(Finding(f"engine {name}", state, version, mend))
    if all(one.found in UNUSABLE for one in found):
        found = [Finding(one.name, State.BAD, one.found, one.mend) for one in found]
    yield from found


def _bundle(path: Path, profile: Profile, trust: TrustStore | None) -> Finding:
    try:
        model = prepare_model(load_bundle(path, trust), profile)
    except EdgeRuntimeError as error:
        return Finding("bundle", State.BAD, type(error).__name__, str(error))
    return Finding(
        "bundle", State.GOOD, f"{model.bundle.name} {model.bundle.version}, {model.precision} on {model.engine}"
    )
