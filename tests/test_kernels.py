"""The native kernels beside NumPy, for every instruction set that this processor runs."""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys

import numpy as np
import pytest
from simulated import complex_noise

from edge_runtime.cuda import device
from edge_runtime.errors import ArgumentError, NoDevice, ReadoutError
from edge_runtime.kernels import Plans, SensePlan, Workers, survey
from edge_runtime.links.mrd_messages import MessageReader
from edge_runtime.links.mrd_pack import pack_readouts
from edge_runtime.scan import READOUT_DTYPE, ReadoutBatch

pytestmark = pytest.mark.usefixtures("isa")


@pytest.mark.parametrize("threads", [0, -1, 1025, 1.5])
def test_an_impossible_number_of_threads_is_named(threads):
    with pytest.raises(ArgumentError, match="threads: a whole number, 1 to 1024 expected"):
        Workers(threads)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, complex(0, np.nan)])
@pytest.mark.parametrize("at", [(0, 0, 0), (3, 1, 4), (9, 2, 10)])
def test_the_first_sample_that_is_not_finite_is_found(bad, at):
    samples = complex_noise((10, 3, 11), np.random.default_rng(0)) * np.float32(1e38)
    samples[:, :, 3] = np.finfo(np.float32).max
    assert finite_readouts(samples) == 10
    samples[at] = bad
    assert finite_readouts(samples) == at[0]


def finite_readouts(samples):
    """How many the parser of the MRD stream yields, which looks at every sample."""
    stream = io.BytesIO(pack_readouts(ReadoutBatch(np.zeros(len(samples), READOUT_DTYPE), samples)))
    count = 0
    with contextlib.suppress(ReadoutError):
        for batch in MessageReader(stream.readinto):
            count += len(batch)
    return count


def test_threads_that_wait_use_no_time():
    code = (
        "import time; from edge_runtime.kernels import Workers; w = Workers(threads=4); before = time.process_time(); "
        "time.sleep(0.5); print(time.process_time() - before)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 0.25  # one that spins would take 0.5 s, three of them 1.5


def test_a_gpu_that_is_not_there_is_an_error_with_its_mend(monkeypatch):
    monkeypatch.setattr(device, "driver", None)
    monkeypatch.setattr(device, "missing", "No module named 'pycuda'", raising=False)
    device.first_device.cache_clear()
    with pytest.raises(NoDevice, match=r"No module named 'pycuda'.*edge-runtime\[jetson\].*run on the CPU"):
        SensePlan(Workers(1), 1, 8, 8, device="cuda")
    with pytest.raises(ArgumentError, match="device: cpu or cuda expected, gpu came"):
        SensePlan(Workers(1), 1, 8, 8, device="gpu")


def test_plans_that_nobody_uses_hold_no_more_than_so_many_samples():
    plans = Plans(Workers(threads=1))
    plans.KEPT_SAMPLES = 3 * 8 * 8 * 2
    with plans.sense(2, 8, 8) as first, plans.sense(2, 8, 8) as second, plans.sense(2, 8, 16) as large:
        pass
    with plans.sense(2, 8, 16) as other:
        assert other is not large  # the others came back after it
    with plans.sense(2, 8, 8) as again:
        assert again is first  # the last one that came back stays, whatever it holds
    assert second is not first


def test_something_else_than_workers_is_named():
    with pytest.raises(ArgumentError, match="workers: Workers expected, None came"):
        SensePlan(None, 2, 8, 8)


@pytest.mark.parametrize("header", [[1], np.zeros((2, 2), READOUT_DTYPE)])
def test_something_else_than_headers_is_named(header):
    with pytest.raises(ArgumentError, match="header: an array of headers"):
        survey(header)
