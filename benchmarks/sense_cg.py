"""A whole SENSE solve of one slice in hybrid space, beside the MR libraries that have one.

Along the readout the samples are transformed already, so that one Fourier axis is left, the phase encodes. Every contestant solves
``argmin |M F S x - y|² + weight |x|²`` on the same maps and samples from an image of zeros, by as many conjugate-gradient steps.
The libraries step through all columns together, ours through each by itself: after as many steps the images differ by what is left
to converge, and the record says how far each is from the truth.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from benchmarks.brain_phantom import ACCELERATION, COILS, MATRIX, NOISE, SEED, head
from benchmarks.kernels import THREADS, in_turns
from benchmarks.records import Record, summarise
from edge_runtime.kernels import SensePlan, Workers, instruction_set
from edge_runtime.modalities.mri.fourier import Complex, to_kspace
from edge_runtime.modalities.mri.sampling import ACS_FRACTION_BY_ACCELERATION, Mask, variable_density
from export.simulate.receive import complex_noise, gaussian_coils

PEERS = {"bartorch": "benchmarks.peers.bartorch_cg", "mrpro": "benchmarks.peers.mrpro_cg"}
"""By the name of the package: a module whose ``forms`` are its solves, the fastest of which counts."""

STEPS = 10
WEIGHT = 0.02
"""With which the image is about as near to the truth as it gets, and `STEPS` are enough."""

RUNS = 15
SPEEDUP_WANTED = 2.0
LARGEST_DIFFERENCE = 0.01
"""Between the NRMSE of two contestants, as a share, for them to have solved the same problem."""

Solve = Callable[[], Complex]


@dataclass(frozen=True)
class Problem:
    """One slice.

    Attributes:
        truth: the image, ``(phase_encodes, columns)``.
        maps: sensitivities ``(coils, phase_encodes, columns)``.
        samples: in hybrid space ``(coils, phase_encodes, columns)``, zero where not measured.
        measured: ``(phase_encodes,)``.
        weight: of ``|x|²``.
    """

    truth: Complex
    maps: Complex
    samples: Complex
    measured: Mask
    weight: float = WEIGHT

    def nrmse(self, image: Complex) -> float:
        """Of an image against the truth, whole field of view, complex."""
        return float(np.linalg.norm(image - self.truth) / np.linalg.norm(self.truth))


def problem_of(size: int = MATRIX) -> Problem:
    """The drawn head, variable density; the same every time."""
    rng = np.random.default_rng(SEED)
    truth, maps = head(size), gaussian_coils((size, size), COILS, rng)
    measured = variable_density(size, ACCELERATION, ACS_FRACTION_BY_ACCELERATION[ACCELERATION], rng)
    samples = to_kspace(maps * truth, axis=1) + np.float32(NOISE) * complex_noise(maps.shape, rng)
    return Problem(truth, maps, np.asarray(samples * measured[:, None], np.complex64), measured)


def sense_cg(quick: bool) -> list[Record]:
    """With one thread and with two; contestants take turns."""
    problem = problem_of()
    return [_record(problem, threads, 2 if quick else RUNS) for threads in THREADS]


def contestants(problem: Problem, steps: int, threads: int) -> tuple[dict[str, dict[str, Solve]], list[str]]:
    """Solves by package and form, and the packages that are not installed. What a solve returns is ``(phase_encodes, columns)``."""
    solves: dict[str, dict[str, Solve]] = {"ours": {"ours": our_solve(problem, steps, threads)}}
    absent = []
    for name, module in PEERS.items():
        try:
            solves[name] = importlib.import_module(module).forms(problem, steps, threads)
        except ImportError as error:
            absent.append(f"{name} is not installed ({error})")
    return solves, absent


def our_solve(problem: Problem, steps: int, threads: int) -> Solve:
    """From the same arrays as the peers': taking maps and samples into the plan's own layout is part of it."""
    plan = SensePlan(Workers(threads), *problem.maps.shape)
    mask = np.repeat(problem.measured[:, None], plan.columns, axis=1)
    start, out = np.zeros(plan.shape, np.complex64), np.empty(plan.shape, np.complex64)

    def solve() -> Complex:
        plan.set_maps(problem.maps)
        plan.set_samples(problem.samples, mask)
        return plan.data_consistent(start, problem.weight, steps, out)

    return solve


def _record(problem: Problem, threads: int, runs: int) -> Record:
    solves, absent = contestants(problem, STEPS, threads)
    every = {form: solve for by_form in solves.values() for form, solve in by_form.items()}
    errors = {form: problem.nrmse(solve()) for form, solve in every.items()}
    _agree(errors)
    times = in_turns(every, runs)
    fastest = {name: min(by_form, key=lambda form: float(np.median(times[form]))) for name, by_form in solves.items()}
    results = [f"{form} {np.median(times[form]):.1f} ms, NRMSE {errors[form]:.4f}" for form in fastest.values()]
    peers = [form for name, form in fastest.items() if name != "ours"]
    peer = min(peers, key=lambda form: float(np.median(times[form])), default="")
    return summarise(
        "kernels.sense_cg_ms" + ("" if threads == 1 else f".{threads}_threads"),
        times["ours"],
        unit="ms",
        better="lower",
        peer=peer or ", ".join(PEERS),
        peer_samples=times[peer] if peer else (),
        threads=threads,
        target=float(np.median(times[peer])) / SPEEDUP_WANTED if peer else None,
        note=f"{STEPS} steps, one axis, {COILS} coils x {MATRIX} x {MATRIX} complex64, R = {ACCELERATION}, weight {WEIGHT}, "
        f"{instruction_set()}; {'; '.join((*results, *absent))}; of {len(every) - 1} forms of the "
        "peers the fastest of each; their operators are made before, ours takes maps and samples in each time",
    )


def _agree(errors: Mapping[str, float]) -> None:
    """Raises:
    RuntimeError: a contestant has solved another problem.
    """
    for form, error in errors.items():
        if abs(error - errors["ours"]) > LARGEST_DIFFERENCE * errors["ours"]:
            raise RuntimeError(f"{form} solves another problem: NRMSE {error:.4f}, ours {errors['ours']:.4f}")
