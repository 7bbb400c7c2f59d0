"""``make test`` writes down what it had to skip; ``make test-full``, with more packages, runs that and what is marked ``full``.

So nothing runs twice, and a test that finds its package only in the second environment is not lost between the two.
"""

from __future__ import annotations

from pathlib import Path

import pytest

_skipped: set[str] = set()


def pytest_addoption(parser: pytest.Parser) -> None:
    # Given as --option=FILE: before it knows them, pytest takes a file behind an option for one with tests.
    parser.addoption("--skipped-to", metavar="FILE", help="write down the tests and modules that were skipped")
    parser.addoption("--left-over", metavar="FILE", help="only what is marked full, and what FILE says was skipped")


@pytest.hookimpl(specname="pytest_runtest_logreport")
def pytest_note_test(report: pytest.TestReport) -> None:
    if report.skipped:
        _skipped.add(report.nodeid)


@pytest.hookimpl(specname="pytest_collectreport")
def pytest_note_module(report: pytest.CollectReport) -> None:
    if report.skipped:
        _skipped.add(report.nodeid)


@pytest.hookimpl(specname="pytest_collection_modifyitems")
def pytest_select_left_over(config: pytest.Config, items: list[pytest.Item]) -> None:
    if (path := config.getoption("--left-over")) is None:
        return
    skipped = set(Path(path).read_text(encoding="utf-8").splitlines())

    def is_left(item: pytest.Item) -> bool:
        names = {item.nodeid, item.nodeid.partition("::")[0]}
        return item.get_closest_marker("full") is not None or not names.isdisjoint(skipped)

    config.hook.pytest_deselected(items=[item for item in items if not is_left(item)])
    items[:] = [item for item in items if is_left(item)]


@pytest.hookimpl(specname="pytest_sessionfinish")
def pytest_write_skipped(session: pytest.Session) -> None:
    if (path := session.config.getoption("--skipped-to")) is not None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text("".join(f"{name}\n" for name in sorted(_skipped)), encoding="utf-8")
