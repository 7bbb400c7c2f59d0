"""The command line: ``edge-runtime demo | serve | replay | bundle | doctor | bench``.

Exit codes: 0 done; 1 the work failed (refused scan, a missing or incomplete image, damaged bundle); 2 wrong usage; 130 interrupted,
143 terminated. A server that is told to stop, by Ctrl-C too, has done its work.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import platform
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_runtime.errors import BundleError, DeliveryError, EdgeRuntimeError, RecordingError
from edge_runtime.hil.bench.command import add_bench

if TYPE_CHECKING:
    from edge_runtime.hil.player import Event, PlayResult
    from edge_runtime.links.files import Recording

EXIT_FAILED, EXIT_INTERRUPTED, EXIT_TERMINATED = 1, 130, 143  # argparse itself ends with 2

DRAIN_S = 20.0
"""How long a server that is told to stop goes on reconstructing what was measured; service managers wait longer."""

RECORDED = "recorded"
"""Value of ``--tr``: as fast as the scan was measured."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code; the caller's signal handlers are put back."""
    if threading.current_thread() is not threading.main_thread():
        return _run(arguments)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        signal.signal(signal.SIGTERM, _terminate)
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
    """SIGTERM: ends what Ctrl-C ends, in the same way."""


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
    _add_demo(commands)
    _add_serve(commands)
    _add_replay(commands)
    _add_bundle(commands)
    _add_doctor(commands)
    add_bench(commands, _add_model_options)
    return parser


def _add_demo(commands: Any) -> None:
    demo = commands.add_parser(
        "demo",
        help="the main job end to end on a shipped simulated scan",
        epilog="example: edge-runtime demo --out demo-out",
        description="Plays a simulated Colin27 scan (8 coils, R = 4) into a server over a loopback socket, and writes the DICOM "
        "series, comparison.png and report.json.",
    )
    demo.add_argument(
        "--out", type=Path, default=Path("demo-out"), metavar="DIR", help="folder for the results (%(default)s)"
    )
    demo.add_argument("--json", action="store_true", help="print the report as JSON and nothing else")
    _add_model_options(demo)
    demo.set_defaults(run=_demo, parser=demo)


def _add_serve(commands: Any) -> None:
    serve = commands.add_parser(
        "serve",
        help="the MRD server for scanners",
        description="Serves the ISMRMRD v1 protocol. Every connection is one scan; several run at once.",
        epilog="example: edge-runtime serve --port 9002 --out images --previews 0.5",
    )
    serve.add_argument(
        "--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 opens it to the network (%(default)s)"
    )
    serve.add_argument("--port", type=_port_or_any, default=9002, help="TCP port, 0 for a free one (%(default)s)")
    serve.add_argument(
        "--out", type=Path, metavar="DIR", help="folder for DICOM series and reports; without it nothing is kept"
    )
    serve.add_argument("--json", action="store_true", help="announce the address as one line of JSON")
    _add_model_options(serve)
    serve.set_defaults(run=_serve, parser=serve)


def _add_replay(commands: Any) -> None:
    replay = commands.add_parser(
        "replay",
        help="plays a recorded scan as the scanner would",
        description="Plays ISMRMRD .h5/.mrd, Siemens twix .dat or 0.055 T .mat files over the socket. Without --host and --port "
        "it starts a server of its own and reports what came back.",
        epilog="example: edge-runtime replay meas.dat --tr 8 --accelerate 4 --out images",
    )
    replay.add_argument("file", type=Path)
    replay.add_argument("--host", help="an MRD server (default with --port: 127.0.0.1)")
    replay.add_argument("--port", type=_port, help="its port (default with --host: 9002)")
    replay.add_argument(
        "--dataset", metavar="NAME", help="which scan of a file that holds several: a group or an array"
    )
    replay.add_argument("--config", default="edge", help="configuration name to ask for (%(default)s)")
    replay.add_argument(
        "--tr",
        type=_pace,
        metavar="MS",
        help="milliseconds between readouts, or 'recorded' for the real scan's; default: as fast as the server takes them",
    )
    replay.add_argument(
        "--accelerate", type=_acceleration, metavar="R", help="play a variable-density share of the phase encodes"
    )
    replay.add_argument(
        "--acs",
        type=_acs_share,
        metavar="SHARE",
        help="share of the phase encodes kept in the centre (by R: 0.12, 0.08, 0.04)",
    )
    replay.add_argument("--seed", type=_seed, metavar="N", help="seed of the undersampling (0)")
    replay.add_argument(
        "--order", choices=("as recorded", "linear", "centre-out"), default="as recorded", help="order of the lines"
    )
    replay.add_argument(
        "--out", type=Path, metavar="DIR", help="folder for DICOM series and reports of the server of its own"
    )
    replay.add_argument("--json", action="store_true", help="print a JSON summary and nothing else")
    _add_model_options(replay)
    replay.set_defaults(run=_replay, parser=replay)


def _add_bundle(commands: Any) -> None:
    bundle = commands.add_parser(
        "bundle",
        help="what is in a model bundle, and whether this device would use it",
        description="Shows a bundle and makes every check that the server makes, golden outputs of every form too. "
        "Exit code 0: accepted; 1: refused.",
        epilog="example: edge-runtime bundle brain2d.edgebundle --trust /etc/edge-runtime/trust",
    )
    bundle.add_argument("file", type=Path, nargs="?", help="the bundle (default: the one that ships)")
    bundle.add_argument("--profile", help="hardware profile, by name or path (x86-cpu)")
    _add_trust(bundle)
    bundle.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    bundle.set_defaults(run=_bundle, parser=bundle, classical_only=False)


def _add_doctor(commands: Any) -> None:
    doctor = commands.add_parser(
        "doctor",
        help="what this machine is, and what it lacks of what a profile asks for",
        description="Looks at the device, its processor, memory, power mode and temperature, at kernels, engines and the bundle, "
        "and says what is missing and how to mend it. Nothing is changed, but that TensorRT, where the profile has it, compiles "
        "what it has not compiled yet. Exit code 0: it would run; 1: something keeps it from that.",
        epilog="examples:\n"
        "  edge-runtime doctor                               with the profile that fits this machine best\n"
        "  edge-runtime doctor --profile jetson-orin-nano --json\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    doctor.add_argument("--profile", help="hardware profile, by name or path (default: the one that fits best)")
    doctor.add_argument("--bundle", type=Path, metavar="FILE", help="model bundle (default: the one that ships)")
    _add_trust(doctor)
    doctor.add_argument("--classical-only", action="store_true", help="no learned image is wanted")
    doctor.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    doctor.set_defaults(run=_doctor, parser=doctor)


def _add_trust(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--trust", type=Path, metavar="DIR",
        help="folder of the public keys that may sign bundles (default: the profile's, or the one that ships)",
    )  # fmt: skip


def _add_model_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--profile", help="hardware profile, by name or path (x86-cpu)")
    command.add_argument("--bundle", type=Path, metavar="FILE", help="model bundle (default: the one that ships)")
    _add_trust(command)
    command.add_argument("--classical-only", action="store_true", help="no learned image")
    command.add_argument("--precision", help="insist on one precision of the bundle (default: the profile's order)")
    command.add_argument(
        "--previews", type=_shares, metavar="A,B,…",
        help="shares of a slice at which previews are made, 'none' for none (0.25,0.5,0.75)",
    )  # fmt: skip


OF_A_SERVER = ("out", "profile", "bundle", "trust", "classical_only", "precision", "previews")
"""Options of `replay` that speak of the server that it starts itself."""


def _contradiction(options: argparse.Namespace) -> str:
    """Why the options can't all be meant; empty where they can."""
    given = {name for name, value in vars(options).items() if value is not None and value is not False}
    if options.run is _replay:
        for name in ("acs", "seed"):
            if name in given and "accelerate" not in given:
                return f"--{name} needs --accelerate"
        for name in OF_A_SERVER:
            if name in given and given & {"host", "port"}:
                return f"--{name.replace('_', '-')} is for a server of the replay's own: leave it out, or --host and --port"
    for name in ("bundle", "trust", "precision"):
        if name in given and options.classical_only:
            return f"--{name} chooses a model and --classical-only none: leave out one of them"
    return ""


def _number(text: str, expected: str, least: float, most: float) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not least <= number <= most:
        raise argparse.ArgumentTypeError(f"{text!r}: {expected}")
    return number


def _whole(text: str, expected: str, least: int, most: int) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 20 and least <= int(text) <= most):
        raise argparse.ArgumentTypeError(f"{text!r}: {expected}")
    return int(text)


def _port_or_any(text: str) -> int:
    return _whole(text, "a TCP port, 1 to 65535, or 0 for a free one", 0, 65535)


def _port(text: str) -> int:
    return _whole(text, "a TCP port, 1 to 65535", 1, 65535)


def _seed(text: str) -> int:
    return _whole(text, "a whole number from 0", 0, 1 << 63)


def _pace(text: str) -> float | str:
    if text == RECORDED:
        return text
    return _number(text, f"0.01 to 1000000 milliseconds, or '{RECORDED}'", 0.01, 1e6)


def _acceleration(text: str) -> float:
    return _number(text, "a factor from 1 to 16", 1, 16)


def _acs_share(text: str) -> float:
    return _number(text, "a share from 0.01 to 0.5", 0.01, 0.5)


def _shares(text: str) -> tuple[float, ...]:
    if text == "none":
        return ()
    try:
        shares = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: numbers between 0 and 1, such as 0.25,0.5") from None
    if not all(0 < share < 1 for share in shares):
        raise argparse.ArgumentTypeError(f"{text!r}: every share must lie between 0 and 1")
    return shares


def _demo(options: argparse.Namespace) -> int:
    from edge_runtime.demo.run import run_demo

    show = None if options.json else _ProgressLine()
    with _open_runtime(options, options.out) as runtime:
        report = run_demo(runtime, options.out, show)
    if show is not None:
        show.end()
    if options.json:
        print(json.dumps(report))
        return 0
    print(f"{'slice':>5}  {'method':<12} {'NRMSE':>7} {'PSNR dB':>8} {'SSIM':>6}")
    for row in report["quality"]:
        print(f"{row['slice']:>5}  {row['method']:<12} {row['nrmse']:>7.4f} {row['psnr_db']:>8.2f} {row['ssim']:>6.3f}")
    for image in report["session"]["images"]:
        if image["completeness"] == "final" and image["method"] == "learned":
            print(f"slice {image['slice']}: learned image {image['latency_s'] * 1e3:.0f} ms after its last readout")
    print(f"written: {options.out / 'comparison.png'}, {options.out / 'report.json'}")
    _print_series(_series(report["session"]["images"]))
    return 0


def _serve(options: argparse.Namespace) -> int:
    from edge_runtime.links.mrd import MrdServer

    logging.getLogger("edge_runtime").setLevel(logging.INFO)
    with _open_runtime(options, options.out) as runtime:
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


def _replay(options: argparse.Namespace) -> int:
    from edge_runtime.links.files import open_recording
    from edge_runtime.links.mrd import DEFAULT_PORT, MrdServer

    recording = open_recording(options.file, options.dataset)
    series = []
    if options.host is None and options.port is None:
        with _open_runtime(options, options.out) as runtime:
            server = MrdServer(runtime, port=0)
            thread = threading.Thread(target=server.serve_forever, name="replay-server")
            thread.start()
            try:
                result = _play(options, recording, server.host, server.port)
            finally:
                server.stop()
                thread.join()
        series = _series(server.reports[-1].images)
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
    show = None if options.json else _ProgressLine()
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
        on_event=show,
    )
    if show is not None:
        show.end()
    return result


def _series(images: Sequence[Mapping[str, Any]]) -> list[str]:
    """Folders of the DICOM series in a session's report."""
    return sorted({str(Path(image["dicom"]).parent) for image in images if image["dicom"]})


def _print_series(series: list[str]) -> None:
    if series:
        print("DICOM series:", *series, sep="\n  ")


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
            "images": images,
            "series": series,
            "texts": [text.text for text in result.texts],
            "error": "; ".join(failed),
        }
        print(json.dumps(summary))
    else:
        print(f"{result.readouts_sent} readouts sent, {len(images)} images received")
        _print_series(series)
    # A server of another make says nothing of completeness; what it sends after the last readout is final.
    parts = [
        image["attributes"].get("EdgeCompleteness", "final" if image["since_last_readout_s"] >= 0 else "preview")
        for image in images
    ]
    return 0 if "final" in parts and "incomplete" not in parts and not failed else EXIT_FAILED


def _open_runtime(options: argparse.Namespace, output: Path | None) -> Any:
    from edge_runtime.bundle import DEFAULT_BUNDLE
    from edge_runtime.profile import DEFAULT_PROFILE, load_profile
    from edge_runtime.runtime import DEFAULT_PREVIEWS, open_runtime

    if output is not None:
        _probe(output)
    profile = load_profile(options.profile or DEFAULT_PROFILE)
    bundle = None if options.classical_only else (options.bundle or DEFAULT_BUNDLE)
    previews = DEFAULT_PREVIEWS if options.previews is None else options.previews
    return open_runtime(
        profile, bundle=bundle, output=output, precision=options.precision, trust=options.trust, previews=previews
    )


def _bundle(options: argparse.Namespace) -> int:
    from edge_runtime.bundle import DEFAULT_BUNDLE, load_trust_store, trust_store
    from edge_runtime.bundle.describe import describe_bundle, description_lines, verification_lines, verification_record
    from edge_runtime.bundle.verify import verify_bundle
    from edge_runtime.profile import DEFAULT_PROFILE, load_profile

    path = options.file or DEFAULT_BUNDLE
    profile = load_profile(options.profile or DEFAULT_PROFILE)
    trust = load_trust_store(options.trust or profile.trust or trust_store.DEFAULT_TRUST)
    verification = verify_bundle(path, trust, profile.engines, profile.threads, profile.compilation)
    try:
        description = describe_bundle(path)
    except BundleError:  # the first check says why
        description = None
    if options.json:
        print(json.dumps({"bundle": description, **verification_record(verification)}))
    else:
        if description is not None:
            print(*description_lines(description), sep="\n")
        print(f"checks, with the keys of {trust.folder}:", *verification_lines(verification), sep="\n")
    return 0 if verification.passed else EXIT_FAILED


def _doctor(options: argparse.Namespace) -> int:
    from edge_runtime.bundle import DEFAULT_BUNDLE, load_trust_store
    from edge_runtime.doctor import State, detect, examine, profile_for
    from edge_runtime.profile import load_profile

    machine = detect(architecture=platform.machine())
    profile = load_profile(options.profile or profile_for(machine))
    bundle = None if options.classical_only else (options.bundle or DEFAULT_BUNDLE)
    folder = options.trust or profile.trust
    findings = []
    if not options.json:
        print(f"profile {profile.name}: {profile.description}")
    for finding in examine(machine, profile, bundle, None if folder is None else load_trust_store(folder)):
        findings.append(finding)
        if not options.json:
            print(f"  {finding.state.value:<8} {finding.name}: {finding.found}")
            if finding.mend:
                print(f"           {finding.mend}")
    if options.json:
        seen = {**asdict(machine), "cpu_features": sorted(machine.cpu_features)}
        print(json.dumps({"profile": profile.name, "machine": seen, "findings": [asdict(one) for one in findings]}))
    return EXIT_FAILED if any(one.state is State.BAD for one in findings) else 0


def _probe(output: Path) -> None:
    """Shows before the first scan that images can be written.

    Raises:
        DeliveryError: they can't.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=output):
            pass
    except OSError as error:
        raise DeliveryError(f"--out {output}: no images can be written there: {error.strerror or error}") from None


class _ProgressLine:
    """Progress on a terminal line that is overwritten; texts and images get lines of their own."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._drawn = 0.0
        self._told: set[str] = set()

    def opened(self, recording: Recording) -> None:
        """Says what is played, and what had to be assumed; a server of ours repeats that, which is not shown again."""
        self._line(f"{recording.path}: {recording.format}, {recording.readout_count} readouts")
        for note in recording.header.notes:
            self._told.add(f"note: {note}")
            self._line(f"  note: {note}")

    def __call__(self, event: Event) -> None:
        from edge_runtime.hil.player import PlayedText, ReadoutsSent
        from edge_runtime.links.mrd_pack import parse_meta_attributes
        from edge_runtime.scan import SliceKey

        now = time.monotonic() - self._began
        if isinstance(event, ReadoutsSent):
            if sys.stderr.isatty() and (now - self._drawn > 0.1 or event.sent == event.of):
                self._drawn = now
                print(f"\r{now:6.2f} s  readout {event.sent} of {event.of} ", end="", file=sys.stderr, flush=True)
        elif isinstance(event, PlayedText):
            if event.text not in self._told:
                self._line(f"{now:6.2f} s  {event.text}")
        else:
            said = {name: values[0] for name, values in parse_meta_attributes(event.attributes).items() if values}
            words = (said.get("EdgeMethod", "").replace("_", "-"), said.get("EdgeCompleteness", ""), "image")
            share = said.get("EdgeMeasuredShare")
            measured = f", made from {100 * float(share):.0f} % of all phase encodes" if share else ""
            key = SliceKey(**{field.name: int(event.header[field.name]) for field in fields(SliceKey)})
            self._line(f"{now:6.2f} s  {key}: {' '.join(filter(None, words))}{measured}")

    def _line(self, text: str) -> None:
        print(("\r\x1b[K" if sys.stderr.isatty() else "") + text, file=sys.stderr, flush=True)

    def end(self) -> None:
        """Leaves the line."""
        if sys.stderr.isatty():
            print(file=sys.stderr)


class _Version(argparse.Action):
    """Asks for the version only where it is wanted: what knows it takes long to import."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from edge_runtime.runtime import runtime_version

        print(f"edge-runtime {runtime_version()}")
        parser.exit()


if __name__ == "__main__":
    sys.exit(main())
