"""The device's reconstruction is the trained torch network, number by number."""

from __future__ import annotations

import numpy as np
import pytest
from simulated import coil_maps, kspace_of, object_image

from edge_runtime.kernels import Plans, SensePlan, Workers
from edge_runtime.modalities.mri.fourier import to_image
from edge_runtime.modalities.mri.learned import LearnedReconstruction
from edge_runtime.modalities.mri.phase import slow_phase
from edge_runtime.modalities.mri.proposal import share_of
from edge_runtime.modalities.mri.sampling import variable_density

pytestmark = pytest.mark.full


@pytest.mark.parametrize(("lines", "columns"), [(40, 32), (37, 29)])
@pytest.mark.parametrize("scale", [1.0, 250.0])
@pytest.mark.parametrize("least", [False, True], ids=["usual", "hardly anything measured"])
def test_the_runtime_reproduces_the_torch_network(lines, columns, scale, least):
    torch = pytest.importorskip("torch")
    from export.families import unrolled
    from export.quantization.run import settings_of

    torch.manual_seed(3)
    config = unrolled.NetworkConfig(iterations=3, cg_steps=4, widths=(8, 12))
    network = unrolled.UnrolledNetwork(config).eval()
    with torch.no_grad():
        network.regulariser.tail.weight.mul_(5)  # corrections that matter
        network.share_slopes.copy_(torch.tensor([1.0, 0.5, -0.5]))

    coils, noise = 5, 0.03
    maps = coil_maps(coils, lines, columns)
    mask = np.repeat(variable_density(lines, 3, 0.15, np.random.default_rng(1))[:, None], columns, axis=1)
    mask[3, : columns // 2] = True  # masks differ from column to column
    if least:
        mask[:] = np.arange(lines)[:, None] == lines // 2
        assert share_of(mask) < 1 / 16
    hybrid = to_image(kspace_of(object_image(lines, columns), maps, noise=noise), axis=2) * mask
    plan = SensePlan(Workers(threads=1), *hybrid.shape)
    plan.set_maps(maps)
    plan.set_samples(hybrid * np.float32(scale), mask)
    first = -plan.gradient(np.zeros(plan.shape, np.complex64))

    phase = slow_phase(first, 8)  # a part of the sensitivities as good as any: the network sees what is left

    class TorchRegulariser:
        def run(self, batch):
            with torch.no_grad():
                return network.regulariser(torch.from_numpy(batch)).numpy()

    found = LearnedReconstruction(settings_of(network), TorchRegulariser()).run(
        plan, first, phase, scale, noise * scale, share_of(mask), Plans(Workers(threads=1))
    )

    in_torch = unrolled.SenseProblem(
        *(torch.from_numpy(array)[None] for array in (hybrid, maps * phase, mask.astype(np.float32)))
    )
    turned_back = first * phase.conj() / np.float32(scale)
    with torch.no_grad():
        estimates = network(in_torch, torch.from_numpy(turned_back)[None], torch.tensor([noise]))
    expected = estimates[-1][0].numpy() * phase * scale
    change = np.linalg.norm(expected - first) / np.linalg.norm(first)
    assert change > 0.05, "the network does nothing: the comparison would prove nothing"
    assert np.linalg.norm(found - expected) < 1e-3 * np.linalg.norm(expected)


def test_scans_of_a_batch_do_not_see_each_other():
    """Also where they have fewer coils than the most: those are zeros."""
    torch = pytest.importorskip("torch")
    from export.families import unrolled

    torch.manual_seed(3)
    network = unrolled.UnrolledNetwork(unrolled.NetworkConfig(iterations=2, cg_steps=4, widths=(4, 6))).eval()
    rng = np.random.default_rng(5)
    lines, columns, scans = 24, 16, []
    for coils, noise in ((4, 0.02), (2, 0.1)):
        maps = coil_maps(coils, lines, columns)
        mask = np.repeat(rng.random((lines, 1)) < 0.5, columns, axis=1)
        hybrid = to_image(kspace_of(object_image(lines, columns), maps, noise=noise), axis=2) * mask
        padded = [np.pad(array, ((0, 4 - coils), (0, 0), (0, 0))) for array in (hybrid, maps)]
        scans.append([*padded, mask.astype(np.float32), np.sum(maps.conj() * hybrid, axis=0), np.float32(noise)])

    def run(chosen):
        arrays = [torch.from_numpy(np.stack(field)) for field in zip(*chosen, strict=True)]
        with torch.no_grad():
            return network(unrolled.SenseProblem(*arrays[:3]), *arrays[3:])[-1].numpy()

    together = run(scans)
    for number, scan in enumerate(scans):
        np.testing.assert_allclose(together[number], run([scan])[0], rtol=1e-4, atol=1e-5)
    without_zeros = run([[scans[1][0][:2], scans[1][1][:2], *scans[1][2:]]])[0]
    np.testing.assert_allclose(together[1], without_zeros, rtol=1e-4, atol=1e-5)


def test_the_gradient_of_data_consistency_is_that_of_finite_differences():
    """With steps enough for the exact solution, of which the gradient's one more solve is the derivative."""
    torch = pytest.importorskip("torch")
    from export.families.unrolled import DataConsistency, SenseProblem

    rng = np.random.default_rng(4)
    coils, lines, columns, steps = 3, 16, 5, 60
    maps = coil_maps(coils, lines, columns)
    mask = rng.random((lines, columns)) < 0.5
    hybrid = to_image(kspace_of(object_image(lines, columns), maps, noise=0.1), axis=2) * mask
    problem = SenseProblem(*(torch.from_numpy(array)[None] for array in (hybrid, maps, mask.astype(np.float32))))
    towards = torch.from_numpy((rng.standard_normal((lines, columns, 2)) @ np.array([1, 1j])).astype(np.complex64))

    def loss(z, weight):
        return (DataConsistency.apply(z, weight, problem, steps) * towards.conj()).real.sum()

    z = torch.from_numpy(object_image(lines, columns) * np.complex64(1 + 0.3j))[None].requires_grad_()
    weight = torch.full((1, 1, 1), 0.2, requires_grad=True)
    loss(z, weight).backward()
    direction = torch.from_numpy((rng.standard_normal((lines, columns, 2)) @ np.array([1, 1j])).astype(np.complex64))
    with torch.no_grad():
        of_z = (loss(z + 0.01 * direction, weight) - loss(z - 0.01 * direction, weight)) / 0.02
        of_weight = (loss(z, weight + 0.01) - loss(z, weight - 0.01)) / 0.02
    expected = (z.grad.conj() * direction).real.sum()
    assert abs(of_z) > 1 and abs(of_weight) > 0.1, "nothing changes: the comparison would prove nothing"
    assert float(of_z) == pytest.approx(float(expected), rel=1e-2)
    assert float(of_weight) == pytest.approx(float(weight.grad), rel=3e-2)  # differences in single precision
