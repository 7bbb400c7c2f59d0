"""The commands ``edge-runtime outbox`` and ``edge-runtime pacs``."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edge_runtime.errors import DeliveryConfigurationError

EXIT_FAILED = 1

NICENESS = 5
"""Of a sender beside a server: reconstruction goes first."""

CONFIG_VARIABLE = "EDGE_DELIVERY"


def add_outbox(commands: Any) -> None:
    """Adds ``outbox`` to the command line."""
    outbox = commands.add_parser(
        "outbox",
        help="what waits to be delivered: list, hold, release, retry, purge, deliver",
        description="Shows and steers the outbox of a configuration (docs/delivery.md). Numbers are those of `outbox list`.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="examples:\n"
        "  edge-runtime outbox list --config delivery.toml               counts, and what needs a person\n"
        "  edge-runtime outbox release 12 13 --config delivery.toml      reviewed images may leave\n"
        "  edge-runtime outbox retry --all --destination pacs --config delivery.toml\n"
        "  edge-runtime outbox deliver --watch --config delivery.toml    a sender of its own\n"
        f"The variable {CONFIG_VARIABLE} stands in for --config.",
    )
    actions = outbox.add_subparsers(required=True, metavar="ACTION")

    listing = _action(actions, "list", _list, "what is in the outbox")
    listing.add_argument("--state", action="append", help="only of that state; may be given again", metavar="STATE")
    listing.add_argument("--destination", metavar="NAME")
    listing.add_argument("--everything", action="store_true", help="what is confirmed or withdrawn, too")

    for name, text in (
        ("hold", "keep from leaving until released"),
        ("release", "let what is held leave"),
        ("retry", "try again: dead letters, and at once what waits for its next attempt"),
    ):
        _selection(_action(actions, name, _change, text)).set_defaults(change=name)
    urgency = _selection(_action(actions, "urgency", _urgency, "change whose turn is first"), everything=False)
    urgency.add_argument("--to", choices=("routine", "urgent", "emergency"), required=True)

    purge = _action(
        actions, "purge", _purge, "remove files: with numbers whatever their state, else what the policy lets go now"
    )
    purge.add_argument("numbers", nargs="*", type=_number, metavar="NUMBER")
    purge.add_argument(
        "--unconfirmed", action="store_true", help="with numbers: yes, although nobody confirmed to keep them"
    )

    deliver = _action(actions, "deliver", _deliver, "send what is due, then end; exit code 1 where something is left")
    deliver.add_argument("--watch", action="store_true", help="go on until stopped")
    deliver.add_argument("--with-parent", action="store_true", help=argparse.SUPPRESS)


def add_pacs(commands: Any) -> None:
    """Adds ``pacs`` to the command line."""
    pacs = commands.add_parser(
        "pacs",
        help="check DEST: whether a destination answers, admits this device and takes its images",
        description="Looks at destinations before they are relied on, and says in plain words what is wrong.",
        epilog="example: edge-runtime pacs check pacs --config delivery.toml",
    )
    actions = pacs.add_subparsers(required=True, metavar="ACTION")
    check = _action(actions, "check", _check, "connect, and say what was found")
    check.add_argument(
        "destination", nargs="*", metavar="DEST", help="by name, or worklist, mpps (default: all of them)"
    )


def _action(actions: Any, name: str, run: Any, text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = actions.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help=f"the configuration of delivery (default: ${CONFIG_VARIABLE})"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.set_defaults(run=run, parser=parser)
    return parser


def _selection(parser: argparse.ArgumentParser, everything: bool = True) -> argparse.ArgumentParser:
    parser.add_argument(
        "numbers", nargs="*" if everything else "+", type=_number, metavar="NUMBER", help="of `outbox list`"
    )
    if everything:
        parser.add_argument("--all", action="store_true", help="all that can be")
        parser.add_argument("--destination", metavar="NAME", help="with --all: only of that destination")
    return parser


def _number(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and 0 < len(text) < 16):
        raise argparse.ArgumentTypeError(f"{text!r}: the number of a delivery is expected")
    return int(text)


def _settings(options: argparse.Namespace) -> Any:
    from edge_runtime.delivery.configuration import load_delivery

    path = options.config or os.environ.get(CONFIG_VARIABLE)
    if not path:
        options.parser.error(f"--config FILE is missing, and {CONFIG_VARIABLE} is not set")
    return load_delivery(Path(str(path)))


@contextlib.contextmanager
def _opened(options: argparse.Namespace) -> Iterator[tuple[Any, Any]]:
    from edge_runtime.delivery.outbox.store import Outbox

    settings = _settings(options)
    with Outbox(settings.outbox.folder, stop_below_bytes=settings.outbox.stop_below_bytes) as outbox:
        yield settings, outbox


def _list(options: argparse.Namespace) -> int:
    from edge_runtime.delivery.outbox.states import State

    known = [state.value for state in State]
    for state in options.state or ():
        if state not in known:
            options.parser.error(f"--state {state}: expected one of {', '.join(known)}")
    with _opened(options) as (settings, outbox):
        if options.destination is not None:
            settings.destination(options.destination)
        chosen = [State(state) for state in options.state or ()]
        if not chosen and not options.everything:
            chosen = [state for state in State if state not in (State.COMMITTED, State.WITHDRAWN)]
        rows = outbox.deliveries(destination=options.destination, states=chosen)
        now = outbox.time.now_s()
        counts = outbox.counts()
        lines = {one.name: outbox.line(one.name) for one in settings.destinations}
        stored, free = outbox.stored_bytes(), outbox.objects.free_bytes()
    if options.json:
        print(
            json.dumps(
                {
                    "destinations": [
                        {
                            "name": name,
                            "failures": line.failures,
                            "next_attempt_in_s": round(max(0.0, line.not_before_s - now), 1),
                            "reason": line.reason,
                            **{state.value: counts.get(name, {}).get(state, 0) for state in State},
                        }
                        for name, line in lines.items()
                    ],
                    "deliveries": [
                        {
                            "number": row.id,
                            "destination": row.destination,
                            "state": row.state.value,
                            "urgency": row.urgency.word,
                            "attempts": row.attempts,
                            "next_attempt_in_s": round(max(0.0, row.not_before_s - now), 1),
                            "reason": row.reason,
                            "object": row.identity.label,
                            "sop_instance_uid": row.identity.sop_instance_uid,
                            "size_bytes": row.size_bytes,
                            "added": row.added_local,
                            "changed": row.changed_local,
                        }
                        for row in rows
                    ],
                    "stored_bytes": stored,
                    "free_bytes": free,
                }
            )
        )
        return 0
    for name, line in lines.items():
        states = ", ".join(f"{count} {state.value}" for state, count in counts.get(name, {}).items()) or "nothing"
        print(f"{name}: {states}")
        if line.reason:
            print(
                f"  {line.failures} connections in a row failed; next in {max(0.0, line.not_before_s - now):.0f} s: {line.reason}"
            )
    for row in rows:
        urgency = "" if row.urgency == 0 else f" {row.urgency.word}"
        print(f"{row.id:>7} {row.state.value:<8}{urgency} {row.destination} {row.identity.label} {row.added_local}")
        if row.reason:
            print(f"        attempts {row.attempts}: {row.reason}")
    print(f"{stored / 1e6:.1f} MB in the outbox, {free / 1e9:.1f} GB free")
    return 0


def _change(options: argparse.Namespace) -> int:
    if bool(options.numbers) == options.all:
        options.parser.error("give numbers, or --all")
    if options.destination and not options.all:
        options.parser.error("--destination goes with --all")
    with _opened(options) as (settings, outbox):
        if options.destination is not None:
            settings.destination(options.destination)
        wish = {"hold": outbox.hold, "release": outbox.release, "retry": outbox.retry}[options.change]
        changed = wish(None if options.all else options.numbers, options.destination)
    return _say(options, {"changed": changed}, f"{changed} changed")


def _urgency(options: argparse.Namespace) -> int:
    from edge_runtime.delivery.outbox.states import Urgency

    with _opened(options) as (_, outbox):
        outbox.set_urgency(options.numbers, Urgency[options.to.upper()])
    return _say(options, {"changed": len(options.numbers)}, f"{len(options.numbers)} changed")


def _purge(options: argparse.Namespace) -> int:
    from edge_runtime.delivery.outbox.retention import purge

    with _opened(options) as (settings, outbox):
        if not options.numbers:
            gone = purge(outbox, settings)
        elif not options.unconfirmed:
            options.parser.error(
                "with numbers nobody asks whether they were delivered: add --unconfirmed if that is meant"
            )
        else:
            gone = outbox.remove(options.numbers)
    return _say(options, {"removed": gone}, f"{gone} files removed")


def _say(options: argparse.Namespace, record: dict[str, Any], text: str) -> int:
    print(json.dumps(record) if options.json else text)
    return 0


def _deliver(options: argparse.Namespace) -> int:
    from edge_runtime.delivery.outbox.sender import Sender, deliver_now

    with _opened(options) as (settings, outbox), contextlib.ExitStack() as stack:
        stop = threading.Event()
        sender = Sender(settings, outbox)
        if settings.device.callback is not None:
            from edge_runtime.delivery.destinations.callback import listening

            stack.enter_context(listening(settings, settings.device.callback, outbox))
        if settings.mpps is not None:
            from edge_runtime.delivery.worklist.store import WorklistStore
            from edge_runtime.delivery.worklist.teller import Teller

            steps = stack.enter_context(WorklistStore(settings.outbox.folder / "worklist"))
            teller = Teller(steps, settings.device.ae_title, settings.mpps)
            teller.start()
            stack.callback(teller.join, _END_S)
            stack.callback(teller.stop)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stop.set())
        if options.with_parent:
            os.nice(NICENESS)
            threading.Thread(target=_follow, args=(sender, stop), name="delivery-parent", daemon=True).start()
        if options.watch or options.with_parent:
            sender.start()
            stop.wait()
            sender.stop()
            sender.join(_END_S)
            done = True
        else:
            show = None if options.json or not sys.stderr.isatty() else _progress
            done = deliver_now(settings, outbox, sender, stop, show)
        left = {
            name: {state.value: count for state, count in states.items()} for name, states in outbox.counts().items()
        }
    if options.json:
        print(json.dumps({"done": done, "sent": sender.tally.sent, "counts": left, "reasons": sender.tally.reasons}))
    elif not options.with_parent:
        for name, states in left.items():
            print(f"{name}: " + ", ".join(f"{count} {state}" for state, count in states.items()))
            if reason := sender.tally.reasons.get(name):
                print(f"  {reason}")
    if stop.is_set() and not (options.watch or options.with_parent):
        raise KeyboardInterrupt
    return 0 if done else EXIT_FAILED


_END_S = 10.0
"""How long a sender that is told to stop may take over the object that it is at; it is sent again if that is too short."""


def _progress(left: int) -> None:
    print(f"\r{left} left ", end="", file=sys.stderr, flush=True)


def _follow(sender: Any, stop: threading.Event) -> None:
    """Ends with the process that holds the other end of the standard input; a byte of it says that there is something new."""
    while sys.stdin.buffer.read(1):
        sender.notify()
    stop.set()


def _check(options: argparse.Namespace) -> int:
    from edge_runtime.delivery.destinations.check import check, check_peer

    settings = _settings(options)
    beside = {
        name: peer for name, peer in (("worklist", settings.worklist), ("mpps", settings.mpps)) if peer is not None
    }
    names = options.destination or [*(one.name for one in settings.destinations), *beside]
    record: dict[str, list[dict[str, Any]]] = {}
    for name in names:
        try:
            findings = (
                check_peer(settings, beside[name]) if name in beside else check(settings, settings.destination(name))
            )
        except DeliveryConfigurationError as error:
            options.parser.error(str(error))
        record[name] = []
        if not options.json:
            print(f"{name}:")
        for finding in findings:
            record[name].append({"name": finding.name, "good": finding.good, "found": finding.found})
            if not options.json:
                print(f"  {'good' if finding.good else 'BAD':<5} {finding.name}: {finding.found}", flush=True)
    if options.json:
        print(json.dumps(record))
    return 0 if all(finding["good"] for findings_ in record.values() for finding in findings_) else EXIT_FAILED
