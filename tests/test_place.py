"""`IngestPlan.place` against rules that are followed one readout at a time, and `survey`."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated import complex_noise
from test_ingest_plan import TOLERANCE, assert_close, ingest_plan, ingested

from edge_runtime.errors import ArgumentError
from edge_runtime.kernels import PLACEMENT, LineBook, Stop, Workers, survey
from edge_runtime.links.mrd_messages import ACQUISITION_HEADER
from edge_runtime.scan import READOUT_DTYPE, SLICE_COUNTERS, ReadoutFlag

pytestmark = pytest.mark.usefixtures("kernels_on")

LINES, FIRST, AVERAGES = 6, 10, 2
END = ReadoutFlag.LAST_IN_SLICE | ReadoutFlag.LAST_IN_REPETITION
FINAL = ReadoutFlag.LAST_IN_MEASUREMENT
TOLERANCES = dict.fromkeys(PLACEMENT, 0.1)


def book_of(placement=None, lines=LINES):
    if placement is None:
        placement = np.zeros((), READOUT_DTYPE)
    return LineBook(
        lines, FIRST, final_flags=FINAL, end_flags=END, averages=AVERAGES, placement=placement, tolerances=TOLERANCES
    )


def headers_of(*phase_encodes, dtype=READOUT_DTYPE, **fields):
    header = np.zeros(len(phase_encodes), dtype)
    header["phase_encode"] = phase_encodes
    for name, values in fields.items():
        header[name] = values
    return header


class BySteps:
    """The rules, one readout at a time, on one slice."""

    def __init__(self, lines, coils, columns):
        self.out = np.zeros((lines, coils, columns), complex)
        self.counts = np.zeros(lines, np.int32)
        self.seen: set[tuple[int, int]] = set()

    def place(self, header, samples, begin, transform):
        model, count = header[begin], 0
        for readout, data in zip(header[begin:], samples[begin:], strict=True):
            names = (*SLICE_COUNTERS, "centre_sample", "discard_pre", "discard_post")
            if any(readout[name] != model[name] for name in names):
                return count, Stop.OTHER
            if readout["partition"]:
                return count, Stop.PARTITION
            line, average = int(readout["phase_encode"]) - FIRST, int(readout["average"])
            if not 0 <= line < len(self.counts):
                return count, Stop.PHASE_ENCODE
            if (average, line) in self.seen:
                # said of the first bad one, and samples that are not finite come first
                return count, Stop.MEASURED
            if not np.isfinite(data).all():
                return count, Stop.NOT_FINITE
            self.seen.add((average, line))
            self.out[line] += transform(data[None])[0]
            self.counts[line] += 1
            count += 1
            if average + 1 >= AVERAGES and int(readout["flags"]) & END:
                return count, Stop.SLICE_ENDS
        return count, Stop.END


readouts = st.fixed_dictionaries(
    {
        "phase_encode": st.sampled_from([*range(FIRST, FIRST + LINES)] * 3 + [FIRST - 1, FIRST + LINES]),
        "average": st.sampled_from([0, 0, 0, 1, 2]),
        "partition": st.sampled_from([0] * 30 + [1]),
        "repetition": st.sampled_from([0] * 20 + [1]),
        "discard_pre": st.sampled_from([0] * 20 + [1]),
        "flags": st.sampled_from([0, 0, 0, 0, 1, int(ReadoutFlag.LAST_IN_SLICE)]),
        "position": st.sampled_from([(0, 0, 0)] * 10 + [(0, 0, 1)]),
        "bad": st.sampled_from([None] * 15 + [np.nan, np.inf, complex(0, -np.inf)]),
    }
)


@settings(max_examples=150, deadline=None)
@given(
    drawn=st.lists(readouts, min_size=1, max_size=24),
    geometry=st.sampled_from([(3, 8, 4), (8, 16, 16), (2, 15, 7), (11, 12, 8), (1, 20, 10)]),
    dtype=st.sampled_from([READOUT_DTYPE, ACQUISITION_HEADER]),
    threads=st.sampled_from([1, 3]),
    whitened=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_readouts_are_placed_by_the_rules(drawn, geometry, dtype, threads, whitened, seed):
    coils, length, columns = geometry
    rng = np.random.default_rng(seed)
    samples = complex_noise((len(drawn), coils, length - 1), rng)
    for index, readout in enumerate(drawn):
        if readout["bad"] is not None:
            samples[index, rng.integers(coils), rng.integers(length - 1)] = readout["bad"]
    names = [name for name in drawn[0] if name not in ("bad", "phase_encode")]
    fields = {name: [readout[name] for readout in drawn] for name in names}
    header = headers_of(*(readout["phase_encode"] for readout in drawn), dtype=dtype, **fields)
    whitening = (
        np.tril(complex_noise((coils, coils), rng)) + np.eye(coils, dtype=np.complex64) * 4 if whitened else None
    )
    plan, book, rules = ingest_plan(Workers(threads), coils, length, columns), book_of(), BySteps(LINES, coils, columns)
    out = np.full((LINES, coils, columns), np.nan, np.complex64)  # whatever is there is replaced
    begin = 0
    while begin < len(header):
        start = int(header[begin]["discard_pre"])

        def transform(data, start=start):
            return ingested(data[:, :, start:], length, columns, 1, whitening)

        placed = plan.place(
            header, samples, book, out, begin=begin, used=(start, length - 1), first_sample=1, whitening=whitening
        )
        assert (placed.count, placed.stop) == rules.place(header, samples, begin, transform)
        np.testing.assert_array_equal(book.counts, rules.counts)
        taken = header[begin : begin + placed.count]
        assert placed.moved == int(bool(taken["position"].any()))
        if placed.count:
            averages = taken["average"]
            assert (placed.lowest_average, placed.highest_average) == (averages.min(), averages.max())
        if placed.stop not in (Stop.OTHER, Stop.SLICE_ENDS, Stop.END):
            break
        begin += placed.count
    measured = book.counts > 0
    worst = np.abs(out[measured] - rules.out[measured]).max(initial=0)
    assert worst <= 4 * TOLERANCE * max(1, np.abs(rules.out).max()) * length


@pytest.mark.parametrize("length", [256, 512, 320, 64, 6, 14, 22, 12])
@pytest.mark.parametrize("share", [1, 2])
def test_columns_are_those_of_the_transform_whatever_its_last_pass(length, share):
    columns = length // share
    samples = complex_noise((5, 3, length), np.random.default_rng(length))
    lines = np.array([3, 0, 4, 1, 2])
    out = np.zeros((5, 3, columns), np.complex64)
    ingest_plan(Workers(threads=1), 3, length, columns).place(
        headers_of(*(FIRST + lines)), samples, book_of(lines=5), out
    )
    assert_close(out[lines], ingested(samples, length, columns))


def test_an_average_that_is_not_finite_leaves_the_sum_as_it_was():
    samples = complex_noise((4, 9, 16), np.random.default_rng(0))  # nine coils: a readout is transformed in two pieces
    samples[3, 8, 15] = np.inf
    header = headers_of(*[FIRST, FIRST + 1] * 2, average=[0, 0, 1, 1])
    out, book = np.zeros((LINES, 9, 16), np.complex64), book_of()
    placed = ingest_plan(Workers(threads=1), 9, 16, 16).place(header, samples, book, out)
    assert (placed.count, placed.stop) == (3, Stop.NOT_FINITE)
    assert book.counts.tolist() == [2, 1, 0, 0, 0, 0]
    assert_close(out[0], ingested(samples[[0, 2]], 16, 16).sum(axis=0))
    assert_close(out[1], ingested(samples[1:2], 16, 16)[0])


def test_a_discarded_sample_is_looked_at_too():
    samples = complex_noise((3, 2, 16), np.random.default_rng(0))
    samples[1, 1, 0] = np.nan
    header = headers_of(FIRST, FIRST + 1, FIRST + 2)
    out = np.zeros((LINES, 2, 16), np.complex64)
    placed = ingest_plan(Workers(threads=1), 2, 16, 16).place(header, samples, book_of(), out, used=(2, 16))
    assert (placed.count, placed.stop) == (1, Stop.NOT_FINITE)


def test_samples_so_large_that_their_sum_is_infinite_are_finite():
    samples = np.full((3, 2, 16), np.finfo(np.float32).max, np.complex64)
    out = np.zeros((LINES, 2, 16), np.complex64)
    header = headers_of(FIRST, FIRST + 1, FIRST + 2)
    assert ingest_plan(Workers(threads=1), 2, 16, 16).place(header, samples, book_of(), out).count == 3


def test_headers_and_samples_may_lie_on_the_wire():
    size = ACQUISITION_HEADER.itemsize + 2 + 2 * 16 * 8
    wire = np.zeros(3 * size + 1, np.uint8)
    header = np.ndarray((3,), ACQUISITION_HEADER, wire, 1, (size,))
    samples = np.ndarray((3, 2, 16), np.complex64, wire, 1 + size - 2 * 16 * 8, (size, 16 * 8, 8))
    header["phase_encode"] = FIRST + np.arange(3)
    samples[:] = complex_noise((3, 2, 16), np.random.default_rng(0))
    assert not samples.flags.aligned
    out = np.zeros((LINES, 2, 16), np.complex64)
    assert ingest_plan(Workers(threads=1), 2, 16, 16).place(header, samples, book_of(), out).count == 3
    assert_close(out[:3], ingested(samples, 16, 16))
    assert survey(header).one_slice


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("header", np.zeros(4, np.dtype([("flags", "<u8")])), "header: a field"),
        ("header", np.zeros(3, READOUT_DTYPE), "samples: "),
        ("samples", np.zeros((4, 3, 16), np.complex64), "samples: "),
        ("samples", np.zeros((4, 2, 32), np.complex64)[:, :, ::2], "samples: "),
        ("out", np.zeros((LINES + 1, 2, 16), np.complex64), "out: "),
        ("out", np.zeros((LINES, 2, 15), np.complex64), "out: "),
        ("begin", 4, "begin: "),
        ("begin", -1, "begin: "),
        ("used", (3, 3), "used: "),
        ("used", (0, 17), "used: "),
        ("first_sample", 1, "first_sample: "),
        ("first_sample", 0.5, "first_sample: "),
        ("out", None, "out: "),
        ("whitening", np.eye(3, dtype=np.complex64), "whitening: "),
    ],
)
def test_an_argument_that_does_not_fit_is_named(name, value, text):
    arguments = {
        "header": headers_of(*[FIRST] * 4),
        "samples": np.zeros((4, 2, 16), np.complex64),
        "book": book_of(),
        "out": np.zeros((LINES, 2, 16), np.complex64),
    }
    with pytest.raises(ArgumentError, match=text):
        ingest_plan(Workers(threads=1), 2, 16, 16).place(**arguments | {name: value})


def test_counts_are_read_only_and_live_as_long_as_somebody_looks_at_them():
    counts = book_of().counts
    assert counts.tolist() == [0] * LINES and not counts.flags.writeable


@pytest.mark.parametrize("dtype", [READOUT_DTYPE, ACQUISITION_HEADER])
def test_a_survey_tells_what_any_readout_says(dtype):
    header = headers_of(1, 2, 3, dtype=dtype, flags=[1, 8, 1 << 63])
    found = survey(header)
    assert (found.flags, found.one_space, found.one_slice) == (9 | 1 << 63, True, True)
    header["encoding_space"][2] = 1
    assert not survey(header).one_space
    for counter in SLICE_COUNTERS:
        other = headers_of(1, 2, 3, dtype=dtype)
        other[counter][1] = 5
        assert not survey(other).one_slice
    assert survey(header[:0]).one_slice
