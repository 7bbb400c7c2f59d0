"""The manifest of a bundle, from the bytes that are signed to typed values."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from edge_runtime.bundle.quality import MAX_REASON, Limit, Override, form_digest, parse_limits
from edge_runtime.bundle.signature import HEX_SHA256
from edge_runtime.bundle.versions import is_version, version_in, version_numbers
from edge_runtime.errors import BundleMalformed, BundleTooOld
from edge_runtime.program.document import program_document, read_program
from edge_runtime.program.stages import Network, Program

FORMAT = 3
OLDEST_FORMAT = 2
"""That is still read: a law of λ has no number for the share of samples there."""
_PRECISION = re.compile(r"[a-z][a-z0-9]{0,15}", re.ASCII)
UNROLLED, PROGRAM = "unrolled-cg", "split-program"
"""Families: the project's own networks, and models that were trained elsewhere."""

REGULARISER = "regulariser"
"""The one graph of the unrolled family."""


StartsFrom = Literal["classical", "zero_filled"]
STARTS = get_args(StartsFrom)
MOST_BYTES_PER_PIXEL = 1 << 20
LARGEST_LOG_WEIGHT = 20
"""Of every number of λ's law: far beyond any λ that does anything, and all three together within single precision, whatever share
is measured, where the noise is not brighter than the image."""


@dataclass(frozen=True, slots=True)
class UnrolledSettings:
    """How the device runs the unrolled family (see `edge_runtime.modalities.mri.learned`).

    Attributes:
        iterations: regulariser runs.
        cg_steps: conjugate-gradient steps of each data-consistency solve.
        log_weights: logarithm of λ of every iteration: what it is where the two conditions are zero, and its slopes over that of
            the noise and that of the share of samples (`edge_runtime.modalities.mri.learned`).
        multiple: the graph takes rows and columns that are multiples of this.
    """

    iterations: int
    cg_steps: int
    log_weights: tuple[tuple[float, float, float], ...]
    multiple: int


@dataclass(frozen=True, slots=True)
class ProgramSettings:
    """How the device runs a split program (see `edge_runtime.modalities.mri.programmed`).

    Attributes:
        program: its stages; graphs are described as they were imported, other precisions differ in their digests.
        starts_from: which image a program of images is given; nothing to a program of samples.
        brightness: what the 99th percentile of the ACS image is brought to before the program sees the samples: the range that the
            model was trained in. Networks that normalise for themselves take any.
        live_bytes_per_pixel: of the tensors of the largest graph that exist at one time, by pixel of its input; what an engine
            makes of that is its own (`edge_runtime.engines.Engine.held_bytes`).
    """

    program: Program
    starts_from: StartsFrom
    brightness: float
    live_bytes_per_pixel: int

    def __post_init__(self) -> None:
        """Raises `ValueError` for what no device runs."""
        if self.starts_from not in STARTS:
            raise ValueError(f"starts_from = {self.starts_from!r}: one of {', '.join(STARTS)} is expected")
        if not isinstance(self.brightness, float) or not 1e-6 <= self.brightness <= 1e6:
            raise ValueError(f"brightness = {self.brightness!r}: a number from 1e-6 to 1e6 is expected")
        if type(self.live_bytes_per_pixel) is not int or not 1 <= self.live_bytes_per_pixel <= MOST_BYTES_PER_PIXEL:
            raise ValueError(
                f"live_bytes_per_pixel = {self.live_bytes_per_pixel!r}: a whole number from 1 to {MOST_BYTES_PER_PIXEL} "
                "is expected"
            )
        if self.program.domain == "image":
            last = self.program.stages[-1]
            assert isinstance(last, Network)  # of a program of images all stages are
            for word, planes in (
                ("takes", self.program.input_channels),
                ("makes", self.program.graph(last.graph).output_channels),
            ):
                if planes not in (1, 2):
                    raise ValueError(
                        f"a program of images that {word} {planes} planes: 1, the magnitude, or 2, real and imaginary part, "
                        "are expected"
                    )


Settings = UnrolledSettings | ProgramSettings


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far the golden outputs of one engine may lie from the bundle's.

    Attributes:
        engine: its name in the registry.
        first, below: versions of its library; ``first`` included, ``below`` not.
        relative_error: norm of the difference over the norm of the golden output.
    """

    engine: str
    first: str
    below: str
    relative_error: float

    def covers(self, engine: str, version: str) -> bool:
        """Whether it speaks of this engine.

        Args:
            version: as the engine tells it, a suffix such as ``rc1`` allowed.
        """
        number = version_in(version)
        if engine != self.engine or not number:
            return False
        return version_numbers(self.first) <= version_numbers(number) < version_numbers(self.below)


@dataclass(frozen=True, slots=True)
class FormEntry:
    """Where one precision's graphs and golden output are.

    Attributes:
        graphs: members by the graph's name.
    """

    graphs: Mapping[str, str]
    golden_output: str
    tolerances: tuple[Tolerance, ...]


@dataclass(frozen=True, slots=True)
class FileEntry:
    """What a member must be."""

    sha256: str
    size: int


@dataclass(frozen=True)
class Manifest:
    """All of a manifest that the runtime uses.

    Attributes:
        forms: by precision.
        files: every member but the manifest and the signature.
        override: ``None`` where the bundle needs none.
        document: as it stands in the file, for provenance.
    """

    name: str
    version: str
    settings: Settings
    golden_input: str
    forms: Mapping[str, FormEntry]
    limits: Mapping[str, Limit]
    override: Override | None
    files: Mapping[str, FileEntry]
    document: Mapping[str, Any]

    def __post_init__(self) -> None:
        """Raises `ValueError` for a member that is named and not listed."""
        named = [self.golden_input]
        for form in self.forms.values():
            named += [*form.graphs.values(), form.golden_output]
        for member in named:
            if member not in self.files:
                raise ValueError(f"{member} is named, but is none of the files")

    def graph_digests(self, precision: str) -> dict[str, str]:
        """SHA-256 of a form's graphs, by the graph's name."""
        return {name: self.files[member].sha256 for name, member in self.forms[precision].graphs.items()}

    def form_digests(self) -> dict[str, str]:
        """What reports and revocations call the forms, by precision: see `edge_runtime.bundle.quality.form_digest`."""
        return {precision: form_digest(self.graph_digests(precision)) for precision in sorted(self.forms)}


def read_document(content: bytes) -> dict[str, Any]:
    """The manifest as plain values, of a format that this runtime reads.

    Raises:
        BundleMalformed: it is no JSON object, or of a newer format.
        BundleTooOld: it is of an older format.
    """
    try:
        document = json.loads(content, parse_constant=_refuse_constant)
        number = document["format"]
        known = isinstance(number, int) and not isinstance(number, bool)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BundleMalformed(f"the manifest is no JSON object that tells its format: {error!r}") from error
    if not known:
        raise BundleMalformed(f"bundle format {number!r}: a whole number is expected")
    if number < OLDEST_FORMAT:
        raise BundleTooOld(
            f"bundle format {number}: this runtime reads formats {OLDEST_FORMAT} to {FORMAT}; pack the model anew"
        )
    if number > FORMAT:
        raise BundleMalformed(
            f"bundle format {number}: this runtime reads formats {OLDEST_FORMAT} to {FORMAT}; it is older than the bundle: "
            "update it"
        )
    return dict(document)


def parse_manifest(content: bytes) -> Manifest:
    """A manifest whose every value is checked.

    Raises:
        BundleMalformed, BundleTooOld: see `read_document`; a wrong value is named.
    """
    document = read_document(content)
    try:
        settings = _settings(document)
        if not isinstance(document.get("provenance", {}), dict):
            raise ValueError(f"provenance = {document['provenance']!r}: a table is expected")
        return Manifest(
            name=_text(document, "name"),
            version=_version(document["version"]),
            settings=settings,
            golden_input=_text(document, "golden_input"),
            forms={_precision(name): _form(form, settings) for name, form in document["forms"].items()},
            limits=parse_limits(document["limits"]),
            override=_override(document["override"]),
            files={str(name): _file(name, entry) for name, entry in document["files"].items()},
            document=document,
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        what = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)
        shown = "".join(letter if letter.isprintable() else "?" for letter in what[:500])  # it may be anybody's
        raise BundleMalformed(f"the manifest is malformed: {shown}") from error


def settings_document(settings: Settings) -> dict[str, Any]:
    """Settings as a manifest states them, with their family."""
    if isinstance(settings, UnrolledSettings):
        table: dict[str, Any] = {
            "iterations": settings.iterations,
            "cg_steps": settings.cg_steps,
            "log_weights": [[round(value, 7) for value in law] for law in settings.log_weights],
            "multiple": settings.multiple,
        }
        return {"family": UNROLLED, "settings": table}
    table = {
        "program": program_document(settings.program),
        "starts_from": settings.starts_from,
        "brightness": settings.brightness,
        "live_bytes_per_pixel": settings.live_bytes_per_pixel,
    }
    return {"family": PROGRAM, "settings": table}


def form_graphs(form: Mapping[str, Any]) -> dict[str, str]:
    """Members of a form's graphs, by the graph's name; a form of the unrolled family has one.

    Raises:
        KeyError, TypeError, ValueError: it names none.
    """
    if "graphs" not in form:
        return {REGULARISER: _text(form, "onnx")}
    return {str(name): _text(form["graphs"], name) for name in sorted(form["graphs"])}


def _settings(document: Mapping[str, Any]) -> Settings:
    family, table = document["family"], document["settings"]
    if family == UNROLLED:
        return _unrolled(table, 2 if document["format"] == 2 else 3)
    if family == PROGRAM:
        return _program(table)
    raise ValueError(f"family {family!r}: this runtime runs {UNROLLED} and {PROGRAM}")


def _program(table: Mapping[str, Any]) -> ProgramSettings:
    starts_from, brightness, size = (table[key] for key in ("starts_from", "brightness", "live_bytes_per_pixel"))
    if isinstance(brightness, int):
        brightness = float(brightness)  # as JSON writes whole numbers
    return ProgramSettings(read_program(table["program"]), starts_from, brightness, size)


def _unrolled(table: Mapping[str, Any], numbers: int) -> UnrolledSettings:
    """Settings whose laws of λ have so many numbers."""
    laws = table["log_weights"]
    if not isinstance(laws, list) or not all(isinstance(law, list) and len(law) == numbers for law in laws):
        raise ValueError(f"log_weights = {laws!r}: {numbers} numbers an iteration are expected")
    read = [[_number("log_weights", value) for value in law] for law in laws]
    weights = tuple((at, noise, share[0] if share else 0.0) for at, noise, *share in read)
    iterations, cg_steps, multiple = (_whole(table, key) for key in ("iterations", "cg_steps", "multiple"))
    settings = UnrolledSettings(iterations, cg_steps, weights, multiple)
    if len(weights) != settings.iterations or not 1 <= settings.iterations <= 64 or not 1 <= settings.cg_steps <= 64:
        raise ValueError(f"{len(weights)} weights for {settings.iterations} iterations of {settings.cg_steps} steps")
    if not 1 <= settings.multiple <= 256:
        raise ValueError(f"sizes in multiples of {settings.multiple}")
    if not all(abs(value) <= LARGEST_LOG_WEIGHT for law in weights for value in law):  # NaN is not
        raise ValueError(f"log_weights {weights}: -{LARGEST_LOG_WEIGHT} to {LARGEST_LOG_WEIGHT} are expected")
    return settings


def _form(form: Mapping[str, Any], settings: Settings) -> FormEntry:
    tolerances = tuple(
        Tolerance(
            _text(entry, "engine"),
            _version(entry["first"]),
            _version(entry["below"]),
            _number("relative_error", entry["relative_error"]),
        )
        for entry in form["tolerances"]
    )
    for one in tolerances:
        if not 0 < one.relative_error < 1:
            raise ValueError(f"a tolerance of {one.relative_error} for {one.engine}: between 0 and 1 is expected")
    graphs = form_graphs(form)
    wanted = graph_names(settings)
    if set(graphs) != wanted:
        raise ValueError(f"a form's graphs differ in {', '.join(sorted(set(graphs) ^ wanted))}")
    return FormEntry(graphs, _text(form, "golden_output"), tolerances)


def graph_names(settings: Settings) -> set[str]:
    """The graphs that every form of a model has."""
    if isinstance(settings, UnrolledSettings):
        return {REGULARISER}
    return {graph.file for graph in settings.program.graphs}


def _override(entry: Mapping[str, Any] | None) -> Override | None:
    if entry is None:
        return None
    reason = _text(entry, "reason")
    if len(reason) > MAX_REASON or not reason.isprintable():
        raise ValueError(f"override: a reason of one line of at most {MAX_REASON} characters is expected")
    misses = entry["misses"]
    if not isinstance(misses, list) or not all(isinstance(missed, str) for missed in misses):
        raise ValueError(f"override: misses = {misses!r}: a list of texts is expected")
    return Override(reason, tuple(misses))


def _file(name: str, entry: Mapping[str, Any]) -> FileEntry:
    digest, size = _text(entry, "sha256"), entry["bytes"]
    if not HEX_SHA256.fullmatch(digest) or type(size) is not int:
        raise ValueError(f"files: {name}: a SHA-256 and a number of bytes are expected")
    return FileEntry(digest, size)


def _text(table: Mapping[str, Any], key: str) -> str:
    value = table[key]
    if not isinstance(value, str) or not value or not value.isprintable():
        raise ValueError(f"{key} = {value!r}: a text is expected")
    return value


def _whole(table: Mapping[str, Any], key: str) -> int:
    value = table[key]
    if type(value) is not int:
        raise ValueError(f"{key} = {value!r}: a whole number is expected")
    return value


def _number(key: str, value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise ValueError(f"{key} = {value!r}: a number is expected")
    return float(value)


def _precision(name: str) -> str:
    if not _PRECISION.fullmatch(name):
        raise ValueError(f"forms: {name!r}: a precision such as fp32 is expected")
    return name


def _version(value: object) -> str:
    if not is_version(value):
        raise ValueError(f"version {value!r}: whole numbers with dots between are expected, such as 1.2.0")
    return str(value)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")
