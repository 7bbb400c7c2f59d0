"""One picture that shows a reference, its reconstructions and their errors side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image as Picture
from PIL import ImageDraw, ImageFont

ERROR_GAIN = 5
MARGIN, CAPTION, FONT_SIZE = 6, 34, 13
BACKGROUND, INK, PALE = (16, 16, 20), (235, 235, 235), (160, 160, 170)


@dataclass(frozen=True)
class Panel:
    """An image ``(rows, columns)`` in the reference's scale, a title and a line of figures below it."""

    title: str
    detail: str
    pixels: npt.NDArray[np.floating]


def write_comparison(
    path: Path, rows: Sequence[tuple[npt.NDArray[np.floating], Sequence[Panel]]], heading: str
) -> None:
    """Writes a PNG: for every ``(reference, panels)`` a row of images and below it their errors, five times brighter.

    All images of a row share the grey scale 0 to the reference's 99.5th percentile; errors are absolute.
    """
    font, small = ImageFont.load_default(FONT_SIZE + 1), ImageFont.load_default(FONT_SIZE - 2)
    size = max(max(panel.pixels.shape) for _, panels in rows for panel in panels)
    count = 1 + max(len(panels) for _, panels in rows)
    cell = size + MARGIN
    width = MARGIN + count * cell
    row_height = 2 * (size + MARGIN) + CAPTION
    canvas = Picture.new("RGB", (width, CAPTION + len(rows) * row_height + MARGIN), BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    draw.text((MARGIN, 8), heading, INK, font)
    for index, (reference, panels) in enumerate(rows):
        top = CAPTION + index * row_height
        white = float(np.percentile(reference, 99.5))
        for column, panel in enumerate([Panel("reference", "fully sampled", reference), *panels]):
            left = MARGIN + column * cell
            draw.text((left, top), panel.title, INK, small)
            draw.text((left, top + FONT_SIZE), panel.detail, PALE, small)
            canvas.paste(_grey(panel.pixels, white), (left, top + CAPTION))
            below = top + CAPTION + size + MARGIN
            if column:
                canvas.paste(_grey(np.abs(panel.pixels - reference) * ERROR_GAIN, white), (left, below))
            else:
                draw.text((left, below + size // 2), f"errors x {ERROR_GAIN}", PALE, small)
    canvas.save(path)


def _grey(pixels: npt.NDArray[np.floating], white: float) -> Picture.Image:
    scaled = np.clip(np.asarray(pixels, np.float64) / white * 255, 0, 255)
    return Picture.fromarray(scaled.astype(np.uint8))
