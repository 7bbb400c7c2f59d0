"""The device's reconstruction is the trained torch network, number by number."""

from __future__ import annotations

import numpy as np
import pytest
from simulated import coil_maps, kspace_of, object_image

from edge_runtime.bundle import UnrolledSettings
from edge_runtime.kernels import Plans, SensePlan, Workers
from edge_runtime.modalities.mri.fourier import to_image
from edge_runtime.modalities.mri.learned import LearnedReconstruction
from edge_runtime.modalities.mri.sampling import variable_density

pytestmark = pytest.mark.full


@pytest.mark.parametrize(("lines", "columns"), [(40, 32), (37, 29)])
@pytest.mark.parametrize("scale", [1.0, 250.0])
def test_the_runtime_reproduces_the_torch_network(lines, columns, scale):
    torch = pytest.importorskip("torch")
    from export.families import unrolled

    torch.manual_seed(3)
    config = unrolled.NetworkConfig(iterations=3, cg_steps=4, widths=(8, 12))
    network = unrolled.UnrolledNetwork(config).eval()
    with torch.no_grad():
        network.regulariser.tail.weight.mul_(5)  # corrections that matter

    coils, noise = 5, 0.03
    maps = coil_maps(coils, lines, columns)
    mask = np.repeat(variable_density(lines, 3, 0.15, np.random.default_rng(1))[:, None], columns, axis=1)
    mask[3, : columns // 2] = True  # masks differ from column to column
    hybrid = to_image(kspace_of(object_image(lines, columns), maps, noise=noise), axis=2) * mask
    plan = SensePlan(Workers(threads=1), *hybrid.shape)
    plan.set_maps(maps)
    plan.set_samples(hybrid * np.float32(scale), mask)
    first = -plan.gradient(np.zeros(plan.shape, np.complex64))

    class TorchRegulariser:
        def run(self, batch):
            with torch.no_grad():
                return network.regulariser(torch.from_numpy(batch)).numpy()

    pairs = tuple((float(a), float(b)) for a, b in network.log_weights.detach().numpy())
    settings = UnrolledSettings(config.iterations, config.cg_steps, pairs, network.regulariser.multiple)
    found = LearnedReconstruction(settings, TorchRegulariser()).run(
        plan, first, scale, noise * scale, Plans(Workers(threads=1))
    )

    in_torch = unrolled.SenseProblem(
        torch.from_numpy(hybrid), torch.from_numpy(maps), torch.from_numpy(mask.astype(np.float32))
    )
    with torch.no_grad():
        (estimates,) = network([in_torch], [torch.from_numpy(first / np.float32(scale))], [noise])
    expected = estimates[-1].numpy() * scale
    change = np.linalg.norm(expected - first) / np.linalg.norm(first)
    assert change > 0.05, "the network does nothing: the comparison would prove nothing"
    assert np.linalg.norm(found - expected) < 1e-3 * np.linalg.norm(expected)
