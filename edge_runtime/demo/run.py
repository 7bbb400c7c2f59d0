"""Plays the shipped scan into a server of its own and compares what comes back with the fully sampled reference."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from edge_runtime.demo.figure import Panel, write_comparison
from edge_runtime.errors import EdgeRuntimeError
from edge_runtime.hil.player import Event, PlayedImage, PlayResult, play
from edge_runtime.hil.quality import Magnitude, Mask, compare_within, scale_to
from edge_runtime.links.files import open_recording
from edge_runtime.links.mrd import MrdServer
from edge_runtime.links.mrd_pack import parse_meta_attributes
from edge_runtime.runtime import Runtime, runtime_version
from edge_runtime.scan import Completeness, Method

FOLDER = Path(__file__).parent
SCAN, REFERENCE = FOLDER / "colin27.mrd", FOLDER / "colin27_reference.npz"
REPETITION_TIME_MS = 20.0
TITLES = {Method.ZERO_FILLED: "zero-filled", Method.CLASSICAL: "classical (SENSE)", Method.LEARNED: "learned"}


def run_demo(runtime: Runtime, folder: Path, on_event: Callable[[Event], None] | None = None) -> dict[str, Any]:
    """Runs the demo and writes ``comparison.png`` and ``report.json`` to ``folder``; the DICOM series lie in the scan's folder.

    Returns:
        the report.

    Raises:
        EdgeRuntimeError: an image is missing.
    """
    server = MrdServer(runtime, port=0)
    thread = threading.Thread(target=server.serve_forever, name="demo-server")
    thread.start()
    try:
        result = play(
            open_recording(SCAN),
            server.host,
            server.port,
            config="edge-all",
            repetition_time_ms=REPETITION_TIME_MS,
            on_event=on_event,
        )
    finally:
        server.stop()
        thread.join()
    finals = _final_images(result)
    methods = [method for method in TITLES if method is not Method.LEARNED or runtime.model is not None]
    rows, quality = [], []
    for index, (reference, foreground) in enumerate(_references()):
        panels = []
        for method in methods:
            played = finals.get((index, method))
            if played is None:
                raise EdgeRuntimeError(
                    f"the demo got no {method.value} image of slice {index}: {'; '.join(t.text for t in result.texts)}"
                )
            pixels = np.asarray(played.message.pixels[0, 0], np.float64)
            figures = compare_within(pixels, reference, foreground)
            quality.append({"slice": index, "method": method.value, **asdict(figures)})
            detail = f"NRMSE {figures.nrmse:.3f}  SSIM {figures.ssim:.3f}"
            panels.append(Panel(TITLES[method], detail, pixels * scale_to(pixels, reference, foreground)))
        rows.append((reference, panels))
    report = server.reports[-1]
    document = {
        "runtime": runtime_version(),
        "profile": runtime.profile.name,
        "scan": {"name": "Colin27, simulated, 8 coils, R = 4", "simulated": True, "readouts": result.readouts_sent},
        "pacing": asdict(result.pacing),
        "quality": quality,
        "texts": [text.text for text in result.texts],
        "session": asdict(report),
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_comparison(
        folder / "comparison.png", rows, "Colin27, SIMULATED 8-coil acquisition, R = 4, streamed over a socket"
    )
    (folder / "report.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return document


def _final_images(result: PlayResult) -> dict[tuple[int, Method], PlayedImage]:
    finals = {}
    for image in result.images:
        attributes = parse_meta_attributes(image.message.attributes)
        if attributes["EdgeCompleteness"] == [Completeness.FINAL.value]:
            finals[int(image.message.header["slice"]), Method(attributes["EdgeMethod"][0])] = image
    return finals


def _references() -> list[tuple[Magnitude, Mask]]:
    with np.load(REFERENCE, allow_pickle=False) as archive:
        images = archive["images"].astype(np.float64)
        foregrounds = np.unpackbits(archive["foregrounds"], axis=-1, count=images.shape[-1]).astype(bool)
    return list(zip(images, foregrounds, strict=True))
