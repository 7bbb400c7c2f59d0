"""``edge-export compile``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_runtime.errors import DeviceError, EdgeRuntimeError, EngineError

if TYPE_CHECKING:
    from export.compile import Outcome

EXIT_FAILED, EXIT_NO_DEVICE = 1, 3
MAX_RUNS = 100_000
NO_EXTRA: tuple[str, ...] = ()

WITHOUT_A_GPU = (
    "nothing was compiled, run or timed: the TensorRT of a device makes engines for its own GPU alone. Run this command there; "
    "here edge-export verify makes every check of the bundle that needs no GPU"
)


def add_compile(commands: Any, add_trust_option: Any) -> None:
    """The command's arguments."""
    text = "compile a bundle's forms with TensorRT on the device at hand, ahead of its first scan"
    sub = commands.add_parser(
        "compile",
        help=text,
        description=text
        + ". Each engine must reproduce the golden outputs. Exit code 0: every form compiled; 1: one did not; 3: nothing was "
        "compiled, since this machine has no TensorRT or no GPU.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example:\n"
        "  edge-export compile mine.edgebundle --profile jetson.toml\n"
        "  edge-export compile mine.edgebundle --profile jetson.toml --on-device --json\n"
        "  edge-export compile mine.edgebundle --form fp16 --out /var/cache/edge-runtime",
    )
    sub.add_argument("bundle", type=Path, help="the bundle")
    text = "hardware profile: sizes, memory, accelerator and folder stand in its table compile (default: the runtime's)"
    sub.add_argument("--profile", metavar="NAME", help=text)
    text = "folder for the engines (default: compile.cache of the profile)"
    sub.add_argument("--out", type=Path, metavar="DIR", help=text)
    text = "compile this form; may be repeated (default: every form of the bundle)"
    sub.add_argument("--form", action="append", default=[], metavar="PRECISION", help=text)
    text = "also time the forms against each other, and record which wins"
    sub.add_argument("--on-device", action="store_true", help=text)
    sub.add_argument("--runs", type=int, default=100, metavar="N", help="timed runs of each form (%(default)s)")
    add_trust_option(sub)
    sub.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    sub.set_defaults(run=_compile, needed=NO_EXTRA)


def _compile(options: argparse.Namespace) -> int:
    from edge_runtime.bundle import load_bundle
    from edge_runtime.engines import REGISTRY
    from edge_runtime.engines.compiled import CompiledFolder
    from edge_runtime.profile import DEFAULT_PROFILE, load_profile
    from export.bundle_commands import trust_of
    from export.compile import ENGINE, compile_forms, record_of

    def say(text: str) -> None:
        if not options.json:
            print(text, flush=True)

    if not 1 <= options.runs <= MAX_RUNS:
        raise EdgeRuntimeError(f"--runs {options.runs}: 1 to {MAX_RUNS} is expected")
    profile = load_profile(options.profile or DEFAULT_PROFILE)
    bundle = load_bundle(options.bundle, trust_of(options, profile.trust))
    compilation = profile.compilation if options.out is None else replace(profile.compilation, cache=options.out)
    precisions = tuple(dict.fromkeys(options.form)) or tuple(sorted(bundle.forms))
    unknown = [precision for precision in precisions if precision not in bundle.forms]
    if unknown:
        raise EdgeRuntimeError(f"--form {unknown[0]}: bundle {bundle.name} holds {', '.join(sorted(bundle.forms))}")
    try:
        REGISTRY[ENGINE]()
    except (ImportError, EngineError, DeviceError) as error:
        if options.json:
            print(json.dumps({"error": type(error).__name__, "said": f"{error}; {WITHOUT_A_GPU}", "forms": []}))
        else:
            print(f"edge-export: {error}\n{WITHOUT_A_GPU}", file=sys.stderr)
        return EXIT_NO_DEVICE
    outcomes = compile_forms(
        bundle, precisions, compilation, profile.threads, say, timed_runs=options.runs if options.on_device else 0
    )
    folder = CompiledFolder.at(compilation.cache)
    record = {**record_of(bundle, compilation, outcomes), "folder": str(folder.path)}
    if record["fastest"] is not None:
        record["record"] = str(folder.keep_record(bundle.digest, record))
    if options.json:
        print(json.dumps(record))
    else:
        print(*_lines(outcomes, record), sep="\n")
    return 0 if all(one.runs for one in outcomes) else EXIT_FAILED


def _lines(outcomes: list[Outcome], record: dict[str, Any]) -> Iterator[str]:
    for one in outcomes:
        if not one.runs:
            yield f"  {one.precision:<5} {one.error}: {one.said}"
            continue
        line = f"  {one.precision:<5} {one.engine}: relative error {one.difference:.1e}, ready in {one.seconds:.1f} s"
        if one.latency is not None:
            spread = f"{one.latency.p10_ms:.2f} to {one.latency.p90_ms:.2f}, n = {one.latency.runs}"
            line += f"; {one.latency.median_ms:.2f} ms ({spread})"
        yield line
    yield f"engines: {record['folder']}"
    if record["fastest"] is not None:
        listed = ", ".join(f'"{precision}"' for precision in record["precisions"])
        yield f"fastest here is {record['fastest']}: precisions = [{listed}] in the hardware profile makes it the one that runs"
        yield f"written: {record['record']}"
