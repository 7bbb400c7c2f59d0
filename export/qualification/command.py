"""``edge-export qualify``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from edge_runtime.errors import EdgeRuntimeError

BUNDLE_SUFFIX = ".edgebundle"
NEEDED_OF_BUNDLES = ("scipy", "nibabel", "matplotlib")
EXIT_MISSED = 1

DRAWS, OFF_DRAWS, SEED = 12, 4, 20261126
"""Slices as trained for, cases of every other kind, and the seed of both, where nothing else is asked for."""


def add_qualify(commands: Any, add_trust_option: Any) -> None:
    """The command's arguments."""
    text = "judge a model on scans it was and was not trained for: quality.json for its limits, quality.html for whoever signs"
    sub = commands.add_parser(
        "qualify",
        help=text,
        description=text
        + ". Exit code 0: its limits are kept, 1: they are not. An interrupted run goes on where it stopped.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example:\n"
        "  edge-export qualify export/configs/brain2d.toml --work build/brain2d --data ../shared/data/validate\n"
        "  edge-export qualify brain2d.edgebundle --data volumes --recording head.dat --out report\n"
        "  edge-export sign brain2d.edgebundle --quality report/quality.json --key site.pem --out qualified.edgebundle",
    )
    sub.add_argument("model", type=Path, help="a bundle, or the configuration (TOML) of the model in --work")
    sub.add_argument("--work", type=Path, metavar="DIR", help="work folder, with a configuration")
    sub.add_argument(
        "--data", type=Path, required=True, metavar="DIR", help="folder of volumes that it was not trained on"
    )
    sub.add_argument(
        "--recording",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="a fully sampled raw scan (.mrd, .h5, .dat); may be repeated",
    )
    sub.add_argument(
        "--out", type=Path, metavar="DIR", help="where the report goes (default: qualify, or in --work forms)"
    )
    sub.add_argument(
        "--form", default="int8", metavar="PRECISION", help="whose figures limits bound (default: %(default)s)"
    )
    sub.add_argument(
        "--draws", type=int, default=DRAWS, metavar="N", help="simulated slices, each at R = 2, 4, 6 (%(default)s)"
    )
    sub.add_argument(
        "--off-draws",
        type=int,
        default=OFF_DRAWS,
        metavar="N",
        help="cases of every kind it was not trained for (%(default)s)",
    )
    sub.add_argument("--seed", type=int, default=SEED, help="of the draws (%(default)s)")
    add_trust_option(sub)
    sub.add_argument(
        "--json", action="store_true", help="print figures and missed limits as one JSON object, nothing else"
    )
    sub.set_defaults(run=_qualify, needed=NEEDED_OF_BUNDLES)


def _qualify(options: argparse.Namespace) -> int:
    from edge_runtime.bundle import trust_store
    from export.qualification.cases import Sources, foreign_volumes
    from export.qualification.run import Extent, qualify
    from export.qualification.subject import of_bundle, of_work
    from export.simulate.volumes import load_volumes

    def say(text: str) -> None:
        if not options.json:
            print(text, flush=True)

    is_bundle = options.model.suffix == BUNDLE_SUFFIX
    if is_bundle == (options.work is not None):
        raise EdgeRuntimeError(
            f"{options.model}: a bundle goes without --work, a configuration with it; a bundle's name ends in {BUNDLE_SUFFIX}"
        )
    for name, least in (("draws", 1), ("off_draws", 0), ("seed", 0)):
        if getattr(options, name) < least:
            raise EdgeRuntimeError(f"--{name.replace('_', '-')} {getattr(options, name)}: at least {least} is expected")
    if is_bundle:
        subject = of_bundle(options.model, trust_store.load_trust_store(options.trust or trust_store.DEFAULT_TRUST))
        out = options.out or Path("qualify")
    else:
        subject, out = of_work(options.model, options.work), options.out or options.work / "forms"
    if options.form not in subject.forms:
        raise EdgeRuntimeError(f"--form {options.form}: {subject.name} has {', '.join(sorted(subject.forms))}")
    sources = Sources(load_volumes(options.data), foreign_volumes(options.data), options.recording)
    document = qualify(subject, sources, Extent(options.draws, options.off_draws, options.seed), options.form, out, say)
    missed = document["missed"]
    if options.json:
        print(json.dumps({"figures": document["figures"], "missed": missed, "report": str(out)}))
    else:
        print("\n".join(f"{name} = {value:.4g}" for name, value in document["figures"].items()))
        print(f"written: {out / 'quality.json'}, {out / 'quality.html'}")
        print("limits missed: " + "; ".join(missed) if missed else "all limits are kept")
    return EXIT_MISSED if missed else 0
