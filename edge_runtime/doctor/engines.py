"""``edge-runtime engines``: which engines this device has, which of them have failed here, and how they are tried again."""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, dataclass
from typing import Any

from edge_runtime.engines import REGISTRY
from edge_runtime.engines.quarantine import Mark, Quarantine
from edge_runtime.errors import EdgeRuntimeError
from edge_runtime.profile import DEFAULT_PROFILE, Profile, load_profile

PRECISIONS = ("fp32", "fp16", "int8")
EVERY = "all"
"""Releases every engine."""

EXIT_NOTHING = 1


@dataclass(frozen=True, slots=True)
class Listed:
    """One engine.

    Attributes:
        allowed: the profile names it.
        version: empty where it can't be used.
        lacking: why it can't be; empty where it can.
        scores: by precision, 0 where it does not run it.
    """

    name: str
    allowed: bool
    version: str
    lacking: str
    scores: dict[str, int]


def listed(profile: Profile) -> list[Listed]:
    """Every engine, those that the profile allows first, in its order."""
    found = []
    for name in (*profile.engines, *(one for one in sorted(REGISTRY) if one not in profile.engines)):
        allowed = name in profile.engines
        if name not in REGISTRY:
            found.append(Listed(name, allowed, "", f"unknown, known are {', '.join(sorted(REGISTRY))}", {}))
            continue
        try:
            engine = REGISTRY[name]()
        except (ImportError, EdgeRuntimeError) as error:
            found.append(Listed(name, allowed, "", " ".join(str(error).split()), {}))
            continue
        scores = {precision: engine.score(precision) for precision in PRECISIONS}
        found.append(Listed(name, allowed, engine.version(), "", scores))
    return found


def run(options: argparse.Namespace) -> int:
    """Prints the list, or releases."""
    profile = load_profile(options.profile or DEFAULT_PROFILE)
    quarantine = Quarantine.at(profile.compilation.cache)
    if options.release is not None:
        gone = quarantine.release(lambda mark: options.release in (EVERY, mark.case.engine))
        if options.json:
            print(json.dumps({"released": [_record(mark) for mark in gone]}))
        else:
            for mark in gone:
                print(f"released: {mark.case}; {mark}")
            if not gone:
                known = ", ".join(sorted({mark.case.engine for mark in quarantine.marks()})) or "none"
                print(f"nothing is noted of {options.release} in {quarantine.path}; noted are: {known}")
        return 0 if gone else EXIT_NOTHING
    engines, marks = listed(profile), quarantine.marks()
    if options.json:
        document = {"profile": profile.name, "folder": str(quarantine.path)}
        print(json.dumps({**document, "engines": [asdict(one) for one in engines], "marks": [*map(_record, marks)]}))
        return 0
    print(f"profile {profile.name}")
    for one in engines:
        runs = ", ".join(f"{precision} {score}" for precision, score in one.scores.items() if score)
        state = "allowed" if one.allowed else "not in compute.engines"
        print(f"  {one.name:<21} {state}: {one.version + '; scores ' + runs if one.version else one.lacking}")
    print(f"noted in {quarantine.path}:" if marks else f"none has failed here ({quarantine.path})")
    for mark in marks:
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(mark.at)) if mark.at else "at an unknown time"
        state = "quarantined" if mark.quarantined else "suspected"
        print(f"  {state}: {mark.case}, {when}; {mark}")
        print(f"           edge-runtime engines --release {mark.case.engine}")
    return 0


def _record(mark: Mark) -> dict[str, Any]:
    return {**asdict(mark), "kind": mark.kind.value, "quarantined": mark.quarantined}
