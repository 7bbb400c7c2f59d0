"""Our programs against MRD programs of another make, each in a process of its own: see `foreign_mrd`.

The scan, too, is another's: Debian's generator, built on the ISMRMRD group's C++ library.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import ismrmrd
import numpy as np
import numpy.typing as npt
import pytest
from foreign_mrd import request, root_sum_of_squares

from edge_runtime.hil import play
from edge_runtime.links.files import open_recording

pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(
        shutil.which("ismrmrd_generate_cartesian_shepp_logan") is None,
        reason="ismrmrd_generate_cartesian_shepp_logan (Debian ismrmrd-tools) is not on PATH",
    ),
]

TESTS = Path(__file__).parents[1]
LINES = 96
EDGE = [sys.executable, "-m", "edge_runtime.cli"]


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fully sampled phantom: 4 coils, twofold readout oversampling."""
    path = tmp_path_factory.mktemp("scan") / "phantom.h5"
    command = ["ismrmrd_generate_cartesian_shepp_logan", "-m", str(LINES), "-c", "4", "-n", "0.02", "-o", str(path)]
    subprocess.run(command, check=True, capture_output=True)
    return path


@pytest.fixture(scope="module")
def expected(scan: Path) -> npt.NDArray[np.float32]:
    """Its image by foreign code, from the file: no socket between."""
    with ismrmrd.Dataset(str(scan)) as file:
        header = ismrmrd.xsd.CreateFromDocument(file.read_xml_header())
        return root_sum_of_squares(header, map(file.read_acquisition, range(file.number_of_acquisitions())))


@contextmanager
def running(*command: str) -> Iterator[str]:
    """A server in a process of its own; yields the line that announces it."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            yield server.stdout.readline()
            assert server.poll() is None, "the server ended by itself"
        finally:
            server.kill()


def test_replay_plays_a_scan_to_a_foreign_server(scan: Path, expected: npt.NDArray[np.float32], tmp_path: Path) -> None:
    with running(sys.executable, str(TESTS / "foreign_mrd.py"), str(tmp_path)) as announced:
        port = int(announced)
        command = [*EDGE, "replay", str(scan), "--host", "127.0.0.1", "--port", str(port), "--json"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        played = play(open_recording(scan), "127.0.0.1", port)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["readouts_sent"] == LINES
    assert summary["texts"] == ["reconstructed by a foreign server"]
    (image,) = summary["images"]
    assert image["shape"] == [1, 1, LINES, LINES]
    assert image["attributes"] == {"Configuration": "edge", "Acquisitions": str(LINES)}
    np.testing.assert_array_equal(np.load(tmp_path / "0.npy"), expected)  # what the command had sent
    np.testing.assert_array_equal(played.images[0].message.pixels[0, 0], expected)  # what comes back


def test_serve_reconstructs_for_a_foreign_client(scan: Path, expected: npt.NDArray[np.float32], tmp_path: Path) -> None:
    with running(*EDGE, "serve", "--port", "0", "--json", "--previews", "none", "--out", str(tmp_path)) as announced:
        texts, images = request(json.loads(announced)["port"], scan, "edge-all")
    assert not [text for text in texts if text.startswith(("error:", "no image:"))]
    by_method = {image.meta["EdgeMethod"]: image.data[0, 0] for image in images}
    assert sorted(by_method) == ["classical", "learned", "zero_filled"]
    assert {image.meta["EdgeCompleteness"] for image in images} == {"final"}
    np.testing.assert_allclose(by_method["zero_filled"], expected, atol=1e-4 * expected.max())
    for method in ("classical", "learned"):  # all is measured: they differ by noise
        error = np.linalg.norm(by_method[method] - expected) / np.linalg.norm(expected)
        assert error < 0.1, method
