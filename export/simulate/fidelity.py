"""How near simulated scans come to real ones in noise and coils: the table of ``docs/simulate.md``.

Each real scan is measured (`export.simulate.statistics`), then a scan is simulated that is set to match what can be set: matrix,
field of view, number and family of coils, signal over noise, correlation and spread of the coils' noise, filter, strength of the
phase, size of the object. It is written as an MRD stream, read again and measured by the same code. What was not set shows what the
simulator is like.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from edge_runtime.errors import RecordingError
from export.simulate.acquisition import Progress, Scanner
from export.simulate.scan_file import write_scan
from export.simulate.settings import AcquisitionConfig, checked
from export.simulate.source import Source, read_source
from export.simulate.statistics import (
    CoilStatistics,
    FullScan,
    NoiseStatistics,
    coil_statistics,
    load_full_scan,
    noise_statistics,
)

HEAD = Path("demo/mricron_ch2.nii.gz")
"""Below the data folder: the head that is simulated, which no model has been trained on."""

SPHERE_VOXELS = 161

MOST_PHASE_RAD = 10.0
"""Stronger smooth phases are not tried."""

LEAST_FILTER_EDGE = 0.01
"""What the ends of the readout's view are filtered to at least (`AcquisitionConfig`)."""

CORRECTIONS = 3
"""How often strength of the phase, SNR and filter are set anew by what was measured with those before: each changes what is
measured of the others."""

BEGIN, END = "<!-- edge-export fidelity: begin -->", "<!-- edge-export fidelity: end -->"


@dataclass(frozen=True)
class RealScan:
    """A real scan to compare with.

    Attributes:
        name: in the table.
        path: below the data folder.
        shape: what is simulated beside it, ``head`` or ``sphere``.
        coil_family: of the simulated coils: what the real ones are, as far as one can tell.
        field_of_view_mm: where the file does not tell; 0 where it does.
    """

    name: str
    path: str
    shape: str
    coil_family: str
    field_of_view_mm: float = 0.0


_TUTORIALS = "raw/siemens_twix/tutorials_0"
_CAGED, _UNCAGED = "0.055T_FLAIR_RF_cage_installed_2D_kspace.mat", "0.055T_FLAIR_No_RF_cage_2D_kspace.mat"
_LOW_FIELD = "raw/hku_0.055T_emi/Supplementary_Figure_3"
REAL_SCANS = (
    RealScan(
        "head, 2 coils, 3 T", f"{_TUTORIALS}4_hardware_and_imprefections_data_2024-02-06-164120.dat", "head", "volume"
    ),
    RealScan(
        "sphere, 2 coils, 3 T",
        f"{_TUTORIALS}4_hardware_and_imprefections_data_2024-02-06-160115.dat",
        "sphere",
        "volume",
    ),
    RealScan("ACR phantom, 2 coils, 3 T", "raw/siemens_twix/twixtools_gre.dat", "sphere", "volume"),
    RealScan(
        "sphere, 16 coils, 3 T",
        f"{_TUTORIALS}4_hardware_and_imprefections_data_2024-02-06-160052.dat",
        "sphere",
        "loops",
    ),
    RealScan(
        "sphere, 32 coils, 3 T", f"{_TUTORIALS}2_rf_pulses_data_meas_MID00243_FID33257_pulseq.dat", "sphere", "loops"
    ),
    RealScan("FLAIR, 0.055 T, in the cage", f"{_LOW_FIELD}A/{_CAGED}", "head", "loops", 240.0),
    RealScan("FLAIR, 0.055 T, no cage, with interference", f"{_LOW_FIELD}A/{_UNCAGED}", "head", "loops", 240.0),
    RealScan("FLAIR, 0.055 T, no cage, interference removed", f"{_LOW_FIELD}B/{_UNCAGED}", "head", "loops", 240.0),
)


@dataclass(frozen=True)
class Comparison:
    """A real scan and the simulated one beside it.

    Attributes:
        with_loops: the same with coils as training draws them, where the matching family is another; otherwise None.
        shape: what is simulated.
    """

    name: str
    real: tuple[NoiseStatistics, CoilStatistics]
    simulated: tuple[NoiseStatistics, CoilStatistics]
    with_loops: tuple[NoiseStatistics, CoilStatistics] | None
    config: AcquisitionConfig
    shape: str

    def kinds(self) -> list[tuple[str, tuple[NoiseStatistics, CoilStatistics]]]:
        """What there is, with its name."""
        loops = [("simulated, `loops`", self.with_loops)] if self.with_loops is not None else []
        return [("measured", self.real), ("simulated", self.simulated), *loops]

    def record(self) -> dict[str, object]:
        """As JSON."""
        return {
            "scan": self.name,
            **{kind: {"noise": asdict(noise), "coils": asdict(coils)} for kind, (noise, coils) in self.kinds()},
            "config": asdict(self.config),
        }


def compare(data: Path, progress: Progress = lambda done, total: None) -> Iterator[Comparison]:
    """Measures every real scan below ``data`` and one simulated to match it.

    Raises:
        RecordingError: a file is missing or damaged.
    """
    for done, real in enumerate(REAL_SCANS, start=1):
        yield compare_one(real, data)
        progress(done, len(REAL_SCANS))


def compare_one(real: RealScan, data: Path) -> Comparison:
    """Measures one real scan, and one simulated to match it.

    Raises:
        RecordingError: the file is missing or damaged.
    """
    if not (data / real.path).exists():
        raise RecordingError(f"{data / real.path}: not found; --data is the folder that holds raw/ and demo/")
    scan = load_full_scan(data / real.path)
    if real.field_of_view_mm:
        scan = replace(scan, field_of_view_mm=(real.field_of_view_mm, real.field_of_view_mm))
    found = _measured(scan)
    config = replace(_matched(scan, *found), coil_family=real.coil_family)
    source = _sphere(found[1].diameter_mm) if real.shape == "sphere" else read_source(data / HEAD, config)
    for _ in range(CORRECTIONS):
        config = _corrected(config, found, _measured(_simulated(source, config)))
    loops = replace(config, coil_family="loops")
    with_loops = None if loops == config else _measured(_simulated(source, loops))
    return Comparison(real.name, found, _measured(_simulated(source, config)), with_loops, config, real.shape)


def _corrected(
    config: AcquisitionConfig,
    wanted: tuple[NoiseStatistics, CoilStatistics],
    found: tuple[NoiseStatistics, CoilStatistics],
) -> AcquisitionConfig:
    """Settings that come nearer to what is wanted than those with which ``found`` was measured."""
    (noise, coils), (noise_found, coils_found) = wanted, found
    strength = config.phase_rad * coils.phase_change_rad / max(coils_found.phase_change_rad, 1e-3)
    edge = config.filter_edge + noise.edge_over_centre - noise_found.edge_over_centre
    return replace(
        config,
        phase_rad=min(MOST_PHASE_RAD, round(strength, 2)),
        snr=round(config.snr * coils.snr / coils_found.snr, 2),
        filter_edge=min(1.0, max(LEAST_FILTER_EDGE, round(edge, 2))),
    )


def _matched(scan: FullScan, noise: NoiseStatistics, coils: CoilStatistics) -> AcquisitionConfig:
    images, count, lines, samples = scan.kspace.shape
    filter_edge = min(1.0, noise.edge_over_centre)
    values = {
        "columns": scan.columns,
        "phase_encodes": lines,
        "read_mm": scan.field_of_view_mm[0],
        "phase_mm": scan.field_of_view_mm[1],
        "readout_oversampling": samples // scan.columns,
        "slices": images,
        "coils": count,
        "snr": round(coils.snr, 2),
        "noise_correlation": round(_neighbours(noise.correlation, count), 3),
        "noise_spread": round(noise.spread, 2),
        "noise_readouts": 0,
        "filter_edge": filter_edge,
    }
    return checked(AcquisitionConfig(), values, "")


def _neighbours(correlation: float, coils: int) -> float:
    """The correlation of neighbours on a ring that gives this root-mean-square correlation of all pairs."""
    if coils < 2:
        return 0.0
    apart = np.minimum(np.arange(1, coils), coils - np.arange(1, coils))
    candidates = np.linspace(0, 0.95, 1901)
    of_all = np.sqrt(np.mean(candidates[:, None] ** (2 * apart[None, :]), axis=1))
    return float(candidates[np.argmin(np.abs(of_all - correlation))])


def _measured(scan: FullScan) -> tuple[NoiseStatistics, CoilStatistics]:
    noise = noise_statistics(scan)
    return noise, coil_statistics(scan, noise.level)


def _simulated(source: Source, config: AcquisitionConfig) -> FullScan:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "scan.mrd"
        write_scan(Scanner(source, config), path)
        return load_full_scan(path)


def _sphere(diameter_mm: float) -> Source:
    """A homogeneous sphere."""
    voxel = 1.1 * diameter_mm / SPHERE_VOXELS
    position = (np.arange(SPHERE_VOXELS) - SPHERE_VOXELS // 2) * voxel
    squares = position[:, None, None] ** 2 + position[None, :, None] ** 2 + position[None, None, :] ** 2
    soft = np.clip((diameter_mm / 2 - np.sqrt(squares)) / voxel + 0.5, 0, 1)
    return Source("sphere", "", soft.astype(np.float32), (voxel,) * 3, np.diag([-1.0, -1.0, 1.0]), np.zeros(3), True)


# -------------------------------------------------------------------------------------------------------------- tables


def tables(comparisons: list[Comparison]) -> str:
    """Markdown: noise, coils, and what the simulated scans were set to."""
    noise = [
        "| scan | | excess kurtosis | distance from Gaussian (limit) | real / imag. | four corners, max / min | "
        "edge / middle of the readout's view | correlation of coils, RMS (max) | loudest / quietest coil |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    coils = [
        "| scan | | SNR | coils | virtual coils for 95 % | for 99 % | singular values | "
        "change of sensitivities a tenth of the view | change of phase a tenth of the view |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    settings = [
        "| scan | simulated | coils | matrix | oversampling | SNR | noise: neighbours, spread | filter at the edge | phase |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for one in comparisons:
        for kind, (n, c) in one.kinds():
            single = c.coils == 1
            between = "" if single else f"{n.correlation:.2f} ({n.largest_correlation:.2f})"
            noise.append(
                f"| {one.name} | {kind} | {n.excess_kurtosis:+.2f} | {n.gaussian_distance:.3f} ({n.gaussian_limit:.3f}) | "
                f"{n.real_over_imaginary:.2f} | {n.corners:.2f} | {n.edge_over_centre:.2f} | {between} | "
                f"{'' if single else f'{n.spread:.2f}'} |"
            )
            values = " ".join(f"{value:.2f}" for value in c.singular_values[:6])
            coils.append(
                f"| {one.name} | {kind} | {c.snr:.1f} | {c.coils} | {c.coils_95} | {c.coils_99} | {values} | "
                f"{'' if single else f'{c.sensitivity_change:.2f}'} | {c.phase_change_rad:.2f} rad |"
            )
        f = one.config
        settings.append(
            f"| {one.name} | {one.shape} | {f.coils} `{f.coil_family}` | {f.columns} x {f.phase_encodes} | "
            f"{f.readout_oversampling} | {f.snr:g} | "
            f"{f.noise_correlation:g}, {f.noise_spread:g} | {f.filter_edge:g} | {f.phase_rad:g} rad |"
        )
    return "\n".join(
        [
            "Noise, in the corners of k-space:",
            "",
            *noise,
            "",
            "Coils and phase, from the central 24 x 24 samples of the middle image:",
            "",
            *coils,
            "",
            "What the simulated scans were set to (smooth phase, no field, no motion; one seed):",
            "",
            *settings,
            "",
        ]
    )


def write_into(page: Path, text: str) -> None:
    """Puts the tables between the two marks of a page.

    Raises:
        ValueError: the page has no marks.
    """
    before, begin, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{page}: the marks {BEGIN} and {END} are missing; put them where the tables belong")
    page.write_text(f"{before}{BEGIN}\n\n{text}\n{END}{after}", encoding="utf-8")
