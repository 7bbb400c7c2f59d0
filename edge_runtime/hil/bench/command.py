"""``edge-runtime bench run | search | compare | suites | convert | watch``: arguments, progress, what is printed and written.

Exit codes: 0 done and within the budget (``compare``: nothing got worse); 1 the budget was missed, something got worse, or the work
failed; 2 wrong usage; 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from edge_runtime.budget import Budget
    from edge_runtime.hil.bench.compare import Comparison
    from edge_runtime.hil.bench.protocol import Protocol
    from edge_runtime.hil.bench.run import Plan
    from edge_runtime.hil.bench.search import Point
    from edge_runtime.hil.bench.target import Target
    from edge_runtime.hil.bench.verdict import Verdict
    from edge_runtime.profile import Profile

EXIT_FAILED = 1
DEFAULT_OUT = Path("bench-out")
DEFAULT_SUITE = "portable-brain-2"
RAW = argparse.RawDescriptionHelpFormatter

Value = TypeVar("Value")


def add_bench(commands: Any, add_server_options: Callable[[argparse.ArgumentParser], None]) -> None:
    """Adds the command to a program's.

    Args:
        add_server_options: those of a server that the bench starts itself.
    """
    bench = commands.add_parser(
        "bench",
        help="hardware in the loop: a simulated scanner plays protocols, measures, and holds the device against a budget",
        description="A simulated scanner, in processes of its own, plays whole protocols at their true pace "
        "into a server of its own, "
        "one that listens (any MRD server), or one that it starts by ssh; it measures from the scanner's side.",
        formatter_class=RAW,
        epilog="examples:\n"
        "  edge-runtime bench run                                        the suite, against a server of the bench's own\n"
        "  edge-runtime bench run --target ssh://edge@scanner --out jetson   starts the runtime over there\n"
        "  edge-runtime bench run --duration 600 --scanners 2 --link rate=100,loss=1\n"
        "  edge-runtime bench search --target 192.168.1.20:9002         the highest rate of scans within the deadlines\n"
        "  edge-runtime bench search --over scanners                    how many scanners at once\n"
        "  edge-runtime bench compare before/ after/                    what changed beyond noise\n",
    )
    inner = bench.add_subparsers(required=True, metavar="COMMAND")
    _add_run(inner, add_server_options)
    _add_search(inner, add_server_options)
    _add_compare(inner)
    suites = inner.add_parser("suites", help="benchmark suites that come with the package")
    suites.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    suites.set_defaults(run=_suites, parser=suites, classical_only=False)
    convert = inner.add_parser(
        "convert",
        help="makes an MRD stream, which the simulated scanner plays, of a recording of another kind",
        epilog="example: edge-runtime bench convert scan.h5 scan.mrd",
    )
    convert.add_argument("file", type=Path, help="ISMRMRD .h5, Siemens twix .dat, .mat or an MRD stream")
    convert.add_argument("stream", type=Path, help="the stream to write, .mrd")
    convert.add_argument("--dataset", metavar="NAME", help="which scan of a file that holds several")
    convert.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    convert.set_defaults(run=_convert, parser=convert, classical_only=False)
    watch = inner.add_parser(
        "watch", help="prints what this machine tells of a server, a line of JSON a second; for the bench"
    )
    watch.add_argument("--port", type=int, required=True, help="that the server listens on")
    watch.add_argument("--json", action="store_true", help="nothing else is ever printed")
    watch.set_defaults(run=_watch, parser=watch, classical_only=False)


def _add_target(
    command: argparse.ArgumentParser, add_server_options: Callable[[argparse.ArgumentParser], None]
) -> None:
    from edge_runtime.hil.bench.links import parse_link
    from edge_runtime.hil.bench.target import parse_address

    command.add_argument(
        "--protocol",
        default=DEFAULT_SUITE,
        metavar="SUITE|FILE",
        help="a suite by name, or a protocol's .toml file (%(default)s)",
    )
    command.add_argument(
        "--target", type=_checked(parse_address), metavar="WHERE",
        help="HOST:PORT of an MRD server, or ssh://[user@]host[:port] to start the runtime there; default: a "
        "server of its own, here",
    )  # fmt: skip
    command.add_argument(
        "--scanners", type=_whole(1, 256), metavar="N", help="that measure at the same time (the protocol's)"
    )
    command.add_argument("--link", type=_checked(parse_link), metavar="KIND=N,…",
        help="a bad link in between: delay=MS, cut=S (every other connection), rate=MBIT, loss=PERCENT; the last two need root",
    )  # fmt: skip
    command.add_argument(
        "--warm-up", type=_number(0, 86400), default=10.0, metavar="S", help="load before anything counts (%(default)g)"
    )
    command.add_argument(
        "--image",
        metavar="METHOD",
        help="which image the deadlines are about: learned, classical, zero_filled (the protocol's)",
    )
    command.add_argument(
        "--config", metavar="NAME", help="configuration to ask for, for servers of another make (the protocol's)"
    )
    command.add_argument("--cpu-limit", type=_number(0.01, 1024), metavar="CORES",
        help="hold a server of its own to so many processors, by a control group; needs root",
    )  # fmt: skip
    command.add_argument(
        "--ssh-option",
        action="append",
        default=[],
        metavar="OPTION",
        help="for ssh, such as -oPort=22; may be given again",
    )
    command.add_argument("--remote-program", default="edge-runtime", metavar="PATH", help="over there (%(default)s)")
    command.add_argument("--direct", default="", metavar="ADDRESS",
        help="with ssh://: the address that the server listens on there, reached without a tunnel; anyone can reach it then",
    )  # fmt: skip
    command.add_argument("--realtime", action="store_true", help="ask for SCHED_FIFO for the simulated scanners")
    command.add_argument(
        "--out", type=Path, default=DEFAULT_OUT, metavar="DIR", help="folder for the report (%(default)s)"
    )
    command.add_argument("--quiet", action="store_true", help="no progress")
    command.add_argument("--json", action="store_true", help="print a JSON summary and nothing else")
    add_server_options(command)


def _add_run(commands: Any, add_server_options: Callable[[argparse.ArgumentParser], None]) -> None:
    from edge_runtime.hil.bench.stages import parse_metrics_url

    run = commands.add_parser(
        "run",
        help="plays a protocol, measures, and writes bench.json, bench.html and junit.xml",
        description="Golden result, warm-up, the measured part, cool-down; then the report, and the budget line by line.",
        formatter_class=RAW,
        epilog="examples:\n"
        "  edge-runtime bench run --duration 600 --out idle\n"
        "  edge-runtime bench run --cpu-limit 0.5 --out throttled     why it misses its budget is in the report\n"
        "  edge-runtime bench run --target 127.0.0.1:9003 --config simplefft --out peer\n",
    )
    _add_target(run, add_server_options)
    which = run.add_mutually_exclusive_group()
    which.add_argument(
        "--duration", type=_number(1, 1e6), metavar="S", help="of the measured part; no scan begins later"
    )
    which.add_argument(
        "--repeat", type=_whole(1, 1_000_000), metavar="N", help="times through the protocol (the protocol's)"
    )
    run.add_argument(
        "--speed", type=_number(0.01, 256), default=1.0, metavar="F", help="times the protocol's pace (%(default)g)"
    )
    run.add_argument(
        "--cool-down",
        type=_number(0, 86400),
        default=0.0,
        metavar="S",
        help="sensors alone, after the load (%(default)g)",
    )
    run.add_argument("--golden", type=Path, metavar="DIR", help="golden images of another run, from its --keep-golden")
    run.add_argument("--keep-golden", type=Path, metavar="DIR", help="folder in which the golden images are kept")
    run.add_argument(
        "--metrics",
        type=_checked(parse_metrics_url),
        metavar="URL",
        help="the server's metrics, for the time by stage: http://host:port/metrics (of a server that the bench starts: its own)",
    )
    run.add_argument("--junit", type=Path, metavar="FILE", help="JUnit XML (junit.xml in the report's folder)")
    run.set_defaults(run=_run, parser=run)


def _add_search(commands: Any, add_server_options: Callable[[argparse.ArgumentParser], None]) -> None:
    search = commands.add_parser(
        "search",
        help="finds the highest rate of scans, or the most scanners, held within the deadlines, with the curve",
        description="Warm-up; then the protocol at ever other loads, each for --soak seconds; a cool-down between them.",
        formatter_class=RAW,
        epilog="examples:\n"
        "  edge-runtime bench search --soak 60 --scanners 2 --out limit        how fast two scanners may measure\n"
        "  edge-runtime bench search --soak 60 --over scanners --out ward      how many may measure at once\n",
    )
    _add_target(search, add_server_options)
    search.add_argument(
        "--over", choices=("pace", "scanners"), default="pace",
        help="what is raised: the pace of --scanners, or the number of scanners at --speed (%(default)s)",
    )  # fmt: skip
    search.add_argument(
        "--speed", type=_number(0.01, 256), metavar="F", help="with --over scanners: times the protocol's pace (1)"
    )
    search.add_argument("--soak", type=_number(1, 86400), default=30.0, metavar="S", help="at each load (%(default)g)")
    search.add_argument(
        "--cool-down", type=_number(0, 86400), default=2.0, metavar="S", help="after each load (%(default)g)"
    )
    search.set_defaults(run=_search, parser=search)


def _add_compare(commands: Any) -> None:
    compare = commands.add_parser(
        "compare",
        help="what changed between two runs beyond noise",
        description="A permutation test on segments of the runs (docs/benchmark.md). Exit code 1 where something got worse.",
        epilog="example: edge-runtime bench compare before after; each a report, its folder, or a folder of seven and more such",
    )
    compare.add_argument(
        "first", type=_paths, help="report, its folder, or a folder of such folders; several with commas"
    )
    compare.add_argument("second", type=_paths)
    compare.add_argument(
        "--floor", type=_number(0, 100), default=2.0, metavar="PERCENT", help="a smaller change is none (%(default)g)"
    )
    compare.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    compare.set_defaults(run=_compare, parser=compare, classical_only=False)


def _checked(parse: Callable[[str], Value]) -> Callable[[str], Value]:
    def parsed(text: str) -> Value:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return parsed


def _number(low: float, high: float) -> Callable[[str], float]:
    def parsed(text: str) -> float:
        value = float(text)
        if not low <= value <= high:
            raise ValueError(f"{text!r}: a number from {low:g} to {high:g}")
        return value

    return _checked(parsed)


def _whole(low: int, high: int) -> Callable[[str], int]:
    def parsed(text: str) -> int:
        if not (text.isascii() and text.isdecimal() and len(text) < 20 and low <= int(text) <= high):
            raise ValueError(f"{text!r}: a whole number from {low} to {high}")
        return int(text)

    return _checked(parsed)


def _paths(text: str) -> list[Path]:
    found = [path for part in text.split(",") if part for path in _reports(Path(part))]
    if not found:
        raise argparse.ArgumentTypeError("no report is named: a file, a folder, or several with commas")
    return found


def _reports(path: Path) -> list[Path]:
    """Of a folder that is none itself, those in the folders of it."""
    if path.is_dir() and not (path / "bench.json").exists():
        return sorted(found.parent for found in path.glob("*/bench.json")) or [path]
    return [path]


class _Progress:
    """Lines on the error stream, with the time since the beginning."""

    def __init__(self, quiet: bool) -> None:
        self._quiet, self._began = quiet, time.monotonic()

    def __call__(self, text: str) -> None:
        if not self._quiet:
            print(f"{time.monotonic() - self._began:7.1f} s  {text}", file=sys.stderr, flush=True)


def _protocol(options: argparse.Namespace) -> Protocol:
    from dataclasses import replace

    from edge_runtime.hil.bench.suite import protocol_named

    protocol = protocol_named(options.protocol)
    changed = {
        name: value for name, value in (("image", options.image), ("config", options.config)) if value is not None
    }
    if options.classical_only and options.image is None:
        changed["image"] = "classical"
    return replace(protocol, scans=tuple(replace(step, **changed) for step in protocol.scans)) if changed else protocol


def _profile(options: argparse.Namespace) -> Profile | None:
    """Whose budget holds: that of the server the bench starts, or the one that is named for another."""
    from edge_runtime.hil.bench.target import OWN
    from edge_runtime.profile import DEFAULT_PROFILE, load_profile

    own = options.target is None or options.target.scheme == OWN
    if options.profile is None and not own:
        return None
    return load_profile(options.profile or DEFAULT_PROFILE)


def _told_profile(profile: Profile | None, target: Target) -> Profile | None:
    """Where none is named: that of the package which a server that the bench started says it works by."""
    from edge_runtime.profile import available_profiles, load_profile

    if profile is None and target.profile in available_profiles():
        return load_profile(target.profile)
    return profile


def _budget(protocol: Protocol, profile: Profile | None) -> Budget:
    """The protocol's lines first: a suite's rules are its own. What it leaves open, the profile says."""
    return protocol.budget if profile is None else protocol.budget.over(profile.budget)


def _plan(options: argparse.Namespace, protocol: Protocol, **more: Any) -> Plan:
    from edge_runtime.hil.bench.links import Link
    from edge_runtime.hil.bench.run import Plan
    from edge_runtime.hil.bench.target import OWN, Address, SshOptions

    address = options.target or Address(OWN)
    serve: list[str] = []
    for name in ("profile", "bundle", "trust", "precision"):
        if getattr(options, name) is not None:
            serve += [f"--{name}", str(getattr(options, name))]
    if options.classical_only:
        serve.append("--classical-only")
    if options.previews is not None:
        serve += ["--previews", ",".join(f"{share:g}" for share in options.previews) or "none"]
    if address.scheme == "tcp" and (wrong := [one for one in serve if one.startswith("--") and one != "--profile"]):
        options.parser.error(f"{wrong[0]} is for a server that the bench starts: leave it out, or --target HOST:PORT")
    if address.scheme != OWN and options.cpu_limit is not None:
        options.parser.error("--cpu-limit is for a server of the bench's own: leave it out, or --target")
    return Plan(
        protocol=protocol,
        address=address,
        scanners=options.scanners or protocol.scanners,
        warm_up_s=options.warm_up,
        link=options.link or Link(),
        serve=tuple(serve),
        ssh=SshOptions(options.remote_program, options.direct, tuple(options.ssh_option)),
        cpu_limit=options.cpu_limit,
        realtime=options.realtime,
        **more,
    )


def _run(options: argparse.Namespace) -> int:
    from edge_runtime.hil.bench.junit import write_junit
    from edge_runtime.hil.bench.page import write_page
    from edge_runtime.hil.bench.report import report_of, write_report
    from edge_runtime.hil.bench.run import run
    from edge_runtime.hil.bench.verdict import judge

    protocol, profile = _protocol(options), _profile(options)
    plan = _plan(
        options,
        protocol,
        rounds=options.repeat or protocol.repeat,
        duration_s=options.duration,
        speed=options.speed,
        cool_down_s=options.cool_down,
        golden=options.golden,
        keep_golden=options.keep_golden,
        metrics=options.metrics or "",
    )
    junit = options.junit or options.out / "junit.xml"
    for old in (junit, options.out / "bench.html", options.out / "bench.json"):
        old.unlink(missing_ok=True)  # should this run come to nothing, no other's verdict is left in its place
    result = run(plan, _Progress(options.quiet or options.json))
    profile = _told_profile(profile, result.target)
    throttles = profile.device.throttles_c if profile is not None and profile.device is not None else None
    budget = _budget(protocol, profile)
    verdict = judge(result.measures, result.usage, budget, plan.link, throttles, result.readouts_taken)
    report = report_of(result, verdict, ["edge-runtime", *sys.argv[1:]], profile.name if profile is not None else "")
    path = write_report(options.out, report)
    write_junit(junit, report)
    page = write_page(options.out, report)
    if options.json:
        kept = {name: report[name] for name in ("made", "provenance", "protocol", "verdict", "stages", "usage")}
        print(json.dumps({**kept, "report": str(path), "page": str(page), "junit": str(junit)}))
    else:
        for line in summary_lines(report, verdict):
            print(line)
        print(f"written: {page}, {path}, {junit}")
    return 0 if verdict.passed else EXIT_FAILED


def summary_lines(report: dict[str, Any], verdict: Verdict) -> list[str]:
    """What a run came to, for a terminal."""
    from edge_runtime.hil.bench.page import rules_words

    image, pacing = report["measures"]["image"], report["measures"]["pacing"]
    lines = []
    if image["quantiles"]:
        values = "  ".join(f"p{100 * one['p']:g} {one['value']:.1f}" for one in image["quantiles"])
        lines.append(
            f"last readout to image, ms: {values}  max {image['longest_ms']:.1f}  (n = {len(image['samples_ms'])})"
        )
    lines.append(f"the scanner's own lateness: p99 {pacing['p99_ms']:.2f} ms, max {pacing['longest_ms']:.2f} ms")
    words = {True: "pass", False: "FAIL", None: "----"}
    for line in verdict.lines:
        measured = "not measured" if line.measured is None else f"{line.measured:.4g} {line.unit}".strip()
        lines.append(f"  {words[line.passed]}  {line.name}: {measured} (at most {line.limit:g}); {line.detail}")
    lines += [f"  why: {reason}" for reason in verdict.reasons]
    if rules := rules_words(report["suite_rules_broken"], "the suite"):
        lines.append(rules)
    if not verdict.valid:
        lines.append("NOT VALID: the simulated scanner itself was too late; give it a machine or a core of its own")
    return lines


def _search(options: argparse.Namespace) -> int:
    from edge_runtime.hil.bench.curve import curve_of, words, write_curve
    from edge_runtime.hil.bench.explore import explore
    from edge_runtime.hil.bench.search import Axis, Pace, Scanners

    over_scanners = options.over == "scanners"
    if over_scanners and options.scanners is not None:
        options.parser.error("--scanners is what --over scanners looks for: leave one of them out")
    if not over_scanners and options.speed is not None:
        options.parser.error("--speed is what --over pace looks for: leave it out, or give --over scanners")
    protocol, profile = _protocol(options), _profile(options)
    speed = options.speed or 1.0
    plan = _plan(options, protocol, rounds=1, speed=speed, duration_s=options.soak, cool_down_s=options.cool_down)
    axis: Axis = Scanners(speed) if over_scanners else Pace(plan.scanners)

    def budget_of(target: Target) -> Budget:
        return _budget(protocol, _told_profile(profile, target))

    explored = explore(plan, axis, budget_of, _Progress(options.quiet or options.json))
    profile = _told_profile(profile, explored.target)
    command = ["edge-runtime", *sys.argv[1:]]
    document = curve_of(explored, command, profile.name if profile is not None else "")
    path, page = write_curve(options.out, explored, document)
    if options.json:
        kept = {name: document[name] for name in ("made", "provenance", "protocol", "over", "found")}
        print(json.dumps({**kept, "report": str(path), "page": str(page)}))
    else:
        for point in explored.found.curve:
            print(_point_line(point))
        print(words(explored.found))
        print(f"written: {page}, {path}")
    return 0 if explored.found.held is not None else EXIT_FAILED


def _point_line(point: Point) -> str:
    times = (
        "no image"
        if point.p50_ms is None
        else f"p50 {point.p50_ms:.0f}, p90 {point.p90_ms:.0f}, max {point.longest_ms:.0f} ms"
    )
    rate = f"{point.scans_per_minute:7.1f} scans/min"
    return f"  {point.load}: {rate}  {times} (n = {point.images})  {point.why or 'held'}"


def _compare(options: argparse.Namespace) -> int:
    from dataclasses import asdict

    from edge_runtime.hil.bench.compare import compare
    from edge_runtime.hil.bench.report import read_report

    sides = [[read_report(path) for path in paths] for paths in (options.first, options.second)]
    comparison = compare(sides[0], sides[1], options.floor / 100)
    if options.json:
        print(json.dumps({**asdict(comparison), "worse": comparison.worse}))
    else:
        print(*_comparison_lines(comparison), sep="\n")
    return EXIT_FAILED if comparison.worse else 0


def _comparison_lines(comparison: Comparison) -> Sequence[str]:
    rows = []
    for change in comparison.changes:
        factor, unit = (100.0, "%") if change.unit == "share" else (1.0, change.unit)
        values = [("-" if one is None else f"{factor * one:.4g} {unit}") for one in (change.first, change.second)]
        shift = "" if change.shift_ms is None else "{:+.2f} ms ({:+.2f} to {:+.2f})".format(*change.shift_ms)
        chance = "" if change.chance is None else f"{change.chance:.2g}"
        rows.append((change.name, *values, shift, chance, change.verdict))
    head = ("", "first", "second", "shift of segments", "chance", "")
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in (head, *rows)
    ]
    return [*lines, *(f"note: {remark}" for remark in comparison.remarks), f"test: {comparison.method}"]


def _suites(options: argparse.Namespace) -> int:
    from dataclasses import asdict

    from edge_runtime.hil.bench.suite import protocol_named, suites

    found = {name: protocol_named(name) for name in suites()}
    if options.json:
        print(json.dumps({name: asdict(one) for name, one in found.items()}))
        return 0
    for name, one in found.items():
        print(f"{name}: {one.description}")
        for step in one.scans:
            deadline = "" if step.deadline_ms is None else f", {step.image} image within {step.deadline_ms:g} ms"
            print(
                f"  {step.name}: {Path(step.file).name}, {step.repetition_time_ms:g} ms a readout, {step.config}{deadline}"
            )
    return 0


def _convert(options: argparse.Namespace) -> int:
    from edge_runtime.errors import BenchError
    from edge_runtime.hil.bench.wire import WireError, read_script
    from edge_runtime.links.files import open_recording
    from edge_runtime.links.files.mrd_stream import write_mrd_stream

    recording = open_recording(options.file, options.dataset)
    count = write_mrd_stream(options.stream, recording.header, recording.readouts())
    try:
        script = read_script(options.stream)  # by the scanner's own reading
    except WireError as error:
        raise BenchError(str(error)) from None
    said = {"stream": str(options.stream), "readouts": count, "images": len(script.keys)}
    print(json.dumps(said) if options.json else f"{options.stream}: {count} readouts, {len(script.keys)} slices")
    return 0


def _watch(options: argparse.Namespace) -> int:
    from edge_runtime.hil.bench.sensors import listening_process
    from edge_runtime.hil.bench.watch import watch

    return watch(listening_process(options.port))
