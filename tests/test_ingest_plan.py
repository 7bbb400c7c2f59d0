"""The ingest plan beside NumPy, on every instruction set at hand and the GPU."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import sense_problems
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated import complex_noise

from edge_runtime import kernels
from edge_runtime.errors import ArgumentError
from edge_runtime.kernels import Workers
from edge_runtime.modalities.mri.fourier import centre_slice

pytestmark = pytest.mark.usefixtures("kernels_on")


def ingest_plan(workers, coils, samples, columns):
    return kernels.IngestPlan(workers, coils, samples, columns, device=sense_problems.running_on)


TOLERANCE = 3e-6
"""Of the largest element: single precision after a transform of a few thousand points."""


def ingested(samples, length, columns, first_sample=0, whitening=None):
    """In double precision: ``(readouts, coils, columns)``."""
    samples = samples.astype(np.complex128)
    if whitening is not None:
        samples = np.einsum("ij,rjx->rix", whitening, samples)
    padded = np.zeros((*samples.shape[:2], length), np.complex128)
    padded[:, :, first_sample : first_sample + samples.shape[2]] = samples
    image = np.fft.fftshift(np.fft.ifft(np.fft.ifftshift(padded, axes=2), norm="ortho"), axes=2)
    return image[:, :, centre_slice(length, columns)]


def assert_close(ours, theirs):
    assert np.abs(ours - theirs).max() <= TOLERANCE * max(np.abs(theirs).max(), 1e-30)


@pytest.mark.parametrize("whitened", [False, True])
@pytest.mark.parametrize(
    ("length", "columns", "coils", "count", "first", "readouts"),
    [
        (256, 256, 8, 256, 0, 20),
        (512, 256, 8, 512, 0, 17),
        (256, 128, 2, 200, 56, 9),  # an asymmetric echo
        (320, 160, 5, 300, 10, 8),
        (15, 7, 3, 15, 0, 5),
        (210, 105, 32, 100, 30, 3),
        (121, 100, 2, 121, 0, 4),
        (2310, 200, 2, 2310, 0, 2),  # 2 3 5 7 11
        (509, 300, 3, 509, 0, 3),  # a prime
        (1, 1, 1, 1, 0, 3),
        (8, 8, 1, 8, 0, 1),
    ],
)
def test_ingest_is_the_transform_of_whitened_padded_readouts(length, columns, coils, count, first, readouts, whitened):
    rng = np.random.default_rng(length)
    samples = complex_noise((readouts, coils, count), rng)
    whitening = np.tril(complex_noise((coils, coils), rng)) if whitened else None
    lines = rng.permutation(readouts + 3)[:readouts]
    out = complex_noise((readouts + 3, coils, columns), rng)
    untouched = out.copy()
    ingest_plan(Workers(threads=2), coils, length, columns).execute(
        samples, lines, out, first_sample=first, whitening=whitening
    )
    assert_close(out[lines], ingested(samples, length, columns, first, whitening))
    others = np.setdiff1d(np.arange(readouts + 3), lines)
    np.testing.assert_array_equal(out[others], untouched[others])


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 400), st.data())
def test_ingest_of_any_length(length, data):
    columns = data.draw(st.integers(1, length))
    count = data.draw(st.integers(1, length))
    first = data.draw(st.integers(0, length - count))
    coils, readouts = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 10))
    samples = complex_noise((readouts, coils, count), np.random.default_rng(length))
    out = np.zeros((readouts, coils, columns), np.complex64)
    ingest_plan(Workers(threads=1), coils, length, columns).execute(
        samples, np.arange(readouts), out, first_sample=first
    )
    # A single column that is kept may be next to nothing: rounding is that of the whole readout.
    whole = np.abs(ingested(samples, length, length, first)).max()
    assert np.abs(out - ingested(samples, length, columns, first)).max() <= TOLERANCE * whole


def test_ingest_adds_in_the_order_of_the_readouts():
    samples = complex_noise((40, 3, 32), np.random.default_rng(0))
    lines = np.arange(40) % 7
    out = np.zeros((7, 3, 16), np.complex64)
    ingest_plan(Workers(threads=2), 3, 32, 16).execute(samples, lines, out, add=True)
    expected = np.zeros((7, 3, 16), complex)
    np.add.at(expected, lines, ingested(samples, 32, 16))
    assert_close(out, expected)


def test_ingest_gives_the_same_bits_with_any_number_of_threads():
    samples = complex_noise((100, 4, 96), np.random.default_rng(0))
    results = []
    for threads in (1, 2, 5):
        out = np.zeros((100, 4, 64), np.complex64)
        ingest_plan(Workers(threads), 4, 96, 64).execute(samples, np.arange(100), out)
        results.append(out)
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])


@pytest.mark.parametrize("in_place", [False, True])
def test_sums_become_means_and_lines_that_did_not_come_zeros(in_place):
    plan, rng = ingest_plan(Workers(threads=2), 3, 16, 10), np.random.default_rng(0)
    sums, counts = complex_noise((7, 3, 10), rng), np.array([1, 0, 2, 3, 1, 0, 5], np.int32)
    expected = sums / np.maximum(counts, 1)[:, None, None] * (counts > 0)[:, None, None]
    sums[counts == 0] = np.nan
    made = plan.mean(sums, counts, sums if in_place else None)
    assert (made is sums) == in_place
    assert_close(made, expected)
    with pytest.raises(ArgumentError, match=r"counts: shape \(7,\) expected, shape \(6,\) came"):
        plan.mean(sums, counts[:6])


def test_readouts_may_lie_at_any_address():
    samples = complex_noise((5, 2, 24), np.random.default_rng(0))
    size = 2 * 24 * 8 + 342
    wire = np.zeros(5 * size + 1, np.uint8)
    for index, readout in enumerate(samples):
        wire[1 + index * size : 1 + index * size + readout.nbytes] = np.frombuffer(readout.tobytes(), np.uint8)
    strided = np.ndarray(samples.shape, np.complex64, wire, 1, (size, 24 * 8, 8))
    assert not strided.flags.aligned
    out = np.zeros((5, 2, 24), np.complex64)
    ingest_plan(Workers(threads=1), 2, 24, 24).execute(strided, np.arange(5), out)
    assert_close(out, ingested(samples, 24, 24))


def test_one_plan_in_several_threads():
    samples = complex_noise((64, 4, 128), np.random.default_rng(0))
    plan, expected = ingest_plan(Workers(threads=2), 4, 128, 64), ingested(samples, 128, 64)
    outs = [np.zeros((64, 4, 64), np.complex64) for _ in range(6)]
    threads = [threading.Thread(target=plan.execute, args=(samples, np.arange(64), out)) for out in outs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for out in outs:
        assert_close(out, expected)


def test_arrays_of_other_libraries_come_through_dlpack():
    class Foreign:
        def __init__(self, array):
            self._array = array

        def __dlpack__(self, **options):
            return self._array.__dlpack__(**options)

        def __dlpack_device__(self):
            return self._array.__dlpack_device__()

    samples = complex_noise((3, 2, 16), np.random.default_rng(0))
    out = np.zeros((3, 2, 16), np.complex64)
    ingest_plan(Workers(threads=1), 2, 16, 16).execute(Foreign(samples), np.arange(3), out)
    assert_close(out, ingested(samples, 16, 16))


@pytest.mark.parametrize(
    ("name", "changed", "text"),
    [
        ("samples", lambda a: a.astype(np.complex128), "samples: dtype complex64 expected, dtype complex128 came"),
        ("samples", lambda a: a[:, :1], r"samples: shape \(any, 2, any\) expected, shape \(4, 1, 16\) came"),
        ("samples", lambda a: a[:, :, ::2], "samples: samples of a readout that lie side by side expected"),
        ("samples", lambda a: np.concatenate([a, a], axis=2), "first_sample: samples within the 16 planned expected"),
        ("samples", lambda a: [1, 2], "samples: a NumPy array, or DLPack in CPU memory"),
        ("lines", lambda a: a.astype(np.int32), "lines: dtype int64 expected, dtype int32 came"),
        ("lines", lambda a: a[:2], r"lines: shape \(4,\) expected, shape \(2,\) came"),
        ("lines", lambda a: a + 1, "lines: 0 to 3 expected, 1 to 4 came"),
        ("lines", lambda a: a - 1, "lines: 0 to 3 expected, -1 to 2 came"),
        ("lines", lambda a: a // 2, "lines: each line once, or add=True expected, one line more than once came"),
        ("out", lambda a: a[:, :, :4], r"out: shape \(any, 2, 8\) expected"),
        ("out", lambda a: np.asfortranarray(a), "out: C order without gaps expected"),
        ("out", lambda a: np.frombuffer(a.tobytes(), np.complex64).reshape(a.shape), "out: one that can be written"),
        ("whitening", lambda a: a[:1], r"whitening: shape \(2, 2\) expected, shape \(1, 2\) came"),
        ("first_sample", lambda a: -1, "first_sample: a whole number, .* expected, -1 came"),
        ("first_sample", lambda a: 0.5, "first_sample: a whole number, .* expected, 0.5 came"),
    ],
)
def test_an_argument_that_was_not_planned_is_named(name, changed, text):
    arguments = {
        "samples": complex_noise((4, 2, 16), np.random.default_rng(0)),
        "lines": np.arange(4),
        "out": np.zeros((4, 2, 8), np.complex64),
        "whitening": np.eye(2, dtype=np.complex64),
        "first_sample": 0,
    }
    arguments[name] = changed(arguments[name])
    with pytest.raises(ArgumentError, match=text):
        ingest_plan(Workers(threads=1), 2, 16, 8).execute(**arguments)


@pytest.mark.parametrize(
    ("geometry", "name"),
    [
        ((0, 16, 8), "coils"),
        ((2, 7, 8), "samples"),
        ((2, 16, 0), "columns"),
        ((2.0, 16, 8), "coils"),
        ((2, 2**40, 8), "samples"),
        ((2, 16, "8"), "columns"),
    ],
)
def test_an_impossible_geometry_is_named(geometry, name):
    with pytest.raises(ArgumentError, match=f"{name}: a whole number, .* expected"):
        ingest_plan(Workers(threads=1), *geometry)
