"""With ``EDGE_STRICT_SKIPS=1`` a skip that `expected_skips.txt` does not list fails the run, which then names test and reason."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

LIST = Path(__file__).with_name("expected_skips.txt")


def unexpected(config: pytest.Config) -> list[str]:
    """Test and reason of every skip whose reason begins with none of the list's lines."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("EDGE_STRICT_SKIPS") != "1" or reporter is None:
        return []
    lines = (line.strip() for line in LIST.read_text(encoding="utf-8").splitlines())
    expected = tuple(line for line in lines if line and not line.startswith("#"))
    skips = (
        (report.nodeid, report.longrepr[2].removeprefix("Skipped: ")) for report in reporter.stats.get("skipped", [])
    )
    return [f"{test}: {reason}" for test, reason in skips if not reason.startswith(expected)]


def pytest_sessionfinish(session: pytest.Session) -> None:
    if session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED) and unexpected(session.config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for skip in unexpected(terminalreporter.config):
        terminalreporter.write_line(f"skip not expected by {LIST.name}: {skip}", red=True)
