"""``edge-runtime replay``."""

from __future__ import annotations

import argparse
import json
import secrets
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_runtime.cli.exit_codes import EXIT_FAILED
from edge_runtime.cli.model import add_model_options, open_runtime
from edge_runtime.cli.progress import ProgressLine, print_series, series_of
from edge_runtime.cli.values import RECORDED, acceleration, acs_share, pace, port, seed
from edge_runtime.errors import RecordingError

if TYPE_CHECKING:
    from edge_runtime.hil.player import PlayResult
    from edge_runtime.links.files import Recording


def add(commands: Any) -> None:
    replay = commands.add_parser(
        "replay",
        help="plays a recorded scan as the scanner would",
        description="Plays ISMRMRD .h5/.mrd, Siemens twix .dat or 0.055 T .mat files over the socket. Without --host and --port "
        "it starts a server of its own and reports what came back.",
        epilog="example: edge-runtime replay meas.dat --tr 8 --accelerate 4 --out images",
    )
    replay.add_argument("file", type=Path)
    replay.add_argument("--host", help="an MRD server (default with --port: 127.0.0.1)")
    replay.add_argument("--port", type=port, help="its port (default with --host: 9002)")
    replay.add_argument(
        "--dataset", metavar="NAME", help="which scan of a file that holds several: a group or an array"
    )
    replay.add_argument("--config", default="edge", help="configuration name to ask for (%(default)s)")
    replay.add_argument(
        "--tr",
        type=pace,
        metavar="MS",
        help="milliseconds between readouts, or 'recorded' for the real scan's; default: as fast as the server takes them",
    )
    replay.add_argument(
        "--accelerate", type=acceleration, metavar="R", help="play a variable-density share of the phase encodes"
    )
    replay.add_argument(
        "--acs",
        type=acs_share,
        metavar="SHARE",
        help="share of the phase encodes kept in the centre (by R: 0.12, 0.08, 0.04)",
    )
    replay.add_argument("--seed", type=seed, metavar="N", help="seed of the undersampling (0)")
    replay.add_argument(
        "--order", choices=("as recorded", "linear", "centre-out"), default="as recorded", help="order of the lines"
    )
    replay.add_argument(
        "--durable",
        nargs="?",
        const="",
        metavar="NAME",
        help="go on where a broken connection or a restarted server left off (serve --journal); the name is made up without one",
    )
    replay.add_argument(
        "--out", type=Path, metavar="DIR", help="folder for DICOM series and reports of the server of its own"
    )
    replay.add_argument("--json", action="store_true", help="print a JSON summary and nothing else")
    add_model_options(replay)
    replay.set_defaults(run=run, parser=replay)


def run(options: argparse.Namespace) -> int:
    from edge_runtime.links.files import open_recording
    from edge_runtime.links.mrd import DEFAULT_PORT, MrdServer

    recording = open_recording(options.file, options.dataset)
    series = []
    if options.host is None and options.port is None:
        with open_runtime(options, options.out) as runtime:
            server = MrdServer(runtime, port=0)
            thread = threading.Thread(target=server.serve_forever, name="replay-server")
            thread.start()
            try:
                result = _play(options, recording, server.host, server.port)
            finally:
                server.stop()
                thread.join()
        series = series_of(server.reports[-1].images)
    else:
        port = DEFAULT_PORT if options.port is None else options.port
        result = _play(options, recording, options.host or "127.0.0.1", port)
    return _summarise(recording, result, series, as_json=options.json)


def _play(options: argparse.Namespace, recording: Recording, host: str, port: int) -> PlayResult:
    import numpy as np

    from edge_runtime.hil.player import play
    from edge_runtime.modalities.mri.sampling import ACS_FRACTION_BY_ACCELERATION, variable_density

    keep = None
    if options.accelerate is not None:
        default = ACS_FRACTION_BY_ACCELERATION.get(round(options.accelerate), 0.08)
        lines = recording.header.encoding.encoded.matrix[1]
        share = default if options.acs is None else options.acs
        keep = variable_density(lines, options.accelerate, share, np.random.default_rng(options.seed or 0))
    repetition_time_ms = options.tr
    if options.tr == RECORDED:
        if recording.seconds_per_readout is None:
            raise RecordingError(f"{recording.path}: tells no time between readouts: give --tr in milliseconds")
        repetition_time_ms = 1000 * recording.seconds_per_readout
    show = None if options.json else ProgressLine()
    if show is not None:
        show.opened(recording)
    result = play(
        recording,
        host,
        port,
        config=options.config,
        repetition_time_ms=repetition_time_ms,
        keep=keep,
        order=options.order,
        durable=None if options.durable is None else options.durable or secrets.token_hex(16),
        on_event=show,
    )
    if show is not None:
        show.end()
    return result


def _summarise(recording: Recording, result: PlayResult, series: list[str], *, as_json: bool) -> int:
    from edge_runtime.links.mrd_pack import parse_meta_attributes

    images: list[dict[str, Any]] = [
        {
            "slice": int(image.message.header["slice"]),
            **{name: int(image.message.header[name]) for name in ("contrast", "phase", "repetition", "set")},
            "shape": list(image.message.pixels.shape),
            "since_last_readout_s": round(image.since_last_readout_s, 4),
            "attributes": {
                k: v[0] if len(v) == 1 else v for k, v in parse_meta_attributes(image.message.attributes).items()
            },
        }
        for image in result.images
    ]
    failed = [text.text for text in result.texts if text.text.startswith(("error:", "no image:"))]
    if as_json:
        summary = {
            "format": recording.format,
            "notes": recording.header.notes,
            "readouts_sent": result.readouts_sent,
            "durable_through": result.durable_through,
            "connections": result.connections,
            "forgotten": result.forgotten,
            "images": images,
            "series": series,
            "texts": [text.text for text in result.texts],
            "error": "; ".join(failed),
        }
        print(json.dumps(summary))
    else:
        print(f"{result.readouts_sent} readouts sent, {len(images)} images received")
        if result.durable_through is not None:
            again = result.connections - 1
            print(f"{result.durable_through} readouts are on the server's disk; connected {again} times anew")
        print_series(series)
    # A server of another make says nothing of completeness; what it sends after the last readout is final.
    parts = [
        image["attributes"].get("EdgeCompleteness", "final" if image["since_last_readout_s"] >= 0 else "preview")
        for image in images
    ]
    return 0 if "final" in parts and "incomplete" not in parts and not failed else EXIT_FAILED
