"""The scans of the quality tables: fully sampled multi-coil k-space, and the masks that undersample it.

Nothing here is trained on. The measured scans are twix files of 3 T scanners; the simulated ones say so.

Left out of ``raw/siemens_twix``: the EPI files (one shot, with reversed lines), and ``…161542`` and ``…163514``: their
k-space peaks at lines 0 and 128 of 256, as if the line counter ran on over two half k-spaces, and their image shows the
object twice.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import nibabel
import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.io import loadmat

from benchmarks.metrics import root_sum_of_squares
from edge_runtime.modalities.mri import sampling
from edge_runtime.modalities.mri.fourier import Complex, to_image
from export.recordings import fully_sampled_slices
from export.simulate.receive import complex_noise, gaussian_coils, measure

Magnitude = npt.NDArray[np.float32]

TWIX_LICENCE = "MIT, pulseq/MR-Physics-with-Pulseq"
TUTORIAL_04 = "tutorials_04_hardware_and_imprefections_data_2024-02-06"

FERNANDO_SLICES = (11, 15)
"""Middle slices of 26."""

PATIENT_SLICE = 2
"""Of four."""

SIMULATED_COILS = 8
SIMULATED_MATRIX = (256, 256)
SIMULATED_OBJECT = (512, 512)
"""The object's grid; its spectrum is cropped to the matrix, as a scanner does."""

SIMULATED_NOISE = 0.02
"""Standard deviation of a complex sample of each coil, as a share of the object's 99th percentile."""


@dataclass(frozen=True)
class Scan:
    """A fully sampled scan.

    Attributes:
        name: short name, unique in the tables.
        kspace: ``(coils, phase_encodes, samples)``, complex64, centre at ``n // 2``, readout oversampling removed.
        origin: whether the k-space was measured by a scanner or simulated.
        licence: licence and source.
    """

    name: str
    kspace: Complex
    origin: Literal["measured", "simulated"]
    licence: str

    @property
    def reference(self) -> npt.NDArray[np.float32]:
        """The root-sum-of-squares of the fully sampled coil images, ``(phase_encodes, samples)``."""
        return root_sum_of_squares(coil_images(self.kspace))


def coil_images(kspace: Complex) -> Complex:
    """``(coils, phase_encodes, samples)`` in k-space to the same shape in image space."""
    return np.asarray(to_image(to_image(kspace, axis=1), axis=2), dtype=np.complex64)


def data_root(given: Path | None = None) -> Path:
    """The data folder: the argument, else ``EDGE_DATA``, else ``../shared/data`` beside the checkout."""
    if given is not None:
        return given
    from_environment = os.environ.get("EDGE_DATA")
    return Path(from_environment) if from_environment else Path(__file__).parents[2] / "shared" / "data"


def undersampling_mask(phase_encodes: int, acceleration: int, seed: int) -> sampling.Mask:
    """The measured lines ``(phase_encodes,)`` of one retrospective undersampling; the same for every method."""
    acs_fraction = sampling.ACS_FRACTION_BY_ACCELERATION[acceleration]
    return sampling.variable_density(phase_encodes, acceleration, acs_fraction, np.random.default_rng(seed))


def names() -> list[str]:
    """Every scan, in the order of the tables."""
    return list(_LOADERS)


def load(name: str, root: Path | None = None) -> Scan:
    """The scan of that name from the data folder (see `data_root`).

    Raises:
        KeyError: there is no scan of that name.
        RecordingError, FileNotFoundError: its data, or the program that simulates it, is not here.
    """
    return _LOADERS[name](data_root(root))


def _twix(name: str, file: str, licence: str = TWIX_LICENCE) -> Callable[[Path], Scan]:
    """A twix file."""

    def read(root: Path) -> Scan:
        return Scan(name, _only_slice(root / "raw" / "siemens_twix" / file), "measured", licence)

    return read


def _only_slice(path: Path) -> Complex:
    """The k-space of a recording that has one slice."""
    (kspace,) = fully_sampled_slices(path)
    return kspace


def _fernando(number: int) -> Callable[[Path], Scan]:
    """One slice of a whole head, T2."""

    def read(root: Path) -> Scan:
        volume = nibabel.load(root / "validate" / "torchio_fernando_t2.nii.gz")
        plane = np.asarray(volume.dataobj[:, :, number], np.float32).T  # type: ignore[attr-defined]
        return _simulated(f"fernando-{number}", plane, number, "MIT, fepegar/torchio-data")

    return read


def _patient(contrast: str) -> Callable[[Path], Scan]:
    """One slice of a patient at 3 T, padded to a square."""

    def read(root: Path) -> Scan:
        image = loadmat(root / "validate" / "hku_3T" / "7B" / f"3T_{contrast}.mat")["image"]
        plane = np.asarray(image[:, :, PATIENT_SLICE], np.float32)
        missing = [max(plane.shape) - size for size in plane.shape]
        plane = np.pad(plane, [(size // 2, size - size // 2) for size in missing])
        return _simulated(f"7B-{contrast}", plane, PATIENT_SLICE, "CC0, bispmri/Ultra-low-field-MRI-Scanner")

    return read


def _simulated(name: str, plane: Magnitude, seed: int, licence: str) -> Scan:
    """A picture as a scan: `gaussian_coils`, quadratic phase, white noise."""
    scaled = plane / np.percentile(plane, 99)
    factors = [wanted / size for wanted, size in zip(SIMULATED_OBJECT, plane.shape, strict=True)]
    magnitude = np.maximum(ndimage.zoom(scaled, factors, order=3, grid_mode=True, mode="grid-constant"), 0)
    rng = np.random.default_rng(seed)
    complex_object = np.asarray(magnitude * np.exp(1j * _quadratic_phase(SIMULATED_OBJECT, rng)), np.complex64)
    kspace = measure(complex_object, gaussian_coils(SIMULATED_OBJECT, SIMULATED_COILS, rng), SIMULATED_MATRIX)
    kspace = kspace + np.float32(SIMULATED_NOISE) * complex_noise(kspace.shape, rng)
    return Scan(name, kspace, "simulated", licence)


def _quadratic_phase(size: tuple[int, int], rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """A smooth phase ``(rows, columns)`` in radians: a random polynomial of second degree over -1..1."""
    y = np.linspace(-1, 1, size[0], dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, size[1], dtype=np.float32)[None, :]
    terms = rng.normal(0, 1, 6)
    phase = terms[0] + terms[1] * y + terms[2] * x + terms[3] * y * y + terms[4] * x * x + terms[5] * x * y
    return np.asarray(phase, dtype=np.float32)


def _shepp_logan(_: Path) -> Scan:
    """What Debian's ``ismrmrd_generate_cartesian_shepp_logan`` writes, with seeded noise in place of its own."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "phantom.h5"
        command = ["ismrmrd_generate_cartesian_shepp_logan", "--noise-level", "0", "--output", str(path)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=120)
        kspace = _only_slice(path)
    bright = float(np.percentile(root_sum_of_squares(coil_images(kspace)), 99))
    noise = complex_noise(kspace.shape, np.random.default_rng(0))
    return Scan("shepp-logan", kspace + np.float32(SIMULATED_NOISE * bright) * noise, "simulated", "MIT, ismrmrd")


_LOADERS: dict[str, Callable[[Path], Scan]] = {
    "head-2ch": _twix("head-2ch", f"{TUTORIAL_04}-164120.dat"),
    "phantom-32ch": _twix("phantom-32ch", "tutorials_02_rf_pulses_data_meas_MID00243_FID33257_pulseq.dat"),
    "phantom-16ch": _twix("phantom-16ch", f"{TUTORIAL_04}-160052.dat"),
    "phantom-2ch": _twix("phantom-2ch", f"{TUTORIAL_04}-160115.dat"),
    "gre-2ch": _twix("gre-2ch", "twixtools_gre.dat", "MIT, pehses/twixtools"),
    **{f"fernando-{number}": _fernando(number) for number in FERNANDO_SLICES},
    **{f"7B-{contrast}": _patient(contrast) for contrast in ("T1w", "T2w", "FLAIR")},
    "shepp-logan": _shepp_logan,
}
