"""Programs of others in a bundle: the runtime's image is the program's own, with the held-out samples' word on it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_programs import denoiser, modl, packed, program, varnet
from simulated import coil_maps, kspace_of, object_image

from edge_runtime.bundle import load_bundle
from edge_runtime.engines.onnxruntime import OnnxRuntimeEngine
from edge_runtime.errors import Abandoned, EngineError, ProgramRefused
from edge_runtime.kernels import Plans, Workers
from edge_runtime.modalities.mri.families import made_ready
from edge_runtime.modalities.mri.fourier import to_image, to_kspace
from edge_runtime.modalities.mri.given import Acquisition
from edge_runtime.modalities.mri.interpret import Interpreter
from edge_runtime.modalities.mri.noise import NoiseLevel
from edge_runtime.modalities.mri.programmed import ProgrammedReconstruction, padded
from edge_runtime.modalities.mri.proposal import Proposal, Seen
from edge_runtime.modalities.mri.reconstruct import SliceSamples, calibrate, compress, reconstruct
from edge_runtime.modalities.mri.sampling import uniform
from edge_runtime.program.stages import GradientStep, Network, Padding, Shaping
from edge_runtime.scan import Method
from export.adapters.program import SplitProgram, interpreter_of

COILS, LINES, COLUMNS = 3, 64, 36
NOISE = 0.02
PLANS = Plans(Workers(threads=2))

HALF = uniform(LINES, 2, acs_fraction=0.25)
FEW_OUTER = np.zeros(LINES, bool)
FEW_OUTER[24:40] = FEW_OUTER[[2, 10, 50, 60]] = True
"""So few lines outside the calibration lines that none is held out."""

SAME = 2e-5
"""Relative; what the order of single-precision sums may change."""


def samples_of(measured: np.ndarray, coils: int = COILS, lines: int = LINES) -> SliceSamples:
    kspace = kspace_of(object_image(lines, COLUMNS), coil_maps(coils, lines, COLUMNS), noise=NOISE)
    hybrid = to_image(kspace, axis=2) * measured[:, None]
    return SliceSamples(hybrid, measured, NoiseLevel(NOISE, "noise scan"), (0, 0, 0, 0, 0))


def ready(made: SplitProgram, folder: Path, key, settings: str = "") -> ProgrammedReconstruction:
    bundle = load_bundle(packed(folder, made, key, settings))
    learned = made_ready(bundle.settings, bundle.forms["fp32"].graphs, OnnxRuntimeEngine(), 1)
    assert isinstance(learned, ProgrammedReconstruction)
    return learned


def learned_of(samples: SliceSamples, learned: ProgrammedReconstruction):
    calibration = calibrate(samples.hybrid, samples.measured, PLANS)
    method, made = next(reconstruct(samples, calibration, learned, PLANS))
    assert method is Method.LEARNED
    return made, calibration


def own_image(made: SplitProgram, given) -> np.ndarray:
    return interpreter_of(made, OnnxRuntimeEngine()).run(given, PLANS)


def apart(image: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(image - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize("coils", [1, COILS, 11])
def test_a_program_with_sensitivities_of_its_own_gets_the_scans_own_coils(tmp_path, signing_key, coils):
    samples = samples_of(FEW_OUTER, coils)
    made, _ = learned_of(samples, ready(varnet(), tmp_path, signing_key))
    expected = own_image(varnet(), Acquisition(samples.hybrid[None], FEW_OUTER))[0]
    assert made.evidence.held_out_samples == 0
    assert apart(made.image, expected) < SAME


def test_a_program_that_is_given_sensitivities_gets_the_runtimes(tmp_path, signing_key):
    samples = samples_of(FEW_OUTER)
    made, calibration = learned_of(samples, ready(modl(), tmp_path, signing_key, "[input]\nbrightness = 0.5\n"))
    units = np.float32(calibration.scale / 0.5)  # this network is not the same in all units
    hybrid = compress(samples, calibration, PLANS).hybrid
    given = Acquisition(hybrid[None] / units, FEW_OUTER, calibration.sensitivities[None])
    assert apart(made.image, units * np.abs(own_image(modl(), given)[0])) < SAME
    other, _ = learned_of(samples, ready(modl(), tmp_path, signing_key))
    assert apart(other.image, made.image) > 1e-3


class Watching:
    """Remembers what a model was given and what it proposed."""

    def __init__(self, learned: ProgrammedReconstruction) -> None:
        self.learned = learned

    @contextlib.contextmanager
    def propose(self, seen: Seen) -> Iterator[Proposal]:
        self.seen = seen
        with self.learned.propose(seen) as self.proposal:
            yield self.proposal


@pytest.mark.parametrize("start", ["classical", "zero_filled"])
@pytest.mark.parametrize("planes", [1, 2])
def test_a_program_of_images_gets_an_image(tmp_path, signing_key, planes, start):
    samples = samples_of(FEW_OUTER)
    watching = Watching(ready(denoiser(planes), tmp_path, signing_key, f'[input]\nstarts_from = "{start}"\n'))
    made, calibration = learned_of(samples, watching)
    image = watching.seen.first
    if start == "zero_filled":
        image = (calibration.sensitivities.conj() * to_image(watching.seen.hybrid, axis=1)).sum(0)
    given = np.abs(image)[None] if planes == 1 else np.stack([image.real, image.imag])
    own = own_image(denoiser(planes), given[None] / np.float32(calibration.scale))[0]
    expected = np.abs(own[0]) if planes == 1 else np.hypot(own[0], own[1])
    assert apart(made.image, calibration.scale * expected) < SAME
    if planes == 1:  # a magnitude has no phase of its own
        lit = np.abs(image) > 0.1 * np.abs(image).max()
        turned = watching.proposal.image * (image * own[0]).conj()
        assert np.all(np.abs(np.angle(turned[lit])) < 1e-3)


@pytest.fixture
def half_believed(monkeypatch) -> float:
    """These networks are no good, and would not be believed."""
    monkeypatch.setattr("edge_runtime.modalities.mri.reconstruct.believed_share", lambda step: 0.6)
    return 0.6


def test_a_k_space_iterate_never_sees_held_out_samples_and_is_finished_with_them(tmp_path, signing_key, half_believed):
    samples = samples_of(HALF)
    watching = Watching(ready(varnet(), tmp_path, signing_key))
    made, _ = learned_of(samples, watching)
    visible, first = watching.seen.visible, watching.proposal.first
    held_out = HALF[:, None] & ~visible
    assert made.evidence.held_out_samples == held_out.sum() > 0
    given = Acquisition(np.where(held_out, np.float32(1e6), samples.hybrid)[None], visible)
    interpreter = interpreter_of(varnet(), OnnxRuntimeEngine())
    with interpreter.started(given, PLANS) as run:
        own = run.through()[0]
        maps, under, outside = run.maps[0], run.under[0], run.outside[0]

    def kspace(image):
        return to_kspace(maps * image, axis=1)

    def shown(measured, elsewhere, where):
        return np.sqrt((np.abs(to_image(np.where(where, measured, elsewhere), axis=1)) ** 2).sum(0))

    assert apart(shown(samples.hybrid - kspace(under), kspace(-outside), visible), own) < SAME
    share = made.evidence.learned_share
    assert share == half_believed
    believed = kspace(first + share * (-outside - first))
    measured = samples.hybrid - share * kspace(under) * visible
    assert apart(made.image, shown(measured, believed, HALF[:, None])) < SAME
    wrong = np.mean(np.abs(believed - samples.hybrid) ** 2, axis=0)[held_out]
    assert made.evidence.held_out_residual == pytest.approx(np.sqrt(wrong.mean()), rel=1e-3)
    kept = np.mean(np.abs(share * kspace(under)) ** 2, axis=0)[visible]
    assert made.evidence.fitted_residual == pytest.approx(np.sqrt(kept.mean()), rel=1e-3)


def test_an_image_is_shown_as_far_as_it_is_believed(tmp_path, signing_key, half_believed):
    samples = samples_of(HALF)
    watching = Watching(ready(modl(), tmp_path, signing_key))
    made, calibration = learned_of(samples, watching)
    seen, share = watching.seen, half_believed
    given = Acquisition(
        seen.hybrid[None] / np.float32(calibration.scale), seen.visible, calibration.sensitivities[None]
    )
    own = np.float32(calibration.scale) * own_image(modl(), given)[0]
    assert apart(made.image, np.abs(seen.first + share * (own - seen.first))) < SAME


def test_a_size_that_the_graph_does_not_take_leaves_the_other_images(tmp_path, signing_key):
    samples = samples_of(FEW_OUTER)
    learned = ready(denoiser(multiple=16), tmp_path, signing_key)
    methods = []
    with pytest.raises(ProgramRefused, match="64 x 36: rows and columns must be multiples of 16"):
        for method, _ in reconstruct(samples, calibrate(samples.hybrid, FEW_OUTER, PLANS), learned, PLANS):
            methods.append(method)
    assert methods == [Method.CLASSICAL, Method.ZERO_FILLED]


def test_sensitivities_of_too_few_lines_are_not_made(tmp_path, signing_key):
    """As where the ACS is measured apart: the runtime calibrates on it, the program never sees it."""
    sparse = uniform(LINES, 4, acs_fraction=0)
    samples, whole = samples_of(sparse), samples_of(FEW_OUTER)
    calibration = calibrate(whole.hybrid, FEW_OUTER, PLANS)
    with pytest.raises(ProgramRefused, match="'sensitivities': 1 calibration lines among the image's own, at least 4"):
        list(reconstruct(samples, calibration, ready(varnet(), tmp_path, signing_key), PLANS))
    one_coil = samples_of(sparse, coils=1)
    calibration = calibrate(samples_of(FEW_OUTER, coils=1).hybrid, FEW_OUTER, PLANS)
    made = dict(reconstruct(one_coil, calibration, ready(varnet(), tmp_path, signing_key), PLANS))
    assert Method.LEARNED in made


def test_values_that_are_not_finite_leave_the_other_images(tmp_path, signing_key):
    """Of sensitivities that are zero everywhere, and of a last step that goes beyond single precision."""
    samples = samples_of(FEW_OUTER)
    calibration = calibrate(samples.hybrid, FEW_OUTER, PLANS)
    learned = ready(varnet(), tmp_path, signing_key)
    settings = learned.settings

    class Blank:
        def run(self, batch):
            return np.zeros_like(batch)

    sessions = {graph.file: Blank() for graph in settings.program.graphs}
    stages = (*modl().stages, GradientStep("far", 1e30, False), GradientStep("beyond", 1e30, False))
    for made in (
        ProgrammedReconstruction(
            replace(settings, program=replace(settings.program, stages=unnormalised(varnet()))), sessions, 1, int
        ),
        ProgrammedReconstruction(
            replace(settings, program=replace(modl().steps(), stages=stages)), {"net-4.onnx": Blank()}, 1, int
        ),
    ):
        methods = []
        with pytest.raises((ProgramRefused, EngineError), match="not finite"):
            for method, _ in reconstruct(samples, calibration, made, PLANS):
                methods.append(method)
        assert methods == [Method.CLASSICAL, Method.ZERO_FILLED]


def unnormalised(made: SplitProgram):
    """Stages whose networks' zeros stay zeros."""
    return tuple(replace(one, shaping=Shaping()) if hasattr(one, "shaping") else one for one in made.stages)


@pytest.mark.parametrize("made", [varnet(), modl(), denoiser()], ids=["iterate", "image", "network"])
def test_an_image_that_is_not_wanted_any_more_is_abandoned(tmp_path, signing_key, made):
    samples, learned = samples_of(FEW_OUTER), ready(made, tmp_path, signing_key)
    calibration = calibrate(samples.hybrid, FEW_OUTER, PLANS)
    asked = []

    def wanted() -> bool:
        asked.append(1)
        return len(asked) < 2

    with pytest.raises(Abandoned):
        next(reconstruct(samples, calibration, learned, PLANS, wanted if made.domain == "kspace" else lambda: False))


def test_memory_goes_by_the_padded_size(tmp_path, signing_key):
    learned = ready(varnet(), tmp_path, signing_key)
    by_pixel = learned.network_bytes(4, 4) // 16
    assert by_pixel > learned.settings.live_bytes_per_pixel >= 4 * (2 + 6 + 6)
    assert learned.network_bytes(61, 37) == 64 * 40 * by_pixel


def test_memory_goes_by_the_largest_of_several_padded_sizes():
    made = program(
        (Network("a", "net-5.onnx", padded_to(16)), Network("b", "net-5.onnx", padded_to(12))), (5,), planes=2
    )
    assert [padded(made, size) for size in (16, 17, 12, 33)] == [24, 32, 16, 48]


def padded_to(multiple: int) -> Shaping:
    return Shaping(padding=Padding(multiple, "end", "zero"))


def test_a_graph_that_makes_another_size_than_it_declares_is_an_error():
    class Short:
        def run(self, batch):
            return batch[:, :, :-1]

    interpreter = Interpreter(denoiser().steps(), {"net-5.onnx": Short()})
    with pytest.raises(EngineError, match=r"net-5.onnx: made \(1, 2, 15, 16\), \(1, 2, 16, 16\) is expected"):
        interpreter.infer_planes(np.zeros((1, 2, 16, 16), np.float32))
