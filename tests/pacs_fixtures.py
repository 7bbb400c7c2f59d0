"""Real PACS for tests: each test has a network namespace, an Orthanc, a storescp of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import pytest

from benchmarks.peers.pacs import (
    Orthanc,
    Pacs,
    loopback_only,
    missing_parts,
    running_orthanc,
    running_storescp,
    running_wlmscpfs,
)

StartOrthanc = Callable[..., contextlib.AbstractContextManager[Orthanc]]
StartStoreScp = Callable[..., contextlib.AbstractContextManager[Pacs]]


def _need(*programs: str) -> None:
    if reason := missing_parts(*programs):
        pytest.skip(f"pacs: {reason}")


@pytest.fixture
def loopback() -> Iterator[None]:
    """The test runs in a network namespace of its own, with what it starts; ports are free and nobody else is there."""
    _need("ip")
    with loopback_only():
        yield


@pytest.fixture
def start_orthanc(loopback: None) -> StartOrthanc:
    """`benchmarks.peers.pacs.running_orthanc`, for tests that begin with a PACS that is down, or that has its own options."""
    _need("Orthanc")
    return running_orthanc


@pytest.fixture
def orthanc(start_orthanc: StartOrthanc) -> Iterator[Orthanc]:
    """An empty Orthanc that knows the device as ``EDGE1`` and calls it back at port 11113."""
    with start_orthanc() as running:
        yield running


@pytest.fixture
def start_storescp(loopback: None) -> StartStoreScp:
    """`benchmarks.peers.pacs.running_storescp`."""
    _need("storescp")
    return running_storescp


@pytest.fixture
def storescp(start_storescp: StartStoreScp) -> Iterator[Pacs]:
    """dcmtk's storescp, which takes what it gets."""
    with start_storescp() as running:
        yield running


@pytest.fixture
def wlmscpfs(loopback: None) -> Iterator[Pacs]:
    """dcmtk's worklist, empty."""
    _need("wlmscpfs")
    with running_wlmscpfs() as running:
        yield running


__all__ = ["loopback", "orthanc", "start_orthanc", "start_storescp", "storescp", "wlmscpfs"]
