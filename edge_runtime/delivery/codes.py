"""Attributes that are absent where nothing is known, and coded terms."""

from __future__ import annotations

from pydicom.dataset import Dataset

from edge_runtime.scan import Code


def add_known(dataset: Dataset, keyword: str, value: str | None) -> None:
    """Type 3: absent, not empty, where nothing is known."""
    if value:
        setattr(dataset, keyword, value)


def coded(value: str, scheme: str, meaning: str) -> Dataset:
    """An item of a code sequence (PS3.3 8.8)."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def coded_items(codes: tuple[Code, ...]) -> list[Dataset]:
    """The items of a code sequence."""
    return [coded(code.value, code.scheme, code.meaning) for code in codes]
