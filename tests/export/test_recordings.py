"""Fully sampled recordings come through the readers that the product ships."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from simulated import COLUMNS, coil_maps, header_of, kspace_of, object_image, readouts_of, usual_kspace

from edge_runtime.errors import RecordingError
from edge_runtime.links.files import write_mrd_stream
from export.recordings import fully_sampled_slices

pytestmark = pytest.mark.full


def test_a_recording_is_read_whole_and_its_oversampling_removed(tmp_path: Path) -> None:
    write_mrd_stream(tmp_path / "scan.mrd", header_of(), [readouts_of(usual_kspace(noise=0.0))])
    (kspace,) = fully_sampled_slices(tmp_path / "scan.mrd")
    assert kspace.shape[2] == COLUMNS
    np.testing.assert_allclose(kspace, kspace_of(object_image(), coil_maps()), atol=1e-5)


def test_slices_come_one_by_one_in_the_order_of_their_counters(tmp_path: Path) -> None:
    batches = []
    for number, factor in ((1, 2.0), (0, 1.0)):
        batch = readouts_of(usual_kspace(noise=0.0) * np.float32(factor))
        batch.header["slice"] = number
        batches.append(batch)
    write_mrd_stream(tmp_path / "scan.mrd", header_of(), batches)
    first, second = fully_sampled_slices(tmp_path / "scan.mrd")
    np.testing.assert_allclose(second, 2 * first, rtol=1e-5, atol=1e-6)


def test_an_import_reads_the_one_slice_that_it_compares_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from made_programs import varnet

    from export.adapters.inputs import measured_case
    from export.recordings import FullySampled

    read, whole = [], FullySampled.kspaces
    monkeypatch.setattr(
        FullySampled, "kspaces", lambda self, indices: read.append(list(indices)) or whole(self, indices)
    )
    first, second = readouts_of(usual_kspace()), readouts_of(usual_kspace())
    second.header["slice"] = 1
    write_mrd_stream(tmp_path / "scan.mrd", header_of(), [first, second])
    assert measured_case(varnet(), tmp_path / "scan.mrd").origin == "scan.mrd"
    assert read == [[0]]


@pytest.mark.parametrize("steps", [[0, 1, 2], [0, *range(32)]], ids=["undersampled", "averaged"])
def test_a_recording_that_is_no_reference_is_refused(tmp_path: Path, steps: list[int]) -> None:
    write_mrd_stream(tmp_path / "scan.mrd", header_of(), [readouts_of(usual_kspace(), steps)])
    with pytest.raises(RecordingError, match="of 32 phase encodes of slice 0 are not measured once"):
        fully_sampled_slices(tmp_path / "scan.mrd")
