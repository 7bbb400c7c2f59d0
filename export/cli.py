"""The desk toolchain's command line: ``edge-export import | simulate | train | refine | quantize | qualify | pack | verify | …``.

Exit codes: 0 done; 1 the work failed; 2 wrong usage, or the extra is not installed; 3 this machine is not the device that `compile`
needs; 130 interrupted.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from edge_runtime.errors import EdgeRuntimeError
from export.bundle_commands import add_bundle_commands, add_pack_options, add_trust_option, pack, trust_of
from export.compile_command import add_compile
from export.progress import Progress
from export.qualification.command import add_qualify, add_sweep
from export.simulate.command import add_fidelity, add_simulate

EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130
RESUMING = ("pool", "train", "refine", "quantize", "qualify", "sweep")
"""Commands that keep what they have done, and go on with it when they are run again."""

NEEDED = ("torch", "onnx", "scipy", "nibabel", "cyclonedx")
"""Of a command that does not say what it needs."""

NEEDED_FOR_PROGRAMS = ("onnx", "scipy", "cyclonedx")

NEEDED_TO_QUANTIZE = ("onnx", "scipy", "nibabel", "matplotlib")
"""Of a program; packing needs less."""

MOST_STEPS = 1_000_000
"""Of fine-tuning; far more than are of use."""

NEEDED_TO_TRAIN = ("torch", "scipy", "nibabel", "threadpoolctl")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    options = _parser().parse_args(arguments)
    needed = getattr(options, "needed", NEEDED)
    needed = needed(options) if callable(needed) else needed
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        mend = "pip install -e '.[export]' in edge-runtime's checkout"
        print(f"edge-export: {', '.join(missing)} not installed: {mend}", file=sys.stderr)
        return EXIT_USAGE
    try:
        return int(options.run(options))
    except KeyboardInterrupt:
        on = "resume" if options.command in RESUMING else "begin anew"
        print(f"interrupted; run the same command again to {on}", file=sys.stderr)
        return EXIT_INTERRUPTED
    except (EdgeRuntimeError, OSError, ValueError) as error:
        print(f"edge-export: {error}", file=sys.stderr)
        return EXIT_FAILED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="edge-export",
        description="From training volumes to the bundle that a device runs.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example:\n"
        "  edge-export train export/configs/brain2d.toml --data ../shared/data/train --work build/brain2d\n"
        "  edge-export refine export/configs/brain2d.toml --work build/brain2d\n"
        "  edge-export quantize export/configs/brain2d.toml --data ../shared/data/validate --work build/brain2d\n"
        "  edge-export qualify export/configs/brain2d.toml --data ../shared/data/validate --work build/brain2d "
        "--recording head.dat\n"
        "  edge-export key new signing.pem\n"
        "  edge-export pack export/configs/brain2d.toml --work build/brain2d --key signing.pem --out brain2d.edgebundle\n"
        "  edge-export verify brain2d.edgebundle\n",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")

    def command(
        name: str, text: str, run: object, folders: str, *, data: bool, work: bool = True
    ) -> argparse.ArgumentParser:
        example = f"example: edge-export {name} export/configs/brain2d.toml {folders}"
        sub = commands.add_parser(name, help=text, description=text, epilog=example)
        sub.add_argument("config", type=Path, help="configuration (TOML)")
        sub.add_argument("--work", type=Path, required=work, metavar="DIR", help="folder for the pool and checkpoints")
        if data:
            sub.add_argument(
                "--data", type=Path, required=True, metavar="DIR", help="folder of volumes; nothing else is read"
            )
        sub.set_defaults(run=run)
        return sub

    folders = "--data ../shared/data/train --work build/brain2d"
    made = command("pool", "fill the pool of simulated acquisitions", _pool, folders, data=True)
    text = "simulate what is missing, then train; resumes where it stopped"
    train = command("train", text, _train, folders, data=True)
    text = (
        "train the model further by the configuration's [refine], on what a device shows it; resumes where it stopped"
    )
    further = command("refine", text, _refine, "--work build/brain2d", data=False)
    for sub in (train, further):
        sub.add_argument("--threads", type=_some, metavar="N", help="CPU threads (default: torch's)")
        sub.add_argument(
            "--device", choices=("cpu", "cuda"), default="cpu", help="where the network trains (%(default)s)"
        )
    for sub in (made, train, further):
        sub.set_defaults(needed=NEEDED_TO_TRAIN)
        text = "processes that simulate and draw scans (%(default)s; a GPU keeps a dozen busy)"
        sub.add_argument("--workers", type=_some, default=1, metavar="N", help=text)
    text = (
        "take the trained model of a bundle back into a work folder, whose pool is filled, to quantize and pack it anew"
    )
    folders = "--bundle brain2d.edgebundle --work build/brain2d"
    back = command("restore", text, _restore, folders, data=False)
    back.add_argument("--bundle", type=Path, required=True, metavar="FILE", help="that was packed of it")
    add_trust_option(back)
    folders = "--data ../shared/data/validate --work build/brain2d"
    text = "write FP32, FP16 and INT8 graphs; which layers stay in floating point is decided by measurement"
    quantize = command("quantize", text, _quantize, folders, data=True)
    quantize.set_defaults(needed=_needed_to_quantize)
    text = "a fully sampled raw scan (.mrd, .h5, .dat) to calibrate on, beside simulated ones; may be repeated"
    quantize.add_argument("--recording", type=Path, action="append", default=[], metavar="FILE", help=text)
    text = "where INT8 in all layers misses the limits, train its weights for so many steps under INT8's rounding"
    quantize.add_argument("--finetune", type=int, default=0, metavar="STEPS", help=text)
    folders = "--work build/brain2d --key signing.pem --out brain2d.edgebundle"
    text = "pack and sign a trained and quantized model, or an imported program, which needs no --work"
    packing = command("pack", text, pack, folders, data=False, work=False)
    add_pack_options(packing)
    packing.set_defaults(needed=_needed_to_pack)
    add_bundle_commands(commands)
    add_compile(commands, add_trust_option)
    _add_import(commands)
    text = "simulate the scan that the demo plays"
    example = "example: edge-export demo-scan ../shared/data/demo/mricron_ch2.nii.gz --out edge_runtime/demo"
    demo = commands.add_parser("demo-scan", help=text, description=text, epilog=example)
    demo.add_argument("volume", type=Path, help="Colin27 T1 (Debian mricron-data: ch2.nii.gz)")
    demo.add_argument("--out", type=Path, required=True, metavar="DIR")
    demo.set_defaults(run=_demo_scan)
    add_qualify(commands, add_trust_option)
    add_sweep(commands, add_trust_option)
    add_simulate(commands)
    add_fidelity(commands)
    return parser


def _some(text: str) -> int:
    """At least one."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: a whole number from 1 on is expected")
    return int(text)


def _needed_to_quantize(options: argparse.Namespace) -> tuple[str, ...]:
    from export.programs.config import is_program_config

    return NEEDED_TO_QUANTIZE if is_program_config(options.config) else NEEDED


def _needed_to_pack(options: argparse.Namespace) -> tuple[str, ...]:
    from export.programs.config import is_program_config

    return NEEDED_FOR_PROGRAMS if is_program_config(options.config) else NEEDED


def _pool(options: argparse.Namespace) -> int:
    from export.config import load_config
    from export.digest import array_digest, files_digest
    from export.simulate.pool import write_pool
    from export.simulate.volumes import PATTERNS, load_volumes, unread_files, volume_files

    config = load_config(options.config).simulate
    volumes = load_volumes(options.data)
    print(f"{len(volumes)} volumes: {', '.join(volume.name for volume in volumes)}")
    if unread := unread_files(options.data):
        print(f"not read: {', '.join(path.name for path in unread)}; volumes are {', '.join(PATTERNS)}")
    digest = files_digest(volume_files(options.data), options.data)
    pool = options.work / "pool"
    write_pool(
        pool, volumes, config.count, config.seed, config.phantom_share, Progress("acquisitions"), options.workers
    )
    (options.work / "data.json").write_text(
        json.dumps(
            {
                "sha256": digest,
                "volumes": [volume.name for volume in volumes],
                "voxels": {volume.name: array_digest(volume.voxels) for volume in volumes},
            },
            indent=2,
        )
        + "\n",
        encoding="utf-8",
    )
    return 0


def _prepare_torch(options: argparse.Namespace) -> None:
    import torch

    from export.config import ConfigError

    if options.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda: torch finds no such device here; --device cpu trains without")
    if options.threads:
        torch.set_num_threads(options.threads)


def _report_step(record: dict[str, float]) -> None:
    left = (record["of"] - record["step"]) * record["s_per_step"] / 60
    print(
        f"step {record['step']:.0f} of {record['of']:.0f}  loss {record['loss']:.4f}  {left:.0f} min left", flush=True
    )


def _train(options: argparse.Namespace) -> int:
    from export.config import load_config
    from export.train import initial, train

    _prepare_torch(options)
    _pool(options)
    config = load_config(options.config)
    path = train(
        initial(config.network, config.train.seed),
        config.train,
        options.work / "pool",
        options.work,
        _report_step,
        device=options.device,
        workers=options.workers,
    )
    print(f"written: {path}")
    return 0


def _refine(options: argparse.Namespace) -> int:
    from export.config import load_config
    from export.train import refine

    _prepare_torch(options)
    config = load_config(options.config)
    path = refine(config, options.work, _report_step, device=options.device, workers=options.workers)
    print(f"written: {path}")
    return 0


def _restore(options: argparse.Namespace) -> int:
    from export.config import load_config
    from export.restore import restore

    path = restore(options.bundle, load_config(options.config), options.work, trust_of(options))
    print(f"written: {path}")
    return 0


def _quantize(options: argparse.Namespace) -> int:
    from export.programs.config import is_program_config

    def report(text: str) -> None:
        print(text, flush=True)

    quantize = _quantize_program if is_program_config(options.config) else _quantize_trained
    folder = quantize(options, report)
    print((folder / "front.md").read_text(encoding="utf-8"))
    print(f"written: {folder}")
    return 0


def _quantize_trained(options: argparse.Namespace, report: Callable[[str], None]) -> Path:
    from export.config import ConfigError, load_config
    from export.quantization.run import quantize_model
    from export.simulate.volumes import load_volumes

    if not 0 <= options.finetune <= MOST_STEPS:
        raise ConfigError(f"--finetune {options.finetune}: steps from 0, none, to {MOST_STEPS} are expected")
    return quantize_model(
        load_config(options.config),
        options.work,
        load_volumes(options.data),
        report,
        recordings=options.recording,
        finetune_steps=options.finetune,
    )


def _quantize_program(options: argparse.Namespace, report: Callable[[str], None]) -> Path:
    from export.config import ConfigError
    from export.programs.config import load_program_config
    from export.programs.quantize import quantize_program

    if options.recording or options.finetune:
        raise ConfigError(
            "--recording, --finetune: of a model that was trained here; an imported program is calibrated on simulated scans, "
            "and keeps its weights: leave them out"
        )
    return quantize_program(load_program_config(options.config), options.config, options.work, options.data, report)


def _add_import(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    text = "take over a model that was trained elsewhere: split it, compare it with the original, write its program"
    sub = commands.add_parser(
        "import",
        help=text,
        description=text,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example:\n"
        "  edge-export import fastmri --checkpoint varnet.pt --mapping varnet.toml --out build/varnet\n"
        "  edge-export import onnx --checkpoint net.onnx --mapping net.toml --out net.edgeprogram --json\n"
        "mappings are described in docs/import.md; fastmri, monai and deepinv need their packages:\n"
        "  make .venv-import/.ready && .venv-import/bin/python -m export.cli import …",
    )
    sub.add_argument(
        "source", choices=("fastmri", "monai", "deepinv", "module", "onnx"), metavar="SOURCE", help="%(choices)s"
    )
    sub.add_argument("--checkpoint", type=Path, required=True, metavar="FILE", help="weights, or with onnx the graph")
    sub.add_argument("--mapping", type=Path, required=True, metavar="FILE", help="what the checkpoint is (TOML)")
    sub.add_argument("--out", type=Path, required=True, metavar="PATH", help="a folder, or one file *.edgeprogram")
    sub.add_argument("--tolerance", type=float, default=1e-4, metavar="X", help="of every stage (%(default)s)")
    sub.add_argument("--recording", type=Path, metavar="FILE", help="measured k-space to compare on")
    sub.add_argument("--json", action="store_true", help="one JSON object at the end, in place of lines")
    sub.set_defaults(run=_import)


def _import(options: argparse.Namespace) -> int:
    from export.adapters.importing import import_model, summary

    def say(line: str) -> None:
        if not options.json:
            print(line, flush=True)

    made = import_model(
        options.source,
        options.checkpoint,
        options.mapping,
        options.out,
        tolerance=options.tolerance,
        recording=options.recording,
        say=say,
    )
    if options.json:
        print(json.dumps(summary(*made)))
    return 0


def _demo_scan(options: argparse.Namespace) -> int:
    from export.simulate.demo_scan import write_demo_scan

    for path in write_demo_scan(options.volume, options.out):
        print(f"written: {path} ({path.stat().st_size / 1e6:.1f} MB)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
