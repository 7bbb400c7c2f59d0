"""Plots as SVG, by hand: what a report shows must open anywhere, for years, without a library."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 720, 280
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 28, 44
COLOURS = ("#0b6e99", "#c4500f", "#3a7d34", "#7a4fa3", "#97761c", "#b3396b", "#4a5a6a", "#1f9c8f")
"""Told apart in print and by most who see fewer colours."""

LEAST_SPAN = 1e-9
"""Of an axis, as a share of its largest value, or of 1."""

LEAST_OF_DECADES = 1e-12
"""What is smaller lies on the lower edge of a logarithmic axis."""

MOST_POINTS = 2000
"""Of one series; of more, every so manieth is drawn, the largest of them."""


@dataclass(frozen=True, slots=True)
class Series:
    """One line or cloud of points.

    Attributes:
        style: ``line``, ``points`` or ``steps``.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    style: str = "line"


@dataclass(frozen=True, slots=True)
class Mark:
    """A horizontal or vertical line with a name, such as a deadline."""

    name: str
    at: float
    vertical: bool = False


def plot(
    title: str,
    x_label: str,
    y_label: str,
    series: Sequence[Series],
    marks: Sequence[Mark] = (),
    log_y: bool = False,
    y_from_zero: bool = True,
) -> str:
    """One picture; empty where there is nothing to draw."""
    drawn = [one for one in (_thinned(one) for one in series) if len(one.x)]
    if not drawn:
        return ""
    xs = [value for one in drawn for value in one.x] + [mark.at for mark in marks if mark.vertical]
    ys = [value for one in drawn for value in one.y] + [mark.at for mark in marks if not mark.vertical]
    if log_y:
        ys = [value for value in ys if value > LEAST_OF_DECADES] or [1.0]
    low_y = min(ys) if log_y or not y_from_zero else min(0.0, *ys)
    axis_x, axis_y = _Axis(min(xs), max(xs), LEFT, WIDTH - RIGHT), _Axis(low_y, max(ys), HEIGHT - BOTTOM, TOP, log_y)
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">',
        f'<text x="{LEFT}" y="16" class="title">{escape(title)}</text>',
    ]
    for value in axis_y.ticks():
        at = axis_y(value)
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}" class="grid"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{at + 4:.1f}" class="end">{_number(value)}</text>')
    for value in axis_x.ticks():
        at = axis_x(value)
        parts.append(
            f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{HEIGHT - BOTTOM}" y2="{HEIGHT - BOTTOM + 4}" class="axis"/>'
        )
        parts.append(f'<text x="{at:.1f}" y="{HEIGHT - BOTTOM + 18}" class="middle">{_number(value)}</text>')
    parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{HEIGHT - BOTTOM}" y2="{HEIGHT - BOTTOM}" class="axis"/>')
    parts.append(f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 8}" class="end">{escape(x_label)}</text>')
    parts.append(
        f'<text transform="translate(14 {HEIGHT / 2:.0f}) rotate(-90)" class="middle">{escape(y_label)}</text>'
    )
    for number, one in enumerate(drawn):
        parts.append(_drawn(one, COLOURS[number % len(COLOURS)], axis_x, axis_y))
    names = 0
    for mark in marks:
        if mark.vertical:
            at = axis_x(mark.at)
            parts.append(f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}" class="mark"/>')
            side = ("end", -4) if at > (LEFT + WIDTH) / 2 else ("start", 4)
            # Names of neighbours stand on lines of their own.
            where = f'x="{at + side[1]:.1f}" y="{TOP + 10 + 13 * (names % 3)}" style="text-anchor: {side[0]}"'
            names += 1
            parts.append(f'<text {where} class="mark-text">{escape(mark.name)}</text>')
        elif not log_y or mark.at > 0:
            at = axis_y(mark.at)
            parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}" class="mark"/>')
            parts.append(f'<text x="{WIDTH - RIGHT}" y="{at - 4:.1f}" class="mark-text">{escape(mark.name)}</text>')
    parts.append("</svg>")
    if len(drawn) > 1 or drawn[0].name:
        parts.append(_legend([one.name for one in drawn]))
    return "<figure>" + "".join(parts) + "</figure>"


def bars(title: str, unit: str, values: Sequence[tuple[str, float]]) -> str:
    """Horizontal bars, the longest first."""
    if not values:
        return ""
    ordered = sorted(values, key=lambda one: -one[1])
    most = max(value for _, value in ordered) or 1.0
    height = TOP + 24 * len(ordered) + 8
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title)}">',
        f'<text x="8" y="16" class="title">{escape(title)}</text>',
    ]
    for number, (name, value) in enumerate(ordered):
        at = TOP + 24 * number
        length = (WIDTH - 300) * max(value, 0.0) / most
        parts.append(f'<text x="170" y="{at + 14}" class="end">{escape(name)}</text>')
        parts.append(f'<rect x="178" y="{at + 2}" width="{length:.1f}" height="16" fill="{COLOURS[0]}"/>')
        parts.append(f'<text x="{184 + length:.1f}" y="{at + 14}">{_number(value)} {escape(unit)}</text>')
    return "<figure>" + "".join(parts) + "</svg></figure>"


class _Axis:
    """From values to pixels."""

    def __init__(self, low: float, high: float, first: float, last: float, log: bool = False) -> None:
        if log:
            low, high = math.log10(low), math.log10(high)
        if high - low < LEAST_SPAN * max(1.0, abs(low), abs(high)):  # one value, as far as a picture can tell
            if log:
                low, high = low - 0.5, high + 0.5
            else:
                low, high = low - (0.5 if abs(low) > LEAST_SPAN else 0.0), high + 0.5 * max(1.0, abs(high))
        pad = 0.04 * (high - low)
        self._low, self._high = low - (pad if log else 0.0), high + pad
        self._first, self._last, self._log = first, last, log

    def __call__(self, value: float) -> float:
        at = math.log10(max(value, 10**self._low)) if self._log else value
        return self._first + (at - self._low) / (self._high - self._low) * (self._last - self._first)

    def ticks(self) -> list[float]:
        if self._log:
            decades = range(math.floor(self._low), math.floor(self._high) + 1)
            factors = (1, 2, 5) if self._high - self._low < 2 else (1,)
            found = [factor * 10.0**one for one in decades for factor in factors]
            return [value for value in found if self._low <= math.log10(value) <= self._high]
        rough = (self._high - self._low) / 5
        power = 10 ** math.floor(math.log10(rough))
        step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
        first = math.ceil(self._low / step - 1e-9)
        return [number * step for number in range(first, math.floor(self._high / step + 1e-9) + 1)]


def _thinned(one: Series) -> Series:
    every = math.ceil(len(one.x) / MOST_POINTS)
    if every <= 1:
        return one
    chosen = [max(range(at, min(at + every, len(one.y))), key=one.y.__getitem__) for at in range(0, len(one.x), every)]
    return Series(one.name, [one.x[at] for at in chosen], [one.y[at] for at in chosen], one.style)


def _drawn(one: Series, colour: str, axis_x: _Axis, axis_y: _Axis) -> str:
    points = [(axis_x(x), axis_y(y)) for x, y in zip(one.x, one.y, strict=True)]
    if one.style == "points":
        return "".join(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.2" fill="{colour}" fill-opacity="0.7"/>' for x, y in points
        )
    if one.style == "steps":
        path = f"M{points[0][0]:.1f} {points[0][1]:.1f}" + "".join(f"H{x:.1f}V{y:.1f}" for x, y in points[1:])
    else:
        path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    return f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="1.6"/>'


def _legend(names: Sequence[str]) -> str:
    items = (
        f'<span><i style="background:{COLOURS[number % len(COLOURS)]}"></i>{escape(name)}</span>'
        for number, name in enumerate(names)
    )
    return f"<figcaption>{''.join(items)}</figcaption>"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
