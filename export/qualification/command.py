"""``edge-export qualify`` and ``edge-export sweep``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from edge_runtime.errors import EdgeRuntimeError
from export.qualification.extent import Extent

BUNDLE_SUFFIX = ".edgebundle"
NEEDED = ("scipy", "nibabel", "matplotlib")
EXIT_MISSED = 1


def add_qualify(commands: Any, add_trust_option: Any) -> None:
    """The command's arguments."""
    text = "judge a model on scans it was and was not trained for: quality.json for its limits, quality.html for whoever signs"
    sub = commands.add_parser(
        "qualify",
        help=text,
        description=text
        + ". Exit code 0: its limits are kept and enough was judged, 1: not so. An interrupted run goes on where it stopped.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example:\n"
        "  edge-export qualify export/configs/brain2d.toml --work build/brain2d --data ../shared/data/validate "
        "--recording head.dat\n"
        "  edge-export qualify brain2d.edgebundle --data volumes --recording head.dat --out report\n"
        "  edge-export sign brain2d.edgebundle --quality report/quality.json --key site.pem --out qualified.edgebundle",
    )
    sub.add_argument("model", type=Path, help="a bundle, or the configuration (TOML) of the model in --work")
    sub.add_argument("--work", type=Path, metavar="DIR", help="work folder, with a configuration")
    _add_cases(sub)
    text = "where the report goes (default: qualify, or in --work forms)"
    sub.add_argument("--out", type=Path, metavar="DIR", help=text)
    text = "whose figures limits bound (default: the one of fewest bits that there is, which must be judged before it is signed)"
    sub.add_argument("--form", metavar="PRECISION", help=text)
    add_trust_option(sub)
    text = "print figures and missed limits as one JSON object; progress goes to standard error"
    sub.add_argument("--json", action="store_true", help=text)
    sub.set_defaults(run=_qualify, needed=NEEDED)


def add_sweep(commands: Any, add_trust_option: Any) -> None:
    """The command's arguments."""
    text = "every form of several bundles on every case that qualify knows: one table, here or on a Dask cluster"
    sub = commands.add_parser(
        "sweep",
        help=text,
        description=text + ". An interrupted run goes on where it stopped.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example:\n"
        "  edge-export sweep old.edgebundle new.edgebundle --data ../shared/data/validate --out build/sweep\n"
        "on a cluster, whose machines have this package and the data at the same paths:\n"
        "  edge-export sweep new.edgebundle --data /data/validate --out build/sweep --dask tcp://10.0.0.1:8786",
    )
    sub.add_argument("models", type=Path, nargs="+", metavar="BUNDLE", help="a bundle")
    _add_cases(sub)
    text = "folder of the table (%(default)s)"
    sub.add_argument("--out", type=Path, default=Path("sweep"), metavar="DIR", help=text)
    text = (
        "a scheduler's; it and its workers run what they are sent, so keep them to machines and networks that you trust"
    )
    sub.add_argument("--dask", metavar="ADDRESS", help=text)
    add_trust_option(sub)
    sub.add_argument(
        "--json", action="store_true", help="print the rows as one JSON list; progress goes to standard error"
    )
    sub.set_defaults(run=_sweep, needed=(*NEEDED, "distributed"))


def _add_cases(sub: argparse.ArgumentParser) -> None:
    usual = Extent()
    text = "folder of volumes that no model was trained on"
    sub.add_argument("--data", type=Path, required=True, metavar="DIR", help=text)
    text = "a fully sampled raw scan (.mrd, .h5, .dat); may be repeated"
    sub.add_argument("--recording", type=Path, action="append", default=[], metavar="FILE", help=text)
    text = "simulated slices, each at R = 2, 4, 6 (%(default)s)"
    sub.add_argument("--draws", type=int, default=usual.draws, metavar="N", help=text)
    text = "cases of every kind that models were not trained for (%(default)s)"
    sub.add_argument("--off-draws", type=int, default=usual.off_draws, metavar="N", help=text)
    sub.add_argument("--seed", type=int, default=usual.seed, help="of the draws (%(default)s)")


def _extent(options: argparse.Namespace) -> Extent:
    for name, least in (("draws", 1), ("off_draws", 0), ("seed", 0)):
        if getattr(options, name) < least:
            raise EdgeRuntimeError(f"--{name.replace('_', '-')} {getattr(options, name)}: at least {least} is expected")
    return Extent(options.draws, options.off_draws, options.seed)


def _progress(options: argparse.Namespace) -> Callable[[str], None]:
    """Says how far it is; beside the JSON, not in it."""
    return partial(print, file=sys.stderr if options.json else sys.stdout, flush=True)


def _qualify(options: argparse.Namespace) -> int:
    from edge_runtime.bundle import trust_store
    from export.qualification.cases import Sources, foreign_volumes
    from export.qualification.run import qualify
    from export.qualification.subject import of_bundle, of_work
    from export.required import fewest_bits
    from export.simulate.volumes import load_volumes

    say = _progress(options)
    extent, is_bundle = _extent(options), options.model.suffix == BUNDLE_SUFFIX
    if is_bundle == (options.work is not None):
        raise EdgeRuntimeError(
            f"{options.model}: a bundle goes without --work, a configuration with it; a bundle's name ends in {BUNDLE_SUFFIX}"
        )
    if is_bundle:
        subject = of_bundle(options.model, trust_store.load_trust_store(options.trust or trust_store.DEFAULT_TRUST))
        out = options.out or Path("qualify")
    else:
        subject, out = of_work(options.model, options.work), options.out or options.work / "forms"
    form = options.form or fewest_bits(subject.forms)
    if form not in subject.forms:
        raise EdgeRuntimeError(f"--form {form}: {subject.name} has {', '.join(sorted(subject.forms))}")
    sources = Sources(load_volumes(options.data), foreign_volumes(options.data), options.recording)
    document = qualify(subject, sources, extent, form, out, say)
    missed = document["missed"]
    if options.json:
        print(json.dumps({"figures": document["figures"], "missed": missed, "report": str(out)}))
    else:
        print("\n".join(f"{name} = {value:.4g}" for name, value in document["figures"].items()))
        print(f"written: {out / 'quality.json'}, {out / 'quality.html'}")
        print("limits missed: " + "; ".join(missed) if missed else "all limits are kept")
    return EXIT_MISSED if missed else 0


def _sweep(options: argparse.Namespace) -> int:
    from dataclasses import asdict

    from edge_runtime.bundle import trust_store
    from export.qualification.subject import of_bundle
    from export.qualification.sweep import Data, sweep

    say = _progress(options)
    extent = _extent(options)
    trust = trust_store.load_trust_store(options.trust or trust_store.DEFAULT_TRUST)
    subjects = [of_bundle(path, trust) for path in options.models]
    data = Data(options.data.resolve(), tuple(path.resolve() for path in options.recording))
    found = sweep(subjects, data, extent, options.out, say, options.dask)
    if options.json:
        print(json.dumps([{"model": model, **asdict(row)} for model, row in found]))
    else:
        print((options.out / "sweep.md").read_text(encoding="utf-8"))
    return 0
