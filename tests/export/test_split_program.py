"""Split programs against plain NumPy: the physics between the networks, what surrounds a network, and what is stored."""

from __future__ import annotations

import json
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from split_programs import Formulas, graph, program

from edge_runtime.errors import ProgramRefused
from edge_runtime.kernels import Plans, Workers
from edge_runtime.modalities.mri.fourier import to_image, to_kspace
from edge_runtime.modalities.mri.given import Acquisition
from edge_runtime.modalities.mri.interpret import calibration_lines
from edge_runtime.modalities.mri.shaping import shape
from edge_runtime.program.stages import (
    Combine,
    GradientStep,
    KSpaceStep,
    Network,
    Padding,
    ProximalStep,
    Regularise,
    RootSumOfSquares,
    Sensitivities,
    Shaping,
    ZeroFilled,
)
from export.adapters.errors import ImportRefused
from export.adapters.inputs import Case, random_cases
from export.adapters.program import SplitProgram, interpreter_of
from export.adapters.storage import read_program, write_program
from export.adapters.verify import Comparison, compare

PLANS = Plans(Workers(1))
SIZES = [(1, 1, 8, 5), (2, 3, 9, 7), (3, 5, 16, 12)]
"""Batch, coils, phase encodes, columns."""


def complex_noise(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(np.complex64)


def acquisition(size: tuple[int, ...], *, maps: bool) -> Acquisition:
    rng = np.random.default_rng(size)
    mask = rng.random(size[2]) < 0.5
    mask[size[2] // 2 - 1 : size[2] // 2 + 2] = True
    mask[[0, -1]] = False
    sensitivities = complex_noise(rng, *size) if maps else None
    return Acquisition(complex_noise(rng, *size), mask, sensitivities)


def bend(planes: np.ndarray) -> np.ndarray:
    """Stands for a network: neither linear nor the same for rows and columns."""
    return np.tanh(planes + 0.3 * np.roll(planes, 1, axis=2) - 0.2 * np.roll(planes, 1, axis=3))


ENGINE = Formulas({"bend.onnx": bend})


def bent(image: np.ndarray) -> np.ndarray:
    """The same for complex images in hybrid space, whose axes the network sees the other way round."""
    planes = bend(np.stack([image.real, image.imag], axis=1).swapaxes(2, 3)).swapaxes(2, 3)
    return planes[:, 0] + 1j * planes[:, 1]


def close(value: np.ndarray, expected: np.ndarray) -> bool:
    return bool(np.allclose(value, expected, atol=2e-5 * np.abs(expected).max(), rtol=0))


@pytest.mark.parametrize("size", SIZES)
def test_two_images_carry_the_k_space_iterate(size: tuple[int, ...]) -> None:
    stages = [Sensitivities("maps", "bend.onnx", Shaping(), "all", "magnitude")]
    steps = (0.4, 1.3, -0.2)
    for step in steps:
        stages += [Combine("c"), Regularise("r", "bend.onnx", Shaping(), "correction"), KSpaceStep("k", step)]
    made = program((*stages, RootSumOfSquares("image")), (graph("bend.onnx"),))
    given = acquisition(size, maps=False)
    seen = []
    result = interpreter_of(made, ENGINE).run(given, PLANS, lambda _, value: seen.append(value))

    measured = given.mask[:, None]
    samples = given.hybrid * measured
    images = to_image(samples, axis=2)
    maps = np.stack([bent(images[:, coil]) for coil in range(size[1])], axis=1)
    maps = maps / np.sqrt((np.abs(maps) ** 2).sum(1, keepdims=True))
    assert close(seen[0], maps)
    kspace = samples
    for number, step in enumerate(steps):
        combined = (maps.conj() * to_image(kspace, axis=2)).sum(1)
        correction = bent(combined)
        modelled = to_kspace(maps * correction[:, None], axis=2)
        kspace = kspace - step * np.where(measured, kspace - samples, 0) - modelled
        for value, expected in zip(seen[1 + 3 * number :], (combined, correction, kspace), strict=False):
            assert close(value, expected)
    assert close(result, np.sqrt((np.abs(to_image(kspace, axis=2)) ** 2).sum(1)))


@pytest.mark.parametrize("size", SIZES)
def test_steps_on_images(size: tuple[int, ...]) -> None:
    stages = (
        ZeroFilled("first"),
        Regularise("r", "bend.onnx", Shaping(), "correction"),
        GradientStep("gradient", 0.7, True),
        Regularise("r2", "bend.onnx", Shaping(), "estimate"),
        ProximalStep("prox", 0.5, 60, 1e-7),
    )
    given = acquisition(size, maps=True)
    seen = []
    interpreter_of(program(stages, (graph("bend.onnx"),), maps_given=True), ENGINE).run(
        given, PLANS, lambda _, value: seen.append(value)
    )
    maps, measured = given.maps, given.mask[:, None]
    assert maps is not None

    def adjoint(samples: np.ndarray) -> np.ndarray:
        return (maps.conj() * to_image(samples * measured, axis=2)).sum(1)

    def model(image: np.ndarray) -> np.ndarray:
        return to_kspace(maps * image[:, None], axis=2) * measured

    first = adjoint(given.hybrid)
    moved = first - 0.7 * adjoint(model(first) - given.hybrid) - bent(first)
    for value, expected in zip(seen, (first, bent(first), moved, bent(moved)), strict=False):
        assert close(value, expected)
    solved = seen[-1]  # checked by its equation: (Aᴴ A + w) x = Aᴴ y + w z
    right = first + 0.5 * bent(moved)
    assert close(adjoint(model(solved)) + 0.5 * solved, right)


@pytest.mark.parametrize("lines", ["rows", "columns"])
def test_a_program_of_images_runs_its_network(lines: str) -> None:
    shaping = Shaping("sample", Padding(4, "centre", "zero"), (0.25,))
    two_of_three = replace(graph("first two", 3, multiple=4), output_channels=2)
    made = program((Network("n", "first two", shaping),), (two_of_three,), domain="image")
    sizes = []

    def first_two(planes: np.ndarray) -> np.ndarray:
        sizes.append(planes.shape)
        assert np.all(planes[:, 2] == 0.25)
        return planes[:, :2]

    planes = (
        np.random.default_rng(3).standard_normal((2, 2, 5, 8) if lines == "rows" else (2, 2, 8, 5)).astype(np.float32)
    )
    result = interpreter_of(made, Formulas({"first two": first_two})).run(planes, PLANS)
    assert sizes == [(2, 3, 8, 8)]
    assert close(result, planes)


def test_shaping_is_what_it_says() -> None:
    planes = np.arange(24, dtype=np.float32).reshape(1, 2, 3, 4)
    ready = shape(planes, Shaping("population", Padding(5, "centre", "zero")))
    assert ready.planes.shape == (1, 2, 5, 5)
    inner = ready.planes[:, :, 1:4, 0:4]  # 2 rows and 1 column are missing: the larger half comes at the end
    assert np.allclose(inner.mean((2, 3)), 0, atol=1e-6) and np.allclose(inner.std((2, 3)), 1, atol=1e-6)
    assert np.all(ready.planes[:, :, 0] == 0) and np.all(ready.planes[:, :, :, 4] == 0)
    edge = shape(planes, Shaping(padding=Padding(4, "end", "edge"))).planes
    assert edge.shape == (1, 2, 4, 4) and np.array_equal(edge[:, :, 3], planes[:, :, 2])


@pytest.mark.parametrize(
    ("mask", "rule", "expected"),
    [
        ("0011110010", "symmetric", (4, 6)),  # three lie before the centre, one from it on: twice one
        ("0011110010", "contiguous", (3, 7)),
        ("0111110000", "symmetric", (4, 6)),
        ("0111110000", "contiguous", (3, 8)),
        ("1111111111", "symmetric", (5, 6)),  # fastMRI finds no gap, counts none, and keeps one line
        ("1111111111", "all", (0, 10)),
        ("0011110010", 5, (3, 8)),
        ("000111000", "contiguous", (3, 6)),
    ],
)
def test_calibration_lines(mask: str, rule: str | int, expected: tuple[int, int]) -> None:
    found = calibration_lines(np.array([one == "1" for one in mask]), rule)
    assert (found.start, found.stop) == expected


def test_lines_that_do_not_calibrate_are_refused() -> None:
    with pytest.raises(ProgramRefused, match="between two gaps"):
        calibration_lines(np.ones(8, np.bool_), "contiguous")
    with pytest.raises(ProgramRefused, match="9 calibration lines of 8"):
        calibration_lines(np.ones(8, np.bool_), 9)


def test_what_a_graph_does_not_take_is_refused() -> None:
    made = program((Network("n", "g", Shaping()),), (graph("g", multiple=4, least=8),), domain="image")
    interpreter = interpreter_of(made, Formulas({"g": bend}))
    with pytest.raises(ProgramRefused, match=r"8 x 10: rows and columns must be multiples of 4"):
        interpreter.run(np.zeros((1, 2, 8, 10), np.float32), PLANS)
    with pytest.raises(ProgramRefused, match=r"takes \(any, 2, any, any\), \(1, 3, 8, 8\) came"):
        interpreter.run(np.zeros((1, 3, 8, 8), np.float32), PLANS)
    with pytest.raises(ProgramRefused, match="takes planes, samples came"):
        interpreter.run(acquisition(SIZES[0], maps=False), PLANS)


class Same:
    """An original that does what another interpreter does, but for one stage."""

    def __init__(self, made: SplitProgram, broken: str = "", by: float = 0.0) -> None:
        self.interpreter, self.broken, self.by = interpreter_of(made, ENGINE), broken, by

    def stages(self, given: Acquisition) -> dict[str, np.ndarray]:
        seen: dict[str, np.ndarray] = {}
        self.interpreter.run(given, PLANS, lambda stage, value: seen.update({stage.name: value}))
        if self.broken in seen:
            seen[self.broken] = seen[self.broken] * (1 + self.by)
        return seen


def two_cascades() -> SplitProgram:
    stages = [Sensitivities("sensitivities", "bend.onnx", Shaping(), "symmetric", "magnitude")]
    for number in (1, 2):
        stages += [
            Combine(f"cascade {number}, coil combination"),
            Regularise(f"cascade {number}, regulariser", "bend.onnx", Shaping(), "correction"),
            KSpaceStep(f"cascade {number}, data consistency", 0.5),
        ]
    return program((*stages, RootSumOfSquares("image")), (graph("bend.onnx"),))


@pytest.mark.parametrize("stage", ["sensitivities", "cascade 1, data consistency", "cascade 2, regulariser", "image"])
def test_the_stage_that_departs_is_named(stage: str) -> None:
    made = two_cascades()
    cases = list(random_cases(made))
    assert len(compare(made, ENGINE, Same(made), cases, 1e-6)) == len(cases)
    assert len(compare(made, ENGINE, Same(made, stage, 5e-5), cases, 1e-4)) == len(cases)
    with pytest.raises(
        ImportRefused, match=rf"made: {stage}: departs from the original by 2.00e-03 \(tolerance 0.0005\)"
    ):
        compare(made, ENGINE, Same(made, stage, 2e-3), cases, 5e-4)
    with pytest.raises(ImportRefused, match=f"{stage}: departs from the original by nan"):
        compare(made, ENGINE, Same(made, stage, float("nan")), cases, 1e-4)


def test_random_input_is_repeated_and_varied() -> None:
    made = two_cascades()
    cases: list[Case] = list(random_cases(made))
    again = list(random_cases(made))
    assert all(np.array_equal(a.given.hybrid, b.given.hybrid) for a, b in zip(cases, again, strict=True))
    shapes = [case.given.hybrid.shape for case in cases]
    assert {shape[0] for shape in shapes} == {1, 2, 3} and {shape[1] for shape in shapes} == {4, 3, 2, 1}
    assert any(shape[2] % 2 for shape in shapes) and any(shape[3] % 2 for shape in shapes)


def stored(path: Path) -> Path:
    made = two_cascades()
    write_program(path, made, Comparison(1e-4, "formulas", (), ("nothing was compared",)))
    return path


@pytest.mark.parametrize("name", ["program", "program.edgeprogram"])
def test_what_is_stored_is_read_again(tmp_path: Path, name: str) -> None:
    assert read_program(stored(tmp_path / name)) == two_cascades()


def test_the_same_program_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second = (stored(tmp_path / f"{name}.edgeprogram").read_bytes() for name in "ab")
    assert first == second


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ImportRefused, match="holds something else"):
        stored(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_an_altered_program_is_refused(tmp_path: Path) -> None:
    folder = stored(tmp_path / "p")
    document = json.loads((folder / "program.json").read_text())

    def refused(change: dict[str, object], match: str) -> None:
        (folder / "program.json").write_text(json.dumps({**document, **change}))
        with pytest.raises(ImportRefused, match=match):
            read_program(folder)

    refused({"format": 2}, "not of format 1")
    refused({"domain": "ultrasound"}, "domain = 'ultrasound'")
    refused({"extra": 1}, "differs in")
    refused({"stages": []}, "a list is expected")
    refused({"stages": [{"stage": "eval", "name": "x"}]}, "stage 'eval'")
    refused({"stages": [{"stage": "combine", "name": 3}]}, "Combine.name = 3")
    refused({"graphs": [{**document["graphs"][0], "sha256": "0" * 64}]}, "missing or altered")


def test_a_hostile_archive_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "p.edgeprogram"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("../program.json", "{}")
    with pytest.raises(ImportRefused, match="not what a program holds"):
        read_program(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("program.json", " " * 1000)
    with pytest.raises(ImportRefused, match="compressed"):
        read_program(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("program.json", "[" * 100_000)
    with pytest.raises(ImportRefused, match=r"program\.json: .*recursion"):
        read_program(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("program.json", "{}")
    encrypted = bytearray(path.read_bytes())
    for header, flags in ((b"PK\x01\x02", 8), (b"PK\x03\x04", 6)):
        encrypted[encrypted.find(header) + flags] |= 1
    path.write_bytes(encrypted)
    with pytest.raises(ImportRefused, match="encrypted"):
        read_program(path)
    path.write_bytes(b"PK?")
    with pytest.raises(ImportRefused, match="no program"):
        read_program(path)


def test_stages_out_of_place_are_refused() -> None:
    given = acquisition(SIZES[0], maps=False)
    early = program((Combine("c"),), (graph("bend.onnx"),))
    with pytest.raises(ProgramRefused, match="comes before any sensitivities"):
        interpreter_of(early, ENGINE).run(given, PLANS)
    with pytest.raises(ProgramRefused, match="maps of shape"):
        interpreter_of(replace(early, maps_given=True), ENGINE).run(given, PLANS)
