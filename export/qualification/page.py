"""The report as one HTML file that needs nothing else: tables, pictures, and room for a signature."""

from __future__ import annotations

import base64
import html
import io
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from edge_runtime.hil.quality import Magnitude, scale_to
from export.qualification.cases import AS_TRAINED, OFF_DISTRIBUTION, RECORDED, Case
from export.qualification.cost import Cost
from export.qualification.figures import MEANINGS
from export.qualification.judge import CLASSICAL, ZERO_FILLED, Row, summary
from export.qualification.rings import PATCH, flagged_patches
from export.qualification.stability import Stability
from export.qualification.structure import structure_error
from export.required import LEAST_DRAWS, LEAST_OFF_DRAWS, LEAST_RECORDED_SLICES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ERROR_GAIN = 5.0
"""The error maps show the magnitude of the error so many times brighter than the image."""

NUMBER = re.compile(r"-?\d[\d.e-]*( \(-?[\d.]+\))?")
"""A figure, or a median with the worst case behind it."""

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; color: #1a1a1a }
table { border-collapse: collapse; margin: 0.5rem 0 1.5rem } th, td { padding: 0.2rem 0.7rem; border-bottom: 1px solid #ddd }
th { text-align: left; border-bottom: 2px solid #888 } td.number { text-align: right; font-variant-numeric: tabular-nums }
.missed { color: #b00020; font-weight: 600 } .kept { color: #176b2c } img { max-width: 100% } dd { margin-bottom: 0.4rem }
.sign td { width: 16rem; height: 3rem; border-bottom: 1px solid #1a1a1a }
@media print { body { margin: 0 } h2 { break-after: avoid } figure { break-inside: avoid } }
"""


def page(document: Mapping[str, Any], rows: Sequence[Row], stabilities: Sequence[Stability], costs: Sequence[Cost],
         pictures: Iterable[tuple[str, bytes]]) -> str:  # fmt: skip
    """The whole page.

    Args:
        document: what ``quality.json`` holds.
        pictures: title and PNG.
    """
    name = f"{document['name']} {document['version']}"
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>Qualification of {html.escape(name)}</title>",
        f"<style>{STYLE}</style><h1>Qualification of {html.escape(name)}</h1>",
        _verdict(document),
        "<h2>Limits and figures</h2>",
        _figures(document),
        "<h2>Image quality</h2><p>Median (worst case). Against the fully sampled root-sum-of-squares image, over its foreground. "
        "<em>Flagged</em>: share of patches whose coarse structure is not the reference's, by scanning Fourier ring correlation; "
        "compare it between methods. Beyond the classical image of the same samples, worst case: <em>structure error</em>, the "
        "largest error averaged over five pixels, as a share of the object's brightness (a structure that was put in or taken out "
        "shows with its own contrast), and <em>flagged group</em>, patches in the largest group of flagged neighbours.</p>",
        _quality(rows, (AS_TRAINED, RECORDED)),
        "<h2>What it was not trained for</h2>",
        _quality(rows, OFF_DISTRIBUTION),
        "<h2>Stability</h2><p><em>Noise gain</em>: as much noise again as the scan has, in the image over in the samples. "
        "<em>Contrast kept</em>: of a structure of five pixels, the worst of several.</p>",
        _table(("case", "method", "noise gain", "contrast kept"),
               ((one.case, one.method, f"{one.noise_gain:.2f}", f"{one.contrast_kept:.2f}") for one in stabilities)),
        "<h2>Time and memory on this machine</h2><p>256 × 256, 8 coils, R = 4, coil calibration included.</p>",
        _table(("form", "threads", "samples to image, ms", "slowest, ms", "memory, MB"),
               ((one.precision, str(one.threads), f"{one.image_ms:.0f}", f"{one.slowest_ms:.0f}", f"{one.memory_mb:.0f}")
                for one in costs)),
        "<h2>Pictures</h2><p>The first line shows the images, the second their errors, five times brighter, with flagged patches "
        "outlined and a ring around the largest structure error.</p>",
        *(f"<figure><figcaption>{html.escape(title)}</figcaption><img alt='{html.escape(title)}' "
          f"src='data:image/png;base64,{base64.b64encode(png).decode()}'></figure>" for title, png in pictures),
        "<h2>Every case</h2>",
        _table(("case", "method", "NRMSE", "PSNR, dB", "SSIM", "flagged", "structure error", "flagged group", "believed"),
               ((row.case, row.method, f"{row.nrmse:.4f}", f"{row.psnr_db:.2f}", f"{row.ssim:.4f}", f"{row.flagged:.3f}",
                 f"{row.structure_error:.3f}", str(row.flagged_group),
                 "" if row.believed is None else f"{row.believed:.2f}") for row in rows)),
        "<h2>What was left out</h2>",
        _table(("case", "why"), document["left_out"].items()) if document["left_out"] else "<p>Nothing.</p>",
        "<h2>What was judged, and with what</h2>",
        _table(("", ""), ((key, value) for key, value in document["made_with"].items())),
        _table(("form", "SHA-256"), document["forms"].items()),
        "<h2>Signature</h2><p>I have read this report, its pictures and its misses, and answer for the use of this model.</p>"
        "<table class=sign><tr><td>Name</td><td>Date</td><td>Signature</td></tr></table></html>",
    ]  # fmt: skip
    return "\n".join(parts)


def _verdict(document: Mapping[str, Any]) -> str:
    """What was judged, how much of it and on what, and what is missed: what nobody signs without having read."""
    judged = document["judged"]
    extent = _table(
        ("judged", ""),
        (
            ("form whose figures these are", judged["form"]),
            ("simulated slices as trained for", f"{judged['draws']}, at least {LEAST_DRAWS} required"),
            ("simulated slices of every other kind", f"{judged['off_draws']}, at least {LEAST_OFF_DRAWS} required"),
            ("slices of measured scans", f"{judged['recorded_slices']}, at least {LEAST_RECORDED_SLICES} required"),
            ("volumes that simulated slices are of", ", ".join(judged["volumes"])),
            ("measured scans", ", ".join(judged["recordings"]) or "none"),
            ("left out", f"{len(document['left_out'])} cases, listed below"),
        ),
    )
    if document["missed"]:
        missed = "".join(f"<li>{html.escape(one)}</li>" for one in document["missed"])
        return (
            f"{extent}<p class=missed>Missed; it can only be packed with a reason that the runtime shows:</p>"
            f"<ul class=missed>{missed}</ul>"
        )
    return f"{extent}<p class=kept>All limits of its configuration are kept, and as much was judged as is required.</p>"


def _figures(document: Mapping[str, Any]) -> str:
    limits, figures = document["limits"], document["figures"]
    lines = []
    for name in [*figures, *(name for name in limits if name not in figures)]:
        limit = limits.get(name, "")
        missed = name not in figures or any(one.startswith(f"{name} = ") for one in document["missed"])
        state = f"<span class={'missed' if missed else 'kept'}>{html.escape(limit)}</span>" if limit else ""
        value = f"{figures[name]:.4g}" if name in figures else "<span class=missed>not measured</span>"
        lines.append((html.escape(name), value, state, html.escape(MEANINGS.get(name, ""))))
    return _table(("figure", "value", "limit", "what it says"), lines, escaped=True)


def _quality(rows: Sequence[Row], groups: Iterable[str]) -> str:
    lines = []
    for group in groups:
        of_group = [row for row in rows if row.group == group]
        for acceleration, method in itertools.product(
            sorted({row.acceleration for row in of_group}), _in_order({row.method for row in of_group})
        ):
            here = [row for row in of_group if (row.acceleration, row.method) == (acceleration, method)]
            if here:
                structure = max(row.structure_error for row in here), max(row.flagged_group for row in here)
                worst = ("", "") if method == CLASSICAL else (f"{structure[0]:.2f}", str(structure[1]))
                lines.append((group, str(acceleration), str(len(here)), method, *summary(here), *worst))
    head = ("group", "R", "cases", "method", "NRMSE", "PSNR, dB", "SSIM", "flagged", "structure error", "flagged group")
    return _table(head, lines)


def _table(head: Sequence[str], lines: Iterable[Sequence[str]], *, escaped: bool = False) -> str:
    def cell(text: str) -> str:
        return f"<td{' class=number' if NUMBER.fullmatch(text) else ''}>{text if escaped else html.escape(text)}</td>"

    body = "".join(f"<tr>{''.join(cell(str(text)) for text in line)}</tr>" for line in lines)
    return f"<table><tr>{''.join(f'<th>{html.escape(text)}</th>' for text in head)}</tr>{body}</table>"


def _in_order(methods: Iterable[str]) -> list[str]:
    """Zero-filled, classical, then what is learned."""
    known = (ZERO_FILLED, CLASSICAL)
    found = set(methods)
    return [*(method for method in known if method in found), *sorted(found - set(known))]


def picture(case: Case, images: Mapping[str, Magnitude]) -> bytes:
    """A PNG: reference and every method's image above, measured lines and every error below with its flagged patches."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.patches import Rectangle

    shown = _in_order(images)
    bright = float(np.percentile(case.reference[case.where], 99.5))
    height = 6 * case.reference.shape[0] / case.reference.shape[1] + 0.6
    figure, axes = plt.subplots(2, 1 + len(shown), figsize=(3 * (1 + len(shown)), height), squeeze=False)
    axes[0, 0].imshow(case.reference, cmap="gray", vmin=0, vmax=bright)
    axes[0, 0].set_title("reference", fontsize=9)
    axes[1, 0].imshow(
        np.repeat(case.samples.measured[:, None], case.reference.shape[1], axis=1), cmap="gray", vmin=0, vmax=1
    )
    axes[1, 0].contour(case.where, levels=[0.5], colors="tab:orange", linewidths=0.8)
    axes[1, 0].set_title("measured lines, foreground's edge", fontsize=9)
    for column, method in enumerate(shown, start=1):
        scaled = scale_to(images[method], case.reference, case.where) * images[method]
        axes[0, column].imshow(scaled, cmap="gray", vmin=0, vmax=bright)
        axes[0, column].set_title(method, fontsize=9)
        axes[1, column].imshow(np.abs(scaled - case.reference), cmap="magma", vmin=0, vmax=bright / ERROR_GAIN)
        if method != CLASSICAL:
            worst = structure_error(images[method], images[CLASSICAL], case.reference, case.where)
            axes[1, column].plot(worst.column, worst.row, "o", color="white", markersize=9, fillstyle="none")
        patches = flagged_patches(images[method], case.reference, case.where)
        for row, left, _ in (one for one in patches if one[2]):
            axes[1, column].add_patch(Rectangle((left, row), PATCH, PATCH, fill=False, color="tab:cyan", linewidth=0.4))
        axes[1, column].set_title(f"error x {ERROR_GAIN:g}", fontsize=9)
    for axis in axes.flat:
        axis.set_axis_off()
    figure.tight_layout()
    return _png(figure)


def _png(figure: Figure) -> bytes:
    import matplotlib.pyplot as plt

    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=80, metadata={"Software": None})
    plt.close(figure)
    return buffer.getvalue()
