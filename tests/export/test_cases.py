"""What a report is made on: recordings that are measured and show an object, told apart from all that is not the same."""

from __future__ import annotations

import tracemalloc
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_volumes import made_volume, write_volume
from simulated import coil_maps, complex_noise, header_of, kspace_of, object_image, readouts_of

pytest.importorskip("scipy", reason="the extra 'export' is not installed")

from edge_runtime.bundle import DEFAULT_BUNDLE
from edge_runtime.kernels import Plans, Workers
from edge_runtime.links.files import write_mrd_stream
from edge_runtime.modalities.mri.fourier import Complex
from export.cli import main
from export.qualification import cases
from export.qualification.cases import RECORDED, CaseName, NotJudged, Sources, UnusableSources
from export.recordings import fully_sampled_slices
from export.simulate.volumes import Volume

pytestmark = pytest.mark.full

SIZE = 64


def written(path: Path, kspaces: Sequence[Complex], *, simulated: bool = False) -> Path:
    """A recording of these slices, ``(coils, SIZE, SIZE)`` each."""
    header = replace(header_of(SIZE, SIZE, SIZE, coils=len(kspaces[0])), simulated=simulated)
    write_mrd_stream(path, header, [readouts_of(kspace, slice=number) for number, kspace in enumerate(kspaces)])
    return path


def head(brightness: float = 1.0, noise: float = 0.01) -> Complex:
    image, maps = object_image(SIZE, SIZE), coil_maps(4, SIZE, SIZE)
    return kspace_of(np.asarray(brightness * image, np.complex64), maps, noise=noise)


def reason(sources: Sources, name: CaseName) -> str:
    """Why a case is not judged; empty where it is."""
    try:
        sources.case(name, Plans(Workers(threads=1)))
    except NotJudged as why:
        return str(why)
    return ""


@pytest.mark.parametrize("coils", [1, 2, 32])
def test_a_slice_of_noise_alone_is_not_judged(tmp_path: Path, coils: int) -> None:
    noise = complex_noise((coils, SIZE, SIZE), np.random.default_rng(coils))
    sources = Sources([], [], [written(tmp_path / "noise.mrd", [noise])])
    assert "it shows hardly more than noise" in reason(sources, CaseName(RECORDED, "noise.mrd", 0, 2, 1))


@pytest.mark.parametrize(("signal", "left_out"), [(0.2, True), (20.0, False)])
def test_a_slice_is_judged_where_its_object_stands_out_of_the_noise(
    tmp_path: Path, signal: float, left_out: bool
) -> None:
    sources = Sources([], [], [written(tmp_path / "head.mrd", [head(signal, noise=1.0)])])
    assert bool(reason(sources, CaseName(RECORDED, "head.mrd", 0, 2, 1))) == left_out


def test_a_slice_that_shows_too_little_or_nothing_is_not_judged(tmp_path: Path) -> None:
    spot = np.zeros((SIZE, SIZE), np.complex64)
    spot[28:40, 28:40] = 1
    small = kspace_of(spot, coil_maps(4, SIZE, SIZE), noise=0.001)
    sources = Sources([], [], [written(tmp_path / "top.mrd", [small, np.zeros_like(small)])])
    said = [reason(sources, CaseName(RECORDED, "top.mrd", index, 2, 1)) for index in range(2)]
    assert "no 24 x 24 pixels of it show enough of an object" in said[0]
    assert "nothing in the reference stands out" in said[1]


def test_a_simulated_scan_is_no_recording(tmp_path: Path) -> None:
    sources = Sources([], [], [written(tmp_path / "made.mrd", [head()], simulated=True)])
    with pytest.raises(UnusableSources, match=r"made\.mrd: its header says that it is simulated"):
        list(sources.names(1, 0, 1))


def test_two_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnusableSources, match=r"head\.dat: several recordings have this name"):
        Sources([], [], [Path("a/head.dat"), Path("b/head.dat")])
    with pytest.raises(UnusableSources, match="made: several volumes have this name"):
        Sources([made_volume(8), made_volume(8)], [], [])


def test_slices_come_as_they_are_asked_for_and_few_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cases, "SLICES_AT_ONCE", 2)
    count = 32
    path = written(tmp_path / "head.mrd", [head(1 + 0.1 * number, noise=0.0) for number in range(count)])
    whole, plans = fully_sampled_slices(path), Plans(Workers(threads=1))
    wanted = np.linalg.norm(whole[0]) * (1 + 0.1 * np.arange(count))
    for order in (range(count), [5, 4, 31, 0, 1, 30]):
        sources = Sources([], [], [path])
        for index in order:
            case = sources.case(CaseName(RECORDED, "head.mrd", index, 2, 1), plans)
            assert np.linalg.norm(case.full) == pytest.approx(wanted[index], rel=1e-4)
    size = sum(one.nbytes for one in whole)
    del whole, case
    tracemalloc.start()
    sources = Sources([], [], [path])
    names = list(sources.names(0, 0, 1))
    assert [name.index for name in names if name.acceleration == 2] == list(range(count))
    for index in (0, count // 2, count - 1):
        sources.case(CaseName(RECORDED, "head.mrd", index, 2, 1), plans)
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < size / 4


VOXELS = np.random.default_rng(0).random((4, 6, 8)).astype(np.float32)
USUAL = Volume("a", VOXELS, (0, 1, 2), (1.0, 1.0, 1.0))


@pytest.mark.parametrize(
    "other",
    [
        replace(USUAL, voxels=VOXELS.reshape(8, 6, 4)),
        replace(USUAL, voxels=VOXELS.astype(np.float64)),
        replace(USUAL, slice_axes=(2,)),
        replace(USUAL, pixel_aspect=(1.0, 1.0, 6.0)),
        replace(USUAL, name="b"),
    ],
    ids=["shape", "type", "axes", "voxel size", "name"],
)
def test_other_data_have_another_identity(other: Volume) -> None:
    assert Sources([USUAL], [], []).identity() != Sources([other], [], []).identity()


def test_what_data_are_used_for_is_part_of_their_identity(tmp_path: Path) -> None:
    second = replace(USUAL, name="b", voxels=VOXELS + 1)
    unseen, foreign = Sources([USUAL, second], [], []), Sources([USUAL], [second], [])
    assert unseen.identity() != foreign.identity()
    assert unseen.identity() == Sources([USUAL, second], [], []).identity()
    path = written(tmp_path / "head.mrd", [head()])
    before = Sources([USUAL], [], [path]).identity()
    written(path, [head(2.0)])
    assert Sources([USUAL], [], [path]).identity() != before


def test_a_volume_is_known_by_its_voxels() -> None:
    named = replace(USUAL, name="b")
    assert set(Sources([USUAL], [], []).volume_digests().values()) == set(
        Sources([named], [], []).volume_digests().values()
    )
    changed = replace(USUAL, voxels=VOXELS + 1)
    assert Sources([USUAL], [], []).volume_digests() != Sources([changed], [], []).volume_digests()


def test_a_simulated_recording_ends_qualify_before_anything_is_judged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scan = written(tmp_path / "made.mrd", [head()], simulated=True)
    arguments = ["qualify", DEFAULT_BUNDLE, "--data", write_volume(tmp_path / "data"), "--recording", scan]
    assert main([str(one) for one in (*arguments, "--out", tmp_path / "out")]) == 1
    assert "its header says that it is simulated" in capsys.readouterr().err
    assert not (tmp_path / "out" / "quality.json").exists()
