"""Protocols and suites, and what is wrong with them."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edge_runtime.budget import Budget
from edge_runtime.demo.run import SCAN
from edge_runtime.errors import BenchError, ProtocolFileError
from edge_runtime.hil.bench.links import Link
from edge_runtime.hil.bench.protocol import parse_protocol, read_protocol
from edge_runtime.hil.bench.run import Plan, outlines_of
from edge_runtime.hil.bench.suite import broken_rules, protocol_named, suites
from edge_runtime.hil.bench.target import Address
from edge_runtime.hil.bench.verdict import GATES, Line, Verdict

SOUND = """
name = "head"
version = 3
scanners = 2
[[scan]]
name = "T1"
file = "t1.mrd"
repetition_time_ms = 8
deadline_ms = 300
[[scan]]
name = "T2"
file = "colin27"
repetition_time_ms = 12.5
pause_s = 0
config = "edge-all"
image = "classical"
[budget]
image_p90_ms = 200
"""


def test_a_protocol_is_read() -> None:
    protocol = parse_protocol(SOUND, "head.toml", Path("/scans"))
    assert (protocol.label, protocol.scanners, protocol.repeat) == ("head 3", 2, 1)
    first, second = protocol.scans
    assert (first.file, first.repetition_time_ms, first.deadline_ms, first.image) == (
        "/scans/t1.mrd",
        8.0,
        300.0,
        "learned",
    )
    assert (second.file, second.config, second.image, second.pause_s, second.deadline_ms) == (
        "colin27",
        "edge-all",
        "classical",
        0.0,
        None,
    )
    assert protocol.budget == Budget(image_p90_ms=200.0)


@pytest.mark.parametrize(
    ("before", "after", "complaint"),
    [
        ("version = 3", "version = 0", "version = 0: expected a whole number"),
        ('name = "T2"', 'name = "T1"', "scan names T1, T1: each once"),
        ("repetition_time_ms = 8", "repetition_time_ms = 0", "scan 1: repetition_time_ms = 0"),
        ("deadline_ms = 300", "deadline = 300", "scan 1: unknown key deadline"),
        ("image_p90_ms = 200", "p90 = 200", "unknown key budget.p90"),
        ("image_p90_ms = 200", "miss_share = 2", "budget.miss_share = 2"),
        ("[[scan]]", "[[scans]]", "0 tables"),
        ("version = 3", "version =", "not valid TOML"),
    ],
)
def test_what_is_wrong_is_named(before: str, after: str, complaint: str) -> None:
    with pytest.raises(ProtocolFileError, match=complaint.replace("[", r"\[")):
        parse_protocol(SOUND.replace(before, after), "head.toml", Path())


def test_files_that_can_not_be_read(tmp_path: Path) -> None:
    with pytest.raises(ProtocolFileError, match="No such file"):
        read_protocol(tmp_path / "none.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ProtocolFileError, match="not UTF-8"):
        read_protocol(tmp_path / "binary.toml")
    with pytest.raises(BenchError, match=r"t1\.mrd: No such file"):
        outlines_of(parse_protocol(SOUND, "head.toml", tmp_path))


def test_suites_are_sound_and_named_as_their_files() -> None:
    assert suites()
    for name in suites():
        protocol = protocol_named(name)
        assert f"{protocol.name}-{protocol.version}" == name
        outlines_of(protocol)
        assert protocol.budget.nrmse is not None and protocol.budget.lateness_p99_ms is not None
    with pytest.raises(BenchError, match="suite 'nope' does not exist; known are portable-brain-1"):
        protocol_named("nope")


def test_suites_are_never_changed() -> None:
    """A change is a new version, in a file beside these; what was measured by them stays comparable."""
    digests = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in suites().items()}
    assert digests == {
        "portable-brain-1": "75c7d26202d6ecff1535e8a7e9b7b525505651cbd720ecfac586660b67ecacdc",
        "portable-brain-2": "45277c25236ec0f2402898eddcb9fab29b69f51c09a4136613034e4dada73579",
    }
    assert (
        hashlib.sha256(SCAN.read_bytes()).hexdigest()
        == "208824505d2bc98b183cde8d73e242f879489a277f2ec0a2b68b8fbfed3a11c3"
    )


KEPT = Verdict(tuple(Line(name, "", 0.0, 0.0, True) for name in GATES), (), True)


def plan(**changes: Any) -> Plan:
    usual = Plan(protocol_named("portable-brain-2"), Address("own"), 1, 20, duration_s=600.0, warm_up_s=10.0)
    return replace(usual, **changes)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"duration_s": 5.0}, "less than 600 s"),
        ({"duration_s": None}, "less than 600 s"),
        ({"warm_up_s": 0.0}, "warm-up"),
        ({"speed": 0.1}, "at 0.1 times"),
        ({"scanners": 2}, "2 scanners in place of 1"),
        ({"link": Link(delay_ms=1.0)}, "link"),
        ({"golden": Path("elsewhere")}, "golden"),
        ({"protocol": replace(protocol_named("portable-brain-2"), scans=())}, "not the suite's"),
    ],
)
def test_a_run_that_breaks_its_suites_rules_is_no_result_of_it(changes: dict[str, Any], complaint: str) -> None:
    assert broken_rules(plan(), KEPT) == ()
    (why,) = broken_rules(plan(**changes), KEPT) or ()
    assert complaint in why


def test_a_verdict_that_breaks_a_suites_rules() -> None:
    assert broken_rules(plan(), replace(KEPT, valid=False)) == ("the simulated scanner itself was too late",)
    (lost, *others) = KEPT.lines
    for passed in (False, None):
        verdict = replace(KEPT, lines=(replace(lost, passed=passed), *others))
        assert broken_rules(plan(), verdict) == ("not kept: images lost",)
    assert broken_rules(plan(protocol=parse_protocol(SOUND, "head.toml", Path())), KEPT) is None


def test_a_protocols_budget_goes_before_the_profiles() -> None:
    assert Budget(image_p90_ms=1.0).over(Budget(image_p90_ms=2.0, resident_mb=3.0)) == Budget(
        image_p90_ms=1.0, resident_mb=3.0
    )
