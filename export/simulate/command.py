"""``edge-export simulate``: a volume becomes a raw scan in a file. ``edge-export fidelity``: how near that is to real scans."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

from export.config import ConfigError
from export.progress import Progress
from export.simulate.settings import AcquisitionConfig, load_acquisition_config, to_parameters, to_toml

EXIT_USAGE = 2

EXAMPLES = """example:
  edge-export simulate head.nii.gz --out scan.mrd
      one axial slice, 8 coils, fully sampled; play it with: edge-runtime replay scan.mrd --out images
  edge-export simulate head.nii.gz --out scan.h5 --slices 5 --mask variable_density --acceleration 4 --snr 20
      five slices, a fourth of the lines, as ISMRMRD HDF5
  edge-export simulate head.nii.gz --out low.mrd --field-strength-t 0.055 --source-weighting t1 --coils 1 --snr 8 \\
      --bandwidth-per-pixel-hz 100 --off-resonance-hz 150
      the look of a low-field scanner
  edge-export simulate head.nii.gz --config scan.toml --out moved.mrd --motion-mm 4 --motion-deg 3 --dropout-share 0.05
      a configuration from a file, with a head that moves and readouts that get lost
"""


def add_simulate(commands: Any) -> None:
    """Adds the command to edge-export's."""
    text = "simulate a raw scan of a volume: an MRD file that edge-runtime replays"
    parser = commands.add_parser(
        "simulate",
        help=text,
        description=text + ". What each quantity means: docs/simulate.md. Flags go before the file.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("volume", type=Path, help="magnitude volume: .nii, .nii.gz, .npz ('vol') or .mat ('image')")
    parser.add_argument("--out", type=Path, metavar="FILE", help="scan to write: .mrd (stream) or .h5 (ISMRMRD HDF5)")
    parser.add_argument("--config", type=Path, metavar="TOML", help="configuration; any key below, with _ for -")
    parser.add_argument(
        "--reference", type=Path, metavar="NPZ", help="also write the true images: no noise, field or motion"
    )
    parser.add_argument(
        "--show-config", action="store_true", help="print the configuration as TOML and do nothing else"
    )
    parser.add_argument("--json", action="store_true", help="say on one line of JSON what was written")
    kinds = get_type_hints(AcquisitionConfig)
    groups: dict[str, Any] = {}
    for one in fields(AcquisitionConfig):
        group = one.metadata["group"]
        if group not in groups:
            groups[group] = parser.add_argument_group(group)
        _add_flag(groups[group], one.name, kinds[one.name], one.default, one.metadata)
    parser.set_defaults(run=_run)


def add_fidelity(commands: Any) -> None:
    """Adds the command to edge-export's."""
    text = "compare noise and coils of real scans with those of simulated ones that are set to match"
    example = "example: edge-export fidelity --data ../shared/data --write docs/simulate.md"
    parser = commands.add_parser("fidelity", help=text, description=text, epilog=example)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder with raw/ and demo/")
    parser.add_argument("--write", type=Path, metavar="MD", help="page whose table is replaced")
    parser.add_argument("--json", action="store_true", help="one JSON line a scan")
    parser.set_defaults(run=_run_fidelity)


def _add_flag(group: Any, key: str, kind: object, default: object, metadata: Any) -> None:
    flag = "--" + key.replace("_", "-")
    shown = " ".join(f"{number:g}" for number in default) if isinstance(default, tuple) else default
    options: dict[str, Any] = {"dest": key, "default": None, "help": f"{metadata['help']} ({shown!s})"}
    if kind is bool:
        options["action"] = argparse.BooleanOptionalAction
    elif "choices" in metadata:
        options["choices"] = metadata["choices"]
    elif isinstance(default, tuple):
        options.update(type=float, nargs=3, metavar="N")
    elif kind is not str:
        options.update(type=kind, metavar="N")
    else:
        options["metavar"] = "TEXT"
    group.add_argument(flag, **options)


def _run(options: argparse.Namespace) -> int:
    given = {one.name: getattr(options, one.name) for one in fields(AcquisitionConfig)}
    try:
        config = load_acquisition_config(
            options.config, {key: value for key, value in given.items() if value is not None}
        )
        if options.out is None and not options.show_config:
            raise ConfigError("--out is missing: name the file to write, scan.mrd or scan.h5")
    except ConfigError as error:
        print(f"edge-export simulate: {error}", file=sys.stderr)
        return EXIT_USAGE
    if options.show_config:
        print(to_toml(config), end="")
        return 0

    from export.simulate.acquisition import Scanner
    from export.simulate.scan_file import check_name, check_place, write_reference, write_scan
    from export.simulate.source import read_source

    check_name(options.out)
    if options.reference is not None:
        check_place(options.reference)
    source = read_source(options.volume, config)
    scanner = Scanner(source, config)
    count = write_scan(scanner, options.out, Progress("slices", _to_stderr))
    if options.reference is not None:
        write_reference(scanner, options.reference)
    if options.json:
        record = {
            "out": str(options.out),
            "readouts": count,
            "bytes": options.out.stat().st_size,
            "source_sha256": source.digest,
            "noise_level": scanner.noise_level,
            **to_parameters(config),
        }
        print(json.dumps(record))
        return 0
    print(f"written: {options.out} ({count} readouts, {options.out.stat().st_size / 1e6:.1f} MB), simulated")
    if not source.oriented:
        print(f"{options.volume} does not say where its axes point: RAS is assumed, and the images have no directions")
    return 0


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _run_fidelity(options: argparse.Namespace) -> int:
    from export.simulate.fidelity import compare, tables, write_into

    comparisons = []
    for comparison in compare(options.data, Progress("scans", _to_stderr)):
        comparisons.append(comparison)
        if options.json:
            print(json.dumps(comparison.record()), flush=True)
    text = tables(comparisons)
    if not options.json:
        print(text)
    if options.write is not None:
        write_into(options.write, text)
    return 0
