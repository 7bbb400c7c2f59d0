"""What a process is like while a runtime is open."""

from __future__ import annotations

from threadpoolctl import threadpool_info, threadpool_limits

from edge_runtime.profile import DEFAULT_PROFILE, load_profile
from edge_runtime.runtime import open_runtime


def blas_threads() -> list[int]:
    return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]


def test_linear_algebra_takes_no_core_from_the_network():
    """Its threads spin after their work, which showed as 40 ms of latency."""
    with threadpool_limits(2, user_api="blas"):
        before = blas_threads()
        assert 2 in before
        with open_runtime(load_profile(DEFAULT_PROFILE), bundle=None, output=None):
            assert set(blas_threads()) == {1}
        assert blas_threads() == before
