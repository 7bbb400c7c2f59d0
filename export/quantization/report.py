"""The search as JSON, as a table and as a plot."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from export.quantization.search import Budget, SearchResult


def write_report(result: SearchResult, budget: Budget, folder: Path) -> None:
    """Writes ``search.json``, ``front.md`` and ``front.png`` into a folder."""
    document = {"budget": asdict(budget), **asdict(result)}
    (folder / "search.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    (folder / "front.md").write_text(table(result, budget), encoding="utf-8")
    _plot(result, budget, folder / "front.png")


def table(result: SearchResult, budget: Budget) -> str:
    """Every candidate in Markdown, and the sensitivities that ranked the layers."""
    lines = [
        f"Budget: {budget.psnr_db:g} dB and {budget.ssim:g} SSIM on the worst validation scan. FP32: {result.fp32_time_ms:.2f} ms.",
        "",
        "| layers in float | ms, one thread | worst PSNR loss, dB | worst SSIM loss | worst scan | |",
        "|---|---|---|---|---|---|",
    ]
    for one in result.candidates:
        said = ["chosen"] if one == result.chosen else []
        said += ["front"] if one.on_front else []
        lines.append(
            f"| {len(one.kept)} | {one.time_ms:.2f} | {one.lost.psnr_db:.3f} | {one.lost.ssim:.4f} | {one.lost.worst_scan} "
            f"| {', '.join(said)} |"
        )
    lines += ["", "| layer, dearest first | mean PSNR loss alone, dB | saves, us |", "|---|---|---|"]
    lines += [f"| {one.layer} | {one.lost_psnr_db:.4f} | {one.saved_us:.0f} |" for one in result.sensitivities]
    return "\n".join(lines) + "\n"


def _plot(result: SearchResult, budget: Budget, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.5))
    others = [one for one in result.candidates if not one.on_front]
    front = sorted((one for one in result.candidates if one.on_front), key=lambda one: one.time_ms)
    axes.scatter([one.time_ms for one in others], [one.lost.psnr_db for one in others], color="0.6", label="dominated")
    axes.plot([one.time_ms for one in front], [one.lost.psnr_db for one in front], "o-", label="Pareto front")
    axes.plot(result.chosen.time_ms, result.chosen.lost.psnr_db, "s", color="tab:red", markersize=10, label="chosen")
    axes.axhline(budget.psnr_db, color="tab:orange", linestyle="--", label="budget")
    axes.axvline(result.fp32_time_ms, color="tab:green", linestyle=":", label="FP32")
    axes.set_xlabel("whole graph, one thread (ms)")
    axes.set_ylabel("PSNR lost on the worst validation scan (dB)")
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    plt.close(figure)
