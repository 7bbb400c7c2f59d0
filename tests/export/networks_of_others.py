"""Networks that tests import as models of someone else's."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Halving(nn.Module):
    """A small network with a skip; takes even sizes."""

    def __init__(self, width: int = 4, planes: int = 2) -> None:
        super().__init__()
        self.first = nn.Conv2d(planes, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.down = nn.Conv2d(width, width, 2, stride=2)
        self.up = nn.ConvTranspose2d(width, width, 2, stride=2)
        self.last = nn.Conv2d(width, planes, 1)

    def forward(self, planes: Tensor) -> Tensor:
        features = torch.relu(self.norm(self.first(planes)))
        return planes + self.last(features + self.up(torch.relu(self.down(features))))


class Sized(Halving):
    """One whose trace is fixed to the size that it was traced with."""

    def forward(self, planes: Tensor) -> Tensor:
        return super().forward(planes) * (len(planes[0, 0, 0]) / 32)


class Embedded(nn.Module):
    """One that knows where on a matrix it is, and so takes that matrix alone."""

    def __init__(self, rows: int, columns: int) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.linspace(0, 1, rows * columns).reshape(1, 1, rows, columns))
        self.last = nn.Conv2d(2, 2, 3, padding=1)

    def forward(self, planes: Tensor) -> Tensor:
        return self.last(planes + self.place)


class InPlace(Halving):
    """One that writes into its input."""

    def forward(self, planes: Tensor) -> Tensor:
        return super().forward(planes.mul_(0.5))


class Named(Halving):
    """One that gives its output a name."""

    def forward(self, planes: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        return {"made": super().forward(planes)}


class Rotating(nn.Module):
    """One with a complex weight."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.ones(1, dtype=torch.complex64))

    def forward(self, planes: Tensor) -> Tensor:
        return planes * self.factor.real


class Deciding(Halving):
    """One whose code decides by the size or the values of its input; a trace keeps one of the ways."""

    def __init__(self, by: str, limit: float, width: int = 4) -> None:
        super().__init__(width)
        self.by, self.limit = by, limit

    def forward(self, planes: Tensor) -> Tensor:
        measure = planes.shape[-1] if self.by == "columns" else float(planes.abs().max())
        made = super().forward(planes)
        return 2 * made if measure > self.limit else made


class Spectral(nn.Module):
    """One that can't be written as ONNX."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(1))

    def forward(self, planes: Tensor) -> Tensor:
        return torch.linalg.svdvals(planes)[..., None] * self.gain
