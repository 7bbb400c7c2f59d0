"""The search as JSON, as a table and as a plot."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from export.quantization.choice import Budget, Candidate, no_faster
from export.quantization.form_search import NO_FASTER, SearchResult


def write_report(result: SearchResult, budget: Budget, folder: Path) -> None:
    """Writes ``search.json``, ``front.md`` and ``front.png`` into a folder."""
    document = {"budget": asdict(budget), **asdict(result)}
    (folder / "search.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    (folder / "front.md").write_text(table(result, budget), encoding="utf-8")
    _plot(result, budget, folder / "front.png")


def table(result: SearchResult, budget: Budget) -> str:
    """FP32, FP16 and every candidate in Markdown, the chosen one on each engine, and the sensitivities that ranked the layers."""
    lines = [
        f"Budget: {budget} on the worst validation scan and the worst engine. Times are ONNX Runtime's.",
        "",
        "| layers in float | ms, one thread | worst PSNR loss, dB | worst SSIM loss | worst scan | |",
        "|---|---|---|---|---|---|",
    ]
    for one in (result.fp32, result.fp16, *result.candidates):
        said = ["chosen"] if one == result.chosen else []
        said += ["front"] if one.on_front else []
        label = {id(result.fp32): "all (FP32)", id(result.fp16): "all, in FP16"}.get(id(one), f"{len(one.kept)}")
        weights = ", fine-tuned" if one.finetuned_steps else ""
        lines.append(
            f"| {label}{weights} | {one.time_ms:.2f} | {one.lost.psnr_db:.3f} | {one.lost.ssim:.4f} "
            f"| {one.lost.worst_scan} | {', '.join(said)} |"
        )
    if result.chosen is not None:
        if slow := no_faster(result.chosen, result.fp32):
            lines += ["", f"**INT8 saves no time here** on {', '.join(slow)}: {NO_FASTER}."]
        lines += [
            "",
            "| chosen form on | ms, one thread | worst PSNR loss, dB | worst SSIM loss |",
            "|---|---|---|---|",
        ]
        lines += [
            f"| {on.engine} | {on.time_ms:.2f} | {on.lost.psnr_db:.3f} | {on.lost.ssim:.4f} |"
            for on in result.chosen.engines
        ]
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
        axes.axvline(result.fp32.time_ms, color="tab:green", linestyle=":", label="FP32")
        axes.set_xlabel("whole graph, one thread (ms)")
        axes.set_ylabel(label)
    panels[0].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    plt.close(figure)
