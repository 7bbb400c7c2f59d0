"""A GPU that can't be used is an error that names what was found, what is needed, and the mend."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

pytestmark = pytest.mark.cuda

PLAN = """
from edge_runtime.errors import DeviceError
from edge_runtime.kernels import SensePlan, Workers
try:
    SensePlan(Workers(1), {shape}, device="cuda")
except DeviceError as error:
    print(type(error).__name__, error)
else:
    print("planned")
SensePlan(Workers(1), {shape})
"""


def planned(shape: str = "2, 64, 32", **settings: str) -> str:
    """What comes of a plan in a process of its own; afterwards it still plans for the CPU."""
    environment = {**os.environ, **settings}
    done = subprocess.run(
        [sys.executable, "-c", PLAN.format(shape=shape)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, r"planned"),
        ({"EDGE_DRIVER_CAPABILITY": "8.9"}, r"planned"),  # a later one of the same generation
        ({"EDGE_DRIVER_CAPABILITY": "11.0", "EDGE_DRIVER_VERSION": "13000"}, r"planned"),
        ({"LD_LIBRARY_PATH": ""}, r"NoDevice PyCUDA can't be used .*libcuda.so.1.*install the extra"),
        ({"EDGE_DRIVER_VERSION": "11040"}, r"DriverTooOld the driver is of CUDA 11.4, the kernels need 12.6: update"),
        (
            {"EDGE_DRIVER_CAPABILITY": "11.0"},
            r"DriverTooOld the driver is of CUDA 12.6, the kernels for sm_110 are of CUDA 13: update the driver",
        ),
        (
            {"EDGE_DRIVER_CAPABILITY": "7.2"},
            r"DeviceUnsupported .* compute capability 7.2, which sense was not compiled for: make cubins",
        ),
        ({"EDGE_DRIVER_CAPABILITY": "8.6"}, r"DeviceUnsupported .* compute capability 8.6"),
        ({"EDGE_DRIVER_MEMORY": "100000"}, r"OutOfDeviceMemory .* has 0 of 0 MB left.*plan fewer or smaller scans"),
    ],
)
def test_what_is_missing_is_named(settings, expected):
    assert re.search(expected, planned(**settings))


def test_more_phase_encodes_than_a_block_holds_are_refused():
    assert "DeviceUnsupported 4096 phase encodes: a block of" in planned("1, 4096, 2")
    assert "planned" in planned("1, 2048, 2")
