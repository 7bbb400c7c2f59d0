"""The command ``edge-runtime worklist``."""

from __future__ import annotations

import argparse
import json
import os
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_runtime.errors import DeliveryConfigurationError

if TYPE_CHECKING:
    from edge_runtime.delivery.worklist.order import Order

CONFIG_VARIABLE = "EDGE_DELIVERY"
EXIT_FAILED = 1


def add_worklist(commands: Any) -> None:
    """Adds ``worklist`` to the command line."""
    worklist = commands.add_parser(
        "worklist",
        help="the hospital's orders: query, show, bind, scans, reconcile, steps",
        description="Asks the worklist of a configuration of delivery, and shows the orders that are kept for when the network "
        "is down.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="examples:\n"
        "  edge-runtime worklist query --dates 20261127 --config delivery.toml\n"
        "  edge-runtime worklist show --config delivery.toml\n"
        "  edge-runtime worklist bind 3f1c22 --config delivery.toml     # the next scan answers this order\n"
        "  edge-runtime worklist reconcile 20261127T180000Z-0001 ACC-7  # an unscheduled scan gets its order afterwards\n"
        "  edge-runtime worklist bind --emergency                       # the next scan answers none\n"
        "  edge-runtime worklist steps --retry                          # what the hospital refused to be told is told again\n"
        f"The variable {CONFIG_VARIABLE} stands in for --config.",
    )
    actions = worklist.add_subparsers(required=True, metavar="ACTION")
    asking = _action(actions, "query", _query, "ask the worklist, and keep what it answers")
    asking.add_argument("--modality", default="MR", help="%(default)s")
    asking.add_argument(
        "--dates", default="", metavar="D[-D]", help="scheduled start, YYYYMMDD or a range (default: any)"
    )
    asking.add_argument("--station", default="", metavar="AE", help="scheduled station AE title (default: any)")
    asking.add_argument("--patient-id", default="", metavar="ID")
    asking.add_argument("--accession", default="", metavar="NUMBER")
    _action(actions, "show", _show, "orders that are kept, with their age")
    binding = _action(actions, "bind", _bind, "choose what the next scan answers, whatever its header says")
    what = binding.add_mutually_exclusive_group(required=True)
    what.add_argument("order", nargs="?", metavar="ORDER", help="key that 'show' prints, or an accession number")
    what.add_argument("--emergency", action="store_true", help="nobody's order: a patient to be identified later")
    what.add_argument("--clear", action="store_true", help="take the choice back")
    binding.add_argument(
        "--scan", default="", metavar="ID", help="for this scan, before it begins anew (default: the next one)"
    )
    mending = _action(
        actions, "reconcile", _reconcile, "give an unscheduled scan its order: corrected objects are sent"
    )
    mending.add_argument("scan", metavar="SCAN", help="id that 'scans' prints; others of its study stay as they are")
    mending.add_argument("order", metavar="ORDER", help="key that 'show' prints, or an accession number")
    mending.add_argument(
        "--other-patient",
        action="store_true",
        help="you have made sure, though the scan's header names another patient",
    )
    _action(actions, "scans", _scans, "what scans were bound to, newest last")
    telling = _action(actions, "steps", _steps, "what the hospital was told of performed steps, newest last")
    telling.add_argument("--retry", action="store_true", help="tell it again what it has refused")


def _action(actions: Any, name: str, run: Any, text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = actions.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help=f"the configuration of delivery (default: ${CONFIG_VARIABLE})"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.set_defaults(run=run, parser=parser)
    return parser


def _settings(options: argparse.Namespace) -> Any:
    from edge_runtime.delivery.configuration import load_delivery

    path = options.config or os.environ.get(CONFIG_VARIABLE)
    if not path:
        options.parser.error(f"--config FILE is missing, and {CONFIG_VARIABLE} is not set")
    return load_delivery(Path(str(path)))


def _query(options: argparse.Namespace) -> int:
    from edge_runtime.delivery.worklist.query import Matching, query
    from edge_runtime.delivery.worklist.store import WorklistStore

    settings = _settings(options)
    if settings.worklist is None:
        raise DeliveryConfigurationError(
            "[worklist] is missing in the configuration: host, port and ae_title are expected"
        )
    matching = Matching(
        modality=options.modality,
        dates=options.dates,
        station_ae=options.station,
        patient_id=options.patient_id,
        accession_number=options.accession,
    )
    answer = query(settings.device.ae_title, settings.worklist, matching)
    with WorklistStore(settings.outbox.folder / "worklist") as store:
        store.keep(answer.orders, settings.worklist.ae_title, len(answer.refused))
    if options.json:
        orders = [{"key": one.key, **one.document()} for one in answer.orders]
        print(json.dumps({"orders": orders, "refused": answer.refused, "truncated": answer.truncated}))
        return 0
    print(f"{len(answer.orders)} orders from {settings.worklist.ae_title}")
    for order in answer.orders:
        for note in order.notes:
            print(f"  {order.key}: {note}")
    for reason in answer.refused:
        print(f"  refused: {reason}")
    if answer.truncated:
        print("  there are more: ask for fewer, by --dates or --station")
    return 0


def _show(options: argparse.Namespace) -> int:
    from edge_runtime.delivery.worklist.store import WorklistStore

    with WorklistStore(_settings(options).outbox.folder / "worklist") as store:
        cached, last, chosen = store.orders(), store.last_query(), store.choice()
    now = time.time()
    if options.json:
        orders = [
            {"key": one.order.key, "age_s": round(now - one.seen_at, 1), **one.order.document()} for one in cached
        ]
        choice = None if chosen is None else {**asdict(chosen[0]), "age_s": round(now - chosen[1], 1)}
        print(json.dumps({"orders": orders, "last_query_at": None if last is None else last[0], "next_scan": choice}))
        return 0
    if chosen is not None:
        what = "an emergency" if chosen[0].key is None else f"order {chosen[0].key}"
        print(f"the next scan is {what}, chosen {_age(now - chosen[1])}")
    print("never asked" if last is None else f"last asked {_age(now - last[0])}")
    for one in cached:
        order = one.order
        when = f"{order.start_date} {order.start_time[:4]}"
        what = order.step_description or order.procedure_description
        print(
            f"{order.key}  {when:<13}  {order.accession_number:<16}  {order.patient.identifier}  {order.patient.name}  {what}"
            f"  (seen {_age(now - one.seen_at)})"
        )
        for note in order.notes:
            print(f"            {note}")
    return 0


def _bind(options: argparse.Namespace) -> int:
    from edge_runtime.delivery.worklist.store import Choice, WorklistStore

    with WorklistStore(_settings(options).outbox.folder / "worklist") as store:
        order = None if options.emergency or options.clear else store.order(options.order)
        choice = None if options.clear else Choice(None if order is None else order.key, options.emergency)
        store.choose(choice, options.scan)
    whose = f"scan {options.scan}" if options.scan else "the next scan"
    if options.json:
        print(json.dumps({"scan": options.scan, "order": order.key if order else None, "emergency": options.emergency}))
    elif options.clear:
        print(f"nothing is chosen for {whose}")
    else:
        print(f"{whose}: {'an emergency' if order is None else f'order {order.key}, {_words(order)}'}")
    return 0


def _words(order: Order) -> str:
    """Whom and what an order is for, for whoever has chosen it to see."""
    what = order.step_description or order.procedure_description
    return ", ".join(one for one in (order.patient.identifier, order.patient.name, order.accession_number, what) if one)


def _reconcile(options: argparse.Namespace) -> int:
    from edge_runtime.delivery.outbox.store import Outbox
    from edge_runtime.delivery.worklist.reconcile import reconcile
    from edge_runtime.delivery.worklist.store import WorklistStore

    settings = _settings(options)
    with (
        Outbox(settings.outbox.folder, stop_below_bytes=settings.outbox.stop_below_bytes) as outbox,
        WorklistStore(settings.outbox.folder / "worklist") as store,
    ):
        # A sender that runs finds the new objects by itself.
        done = reconcile(outbox, store, options.scan, store.order(options.order), other_patient=options.other_patient)
    if options.json:
        counts = {"corrected": done.corrected, "withdrawn": done.withdrawn, "untouched": done.untouched}
        print(json.dumps({**counts, "elsewhere": done.elsewhere, "leaving": done.leaving}))
        return EXIT_FAILED if done.leaving else 0
    print(f"{done.corrected} objects corrected and queued; {done.withdrawn} old deliveries withdrawn")
    if done.untouched:
        print(f"{done.untouched} other objects of the scan stay as they are")
    for destination, instances in done.elsewhere.items():
        print(f"{destination} has {len(instances)} objects of the old patient: have them merged or deleted there:")
        for instance in instances:
            print(f"  {instance}")
    if done.leaving:
        print(f"{len(done.leaving)} old deliveries were being sent all the while: give this command again")
        return EXIT_FAILED
    return 0


def _scans(options: argparse.Namespace) -> int:
    from edge_runtime.delivery.worklist.store import WorklistStore

    with WorklistStore(_settings(options).outbox.folder / "worklist") as store:
        history = store.history()
    if options.json:
        scans = [
            {
                "scan": one.scan_id,
                "how": one.how,
                "order": one.order.key if one.order else None,
                "study_uid": one.study_uid,
                "patient_id": one.patient_id,
                "remark": one.remark,
                "ended": one.ended,
            }
            for one in history
        ]
        print(json.dumps({"scans": scans}))
        return 0
    for one in history:
        order = one.order.key if one.order else "-"
        print(
            f"{one.scan_id}  {one.how:<12}  {order:<10}  {one.patient_id:<20}  {one.ended or 'goes on'}  {one.remark}"
        )
    return 0


def _steps(options: argparse.Namespace) -> int:
    from edge_runtime.delivery.worklist.store import WorklistStore

    settings = _settings(options)
    with WorklistStore(settings.outbox.folder / "worklist") as store:
        # A sender that runs finds them by itself.
        again = store.retry() if options.retry else 0
        steps = store.steps()
    if options.json:
        print(json.dumps({"steps": [asdict(one) for one in steps], "retried": again}))
        return 0
    if options.retry:
        print(f"{again} messages are told again")
    for one in steps:
        outcome = f"refused: {one.refused}" if one.refused else f"waits, attempts {one.attempts}"
        print(f"{one.step_uid}  {one.kind:<5}  {'told' if one.told_at is not None else outcome}")
    return 0


def _age(seconds: float) -> str:
    if seconds < 0:
        return "in the future: the clock was set"
    for unit, name in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * unit:
            return f"{int(seconds // unit)} {name} ago"
    return f"{int(seconds)} seconds ago"
