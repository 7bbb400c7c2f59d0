"""The search as JSON, as a table and as a plot."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from export.quantization.choice import Budget, Candidate
from export.quantization.form_search import SearchResult


def write_report(result: SearchResult, budget: Budget, folder: Path) -> None:
    """Writes ``search.json``, ``front.md`` and ``front.png`` into a folder."""
    document = {"budget": asdict(budget), **asdict(result)}
    (folder / "search.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    (folder / "front.md").write_text(table(result, budget), encoding="utf-8")
    _plot(result, budget, folder / "front.png")


def table(result: SearchResult, budget: Budget) -> str:
    """Every candidate in Markdown, and the sensitivities that ranked the layers."""
    lines = [
        f"Budget: {budget} on the worst validation scan. FP32: {result.fp32_time_ms:.2f} ms. "
        f"FP16: {result.fp16.time_ms:.2f} ms, loses {result.fp16.lost.psnr_db:.3f} dB and {result.fp16.lost.ssim:.4f} SSIM.",
        "",
        "| layers in float | ms, one thread | worst PSNR loss, dB | worst SSIM loss | worst scan | |",
        "|---|---|---|---|---|---|",
    ]
    for one in result.candidates:
        said = ["chosen"] if one == result.chosen else []
        said += ["front"] if one.on_front else []
        weights = ", fine-tuned" if one.finetuned_steps else ""
        lines.append(
            f"| {len(one.kept)}{weights} | {one.time_ms:.2f} | {one.lost.psnr_db:.3f} | {one.lost.ssim:.4f} "
            f"| {one.lost.worst_scan} | {', '.join(said)} |"
        )
    lines += ["", "| layer, dearest first | mean PSNR loss alone, dB | saves, us |", "|---|---|---|"]
    lines += [f"| {one.layer} | {one.lost_psnr_db:.4f} | {one.saved_us:.0f} |" for one in result.sensitivities]
    return "\n".join(lines) + "\n"


def _plot(result: SearchResult, budget: Budget, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    losses: tuple[tuple[str, Callable[[Candidate], float], float], ...] = (
        ("PSNR lost on the worst validation scan (dB)", lambda one: one.lost.psnr_db, budget.psnr_db),
        ("SSIM lost on the worst validation scan", lambda one: one.lost.ssim, budget.ssim),
    )
    figure, panels = plt.subplots(1, len(losses), figsize=(11, 4.5))
    for axes, (label, lost, most) in zip(panels, losses, strict=True):
        for on_front, look in ((False, {"color": "0.6", "label": "dominated"}), (True, {"label": "Pareto front"})):
            shown = [one for one in result.candidates if one.on_front is on_front]
            axes.scatter([one.time_ms for one in shown], [lost(one) for one in shown], **look)
        if result.chosen is not None:
            axes.plot(
                result.chosen.time_ms,
                lost(result.chosen),
                "s",
                color="tab:red",
                markersize=10,
                fillstyle="none",
                label="chosen",
            )
        axes.axhline(most, color="tab:orange", linestyle="--", label="budget")
        axes.axvline(result.fp32_time_ms, color="tab:green", linestyle=":", label="FP32")
        axes.set_xlabel("whole graph, one thread (ms)")
        axes.set_ylabel(label)
    panels[0].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    plt.close(figure)
