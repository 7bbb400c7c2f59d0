"""Packing of an engine's tensors against plain NumPy, for every instruction set at hand."""

from __future__ import annotations

import numpy as np
import pytest
import sense_problems
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated import complex_noise

from edge_runtime.errors import ArgumentError
from edge_runtime.kernels import PackPlan, Quantization, Workers

pytestmark = pytest.mark.usefixtures("kernels_on")

SHAPES = [(1, 1, 1), (10, 7, 4), (16, 24, 8), (70, 33, 16)]
"""``(phase_encodes, columns, multiple)``."""

LEVELS = {np.int8: Quantization(0.03, -5), np.uint8: Quantization(0.02, 131)}


def quantized(values, dtype, levels):
    """As ONNX's QuantizeLinear."""
    limits = np.iinfo(dtype)
    return np.clip(np.rint(values / np.float32(levels.scale)) + levels.zero_point, limits.min, limits.max).astype(dtype)


def planes_of(image, scale, plane):
    planes = np.zeros((2, *plane), np.float32)
    planes[0, : image.shape[0], : image.shape[1]] = image.real / np.float32(scale)
    planes[1, : image.shape[0], : image.shape[1]] = image.imag / np.float32(scale)
    return planes


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("shape", SHAPES)
def test_an_image_becomes_two_padded_planes_to_the_last_bit(shape, threads):
    plan = PackPlan(Workers(threads), *shape, device=sense_problems.running_on)
    image = complex_noise(shape[:2], np.random.default_rng(0))
    planes = np.full((2, *plan.plane), np.nan, np.float32)
    plan.pack(image, 0.37, planes)
    np.testing.assert_array_equal(planes, planes_of(image, 0.37, plan.plane))


def phase_of(shape, rng):
    return np.exp(1j * rng.uniform(-np.pi, np.pi, shape)).astype(np.complex64)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("dtype", [np.float32, *LEVELS])
@pytest.mark.parametrize("shape", SHAPES)
def test_an_image_is_turned_back_by_its_phase(shape, dtype, threads):
    plan, levels = PackPlan(Workers(threads), *shape, device=sense_problems.running_on), LEVELS.get(dtype)
    rng = np.random.default_rng(0)
    image, phase = complex_noise(shape[:2], rng), phase_of(shape[:2], rng)
    planes = np.full((2, *plan.plane), 77, dtype)
    plan.pack(image, 0.37, planes, levels, phase=phase)
    expected = planes_of(image * phase.conj(), 0.37, plan.plane)
    if levels:
        expected = quantized(expected, dtype, levels)
        assert np.abs(planes.astype(int) - expected).max() <= 1  # a half may be rounded either way
    else:
        np.testing.assert_allclose(planes, expected, atol=2e-6)


@pytest.mark.parametrize("dtype", [np.float32, *LEVELS])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_correction_is_turned_by_the_phase(shape, dtype):
    plan, levels = PackPlan(Workers(threads=2), *shape, device=sense_problems.running_on), LEVELS.get(dtype)
    rng = np.random.default_rng(0)
    image, phase = complex_noise(shape[:2], rng), phase_of(shape[:2], rng)
    planes = (40 * rng.standard_normal((2, *plan.plane))).clip(0, 100).astype(dtype)
    inside = planes[:, : shape[0], : shape[1]].astype(np.float64)
    if levels:
        inside = (inside - levels.zero_point) * levels.scale
    expected = image + 1.7 * phase * (inside[0] + 1j * inside[1])
    made = plan.add(image, planes, 1.7, levels, phase=phase)
    np.testing.assert_allclose(made, expected, rtol=3e-7, atol=1e-6 * 1.7 * np.abs(inside).max())
    np.testing.assert_array_equal(plan.add(image, planes, 1.7, levels, out=image, phase=phase), made)  # in place


@pytest.mark.parametrize("dtype", LEVELS)
@pytest.mark.parametrize("shape", SHAPES)
def test_quantized_planes_are_those_of_onnx(shape, dtype):
    plan, levels = PackPlan(Workers(threads=2), *shape, device=sense_problems.running_on), LEVELS[dtype]
    image = complex_noise(shape[:2], np.random.default_rng(0)) * np.float32(3)  # some out of range
    planes = np.full((2, *plan.plane), 77, dtype)
    plan.pack(image, 1.3, planes, levels)
    np.testing.assert_array_equal(planes, quantized(planes_of(image, 1.3, plan.plane), dtype, levels))


@pytest.mark.parametrize("dtype", LEVELS)
@settings(max_examples=50, deadline=None)
@given(
    values=st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=40),
    scale=st.floats(2**-20, 2**20, width=32),
    data=st.data(),
)
def test_any_number_is_rounded_half_to_even_or_saturates(dtype, values, scale, data):
    limits = np.iinfo(dtype)
    levels = Quantization(scale, data.draw(st.integers(int(limits.min), int(limits.max))))
    image = np.array([values], np.float32).astype(np.complex64)
    plan = PackPlan(Workers(threads=1), 1, len(values), 1)
    planes = np.empty((2, 1, len(values)), dtype)
    plan.pack(image, 1.0, planes, levels)
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(planes[0], quantized(image.real, dtype, levels))


def test_halves_go_to_the_even_level():
    values = np.array([[0.5, 1.5, 2.5, -0.5, -1.5, 126.5, 127.5, -128.5]], np.complex64)
    planes = np.empty((2, 1, 8), np.int8)
    PackPlan(Workers(threads=1), 1, 8, 1, device=sense_problems.running_on).pack(
        values, 1.0, planes, Quantization(1.0, 0)
    )
    assert planes[0, 0].tolist() == [0, 2, 2, 0, -2, 126, 127, -128]


def test_what_is_not_a_number_has_a_level_all_the_same():
    planes = np.empty((2, 1, 1), np.int8)
    plan = PackPlan(Workers(threads=1), 1, 1, 1, device=sense_problems.running_on)
    plan.pack(np.full((1, 1), np.nan, np.complex64), 1.0, planes, Quantization(1.0, 0))


@pytest.mark.parametrize("dtype", [np.float32, *LEVELS])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_constant_fills_the_image_and_leaves_the_padding_zero(shape, dtype):
    plan, levels = PackPlan(Workers(threads=2), *shape, device=sense_problems.running_on), LEVELS.get(dtype)
    plane = np.full(plan.plane, 77, dtype)
    plan.fill(-0.41, plane, levels)
    expected = np.zeros(plan.plane, np.float32)
    expected[: shape[0], : shape[1]] = -0.41
    np.testing.assert_array_equal(plane, quantized(expected, dtype, levels) if levels else expected)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("dtype", [np.float32, *LEVELS])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_correction_is_added_in_units_of_the_scale(shape, dtype, threads):
    plan, levels = PackPlan(Workers(threads), *shape, device=sense_problems.running_on), LEVELS.get(dtype)
    rng = np.random.default_rng(0)
    image = complex_noise(shape[:2], rng)
    planes = (40 * rng.standard_normal((2, *plan.plane))).clip(0, 100).astype(dtype)
    inside = planes[:, : shape[0], : shape[1]].astype(np.float64)
    if levels:
        inside = (inside - levels.zero_point) * levels.scale
    expected = image + 1.7 * (inside[0] + 1j * inside[1])
    made = plan.add(image, planes, 1.7, levels)
    np.testing.assert_allclose(made, expected, rtol=3e-7, atol=3e-7 * 1.7 * np.abs(inside).max())
    np.testing.assert_array_equal(plan.add(image, planes, 1.7, levels, out=image), made)  # in place


@pytest.mark.parametrize(
    ("name", "changed", "text"),
    [
        ("image", lambda a: a[:, :3], r"image: shape \(5, 4\) expected, shape \(5, 3\) came"),
        ("image", lambda a: a.astype(np.complex128), "image: dtype complex64 expected"),
        ("image", lambda a: np.asfortranarray(a), "image: C order without gaps expected"),
        ("phase", lambda a: a[:, :3], r"phase: shape \(5, 4\) expected, shape \(5, 3\) came"),
        ("phase", lambda a: a.real.copy(), "phase: dtype complex64 expected"),
        ("planes", lambda a: a.astype(np.float64), "planes: dtype float32 expected, dtype float64 came"),
        ("planes", lambda a: a.astype(np.int8), "planes: dtype float32 expected, dtype int8 came"),
        ("planes", lambda a: a[:, :6], r"planes: shape \(2, 8, 4\) expected, shape \(2, 6, 4\) came"),
        ("planes", lambda a: np.repeat(a, 2, axis=2)[:, :, ::2], "planes: C order without gaps expected"),
        ("quantization", lambda _: Quantization(0.1, 0), "planes: dtype int8 expected, dtype float32 came"),
        ("quantization", lambda _: Quantization(0.0, 0), "quantization.scale: a positive number .* expected, 0.0 came"),
        ("quantization", lambda _: Quantization(1e-40, 0), "quantization.scale: a positive number"),
        (
            "quantization",
            lambda _: Quantization(1.0, 128),
            "zero_point: a whole number, -128 to 127 expected, 128 came",
        ),
        (
            "quantization",
            lambda _: Quantization(1.0, 1.5),
            "zero_point: a whole number, -128 to 127 expected, 1.5 came",
        ),
    ],
)
def test_an_argument_that_was_not_planned_is_named(name, changed, text):
    arguments = {
        "image": np.zeros((5, 4), np.complex64),
        "planes": np.zeros((2, 8, 4), np.float32),
        "quantization": None,
        "phase": np.ones((5, 4), np.complex64),
    }
    arguments[name] = changed(arguments[name])
    plan = PackPlan(Workers(threads=1), 5, 4, 4, device=sense_problems.running_on)
    with pytest.raises(ArgumentError, match=text):
        plan.pack(scale=1.0, **arguments)
    with pytest.raises(ArgumentError, match=text):
        plan.add(scale=1.0, **arguments)


def test_a_plan_for_nothing_is_named():
    with pytest.raises(ArgumentError, match=r"multiple: a whole number, .* expected, 0 came"):
        PackPlan(Workers(threads=1), 4, 4, 0, device=sense_problems.running_on)


@pytest.mark.parametrize("scale", [0.0, -1.0, np.nan, np.inf, 1e-40, 1e39, "1", None])
def test_a_scale_that_is_none_is_named(scale):
    plan = PackPlan(Workers(1), 4, 3, 2)
    with pytest.raises(ArgumentError, match="scale: a positive number of single precision expected"):
        plan.pack(np.zeros((4, 3), np.complex64), scale, np.zeros((2, *plan.plane), np.float32))


@pytest.mark.parametrize("value", [np.nan, np.inf, -1e39, "1", None])
def test_a_value_that_is_none_is_named(value):
    plan = PackPlan(Workers(1), 4, 3, 2)
    with pytest.raises(ArgumentError, match="value: a number, finite in single precision expected"):
        plan.fill(value, np.zeros(plan.plane, np.float32))
