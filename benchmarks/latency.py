"""How long after the last readout the learned image is there, beside BART ``pics`` on the same samples."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.brain_phantom import Phantom, phantom
from benchmarks.metrics import compare
from benchmarks.records import Record, summarise
from benchmarks.server import RunningServer, serving
from edge_runtime.bundle import DEFAULT_BUNDLE, load_bundle
from edge_runtime.hil.player import play
from edge_runtime.links.mrd_pack import parse_meta_attributes
from edge_runtime.modalities.mri.offline import reconstruct_kspace
from edge_runtime.modalities.mri.proposal import Stepwise
from edge_runtime.profile import DEFAULT_PROFILE, load_profile
from edge_runtime.runtime import prepare_model
from edge_runtime.scan import Completeness, Method

REPETITION_TIME_MS = 10.0
"""Of a gradient-echo scan: the time there is to work while readouts arrive."""

RUNS = 100
PEER_RUNS = 15
TARGET_MS, TARGET_P99_MS = 25.0, 50.0

BEFORE_THE_LAST_READOUT = ("ingest", "calibration_ahead", "learned_ahead")
AFTER_THE_IMAGE = ("dicom",)
LINK = "link"
"""What no stage of the server has: the last readout's way in and the image's way out."""

WITHOUT_PREVIEWS = ("--previews", "none")


def latency(quick: bool) -> list[Record]:
    """Each run is a connection of its own to a server that has served one before; the peer takes turns with ours."""
    runs, peer_runs = (2, 2) if quick else (RUNS, PEER_RUNS)
    scan = phantom()
    peer, reconstruct = _peer(scan)
    threads = load_profile(DEFAULT_PROFILE).threads
    ours: list[Played] = []
    theirs: list[float] = []
    stages: list[dict[str, float]] = []
    with serving() as server:
        first = play_once(server, scan)
        for run in range(runs):
            ours.append(play_once(server, scan))
            stages.append(stages_ms(server.latest_report(), ours[-1].latency_ms))
            if reconstruct is not None and run < peer_runs:
                theirs.append(_milliseconds(reconstruct))
    with serving(*WITHOUT_PREVIEWS) as server:
        play_once(server, scan)
        plain = [play_once(server, scan).latency_ms for _ in range(runs)]
    latencies = [one.latency_ms for one in ours]
    how = (
        f"256 x 256, 8 coils, R = 4 variable density, {int(scan.mask.sum())} lines from edge to edge, one every "
        f"{REPETITION_TIME_MS:g} ms over loopback; from the last readout's hand-over to the socket to the learned image "
        "at the client"
    )
    what_peer = "the peer: calibration and 30 iterations from samples in memory, no transport" if reconstruct else peer
    return [
        summarise(
            "latency.last_readout_to_image_ms",
            latencies,
            unit="ms",
            better="lower",
            peer=peer,
            peer_samples=theirs,
            threads=threads,
            target=TARGET_MS,
            note=f"{how}; default options, previews included; the first scan of the process took {first.latency_ms:.0f} ms; "
            f"{what_peer}",
        ),
        summarise(
            "latency.last_readout_to_image_p99_ms",
            [float(np.percentile(latencies, 99))],
            unit="ms",
            better="lower",
            threads=threads,
            target=TARGET_P99_MS,
            note=f"of the same {len(latencies)} runs; the longest took {max(latencies):.1f} ms",
        ),
        *_stage_records(stages, latencies, threads),
        *_quality_records(scan, ours),
        summarise(
            "latency.last_readout_to_image_without_previews_ms",
            plain,
            unit="ms",
            better="lower",
            peer=peer,
            peer_samples=theirs,
            threads=threads,
            note=f"{how}; --previews none, so that no preview is being computed when the last readout arrives",
        ),
    ]


@dataclass(frozen=True)
class Played:
    """What came of one scan.

    Attributes:
        latency_ms: from the last readout to the learned image.
        image: ``(phase_encodes, samples)``.
    """

    latency_ms: float
    image: npt.NDArray[np.float32]


def play_once(server: RunningServer, scan: Phantom) -> Played:
    """Plays the scan once.

    Raises:
        RuntimeError: no learned image came back.
    """
    result = play(scan.recording, server.host, server.port, repetition_time_ms=REPETITION_TIME_MS)
    for image in result.images:
        said = parse_meta_attributes(image.message.attributes)
        if said["EdgeMethod"] == [Method.LEARNED.value] and said["EdgeCompleteness"] == [Completeness.FINAL.value]:
            return Played(1e3 * image.since_last_readout_s, np.asarray(image.message.pixels, np.float32).squeeze())
    raise RuntimeError(
        f"no learned image among {len(result.images)}; the server said {[text.text for text in result.texts]}"
    )


def _quality_records(scan: Phantom, played: list[Played]) -> list[Record]:
    """The images of those very runs beside the one made at once: what latency did not cost."""
    model = prepare_model(load_bundle(DEFAULT_BUNDLE), load_profile(DEFAULT_PROFILE))
    assert isinstance(model.reconstruction, Stepwise)
    at_once = reconstruct_kspace(scan.kspace, scan.mask, model.reconstruction)[Method.LEARNED].image
    differences = [float(np.linalg.norm(one.image - at_once) / np.linalg.norm(at_once)) for one in played]
    return [
        summarise(
            "latency.difference_to_made_at_once",
            differences,
            unit="relative",
            better="lower",
            target=model.reconstruction.tolerance,
            note=f"the images of those runs and one whose network knew every sample; the greatest {max(differences):.4f}; "
            f"the target is the golden tolerance of {model.precision} on {model.engine}",
        ),
        summarise(
            "latency.nrmse",
            [compare(one.image, scan.reference).nrmse for one in played],
            unit="NRMSE",
            better="lower",
            peer="made at once",
            peer_samples=[compare(at_once, scan.reference).nrmse],
            note="of the images of those runs to the fully sampled one",
        ),
    ]


def stages_ms(report: Mapping[str, Any], total_ms: float) -> dict[str, float]:
    """Where the time from the last readout to the learned image went: the stages of docs/report.md and `LINK` add up to it."""
    (image,) = (
        image
        for image in report["images"]
        if (image["method"], image["completeness"]) == (Method.LEARNED.value, Completeness.FINAL.value)
    )
    elsewhen = (*BEFORE_THE_LAST_READOUT, *AFTER_THE_IMAGE)
    stages = {stage: 1e3 * seconds for stage, seconds in image["stages_s"].items() if stage not in elsewhen}
    return {**stages, LINK: total_ms - sum(stages.values())}


def _stage_records(runs: list[dict[str, float]], totals_ms: list[float], threads: int) -> list[Record]:
    """One a stage, in their order."""
    records = []
    for stage in runs[0]:
        times = [run.get(stage, 0.0) for run in runs]
        share = statistics.median(ms / total for ms, total in zip(times, totals_ms, strict=True))
        what = "between scanner and server" if stage == LINK else "see stages_s in docs/report.md"
        note = f"{share:.1%} of latency.last_readout_to_image_ms, in the same runs; {what}"
        records.append(
            summarise(f"latency.stage.{stage}_ms", times, unit="ms", better="lower", threads=threads, note=note)
        )
    return records


def _peer(scan: Phantom) -> tuple[str, Callable[[], object] | None]:
    """The peer's name, and a function that runs it; None where it is not installed."""
    try:
        import bartorch
        import torch

        from benchmarks.peers import bart_pics
    except ImportError as error:
        return f"BART pics is not installed ({error.name})", None
    bartorch.set_num_threads(load_profile(DEFAULT_PROFILE).threads)
    measured = torch.from_numpy(np.ascontiguousarray(scan.kspace)).unsqueeze(1)
    settings = bart_pics.Regularisation(weight=statistics.median_low(bart_pics.WEIGHTS))

    def reconstruct() -> object:
        maps = bart_pics.calibrate(measured, bart_pics.CALIBRATIONS[0])
        return bart_pics.solve(measured, maps, settings)

    reconstruct()  # loads what it loads late
    return f"BART pics (bartorch), {settings.iterations} iterations", reconstruct


def _milliseconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return 1e3 * (time.perf_counter() - started)
