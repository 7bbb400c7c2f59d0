"""What an image loses whose network runs fewer iterations than it was trained with, on the scans that qualify a bundle.

    python -m benchmarks.fewer_iterations [--bundle FILE] [--data DIR] [--recording FILE] [--draws N] [--out FILE]

The first k of K iterations run, each with its own λ. Every k is held against those limits of the bundle that its images can miss:
the fewest that keep them all are what a hardware profile may permit (`fewest_iterations` in `[deadlines]`, docs/deadlines.md).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median

from edge_runtime.bundle import DEFAULT_BUNDLE, load_bundle
from edge_runtime.bundle.quality import Limit, parse_limits
from edge_runtime.engines.onnxruntime import OnnxRuntimeEngine
from edge_runtime.kernels import Plans, Workers
from edge_runtime.modalities.mri.families import made_ready
from edge_runtime.modalities.mri.learned import LearnedReconstruction
from export.qualification.cases import AS_TRAINED, RECORDED, CaseName, Sources, foreign_volumes
from export.qualification.extent import Extent
from export.qualification.figures import figures_of
from export.qualification.judge import Row, learned, outcome
from export.qualification.run import looked_into
from export.qualification.stability import Stability, stabilities
from export.simulate.volumes import load_volumes


@dataclass(frozen=True)
class Fewer:
    """What so many iterations lose.

    Attributes:
        iterations: that are run.
        figures: as in a quality report, those that images decide.
        lost_db_median, lost_db_worst: PSNR of all iterations less that of these, of cases as trained for and recorded.
        missed: limits of the bundle that these images miss.
    """

    precision: str
    iterations: int
    of: int
    figures: Mapping[str, float]
    lost_db_median: float
    lost_db_worst: float
    missed: Sequence[str]


def measure(
    bundle: Path, sources: Sources, extent: Extent, precisions: Sequence[str]
) -> tuple[list[Fewer], list[Row], list[Stability]]:
    """Every number of iterations of every form; progress goes to standard error."""
    loaded, plans = load_bundle(bundle), Plans(Workers(threads=1))
    settings, engine = loaded.unrolled, OnnxRuntimeEngine()
    models: dict[str, LearnedReconstruction] = {}
    for precision in precisions:
        whole = made_ready(settings, loaded.forms[precision].graphs, engine, threads=1)
        assert isinstance(whole, LearnedReconstruction)
        for count in range(settings.iterations, 0, -1):
            models[_named(precision, count)] = replace(whole, iterations=count)
    rows: list[Row] = []
    stable: list[Stability] = []
    names = list(sources.names(extent.draws, extent.off_draws, extent.seed))
    made: list[CaseName] = []
    for number, name in enumerate(names, start=1):
        of_case = outcome(name, sources, models)
        rows += of_case.rows
        made += [] if of_case.left_out else [name]
        print(f"{number} of {len(names)}: {name}", file=sys.stderr, flush=True)
    for name in looked_into(made):
        stable += stabilities(sources.case(name, plans), models, plans)
        print(f"stability: {name}", file=sys.stderr, flush=True)
    limits = parse_limits(loaded.manifest["limits"])
    found = [
        _fewer(precision, count, settings.iterations, rows, stable, limits)
        for precision in precisions
        for count in range(settings.iterations, 0, -1)
    ]
    return found, rows, stable


def _named(precision: str, iterations: int) -> str:
    return f"{precision} {iterations}"


def _fewer(
    precision: str,
    count: int,
    of: int,
    rows: Sequence[Row],
    stable: Sequence[Stability],
    limits: Mapping[str, Limit],
) -> Fewer:
    ours = learned(_named(precision, count))
    whole = {row.case: row for row in rows if row.method == learned(_named(precision, of))}
    at_home = [row for row in rows if row.method == ours and row.group in (AS_TRAINED, RECORDED)]
    lost = [whole[row.case].psnr_db - row.psnr_db for row in at_home]
    figures = figures_of(rows, stable, [], _named(precision, count))
    missed = [
        f"{name} = {figures[name]:.3g}, {limit} is the limit"
        for name, limit in sorted(limits.items())
        if name in figures and not limit.admits(figures[name])
    ]
    return Fewer(precision, count, of, figures, median(lost), max(lost), missed)


def markdown(found: Sequence[Fewer]) -> str:
    """One row a form and number of iterations."""
    shown = (
        "gain_db_median",
        "gain_db_worst",
        "flagged_over_classical_worst",
        "noise_gain_over_classical_worst",
        "contrast_kept_over_classical_worst",
    )
    lines = [
        "| form | iterations | loss, dB: median (worst) | " + " | ".join(f"`{name}`" for name in shown) + " | limits |",
        "|---|---|---|" + "---|" * len(shown) + "---|",
    ]
    for one in found:
        cells = [f"{one.figures[name]:.3f}" if name in one.figures else "" for name in shown]
        lost = f"{one.lost_db_median:.2f} ({one.lost_db_worst:.2f})"
        kept = "; ".join(one.missed) or "kept"
        lines.append(
            f"| {one.precision} | {one.iterations} of {one.of} | {lost} | " + " | ".join(cells) + f" | {kept} |"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, prints the table and writes everything as JSON."""
    usual = Extent()
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.fewer_iterations", description="What fewer iterations lose."
    )
    parser.add_argument("--bundle", type=Path, default=DEFAULT_BUNDLE, help="model bundle (the one that ships)")
    parser.add_argument("--data", type=Path, default=Path("../shared/data/validate"), help="volumes (%(default)s)")
    parser.add_argument("--recording", type=Path, action="append", default=[], help="a raw scan; may be repeated")
    parser.add_argument("--draws", type=int, default=usual.draws, metavar="N")
    parser.add_argument("--precision", action="append", default=[], help="a form; may be repeated (all)")
    parser.add_argument("--out", type=Path, default=Path("build/fewer_iterations.json"))
    options = parser.parse_args(arguments)
    precisions = options.precision or sorted(load_bundle(options.bundle).forms)
    sources = Sources(load_volumes(options.data), foreign_volumes(options.data), options.recording)
    found, rows, stable = measure(options.bundle, sources, Extent(options.draws, 0, usual.seed), precisions)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    document = {
        "fewer": [asdict(one) for one in found],
        "rows": [asdict(row) for row in rows],
        "stability": [asdict(one) for one in stable],
    }
    options.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(markdown(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
