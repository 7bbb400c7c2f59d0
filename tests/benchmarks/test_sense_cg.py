"""The contestants of the SENSE solve solve one problem."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch", reason="the extra 'export' is not installed")
pytest.importorskip("bartorch", reason="the extra 'bench' is not installed")

from benchmarks import sense_cg

pytestmark = pytest.mark.full

SIZE = 64


@pytest.mark.parametrize("threads", [1, 2])
def test_every_form_of_every_peer_converges_to_our_image(threads: int) -> None:
    problem = sense_cg.problem_of(SIZE)
    solves, absent = sense_cg.contestants(problem, steps=60, threads=threads)
    assert "bartorch" in solves
    assert set(solves) | {text.split()[0] for text in absent} == {"ours", *sense_cg.PEERS}
    ours = solves["ours"]["ours"]().copy()
    for by_form in solves.values():
        for form, solve in by_form.items():
            assert np.linalg.norm(solve() - ours) < 1e-3 * np.linalg.norm(ours), form


def test_the_measured_samples_are_those_of_the_truth() -> None:
    problem = sense_cg.problem_of(SIZE)
    assert problem.samples.shape == problem.maps.shape == (sense_cg.COILS, SIZE, SIZE)
    assert not problem.samples[:, ~problem.measured].any()
    assert problem.samples[:, problem.measured].all()
    image = sense_cg.our_solve(problem, steps=sense_cg.STEPS, threads=1)()
    assert problem.nrmse(image) < 0.5 < problem.nrmse(np.zeros_like(image))


def test_a_peer_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sense_cg, "PEERS", {"nobody": "benchmarks.peers.nobody"})
    record = sense_cg._record(sense_cg.problem_of(SIZE), threads=1, runs=1)
    assert (record.peer, record.peer_value, record.target) == ("nobody", None, None)
    assert "nobody is not installed" in record.note


def test_another_problem_is_no_contest() -> None:
    sense_cg._agree({"ours": 0.100, "a peer": 0.1005})
    with pytest.raises(RuntimeError, match=r"a peer solves another problem: NRMSE 0\.1200"):
        sense_cg._agree({"ours": 0.100, "a peer": 0.120})
