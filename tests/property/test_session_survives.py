"""Whatever happens to the bytes of a scan: the server answers, and the next scan is reconstructed."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from conftest import RunningServer, profile_of
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated import opening, readouts_of, scan_bytes, usual_kspace

from edge_runtime.runtime import open_runtime

STREAM = scan_bytes(readouts_of(usual_kspace()))
HEADER_END = len(opening())
FINAL = [("classical", "final"), ("zero_filled", "final")]


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with open_runtime(profile_of(), bundle=None, output=None) as runtime:
        running = RunningServer(runtime)
        yield running
        running.stop()


mutations = st.lists(
    st.tuples(
        st.one_of(st.integers(0, HEADER_END + 400), st.integers(0, len(STREAM) - 1)),
        st.integers(0, 255),
        st.sampled_from(["set", "insert", "delete", "cut", "repeat"]),
    ),
    min_size=1,
    max_size=6,
)


def mutated(changes: list[tuple[int, int, str]]) -> bytes:
    stream = bytearray(STREAM)
    for position, value, kind in changes:
        if kind == "set":
            stream[position : position + 1] = bytes([value])
        elif kind == "insert":
            stream[position:position] = bytes([value]) * (1 + value % 5)
        elif kind == "delete":
            del stream[position : position + 1 + value]
        elif kind == "repeat":
            stream[position:position] = stream[position : position + 700]
        else:
            del stream[max(position, 1) :]
    return bytes(stream)


@given(mutations)
@settings(max_examples=100, deadline=None)
def test_random_damage_ends_one_session_and_nothing_else(server, changes):
    stream = mutated(changes)
    replies = server.exchange(stream)
    assert replies.closed
    assert replies.images or replies.texts or not stream  # a connection without a byte is nobody's scan
    assert "internal error" not in replies.text
    assert all(np.isfinite(image.pixels).all() for image in replies.images)
    assert server.exchange(STREAM).kinds() == FINAL
