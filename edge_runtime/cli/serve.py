"""``edge-runtime serve``."""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from edge_runtime.cli.model import add_model_options, open_runtime
from edge_runtime.cli.values import host_and_port, port_or_any
from edge_runtime.errors import EdgeRuntimeError

DRAIN_S = 20.0
"""How long a server that is told to stop goes on reconstructing what was measured; service managers wait longer."""


def add(commands: Any) -> None:
    serve = commands.add_parser(
        "serve",
        help="the MRD server for scanners",
        description="Serves the ISMRMRD v1 protocol. Every connection is one scan; several run at once. As a service: "
        "docs/service.md.",
        epilog="example: edge-runtime serve --port 9002 --out images --previews 0.5",
    )
    serve.add_argument(
        "--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 opens it to the network (%(default)s)"
    )
    serve.add_argument("--port", type=port_or_any, default=9002, help="TCP port, 0 for a free one (%(default)s)")
    serve.add_argument(
        "--out", type=Path, metavar="DIR", help="folder for DICOM series and reports; without it nothing is kept"
    )
    serve.add_argument(
        "--delivery", type=Path, metavar="FILE", help="where images go: PACS, DICOMweb, folders; see docs/delivery.md"
    )
    serve.add_argument(
        "--journal",
        type=Path,
        metavar="DIR",
        help="keeps raw readouts as they come; scans survive a power cut: docs/journal.md",
    )
    serve.add_argument("--json", action="store_true", help="announce the address as one line of JSON")
    serve.add_argument(
        "--log", choices=("text", "json"), default="text", help="form of the log on standard error (%(default)s)"
    )
    serve.add_argument(
        "--metrics", type=host_and_port, metavar="[HOST:]PORT",
        help="Prometheus metrics, /healthz and /readyz over HTTP, on this machine alone unless a host is given (off)",
    )  # fmt: skip
    serve.add_argument(
        "--control", type=Path, metavar="PATH", help="socket for 'edge-runtime status' and 'edge-runtime swap' (off)"
    )
    serve.add_argument(
        "--audit",
        type=Path,
        metavar="FILE",
        help="hash-chained log of what ran with what; see 'edge-runtime audit' (off)",
    )
    add_model_options(serve)
    serve.set_defaults(run=run, parser=serve)


def run(options: argparse.Namespace) -> int:
    from edge_runtime.engines.crumbs import recorded
    from edge_runtime.engines.watch import abandoned_threads
    from edge_runtime.links.mrd import MrdServer
    from edge_runtime.profile import DEFAULT_PROFILE, load_profile
    from edge_runtime.service.audit import AuditLog
    from edge_runtime.service.life import Around, living
    from edge_runtime.service.logs import logging_as

    with contextlib.ExitStack() as stack:
        stack.enter_context(logging_as(options.log))
        audit = None
        if options.audit is not None:
            audit = AuditLog(options.audit)
            stack.callback(audit.close)
        try:
            profile = load_profile(options.profile or DEFAULT_PROFILE)
            crumbs = stack.enter_context(recorded(profile.compilation.cache))
            journal, going_on = None, []
            if options.journal is not None:
                from edge_runtime.journal.disk import RealDisk
                from edge_runtime.journal.folder import Journal

                disk = RealDisk(options.journal)
                stack.callback(disk.close)
                journal = Journal(disk, profile.journal)
                journal.tidy()
                going_on = [kept.scan_id for kept in journal.interrupted()]
            output, handover = options.out, None
            if options.delivery is not None:
                from edge_runtime.delivery.handover import open_handover

                handover = stack.enter_context(open_handover(options.delivery, going_on))
                output = output or handover.folder
            runtime = stack.enter_context(open_runtime(options, output, crumbs, handover, journal))
        except EdgeRuntimeError as error:
            if audit is not None:
                audit.write("start_refused", reason=f"{type(error).__name__}: {error}")
            raise
        server = MrdServer(runtime, options.host, options.port)
        around = Around(options.metrics, options.control, options.trust, options.precision)
        life = stack.enter_context(living(runtime, server, around, audit))

        def stop(*_: object) -> None:
            """Ends the server; what waits is reconstructed for a while, and not any more when the signal comes again."""
            if last_call.is_alive():
                runtime.giving_up.set()
            else:
                server.stop()
                life.stopping(DRAIN_S)
                last_call.start()

        last_call = threading.Timer(DRAIN_S, runtime.giving_up.set)
        last_call.daemon = True
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # nohup stays what it is
                signal.signal(number, stop)
        what = str(runtime.model) if runtime.model else "classical only"
        where = f"listening on {server.host}:{server.port} ({what}, profile {runtime.profile.name})"
        if options.json:
            address: dict[str, object] = {"host": server.host, "port": server.port, "profile": runtime.profile.name}
            if life.metrics is not None:
                address["metrics"] = {"host": life.metrics.host, "port": life.metrics.port}
            print(json.dumps(address), flush=True)
        else:
            if life.metrics is not None:
                print(f"metrics on http://{life.metrics.host}:{life.metrics.port}/metrics", flush=True)
            print(f"{where}; Ctrl-C ends", flush=True)
        life.ready(where)
        server.serve_forever()
    if abandoned_threads():  # an engine that hangs in native code must not meet the end of its own library
        sys.stdout.flush()
        logging.shutdown()
        os._exit(0)
    return 0
