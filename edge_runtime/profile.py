"""Hardware profiles: what one device may use. One TOML file a device in `hw_profiles/`, checked key by key."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

from edge_runtime.budget import Budget, budget_of
from edge_runtime.deadline.policy import KINDS, STAGES, Deadlines, Thermal
from edge_runtime.errors import ProfileError
from edge_runtime.journal.policy import JournalPolicy
from edge_runtime.toml_table import TomlTable, read_toml

DEFAULT_PROFILE = "x86-cpu"
SOURCE_FOLDER = Path(__file__).parent.parent / "hw_profiles"
"""Where the profiles lie in a checkout; a wheel carries them inside the package."""

LOWER_BELOW_C, RECOVER_BELOW_C = 5.0, 7.0
"""Work is lowered so many degrees below where a device slows itself down, and raised again so many below that."""

USUAL_SCAN_MB = 68
"""What a scan of 8 coils and 256 x 256 reserves at its header."""


@dataclass(frozen=True, slots=True)
class DeviceFacts:
    """What a profile's device is and should be; the attributes are the keys of the table ``device``, all but the first optional.

    Attributes:
        architecture: as ``uname -m`` has it.
        compatible: of its device tree, any of which tells it apart.
        cpu_features: that the kernels are made for; they run without, slower.
        cores, memory_gb: that it has.
        jetpack: major version.
        cuda, tensorrt, python: versions that its JetPack brings.
        dla_cores: of the deep learning accelerator.
        power_modes: by nvpmodel's names; the first one is what the profile's deadlines are for.
        throttles_c: at which it slows down, degrees Celsius.
        source: where that is said.
    """

    architecture: str
    compatible: tuple[str, ...] = ()
    cpu_features: tuple[str, ...] = ()
    cores: int = 1
    memory_gb: int = 1
    jetpack: int | None = None
    cuda: str = ""
    tensorrt: str = ""
    python: str = ""
    dla_cores: int = 0
    power_modes: tuple[str, ...] = ()
    throttles_c: float = 95.0
    source: str = ""


@dataclass(frozen=True, slots=True)
class GpuFacts:
    """What a maker says of a device's GPU; nothing here is measured.

    Attributes:
        capability: compute capability, as ``8.7``.
        multiprocessors: each of 128 single-precision lanes.
        clock_mhz: the highest in the power mode that ``source`` speaks of.
        memory_gb_per_s: bandwidth of the memory that it shares with the processor, in 1e9 bytes.
        source: where that is said.
    """

    capability: str
    multiprocessors: int
    clock_mhz: int
    memory_gb_per_s: float
    source: str


DEFAULT_CACHE = Path("~/.cache/edge-runtime")


def usual_cache() -> Path:
    """Where a profile names no folder: systemd's of the service (``CacheDirectory=``), else one of the user."""
    folder = os.environ.get("CACHE_DIRECTORY", "").partition(":")[0]
    return Path(folder) if folder else DEFAULT_CACHE


@dataclass(frozen=True, slots=True)
class Compilation:
    """What engines that compile graphs on the device may use; the attributes are the keys of the table ``compile``, each optional.

    Attributes:
        cache: folder of what was compiled, and of what is noted of engines; only this user should write there.
        usual, largest: rows and columns of images; compiled for the usual ones, and none beyond the largest runs.
        workspace_mb: what one layer may take of the device's memory beside its tensors.
        dla_core: of Jetson's deep learning accelerator; ``None`` for the GPU. It runs images of the golden input's size alone.
    """

    cache: Path = field(default_factory=usual_cache)
    usual: int = 256
    largest: int = 512
    workspace_mb: int = 512
    dla_core: int | None = None


@dataclass(frozen=True, slots=True)
class Profile:
    """A checked profile; the attributes are the keys of the TOML file.

    Attributes:
        kernels: what the plans of `edge_runtime.kernels` may run on, ``cuda`` and ``cpu``, in order of preference.
        trust: folder of the public keys that may sign bundles; ``None`` for the one that comes with the package.
        device: that the profile is for, if it is for one.
        gpu: of the device, if it has one.
        compilation: the table ``compile``.
        deadlines, thermal: the tables of these names.
        journal: what a site wants of raw readouts; the table ``journal``.
        budget: what ``edge-runtime bench`` holds the device against.
    """

    name: str
    description: str
    threads: int
    reconstruction_workers: int
    engines: tuple[str, ...]
    precisions: tuple[str, ...]
    session_mb: int
    total_mb: int
    sessions: int
    idle_timeout_s: float
    send_timeout_s: float
    pending_slices: int
    kernels: tuple[str, ...] = ("cpu",)
    trust: Path | None = None
    device: DeviceFacts | None = None
    gpu: GpuFacts | None = None
    compilation: Compilation = Compilation()
    deadlines: Deadlines = field(default_factory=Deadlines)
    thermal: Thermal = field(default_factory=Thermal)
    journal: JournalPolicy = JournalPolicy()  # noqa: RUF009
    budget: Budget = Budget()  # noqa: RUF009

    @property
    def session_bytes(self) -> int:
        """What one scan may take in all."""
        return self.session_mb << 20

    @property
    def link_bytes(self) -> int:
        """Of that: for one message that is received, and as much again for images that wait to be sent."""
        return self.session_bytes // 8

    @property
    def samples_bytes(self) -> int:
        """Of that: for samples and their reconstruction."""
        return self.session_bytes - 2 * self.link_bytes

    @property
    def total_bytes(self) -> int:
        """What all scans take together."""
        return self.total_mb << 20

    @property
    def share_bytes(self) -> int:
        """Of that: what each has when all are there. A scan leaves as much free for the next when it takes more than it must."""
        return self.total_bytes // self.sessions


def load_profile(name: str) -> Profile:
    """A profile by its name, or by the path of a TOML file.

    Raises:
        ProfileError: no such profile, or one of its values is wrong; names the key, the value and what is expected.
    """
    path = Path(name)
    if path.suffix == ".toml":
        try:
            return parse_profile(path.read_text(encoding="utf-8"), str(path))
        except OSError as error:
            raise ProfileError(f"{path}: {error.strerror or error}") from error
        except UnicodeDecodeError as error:
            raise ProfileError(f"{path}: not UTF-8: byte {error.start} is not") from error
    if name not in (known := available_profiles()):
        raise ProfileError(
            f"profile {name!r} does not exist; known are {', '.join(sorted(known))}, or give a path to a .toml file"
        )
    return parse_profile(known[name], name)


def available_profiles() -> dict[str, str]:
    """The text of every profile that came with the package, by name."""
    # A checkout's own come first: an editable install keeps copies from when it was made.
    folder = SOURCE_FOLDER if SOURCE_FOLDER.is_dir() else resources.files("edge_runtime") / "hw_profiles"
    entries = list(folder.iterdir()) if folder.is_dir() else []
    return {e.name.removesuffix(".toml"): e.read_text(encoding="utf-8") for e in entries if e.name.endswith(".toml")}


def parse_profile(text: str, where: str) -> Profile:
    """Checks a profile's text; unknown keys are errors, since a misspelt limit would be no limit."""
    table = read_toml(text, where, ProfileError)
    session_mb = table.integer("memory.session_mb", 16, 1 << 20)
    device = _device(table) if table.has_section("device") else None
    profile = Profile(
        name=table.text("name"),
        description=table.text("description"),
        threads=table.integer("compute.threads", 1, 256),
        reconstruction_workers=table.integer("compute.reconstruction_workers", 1, 64),
        engines=table.texts("compute.engines"),
        precisions=table.texts("compute.precisions"),
        session_mb=session_mb,
        total_mb=table.integer("memory.total_mb", session_mb, 1 << 30),
        sessions=table.integer("limits.sessions", 1, 1024),
        idle_timeout_s=table.number("limits.idle_timeout_s", 0.1, 86400),
        send_timeout_s=table.number("limits.send_timeout_s", 0.1, 3600),
        pending_slices=table.integer("limits.pending_slices", 1, 65536),
        kernels=table.choices("compute.kernels", ("cuda", "cpu"), otherwise=("cpu",)),
        trust=table.path("bundle.trust"),
        device=device,
        gpu=_gpu(table) if table.has_section("gpu") else None,
        compilation=_compilation(table),
        deadlines=_deadlines(table),
        thermal=_thermal(table, (device or DeviceFacts("")).throttles_c),
        journal=_journal(table),
        budget=budget_of(table),
    )
    table.refuse_unknown()
    needed_mb = profile.sessions * min(profile.session_mb, USUAL_SCAN_MB)
    if needed_mb > profile.total_mb:
        raise ProfileError(
            f"{where}: memory.total_mb = {profile.total_mb}: limits.sessions = {profile.sessions} scans of "
            f"{min(profile.session_mb, USUAL_SCAN_MB)} MB, as usual ones are, need {needed_mb}; raise it, or serve fewer at once"
        )
    return profile


def _device(table: TomlTable) -> DeviceFacts:
    usual = DeviceFacts("")
    return DeviceFacts(
        architecture=table.text("device.architecture"),
        compatible=table.texts_or("device.compatible"),
        cpu_features=table.texts_or("device.cpu_features"),
        cores=table.integer("device.cores", 1, 1024, usual.cores),
        memory_gb=table.integer("device.memory_gb", 1, 4096, usual.memory_gb),
        jetpack=table.integer("device.jetpack", 4, 99) if table.has("device.jetpack") else None,
        cuda=table.text_or("device.cuda"),
        tensorrt=table.text_or("device.tensorrt"),
        python=table.text_or("device.python"),
        dla_cores=table.integer("device.dla_cores", 0, 16, usual.dla_cores),
        power_modes=table.texts_or("device.power_modes"),
        throttles_c=table.number("device.throttles_c", 20, 150)
        if table.has("device.throttles_c")
        else usual.throttles_c,
        source=table.text_or("device.source"),
    )


def _deadlines(table: TomlTable) -> Deadlines:
    usual = Deadlines()
    shares = {stage: table.number(f"deadlines.shares.{stage}", 0.0, 1.0, usual.shares[stage]) for stage in STAGES}
    if (total := sum(shares.values())) > 1.0 + 1e-9:
        raise ProfileError(f"{table.where}: deadlines.shares add up to {total:g}: at most 1, all of deadlines.image_ms")
    bundles = table.names("deadlines.fewest_iterations")
    return Deadlines(
        image_ms=table.number("deadlines.image_ms", 1, 3_600_000) if table.has("deadlines.image_ms") else None,
        grace_s=table.number("deadlines.grace_s", 0.1, 3600, usual.grace_s),
        steps=table.choices("deadlines.steps", KINDS, usual.steps, none_too=True),
        shares=shares,
        fewest_iterations={name: table.integer(f"deadlines.fewest_iterations.{name}", 1, 64) for name in bundles},
    )


def _thermal(table: TomlTable, throttles_c: float) -> Thermal:
    usual = Thermal()
    lower_at_c = table.number("thermal.lower_at_c", 20, throttles_c, throttles_c - LOWER_BELOW_C)
    recover_at_c = table.number("thermal.recover_at_c", 0, lower_at_c - 1, lower_at_c - RECOVER_BELOW_C)
    return Thermal(
        lower_at_c,
        recover_at_c,
        throttles_c,
        poll_s=table.number("thermal.poll_s", 0.1, 600, usual.poll_s),
        hold_s=table.number("thermal.hold_s", 0, 3600, usual.hold_s),
        cool_s=table.number("thermal.cool_s", 0, 3600, usual.cool_s),
    )


def _journal(table: TomlTable) -> JournalPolicy:
    usual = JournalPolicy()
    return JournalPolicy(
        interval_ms=table.number("journal.interval_ms", 0, 60_000, usual.interval_ms),
        grace_s=table.number("journal.grace_s", 0, 86_400, usual.grace_s),
        patience_s=table.number("journal.patience_s", 0.1, 600, usual.patience_s),
        required=table.flag("journal.required", usual.required),
        retention_h=table.number("journal.retention_h", 0, 87_600, usual.retention_h),
        most_mb=table.integer("journal.most_mb", 1, 1 << 30, usual.most_mb),
        leave_free_mb=table.integer("journal.leave_free_mb", 0, 1 << 30, usual.leave_free_mb),
    )


def _gpu(table: TomlTable) -> GpuFacts:
    return GpuFacts(
        capability=table.text("gpu.capability"),
        multiprocessors=table.integer("gpu.multiprocessors", 1, 1024),
        clock_mhz=table.integer("gpu.clock_mhz", 1, 10_000),
        memory_gb_per_s=table.number("gpu.memory_gb_per_s", 1, 100_000),
        source=table.text("gpu.source"),
    )


def _compilation(table: TomlTable) -> Compilation:
    usual = Compilation()
    largest = table.integer("compile.largest", 64, 4096, usual.largest)
    has_dla = table.has("compile.dla_core")
    return Compilation(
        cache=table.path("compile.cache") or usual.cache,
        usual=table.integer("compile.usual", 16, largest, min(usual.usual, largest)),
        largest=largest,
        workspace_mb=table.integer("compile.workspace_mb", 1, 1 << 20, usual.workspace_mb),
        dla_core=table.integer("compile.dla_core", 0, 15) if has_dla else None,
    )
