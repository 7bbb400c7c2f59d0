"""Any MRD server and this runtime on one bench: the same simulated scanner plays the same scan to each, in turns.

    python -m benchmarks.side_by_side --out build/side-by-side --seconds 30 --rounds 3 \
        --peer python-ismrmrd-server=127.0.0.1:9003,simplefft

The scan is Debian's phantom (``ismrmrd_generate_cartesian_shepp_logan``), SIMULATED and fully sampled, so that a plain transform is
a whole reconstruction and every server can make its image. Beside the peers that are named runs a server of PyPI ``ismrmrd``'s own
protocol code and numpy (``tests/foreign_mrd.py``). Prints a table in Markdown; the reports of `edge-runtime bench run` stay in the
folder. A peer's other differences (what it checks, holds out, keeps) are in no figure.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_runtime.hil.bench.statistics import quantile
from edge_runtime.links.files import open_recording
from edge_runtime.links.files.mrd_stream import write_mrd_stream

GENERATOR = "ismrmrd_generate_cartesian_shepp_logan"
FOREIGN = Path(__file__).parents[1] / "tests" / "foreign_mrd.py"
EDGE = (sys.executable, "-m", "edge_runtime.cli")
MATRIX, COILS = 256, 8
REPETITION_TIME_MS = 5.0

PROTOCOL = f"""
name = "plain-fft"
version = 1
description = "Debian's phantom, SIMULATED: {MATRIX} x {MATRIX}, {COILS} coils, fully sampled, twofold readout oversampling."
[[scan]]
name = "phantom"
file = "phantom.mrd"
repetition_time_ms = {REPETITION_TIME_MS}
pause_s = 0.2
[budget]
lateness_p99_ms = 2.0
"""


@dataclass(frozen=True)
class Contestant:
    """A server and what it is asked for.

    Attributes:
        options: of ``bench run``: where it is, its configuration and which image counts.
    """

    name: str
    options: tuple[str, ...]


OURS = (
    Contestant("this runtime, plain transform", ("--config", "edge-classical", "--image", "zero_filled")),
    Contestant("this runtime, classical", ("--config", "edge-classical", "--image", "classical")),
    Contestant("this runtime, learned and classical", ("--config", "edge", "--image", "learned")),
)


def peer(text: str) -> Contestant:
    """``NAME=HOST:PORT,CONFIGURATION``."""
    name, equals, rest = text.partition("=")
    address, comma, configuration = rest.partition(",")
    if not (name and equals and address and comma and configuration):
        raise argparse.ArgumentTypeError(f"{text!r}: NAME=HOST:PORT,CONFIGURATION")
    return Contestant(name, ("--target", address, "--config", configuration, "--image", "image"))


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs all contestants in turns; exit code 1 where one gave no report."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.side_by_side", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--out", type=Path, default=Path("build/side-by-side"), metavar="DIR", help="%(default)s")
    parser.add_argument("--peer", type=peer, action="append", default=[], metavar="NAME=HOST:PORT,CONFIGURATION")
    parser.add_argument("--seconds", type=float, default=30.0, help="of each turn (%(default)g)")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each contestant (%(default)s)")
    parser.add_argument("--scanners", type=int, default=1, help="at the same time (%(default)s)")
    options = parser.parse_args(arguments)
    if shutil.which(GENERATOR) is None:
        parser.error(f"{GENERATOR} (Debian ismrmrd-tools) is not on PATH")
    options.out.mkdir(parents=True, exist_ok=True)
    protocol = scan_and_protocol(options.out)
    with foreign_server(options.out) as foreign:
        contestants = (*OURS, foreign, *options.peer)
        reports: dict[str, list[dict[str, Any]]] = {one.name: [] for one in contestants}
        for turn in range(options.rounds):
            for one in contestants:
                report = play(one, protocol, options, options.out / f"{one.name.replace(' ', '-')}-{turn}")
                if report is not None:
                    reports[one.name].append(report)
    print(table(reports))
    return 0 if all(reports.values()) else 1


def scan_and_protocol(folder: Path) -> Path:
    """Makes both where they are not there yet; returns the protocol's path."""
    recorded, stream, protocol = folder / "phantom.h5", folder / "phantom.mrd", folder / "plain-fft.toml"
    if not stream.exists():
        recorded.unlink(missing_ok=True)
        command = [GENERATOR, "-m", str(MATRIX), "-c", str(COILS), "-n", "0.02", "-o", str(recorded)]
        subprocess.run(command, check=True, capture_output=True)
        recording = open_recording(recorded)
        write_mrd_stream(stream, recording.header, recording.readouts())
    protocol.write_text(PROTOCOL, encoding="utf-8")
    return protocol


@contextlib.contextmanager
def foreign_server(folder: Path) -> Iterator[Contestant]:
    """PyPI ``ismrmrd``'s protocol code, numpy's transform, one connection after another."""
    kept = folder / "foreign"
    kept.mkdir(exist_ok=True)
    with subprocess.Popen([sys.executable, str(FOREIGN), str(kept)], stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            yield peer(f"PyPI ismrmrd and numpy=127.0.0.1:{int(server.stdout.readline())},any")
        finally:
            server.kill()


def play(one: Contestant, protocol: Path, options: argparse.Namespace, folder: Path) -> dict[str, Any] | None:
    """One turn; None where the bench gave no report, having said why."""
    command = [*EDGE, "bench", "run", "--quiet", "--protocol", str(protocol), "--out", str(folder), *one.options]
    command += ["--duration", str(options.seconds), "--warm-up", "3", "--scanners", str(options.scanners), "--realtime"]
    report = folder / "bench.json"
    report.unlink(missing_ok=True)
    print(f"{one.name} …", file=sys.stderr, flush=True)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if not report.exists():
        print(f"{one.name}: {done.stderr.strip()[-1000:]}", file=sys.stderr)
        return None
    document: dict[str, Any] = json.loads(report.read_text(encoding="utf-8"))
    return document


def table(reports: dict[str, list[dict[str, Any]]]) -> str:
    """In Markdown: all turns of a contestant together; of medians of turns the spread."""
    head = (
        "server",
        "n",
        "p50 ms (of turns)",
        "p90 ms",
        "max ms",
        "lost",
        "processors",
        "resident MB",
        "bench late, p99 ms",
    )
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for name, turns in reports.items():
        samples = [value for one in turns for value in one["measures"]["image"]["samples_ms"]]
        if not samples:
            lines.append(f"| {name} | 0 |" + " |" * (len(head) - 2))
            continue
        medians = [
            one["measures"]["image"]["quantiles"][0]["value"] for one in turns if one["measures"]["image"]["quantiles"]
        ]
        lost = sum(one["measures"]["images_lost"] for one in turns)
        expected = sum(one["measures"]["images_expected"] for one in turns)
        late = max(one["measures"]["pacing"]["p99_ms"] for one in turns)
        cells = [
            name,
            str(len(samples)),
            f"{quantile(samples, 0.5).value:.1f} ({min(medians):.1f} to {max(medians):.1f})",
        ]
        cells += [f"{quantile(samples, 0.9).value:.1f}", f"{max(samples):.1f}", f"{lost} of {expected}"]
        cells += [_most(turns, "cpu_cores", ".2f"), _most(turns, "resident_mb", ".0f"), f"{late:.2f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _most(turns: Sequence[dict[str, Any]], name: str, layout: str) -> str:
    values = [one["usage"][name] for one in turns if not isinstance(one["usage"][name], str)]
    return format(max(values), layout) if values else "not measured"


if __name__ == "__main__":
    sys.exit(main())
