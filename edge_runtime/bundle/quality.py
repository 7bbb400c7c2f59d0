"""The quality report of a bundle, held against the limits that its configuration sets.

``quality.json`` is what ``edge-export qualify`` writes for the forms it has judged, and has at least

    {"schema": 1, "forms": {"int8": "<SHA-256 of forms/int8.onnx>", …}, "figures": {"int8_loss_db": 0.08, …}}

and whatever else a reader needs. Limits are ``{"int8_loss_db": {"at_most": 0.1}}``, by the name of a figure. A bundle without
limits, without a report, or with one that misses a limit is only used where somebody has taken responsibility, by a reason that it
carries.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass

SCHEMA = 1
MAX_REASON = 500


@dataclass(frozen=True, slots=True)
class Limit:
    """Bounds of one figure, in the figure's unit; at least one is set."""

    at_least: float | None
    at_most: float | None

    def __str__(self) -> str:
        bounds = ((self.at_least, "at least"), (self.at_most, "at most"))
        return " and ".join(f"{words} {bound:g}" for bound, words in bounds if bound is not None)

    def admits(self, figure: float) -> bool:
        """Whether the figure lies within the bounds."""
        return (self.at_least is None or figure >= self.at_least) and (self.at_most is None or figure <= self.at_most)


@dataclass(frozen=True, slots=True)
class Override:
    """Who packed a bundle in spite of its limits has said why.

    Attributes:
        reason: one line.
        misses: what was overridden.
    """

    reason: str
    misses: tuple[str, ...]


@dataclass(frozen=True)
class QualityReport:
    """What of a report decides.

    Attributes:
        forms: `form_digest` of those that it judged, by precision.
        figures: by name; units are in the names.
    """

    forms: Mapping[str, str]
    figures: Mapping[str, float]


def parse_limits(table: object) -> dict[str, Limit]:
    """Limits by figure.

    Raises:
        ValueError: names the figure, the value and what is expected.
    """
    if not isinstance(table, Mapping):
        raise ValueError(f"limits = {table!r}: a table of figures is expected")
    limits = {}
    for name, bounds in table.items():
        sound = isinstance(bounds, Mapping) and bounds and set(bounds) <= {"at_least", "at_most"}
        if not sound or not all(_is_finite(bound) for bound in bounds.values()):
            raise ValueError(f"limits: {name} = {bounds!r}: at_least, at_most or both are expected, as finite numbers")
        at_least, at_most = (float(bounds[key]) if key in bounds else None for key in ("at_least", "at_most"))
        limits[str(name)] = Limit(at_least, at_most)
    return limits


def parse_report(content: bytes) -> QualityReport:
    """A quality report.

    Raises:
        ValueError: says what is malformed.
    """
    try:
        document = json.loads(content)
        if document["schema"] != SCHEMA:
            raise ValueError(f"schema {document['schema']!r}: {SCHEMA} is expected")
        forms = {str(name): str(digest) for name, digest in document["forms"].items()}
        figures = {str(name): value for name, value in document["figures"].items()}
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"schema, forms and figures are expected: {error!r}") from error
    for name, value in figures.items():
        if not _is_finite(value):
            raise ValueError(f"figures: {name} = {value!r}: a finite number is expected")
    return QualityReport(forms, figures)


def form_digest(graphs: Mapping[str, str]) -> str:
    """What a report calls a form: the SHA-256 of its graph; of several, that of a list of their names and digests.

    Args:
        graphs: SHA-256 of every graph of the form, by name.
    """
    if len(graphs) == 1:
        return next(iter(graphs.values()))
    return hashlib.sha256("".join(f"{name} {graphs[name]}\n" for name in sorted(graphs)).encode()).hexdigest()


def missed_limits(
    limits: Mapping[str, Limit], forms: Mapping[str, str], report: QualityReport | None
) -> tuple[str, ...]:
    """What keeps a bundle from being qualified; empty where nothing does.

    Args:
        forms: `form_digest` of the bundle's forms, by precision.
    """
    if report is None:
        return ("there is no quality report",)
    others = sorted(name for name in {*forms, *report.forms} if forms.get(name) != report.forms.get(name))
    missed = [f"the quality report is about another {', '.join(others)} than the bundle's"] if others else []
    if not limits:
        missed.append("the configuration sets no limits")
    for name, limit in sorted(limits.items()):
        figure = report.figures.get(name)
        if figure is None:
            missed.append(f"{name} is not in the quality report, {limit} is the limit")
        elif not limit.admits(figure):
            missed.append(f"{name} = {figure:g}, {limit} is the limit")
    return tuple(missed)


def _is_finite(value: object) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond what a float holds
        return False
