"""Plots and pages: what is drawn is inside the picture, what is text stays text, and nothing comes from elsewhere."""

from __future__ import annotations

import itertools
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.budget import Budget
from edge_runtime.hil.bench.curve import curve_of, write_curve
from edge_runtime.hil.bench.explore import Explored
from edge_runtime.hil.bench.junit import junit_of
from edge_runtime.hil.bench.protocol import Protocol, ScanStep
from edge_runtime.hil.bench.run import Phase, Plan
from edge_runtime.hil.bench.search import Axis, Found, Load, Pace, Point, Scanners
from edge_runtime.hil.bench.sensing import Sensed, Usage
from edge_runtime.hil.bench.svg import HEIGHT, MOST_POINTS, WIDTH, Mark, Series, bars, plot
from edge_runtime.hil.bench.target import Address, Target

HOSTILE = """<script>alert("1")</script> & 'x' ]]>"""

VOID = {"meta", "br", "hr", "img"}

numbers = st.floats(-1e9, 1e9)


class Balanced(HTMLParser):
    """Every tag that is opened is closed, in turn; keeps the text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.names: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def page_is_sound(page: str) -> Balanced:
    parser = Balanced()
    parser.feed(page)
    parser.close()
    assert not parser.open and "script" not in parser.names
    assert not re.search(r"(src|href)=|url[(]|@import", page)
    return parser


def picture(markup: str) -> ElementTree.Element:
    return ElementTree.fromstring(markup)


def drawn_points(root: ElementTree.Element) -> list[tuple[float, float]]:
    """Of lines, steps and dots."""
    points = [(float(one.attrib["cx"]), float(one.attrib["cy"])) for one in root.iter("circle")]
    for path in root.iter("path"):
        x = y = 0.0
        for kind, values in re.findall(r"([MLHV])([-\d. ]+)", path.attrib["d"]):
            parts = [float(part) for part in values.split()]
            x = parts[0] if kind in "MLH" else x
            y = parts[-1] if kind in "MLV" else y
            points.append((x, y))
    return points


@given(
    st.lists(st.tuples(numbers, numbers), min_size=1, max_size=30),
    st.sampled_from(["line", "points", "steps"]),
    st.booleans(),
    st.lists(numbers, max_size=2),
)
def test_what_is_drawn_lies_in_the_picture(
    points: list[tuple[float, float]], style: str, log_y: bool, marks: list[float]
) -> None:
    points.sort()
    xs, ys = [x for x, _ in points], [y for _, y in points]
    markup = plot(HOSTILE, "s", "ms", [Series(HOSTILE, xs, ys, style)], [Mark(HOSTILE, one) for one in marks], log_y)
    assert "<script" not in markup and "nan" not in markup and "inf" not in markup
    found = drawn_points(picture(markup))
    assert len(found) >= len(points)
    assert all(-0.1 <= x <= WIDTH + 0.1 and -0.1 <= y <= HEIGHT + 0.1 for x, y in found)


def test_higher_is_drawn_higher_and_later_to_the_right() -> None:
    for log_y in (False, True):
        (x1, y1), (x2, y2), (x3, y3) = drawn_points(
            picture(plot("t", "s", "ms", [Series("a", [0, 1, 2], [1, 10, 100], "points")], log_y=log_y))
        )
        assert x1 < x2 < x3 and y1 > y2 > y3
    assert x2 - x1 == pytest.approx(x3 - x2, abs=0.2) and y1 - y2 == pytest.approx(y2 - y3, abs=0.2)  # by decades


def test_of_many_points_the_largest_are_kept() -> None:
    count = 10 * MOST_POINTS
    values = [1.0] * count
    values[12_345] = 50.0
    flat = plot("t", "s", "ms", [Series("a", list(range(count)), [1.0] * count, "points")], [Mark("m", 50)])
    root = picture(plot("t", "s", "ms", [Series("a", list(range(count)), values, "points")], [Mark("m", 50)]))
    assert len(drawn_points(root)) == len(drawn_points(picture(flat))) <= MOST_POINTS
    assert min(y for _, y in drawn_points(root)) < min(y for _, y in drawn_points(picture(flat)))


def test_nothing_to_draw_is_no_picture() -> None:
    assert plot("t", "s", "ms", []) == plot("t", "s", "ms", [Series("a", [], [])]) == bars("t", "ms", []) == ""


def test_names_of_marks_that_are_near_each_other_do_not_overlap() -> None:
    marks = [Mark(name, at, vertical=True) for name, at in (("warm-up", 9.0), ("measured", 9.5), ("cool-down", 9.6))]
    root = picture(plot("t", "s", "ms", [Series("a", [0, 10], [1, 2])], marks))
    heights = [float(one.attrib["y"]) for one in root.iter("text") if one.attrib.get("class") == "mark-text"]
    assert len(heights) == 3 and min(abs(a - b) for a, b in itertools.combinations(heights, 2)) >= 12


def test_bars_are_as_long_as_their_values() -> None:
    root = picture(bars(HOSTILE, "ms", [("short", 1.0), (HOSTILE, 4.0), ("none", 0.0)]))
    assert [float(one.attrib["width"]) for one in root.iter("rect")] == pytest.approx([420, 105, 0])


def point(load: Load, why: str, p50: float | None = 20.0) -> Point:
    times = (None,) * 4 if p50 is None else (p50, p50 + 5, p50 + 9, p50 + 30)
    return Point(load, 10.0, 200.0, *times, 0.0, 0 if p50 is None else 12, Usage(cpu_cores=0.5), why)


def explored(axis: Axis, found: Found) -> Explored:
    scans = (ScanStep(HOSTILE, "colin27", 5.0, deadline_ms=100.0),)
    protocol = Protocol(HOSTILE, 1, HOSTILE, scans, Budget())
    reading = {"at_s": 1.0, "clock_s": 1.0, "cpu_s": 0.1, "resident_mb": 90.0, "clock_mhz": None}
    readings = [reading | {"temperatures_c": {"CPU": 40.0}, "power_w": {}}]
    readings.append(readings[0] | {"at_s": 2.0, "clock_s": 2.0, "cpu_s": 0.9})
    phases = (Phase("warm-up", 0.0, 0.5), Phase("soak", 0.5, 2.0, found.curve[0].load), Phase("cool-down", 2.0, 3.0))
    sensed = Sensed({"model": HOSTILE, "cores": 2, "memory_mb": 1}, True, tuple(readings))
    return Explored(
        Plan(protocol, Address("own"), 1, 1), Target(Address("own"), "h", 1), axis, found, phases, sensed, ()
    )


def test_a_searchs_page(tmp_path: Path) -> None:
    loads = [Load(1.0, number) for number in (1, 2, 4)]
    curve = (point(loads[0], ""), point(loads[1], "", 30), point(loads[2], HOSTILE, None))
    search = explored(Scanners(1.0), Found(curve[1], curve[2], curve))
    path, page = write_curve(tmp_path, search, curve_of(search, [HOSTILE], HOSTILE))
    parser = page_is_sound(page.read_text())
    assert "Held: 2 scanners at 1.00 times the protocol's pace" in parser.text
    assert f"not 4 scanners at 1.00 times the protocol's pace: {HOSTILE}" in parser.text
    assert {"svg", "path", "table"} <= parser.names
    assert path.read_text().count(r"<script>") > 0  # JSON keeps what was said


def test_the_page_of_a_search_that_found_nothing(tmp_path: Path) -> None:
    curve = (point(Load(1 / 64, 2), "3 of 4 images were lost", None),)
    search = explored(Pace(2), Found(None, curve[0], curve))
    _, page = write_curve(tmp_path, search, curve_of(search, ["edge-runtime"], ""))
    assert (
        "No load was held: 2 scanners at 0.02 times the protocol's pace: 3 of 4" in page_is_sound(page.read_text()).text
    )


def test_what_no_file_can_hold_is_replaced(tmp_path: Path) -> None:
    """Half of a surrogate pair, as of an argument that is no UTF-8; and what XML has no character for."""
    curve = (point(Load(1.0, 1), "\udce4", None),)
    search = explored(Pace(1), Found(None, curve[0], curve))
    _, page = write_curve(tmp_path, search, curve_of(search, ["\udce4"], ""))
    page_is_sound(page.read_text())
    report = {
        "made": "",
        "protocol": {"name": "a\x00\udce4", "version": 1},
        "verdict": {"valid": True, "lines": [], "reasons": []},
    }
    assert ElementTree.fromstring(junit_of(report))[0].attrib["name"] == "edge-runtime bench a�� 1"
