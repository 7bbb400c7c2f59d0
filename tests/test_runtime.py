"""What a process is like while a runtime is open."""

from __future__ import annotations

from dataclasses import replace

import pytest
from conftest import RunningServer, profile_of
from threadpoolctl import threadpool_info, threadpool_limits

from edge_runtime.cuda import device
from edge_runtime.errors import NoDevice
from edge_runtime.links.mrd_pack import parse_meta_attributes
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


def without_gpu(monkeypatch):
    monkeypatch.setattr(device, "driver", None)
    monkeypatch.setattr(device, "missing", "No module named 'pycuda'", raising=False)
    device.first_device.cache_clear()


def test_kernels_run_on_the_cpu_where_the_profile_lets_them_and_images_say_so(monkeypatch, whole_scan, caplog):
    without_gpu(monkeypatch)
    caplog.set_level("WARNING")
    with open_runtime(replace(profile_of(), kernels=("cuda", "cpu")), bundle=None, output=None) as runtime:
        server = RunningServer(runtime)
        replies = server.exchange(whole_scan)
        server.stop()
    told = "kernels do not run on cuda, as profile test prefers: PyCUDA can't be used"
    assert told in caplog.text
    assert f"note: {told}" in replies.text
    assert replies.images
    assert all(
        any(told in note for note in parse_meta_attributes(image.attributes)["EdgeNotes"]) for image in replies.images
    )


def test_a_profile_that_wants_a_gpu_gets_no_other_kernels(monkeypatch):
    without_gpu(monkeypatch)
    profile = replace(profile_of(), kernels=("cuda",))
    with pytest.raises(NoDevice, match="PyCUDA can't be used"), open_runtime(profile, bundle=None, output=None):
        pass
