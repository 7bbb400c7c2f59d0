"""The command ``edge-runtime raw``: recordings into DICOM objects, and back."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edge_runtime.delivery.raw import Owner

RECORDINGS = (".mrd", ".h5", ".dat", ".mat")


def add_raw(commands: Any) -> None:
    """Adds ``raw`` to the command line."""
    raw = commands.add_parser(
        "raw",
        help="the raw scan as Raw Data Storage: pack, unpack",
        description="Makes DICOM objects of a recording, in the study of its images, and turns them back (docs/delivery.md).",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="examples:\n"
        "  edge-runtime raw pack scan.mrd --images out/scan --config delivery.toml     into the outbox, for all destinations\n"
        "  edge-runtime raw pack scan.mrd --images out/scan --out objects              into a folder\n"
        "  edge-runtime raw unpack objects --out scan.mrd                              back, byte for byte",
    )
    actions = raw.add_subparsers(required=True, metavar="ACTION")

    pack = actions.add_parser("pack", help="a recording into objects", description="Packs a recording into objects.")
    pack.add_argument(
        "recording",
        type=Path,
        metavar="FILE",
        help=f"a recording; or a folder that holds one ({', '.join(RECORDINGS)})",
    )
    pack.add_argument(
        "--images", type=Path, metavar="FOLDER",
        help="DICOM images of the scan, whose patient and study it gets, and which it refers to "
        "(default: those beside the recording; where there are none, what its header says)",
    )  # fmt: skip
    pack.add_argument("--scan-id", default="", metavar="ID", help="without images: what the scan was called")
    where = pack.add_mutually_exclusive_group(required=True)
    where.add_argument("--out", type=Path, metavar="FOLDER", help="write the objects there")
    where.add_argument(
        "--config", type=Path, metavar="FILE", help="put them into the outbox of this delivery configuration"
    )
    pack.add_argument("--to", action="append", metavar="DEST", help="with --config: only there; may be given again")
    pack.set_defaults(run=_pack)

    unpack = actions.add_parser(
        "unpack", help="objects into a recording", description="Puts a recording together again."
    )
    unpack.add_argument("objects", type=Path, nargs="+", metavar="PATH", help="DICOM files, or folders of them")
    unpack.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help="the recording; replaced where it is there"
    )
    unpack.set_defaults(run=_unpack)
    for parser in (pack, unpack):
        parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
        parser.set_defaults(parser=parser)


def _pack(options: argparse.Namespace) -> int:
    from edge_runtime.delivery.raw import pack

    if options.to and options.config is None:
        options.parser.error("--to goes with --config")
    recording = _recording(options)
    owner = _owner(options, recording)
    show = _shown(options)
    with tempfile.TemporaryDirectory(prefix="raw-") as temporary:
        folder = options.out or Path(temporary)
        # One at a time: what has been taken into the outbox is there twice for no longer than it takes.
        objects = pack(recording, owner, folder, show)
        new = len(list(objects)) if options.config is None else _hand_over(options, objects)
    _end_shown(options)
    record = {
        "recording": str(recording),
        "study_instance_uid": str(owner.dataset.StudyInstanceUID),
        "images": len(owner.images),
        "objects": new,
    }
    where = f"in {options.out}" if options.out else "new in the outbox"
    print(json.dumps(record) if options.json else f"{new} objects {where}, of {len(owner.images)} images' study")
    return 0


def _hand_over(options: argparse.Namespace, objects: Iterator[Path]) -> int:
    """Puts objects into the outbox as they come; how many were new."""
    from edge_runtime.delivery.configuration import load_delivery
    from edge_runtime.delivery.handover import identity_of
    from edge_runtime.delivery.outbox.states import State
    from edge_runtime.delivery.outbox.store import Outbox, Wanted
    from edge_runtime.errors import OutboxConflict

    settings = load_delivery(options.config)
    names = options.to or [one.name for one in settings.destinations]
    state = State.HELD if settings.outbox.review == "all" else State.QUEUED
    wanted = [Wanted(settings.destination(name).name, state) for name in names]
    new = 0
    with Outbox(settings.outbox.folder, stop_below_bytes=settings.outbox.stop_below_bytes) as outbox:
        for path in objects:
            try:
                new += outbox.add(path, identity_of(path, "raw data"), wanted)
            except OutboxConflict:  # the same bytes of the same scan, packed when it had other images
                pass
            path.unlink()
    return new


def _unpack(options: argparse.Namespace) -> int:
    from edge_runtime.delivery.raw import unpack

    size = unpack(list(_dicom_files(options.objects)), options.out, _shown(options))
    _end_shown(options)
    print(json.dumps({"out": str(options.out), "bytes": size}) if options.json else f"{options.out}: {size} bytes")
    return 0


def _recording(options: argparse.Namespace) -> Path:
    path: Path = options.recording
    if not path.is_dir():
        return path
    found = sorted(one for one in path.iterdir() if one.suffix in RECORDINGS and one.is_file())
    if len(found) != 1:
        names = ", ".join(one.name for one in found[:5]) or "none"
        options.parser.error(f"{path}: one recording is expected, and it holds {names}: name the file")
    return found[0]


def _owner(options: argparse.Namespace, recording: Path) -> Owner:
    from edge_runtime.delivery.raw import owner_of_header, owner_of_images
    from edge_runtime.delivery.uids import scan_uids
    from edge_runtime.links.files import open_recording

    images = list(_dicom_files([options.images or recording.parent]))
    if images or options.images is not None:
        return owner_of_images(images)
    header = open_recording(recording).header
    return owner_of_header(header, scan_uids(header, options.scan_id or recording.stem))


def _dicom_files(paths: list[Path]) -> Iterator[Path]:
    for path in paths:
        yield from sorted(path.rglob("*.dcm")) if path.is_dir() else [path]


def _shown(options: argparse.Namespace) -> Any:
    """Progress in per cent, where somebody looks."""
    if options.json or not sys.stderr.isatty():
        return lambda done, of: None
    return lambda done, of: print(f"\r{100 * done // of} % ", end="", file=sys.stderr, flush=True)


def _end_shown(options: argparse.Namespace) -> None:
    if not options.json and sys.stderr.isatty():
        print(file=sys.stderr)
