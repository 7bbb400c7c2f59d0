"""The unit that systemd is given: sound by systemd's own word, and speaking of options that there are."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from edge_runtime.cli import _parser
from edge_runtime.cli.serve import DRAIN_S
from edge_runtime.cli.swap import DEFAULT_CONTROL
from edge_runtime.service.life import EXTRA_S

UNIT = Path(__file__).parents[2] / "packaging" / "systemd" / "edge-runtime.service"
PROGRAM = "/opt/edge-runtime/bin/edge-runtime"

MOST_EXPOSURE = 25
"""Tenths, by `systemd-analyze security`: what is OK ends at 50, and most services of a system have more than 90."""


def settings() -> dict[str, str]:
    lines = UNIT.read_text().replace("\\\n", " ").splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))


def test_its_command_is_one_that_the_program_knows():
    program, *arguments = shlex.split(settings()["ExecStart"])
    assert program == PROGRAM
    options = _parser().parse_args([one for one in arguments if not one.startswith("$")])
    assert options.control == DEFAULT_CONTROL
    assert options.log == "json"
    assert options.metrics == ("127.0.0.1", 9402)
    for path in (options.out, options.audit):
        assert path.is_relative_to("/var/lib/edge-runtime")  # of StateDirectory


def test_it_waits_as_long_as_the_server_drains():
    assert float(settings()["TimeoutStopSec"]) > DRAIN_S + EXTRA_S
    assert (settings()["Type"], settings()["KillMode"]) == ("notify", "mixed")


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The unit with a program that this machine has."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    path = tmp_path / UNIT.name
    path.write_text(UNIT.read_text().replace(PROGRAM, "/bin/true"))
    return path


def test_systemd_takes_it_without_a_word(installed):
    done = subprocess.run(["systemd-analyze", "verify", str(installed)], capture_output=True, text=True)
    said = [line for line in (done.stdout + done.stderr).splitlines() if UNIT.name in line]
    assert (done.returncode, said) == (0, [])


def test_it_is_as_closed_as_a_service_of_its_kind_can_be(installed):
    command = [
        "systemd-analyze",
        "security",
        "--offline=true",
        f"--threshold={MOST_EXPOSURE}",
        "--no-pager",
        str(installed),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-300:] + done.stderr
