"""What the report says of images whose faults are known."""

from __future__ import annotations

import numpy as np
import pytest
from made_volumes import made_volume

pytest.importorskip("scipy", reason="the extra 'export' is not installed")

from scipy import ndimage

from edge_runtime.kernels import Plans, Workers
from edge_runtime.modalities.mri.learned import LearnedReconstruction
from export.qualification.cases import AS_TRAINED, OFF_DISTRIBUTION, CaseName, Sources
from export.qualification.cost import Cost
from export.qualification.figures import MEANINGS, figures_of
from export.qualification.judge import CLASSICAL, Row, images, judge
from export.qualification.rings import PATCH, STEP, agreement, flagged_patches, flagged_share, largest_group
from export.qualification.stability import Stability, stabilities
from export.qualification.structure import structure_error

pytestmark = pytest.mark.full

SIZE = 96


@pytest.fixture
def textured() -> np.ndarray:
    """Structure of all sizes, ``(96, 96)``."""
    rng = np.random.default_rng(3)
    fine, coarse = (ndimage.gaussian_filter(rng.standard_normal((SIZE, SIZE)), sigma) for sigma in (1.0, 3.0))
    return 1 + 0.2 * fine / fine.std() + 0.2 * coarse / coarse.std()


EVERYWHERE = np.ones((SIZE, SIZE), np.bool_)


def test_an_image_agrees_with_itself_at_any_brightness(textured: np.ndarray) -> None:
    assert flagged_share(3 * textured, textured, EVERYWHERE) == 0
    assert agreement(textured[:PATCH, :PATCH], textured[:PATCH, :PATCH]) == 1


def test_a_little_blur_and_noise_are_no_invention(textured: np.ndarray) -> None:
    blurred = ndimage.gaussian_filter(textured, 0.7) + 0.02 * np.random.default_rng(1).standard_normal(textured.shape)
    assert flagged_share(blurred, textured, EVERYWHERE) == 0


def test_an_invented_structure_is_flagged_where_it_is_and_nowhere_else(textured: np.ndarray) -> None:
    rows, columns = np.ogrid[:SIZE, :SIZE]
    invented = textured + 1.5 * np.exp(-((rows - 70) ** 2 + (columns - 30) ** 2) / (2 * 2.5**2))
    flags = flagged_patches(invented, textured, EVERYWHERE)
    found = [(row + PATCH / 2, column + PATCH / 2) for row, column, flagged in flags if flagged]
    assert found
    assert all(np.hypot(row - 70, column - 30) < PATCH for row, column in found)


def test_a_lost_structure_is_flagged_too(textured: np.ndarray) -> None:
    rows, columns = np.ogrid[:SIZE, :SIZE]
    spot = 1.5 * np.exp(-((rows - 40) ** 2 + (columns - 60) ** 2) / (2 * 2.5**2))
    assert flagged_share(textured, textured + spot, EVERYWHERE) > 0


def test_air_is_not_compared(textured: np.ndarray) -> None:
    where = np.zeros_like(EVERYWHERE)
    where[: SIZE // 2] = True
    other = np.where(where, textured, np.random.default_rng(2).random(textured.shape))
    flags = flagged_patches(other, textured, where)
    assert flags and all(row + PATCH <= SIZE // 2 + PATCH // 4 for row, _, _ in flags)


@pytest.mark.parametrize("lost", [np.zeros((SIZE, SIZE)), np.full((SIZE, SIZE), np.nan)], ids=["nothing", "nan"])
def test_an_image_that_lost_everything_is_flagged_everywhere(textured: np.ndarray, lost: np.ndarray) -> None:
    assert flagged_share(lost, textured, EVERYWHERE) == 1
    assert agreement(lost[:PATCH, :PATCH], textured[:PATCH, :PATCH]) == 0
    assert agreement(np.full((PATCH, PATCH), 0.1), np.full((PATCH, PATCH), 1 / 3)) == 1  # nothing in either


def test_where_there_is_no_patch_nothing_is_measured(textured: np.ndarray) -> None:
    small = np.s_[: PATCH - 1]
    with pytest.raises(ValueError, match="nothing to compare structure in"):
        flagged_share(textured[small], textured[small], EVERYWHERE[small])


def test_neighbours_that_are_flagged_are_one_group() -> None:
    flags = [(0, 0, True), (0, STEP, True), (STEP, 2 * STEP, True), (0, 4 * STEP, True), (3 * STEP, 0, False)]
    assert largest_group(flags) == 3
    assert largest_group(flags, [(0, STEP, True), (0, 0, False)]) == 1
    assert largest_group([(0, 0, False)]) == 0


def blob(shape: tuple[int, ...], row: int, column: int) -> np.ndarray:
    """A structure of six pixels' full width at half maximum, 1 in the middle."""
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    return np.exp(-((rows - row) ** 2 + (columns - column) ** 2) / (2 * 2.5**2))


class Stand(LearnedReconstruction):
    """In the place of a network and what is around it."""

    runs = 0

    def __init__(self) -> None:
        pass


class Nothing(Stand):
    """A network that corrects nothing: the learned image is then the classical one of the samples it may see."""

    def run(self, plan, first, *_):
        return first


class Eraser(Stand):
    """A network that leaves nothing but the coarse: it keeps no small structure."""

    def run(self, plan, first, *_):
        blurred = ndimage.gaussian_filter(first.real, 6) + 1j * ndimage.gaussian_filter(first.imag, 6)
        return blurred.astype(np.complex64)


@pytest.fixture(scope="module")
def sources() -> Sources:
    return Sources([made_volume(64)], [], [])


def cases_of(sources: Sources, monkeypatch: pytest.MonkeyPatch, off_draws: int = 1) -> list:
    monkeypatch.setattr("export.qualification.cases.PHASE_ENCODES", [64])
    monkeypatch.setattr("export.qualification.cases.SAMPLES", [64])
    names = list(sources.names(1, off_draws, 5))
    return [sources.case(name, Plans(Workers(threads=1))) for name in names]


def test_every_kind_of_case_is_made_and_made_again_the_same(sources: Sources, monkeypatch: pytest.MonkeyPatch) -> None:
    cases, again = (cases_of(sources, monkeypatch) for _ in range(2))
    made = [case for case in cases if case is not None]
    assert {case.name.group for case in made} == {AS_TRAINED, *OFF_DISTRIBUTION}
    for one, other in zip(made, [case for case in again if case is not None], strict=True):
        np.testing.assert_array_equal(one.samples.hybrid, other.samples.hybrid)
    by_group = {case.name.group: case for case in made}
    assert by_group["32 coils"].full.shape[0] == 32
    assert by_group["R = 10"].samples.measured.sum() < 16
    level = {group: np.percentile(case.reference, 99) for group, case in by_group.items()}
    assert level["a tenth of the noise"] > 5 * level["three times the noise"]  # whitened: noise is 1 in both


def test_a_network_that_corrects_nothing_is_as_good_and_as_stable_as_the_classical_image(
    sources: Sources, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = next(one for one in cases_of(sources, monkeypatch) if one.name.acceleration == 4)
    plans = Plans(Workers(threads=1))
    rows = {row.method: row for row in judge(case, {"fp32": Nothing()}, plans)}
    assert rows["learned fp32"].psnr_db == pytest.approx(rows[CLASSICAL].psnr_db, abs=1.0)  # held-out samples miss
    found = {one.method: one for one in stabilities(case, {"fp32": Nothing()}, plans)}
    assert found["learned fp32"].noise_gain == pytest.approx(found[CLASSICAL].noise_gain, rel=0.3)
    assert found["learned fp32"].contrast_kept == pytest.approx(found[CLASSICAL].contrast_kept, abs=0.2)


def test_a_network_that_erases_small_structures_is_caught(sources: Sources, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "edge_runtime.modalities.mri.reconstruct.believed_share", lambda step: 1.0
    )  # whatever held-out samples say
    case = next(one for one in cases_of(sources, monkeypatch) if one.name.acceleration == 6)
    plans = Plans(Workers(threads=1))
    found = {one.method: one for one in stabilities(case, {"fp32": Eraser()}, plans)}
    assert found["learned fp32"].contrast_kept < found[CLASSICAL].contrast_kept - 0.1
    rows = {row.method: row for row in judge(case, {"fp32": Eraser()}, plans)}
    assert rows["learned fp32"].psnr_db < rows[CLASSICAL].psnr_db


@pytest.mark.parametrize("size", [96, 192])
@pytest.mark.parametrize("acceleration", [2, 4, 6])
def test_one_structure_that_was_put_in_or_taken_out_is_seen_however_large_the_object_is(
    size: int, acceleration: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the classical image, in place of a learned one, so that nothing else differs."""
    for name, values in (("PHASE_ENCODES", [size]), ("SAMPLES", [size])):
        monkeypatch.setattr(f"export.qualification.cases.{name}", values)
    plans = Plans(Workers(threads=1))
    case = Sources([made_volume(size)], [], []).case(CaseName(AS_TRAINED, "", 0, acceleration, 5), plans)
    classical = images(case, {"fp32": Nothing()}, plans)[CLASSICAL][0]
    bright = float(np.median(classical[case.where]))
    inside = np.argwhere(ndimage.binary_erosion(case.where, iterations=8))
    for row, column in inside[:: len(inside) // 5]:
        spot = blob(case.reference.shape, row, column)
        for other, contrast in (
            (classical + 1.2 * bright * spot, 1.2),
            (classical + 0.6 * bright * spot, 0.6),
            (classical * (1 - 0.95 * spot), 0.95 * classical[row, column] / bright),
        ):
            found = structure_error(other, classical, case.reference, case.where)
            assert found.share > 0.4 * contrast and np.hypot(found.row - row, found.column - column) < 5
    assert structure_error(classical, classical, case.reference, case.where).share == 0


def test_a_structure_that_stands_out_makes_a_group_of_patches_and_hardly_a_share(textured: np.ndarray) -> None:
    invented = textured + 1.5 * blob(textured.shape, 70, 30)
    flags = flagged_patches(invented, textured, EVERYWHERE)
    assert largest_group(flags, flagged_patches(textured, textured, EVERYWHERE)) >= 2
    wide = np.tile(textured, (3, 3))  # the same structure in nine times the object
    invented = wide + 1.5 * blob(wide.shape, 70, 30)
    everywhere = np.ones_like(wide, np.bool_)
    assert largest_group(flagged_patches(invented, wide, everywhere)) >= 2
    assert flagged_share(invented, wide, everywhere) < 0.02


def row(
    case: str, group: str, method: str, psnr_db: float, ssim: float = 0.9, flagged: float = 0.0, structure: float = 0.0
) -> Row:
    return Row(case, group, 4, method, 0.1, psnr_db, ssim, flagged, round(20 * structure), structure, None)


def test_figures_are_of_the_worst_case_and_of_the_form_that_runs() -> None:
    rows = [
        row("a", AS_TRAINED, "learned fp32", 30.0),
        row("a", AS_TRAINED, "learned fp16", 29.99, 0.9),
        row("a", AS_TRAINED, "learned int8", 29.95, 0.899, 0.2),
        row("a", AS_TRAINED, CLASSICAL, 28.0, 0.85, 0.1),
        row("b", "recorded", "learned fp32", 20.0),
        row("b", "recorded", "learned int8", 19.5, 0.88, structure=0.4),
        row("b", "recorded", CLASSICAL, 20.0, 0.9, 0.3),
        row("c", "32 coils", "learned int8", 22.0, 0.8, 0.3, structure=0.8),
        row("c", "32 coils", CLASSICAL, 25.0, 0.9, 0.1),
        row("d", "R = 10", "learned int8", 26.0, 0.91, structure=0.2),
        row("d", "R = 10", CLASSICAL, 25.0),
    ]
    stable = [
        Stability("a", AS_TRAINED, "learned int8", 3.0, 0.5),
        Stability("a", AS_TRAINED, CLASSICAL, 2.0, 0.6),
        Stability("b", "recorded", "learned int8", 1.0, 0.7),
        Stability("b", "recorded", CLASSICAL, 2.0, 0.5),
        Stability("c", "32 coils", "learned int8", 5.0, 0.1),
        Stability("c", "32 coils", CLASSICAL, 2.0, 0.5),
    ]
    costs = [Cost("int8", 1, 90.0, 95.0, 150.0), Cost("int8", 2, 50.0, 60.0, 160.0), Cost("fp32", 2, 80.0, 81.0, 170.0)]
    found = figures_of(rows, stable, costs, "int8")
    assert found == pytest.approx(
        {
            "fp16_loss_db": 0.01,
            "fp16_loss_ssim": 0.0,
            "int8_loss_db": 0.5,
            "int8_loss_ssim": 0.02,
            "gain_db_median": 0.725,
            "gain_db_worst": -0.5,
            "gain_ssim_worst": -0.02,
            "flagged_over_classical_worst": 0.1,
            "flagged_group_worst": 8.0,
            "structure_error_worst": 0.4,
            "off_distribution_gain_db_worst": -3.0,
            "off_distribution_gain_ssim_worst": -0.1,
            "off_distribution_flagged_over_classical_worst": 0.2,
            "off_distribution_flagged_group_worst": 16.0,
            "off_distribution_structure_error_worst": 0.8,
            "off_distribution_noise_gain_over_classical_worst": 2.5,
            "off_distribution_contrast_kept_worst": 0.1,
            "off_distribution_contrast_kept_over_classical_worst": -0.4,
            "noise_gain_over_classical_worst": 1.5,
            "contrast_kept_worst": 0.5,
            "contrast_kept_over_classical_worst": -0.1,
            "image_ms": 50.0,
            "memory_mb": 160.0,
        }
    )
    assert found.keys() <= MEANINGS.keys()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_value_that_is_not_finite_is_no_worst_case(value: float) -> None:
    """Least and greatest of several would pass over it."""
    with pytest.raises(ValueError, match=r"a, classical: psnr_db = (nan|inf): a finite number is expected"):
        row("a", AS_TRAINED, CLASSICAL, value)
    with pytest.raises(ValueError, match=r"a, classical: noise_gain = (nan|inf)"):
        Stability("a", AS_TRAINED, CLASSICAL, value, 0.5)


def test_a_bundle_and_a_work_folder_are_not_mixed_up(capsys: pytest.CaptureFixture[str]) -> None:
    from export.cli import main

    assert main(["qualify", "made.toml", "--data", "nowhere"]) == 1
    assert "a bundle goes without --work, a configuration with it" in capsys.readouterr().err
    assert main(["qualify", "made.edgebundle", "--data", "nowhere", "--draws", "0"]) == 1
    assert "--draws 0: at least 1 is expected" in capsys.readouterr().err
