"""``edge-runtime demo``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from edge_runtime.cli.model import add_model_options, open_runtime
from edge_runtime.cli.progress import ProgressLine, print_series, series_of


def add(commands: Any) -> None:
    demo = commands.add_parser(
        "demo",
        help="the main job end to end on a shipped simulated scan",
        epilog="example: edge-runtime demo --out demo-out",
        description="Plays a simulated Colin27 scan (8 coils, R = 4) into a server over a loopback socket, and writes the DICOM "
        "series, comparison.png and report.json.",
    )
    demo.add_argument(
        "--out", type=Path, default=Path("demo-out"), metavar="DIR", help="folder for the results (%(default)s)"
    )
    demo.add_argument("--json", action="store_true", help="print the report as JSON and nothing else")
    add_model_options(demo)
    demo.set_defaults(run=run, parser=demo)


def run(options: argparse.Namespace) -> int:
    from edge_runtime.demo.run import run_demo

    show = None if options.json else ProgressLine()
    with open_runtime(options, options.out) as runtime:
        report = run_demo(runtime, options.out, show)
    if show is not None:
        show.end()
    if options.json:
        print(json.dumps(report))
        return 0
    print(f"{'slice':>5}  {'method':<12} {'NRMSE':>7} {'PSNR dB':>8} {'SSIM':>6}")
    for row in report["quality"]:
        print(f"{row['slice']:>5}  {row['method']:<12} {row['nrmse']:>7.4f} {row['psnr_db']:>8.2f} {row['ssim']:>6.3f}")
    for image in report["session"]["images"]:
        if image["completeness"] == "final" and image["method"] == "learned":
            print(f"slice {image['slice']}: learned image {image['latency_s'] * 1e3:.0f} ms after its last readout")
    print(f"written: {options.out / 'comparison.png'}, {options.out / 'report.json'}")
    print_series(series_of(report["session"]["images"]))
    return 0
