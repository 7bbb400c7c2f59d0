"""What an import says of programs that no bundle could hold: the same as the device's reader, and before anything is written."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from made_programs import cascades, denoiser, modl, varnet

from edge_runtime.bundle.archive import MAX_BUNDLE_BYTES, MAX_MEMBER_BYTES
from edge_runtime.program.document import MOST_GRAPHS
from export.adapters.errors import ImportRefused
from export.adapters.program import SplitProgram
from export.programs.packable import check_packable

pytest.importorskip("onnx")


@pytest.mark.parametrize("made", [varnet, modl, denoiser, lambda: denoiser(planes=1), lambda: cascades(48)])
def test_what_can_be_packed_is_taken(made: Any) -> None:
    check_packable(made())


def with_graph(content: bytes) -> SplitProgram:
    made = denoiser()
    return replace(made, files=dict.fromkeys(made.files, content))


def of_size(cascade_count: int, size: int) -> SplitProgram:
    """A program whose graphs share one content of that size; nobody has to read it."""
    made = cascades(cascade_count)
    return replace(made, files=dict.fromkeys(made.files, bytes(size)))


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (lambda: replace(denoiser(), version="v1.0-beta"), "version 'v1.0-beta': whole numbers with dots"),
        (lambda: replace(denoiser(), name="two\nlines"), "a text is expected"),
        (lambda: replace(denoiser(), name=""), "a text is expected"),
        (lambda: denoiser(planes=6), "takes 6 planes: 1, the magnitude, or 2"),
        (lambda: cascades(MOST_GRAPHS), f"graphs: a list is expected, of 1 to {MOST_GRAPHS}"),
        (
            lambda: of_size(1, MAX_MEMBER_BYTES + 1),
            rf"net-1\.onnx has {MAX_MEMBER_BYTES + 1} bytes, at most {MAX_MEMBER_BYTES}",
        ),
        (lambda: of_size(MAX_BUNDLE_BYTES // (64 << 20), 64 << 20), f"at most {MAX_BUNDLE_BYTES} are allowed in all"),
        (lambda: with_graph(b"no graph"), r"net-5\.onnx: no ONNX model"),
    ],
)
def test_what_no_bundle_can_hold_is_refused(made: Any, words: str) -> None:
    with pytest.raises(ImportRefused, match=f"no bundle can hold it: .*{words}"):
        check_packable(made())
