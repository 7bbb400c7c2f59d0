"""``edge-runtime serve``."""

from __future__ import annotations

import argparse
import json
import logging
import signal
import threading
from pathlib import Path
from typing import Any

from edge_runtime.cli.model import add_model_options, open_runtime
from edge_runtime.cli.values import port_or_any

DRAIN_S = 20.0
"""How long a server that is told to stop goes on reconstructing what was measured; service managers wait longer."""


def add(commands: Any) -> None:
    serve = commands.add_parser(
        "serve",
        help="the MRD server for scanners",
        description="Serves the ISMRMRD v1 protocol. Every connection is one scan; several run at once.",
        epilog="example: edge-runtime serve --port 9002 --out images --previews 0.5",
    )
    serve.add_argument(
        "--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 opens it to the network (%(default)s)"
    )
    serve.add_argument("--port", type=port_or_any, default=9002, help="TCP port, 0 for a free one (%(default)s)")
    serve.add_argument(
        "--out", type=Path, metavar="DIR", help="folder for DICOM series and reports; without it nothing is kept"
    )
    serve.add_argument("--json", action="store_true", help="announce the address as one line of JSON")
    add_model_options(serve)
    serve.set_defaults(run=run, parser=serve)


def run(options: argparse.Namespace) -> int:
    from edge_runtime.links.mrd import MrdServer

    logging.getLogger("edge_runtime").setLevel(logging.INFO)
    with open_runtime(options, options.out) as runtime:
        server = MrdServer(runtime, options.host, options.port)

        def stop(*_: object) -> None:
            """Ends the server; what waits is reconstructed for a while, and not any more when the signal comes again."""
            if last_call.is_alive():
                runtime.giving_up.set()
            else:
                server.stop()
                last_call.start()

        last_call = threading.Timer(DRAIN_S, runtime.giving_up.set)
        last_call.daemon = True
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, stop)
        if options.json:
            print(json.dumps({"host": server.host, "port": server.port}), flush=True)
        else:
            what = runtime.model.bundle.name + " " + runtime.model.precision if runtime.model else "classical only"
            print(
                f"listening on {server.host}:{server.port} ({what}, profile {runtime.profile.name}); Ctrl-C ends",
                flush=True,
            )
        server.serve_forever()
    return 0
