"""The command line: ``edge-runtime COMMAND``, each command in a file of its own, but for those of delivery, which are beside it.

Exit codes: 0 done; 1 the work failed (refused scan, a missing or incomplete image, damaged bundle); 2 wrong usage; 130 interrupted,
143 terminated. A server that is told to stop, by Ctrl-C too, has done its work.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import signal
import sys
import threading
from collections.abc import Sequence

from edge_runtime.cli import audit, bundle, demo, doctor, engines, journal, replay, serve, status, swap
from edge_runtime.cli.exit_codes import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_TERMINATED
from edge_runtime.cli.model import add_model_options
from edge_runtime.delivery.commands import add_outbox, add_pacs
from edge_runtime.delivery.raw_command import add_raw
from edge_runtime.delivery.worklist.command import add_worklist
from edge_runtime.errors import EdgeRuntimeError
from edge_runtime.hil.bench.command import add_bench

OF_A_SERVER = ("out", "profile", "bundle", "trust", "classical_only", "precision", "previews")
"""Options of `replay` that speak of the server that it starts itself."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code; the caller's signal handlers are put back."""
    if threading.current_thread() is not threading.main_thread():
        return _run(arguments)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        signal.signal(signal.SIGTERM, _terminate)
        if before[signal.SIGHUP] != signal.SIG_IGN:  # nohup stays what it is
            signal.signal(signal.SIGHUP, _terminate)
        return _run(arguments)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _run(arguments: Sequence[str] | None) -> int:
    as_json = False
    try:
        options = _parser().parse_args(arguments)
        as_json = options.json
        if complaint := _contradiction(options):
            options.parser.error(complaint)
        logging.basicConfig(
            level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr
        )
        return int(options.run(options))
    except KeyboardInterrupt as interrupt:
        terminated = isinstance(interrupt, _Terminated)
        word = "terminated" if terminated else "interrupted"
        with contextlib.suppress(OSError):  # the terminal may be what has ended
            print(word, file=sys.stderr)
            if as_json:
                print(json.dumps({"error": word}))
        return EXIT_TERMINATED if terminated else EXIT_INTERRUPTED
    except BrokenPipeError:
        return EXIT_FAILED
    except (EdgeRuntimeError, OSError, ValueError) as error:
        print(f"edge-runtime: {error}", file=sys.stderr)
        if as_json:
            print(json.dumps({"error": str(error)}))
        return EXIT_FAILED


class _Terminated(KeyboardInterrupt):
    """SIGTERM, or SIGHUP of a terminal that is closed: ends what Ctrl-C ends, in the same way."""


def _terminate(*_: object) -> None:
    raise _Terminated


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="edge-runtime",
        description="Reconstructs scans while they are measured: MRD readouts in, images and DICOM out.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="examples:\n"
        "  edge-runtime demo                                   a simulated scan through a real socket, in under a minute\n"
        "  edge-runtime serve --out images                     the server for scanners, on 127.0.0.1:9002\n"
        "  edge-runtime replay scan.h5 --tr 10 --out images    a recorded scan, 10 ms a readout, into a server of its own\n",
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="show program's version number and exit")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    demo.add(commands)
    serve.add(commands)
    replay.add(commands)
    bundle.add(commands)
    doctor.add(commands)
    engines.add(commands)
    add_outbox(commands)
    add_pacs(commands)
    add_raw(commands)
    add_worklist(commands)
    add_bench(commands, add_model_options)
    status.add(commands)
    swap.add(commands)
    audit.add(commands)
    journal.add(commands)
    return parser


def _contradiction(options: argparse.Namespace) -> str:
    """Why the options can't all be meant; empty where they can."""
    given = {name for name, value in vars(options).items() if value is not None and value is not False}
    if options.run is replay.run:
        for name in ("acs", "seed"):
            if name in given and "accelerate" not in given:
                return f"--{name} needs --accelerate"
        if "durable" in given and not given & {"host", "port"}:
            return "--durable is for a server that keeps a journal: give --host or --port"
        for name in OF_A_SERVER:
            if name in given and given & {"host", "port"}:
                return f"--{name.replace('_', '-')} is for a server of the replay's own: leave it out, or --host and --port"
    for name in ("bundle", "trust", "precision"):
        if name in given and options.classical_only:
            return f"--{name} chooses a model and --classical-only none: leave out one of them"
    return ""


class _Version(argparse.Action):
    """Asks for the version only where it is wanted: what knows it takes long to import."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from edge_runtime.runtime import runtime_version

        print(f"edge-runtime {runtime_version()}")
        parser.exit()
