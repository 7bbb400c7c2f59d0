"""The PACS that tests deliver to are real ones, and nobody else can reach them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from pydicom.data import get_testdata_file

from benchmarks.peers.pacs import EDGE_AE, Orthanc, Pacs

pytest_plugins = ["pacs_fixtures"]  # real PACS, for the tests of delivery alone

pytestmark = pytest.mark.full


def send(pacs: Pacs, path: Path, caller: str = EDGE_AE) -> subprocess.CompletedProcess[bytes]:
    command = ["storescu", "-aet", caller, "-aec", pacs.ae_title, "127.0.0.1", str(pacs.port), str(path)]
    return subprocess.run(command, capture_output=True, check=False)


@pytest.fixture
def image() -> Path:
    return Path(str(get_testdata_file("MR_small.dcm")))


def test_orthanc_takes_what_a_device_that_it_knows_sends(orthanc: Orthanc, image: Path) -> None:
    assert send(orthanc, image).returncode == 0
    (uid,) = orthanc.instances()
    assert orthanc.file(uid)[128:132] == b"DICM"
    assert send(orthanc, image, "STRANGER").returncode != 0
    orthanc.delete(uid)
    assert orthanc.instances() == set()


def test_storescp_takes_it_too(storescp: Pacs, image: Path) -> None:
    assert send(storescp, image).returncode == 0
    assert len(list(storescp.folder.iterdir())) == 1


def test_nothing_outside_is_reachable(loopback: None) -> None:
    routes = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True).stdout
    assert [line.split(":")[1].strip() for line in routes.splitlines()] == ["lo"]
