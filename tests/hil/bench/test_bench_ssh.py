"""A server that the bench starts on "another machine": by a real ``sshd`` on loopback, with keys of its own."""

from __future__ import annotations

import getpass
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from conftest import PATIENCE_S, PROFILE, USUAL_LIMITS
from simulated import readouts_of, scan_bytes, usual_kspace

from edge_runtime.cli import main
from edge_runtime.hil.bench.sensors import listening_process

SSHD = Path("/usr/sbin/sshd")
pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(not SSHD.exists(), reason="/usr/sbin/sshd (Debian openssh-server) is not installed"),
]

PROGRAM = str(Path(sys.executable).with_name("edge-runtime"))
LINES = 32

CONFIG = """
ListenAddress 127.0.0.1:{port}
HostKey {folder}/host
AuthorizedKeysFile {folder}/client.pub
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
PrintMotd no
PrintLastLog no
"""

PROTOCOL = """
name = "by ssh"
version = 1
[[scan]]
name = "T1"
file = "scan.mrd"
repetition_time_ms = 2
config = "edge-classical"
image = "classical"
deadline_ms = 60000
pause_s = 0
"""


@dataclass(frozen=True)
class Daemon:
    """Attributes:
    target: for ``--target``.
    folder: with keys, ``known_hosts`` and a protocol.
    """

    target: str
    port: int
    folder: Path

    def bench(self, *options: str, known_hosts: str = "known_hosts", own_profile: bool = True) -> int:
        profile = ["--profile", str(self.folder / "profile.toml")] if own_profile else []
        ssh = ["-Fnone", f"-i{self.folder}/client", "-oIdentitiesOnly=yes", "-oStrictHostKeyChecking=yes"]
        ssh += [f"-oUserKnownHostsFile={self.folder}/{known_hosts}", "-oGlobalKnownHostsFile=/dev/null"]
        command = ["bench", "run", "--quiet", "--protocol", str(self.folder / "ssh.toml"), "--target", self.target]
        command += ["--warm-up", "0", "--repeat", "2", "--classical-only", "--previews", "none"]
        command += [
            *profile,
            "--out",
            str(self.folder),
            "--remote-program",
            PROGRAM,
        ]
        return main([*command, *(f"--ssh-option={one}" for one in ssh), *options])

    def report(self) -> Any:
        return json.loads((self.folder / "bench.json").read_text())

    def servers(self) -> list[int]:
        """Processes that serve with this folder's profile."""
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = path.read_bytes().split(b"\0")
            except OSError:  # it has ended meanwhile
                continue
            if b"serve" in words and str(self.folder / "profile.toml").encode() in words:
                found.append(int(path.parent.name))
        return found


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    for name in ("host", "client", "stranger"):
        make = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / name)]
        subprocess.run(make, check=True, timeout=PATIENCE_S)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    for name in ("host", "stranger"):
        kind, key, *_ = (tmp_path / f"{name}.pub").read_text().split()
        where = "known_hosts" if name == "host" else "other_hosts"
        (tmp_path / where).write_text(f"[127.0.0.1]:{port} {kind} {key}\n")
    (tmp_path / "no_hosts").touch()
    (tmp_path / "sshd").write_text(CONFIG.format(port=port, folder=tmp_path))
    (tmp_path / "ssh.toml").write_text(PROTOCOL)
    (tmp_path / "scan.mrd").write_bytes(scan_bytes(readouts_of(usual_kspace())))
    (tmp_path / "profile.toml").write_text(PROFILE.format(**USUAL_LIMITS))
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # as Debian's service does before it starts it
    with (
        (tmp_path / "log").open("wb") as log,
        subprocess.Popen([SSHD, "-D", "-e", "-f", tmp_path / "sshd"], stdin=subprocess.DEVNULL, stderr=log) as sshd,
    ):
        try:
            due = time.monotonic() + PATIENCE_S
            while listening_process(port) is None:
                assert sshd.poll() is None and time.monotonic() < due, (tmp_path / "log").read_text()
                time.sleep(0.05)
            yield Daemon(f"ssh://{getpass.getuser()}@127.0.0.1:{port}", port, tmp_path)
        finally:
            sshd.terminate()


def gone(daemon: Daemon) -> bool:
    due = time.monotonic() + PATIENCE_S
    while daemon.servers() and time.monotonic() < due:
        time.sleep(0.1)
    return not daemon.servers()


@pytest.mark.parametrize("direct", [False, True], ids=["through the tunnel", "direct"])
def test_the_runtime_is_started_measured_and_stopped_over_there(direct: bool, daemon: Daemon) -> None:
    assert daemon.bench(*(["--direct", "127.0.0.1"] if direct else [])) == 0
    report = daemon.report()
    measures = report["measures"]
    assert (measures["completed"], measures["images_lost"]) == (2, 0)
    assert measures["quality"]["identical"] == measures["quality"]["compared"] > 0
    # Its metrics come through the tunnel, its sensors by a command over there.
    assert report["readouts_taken"] == measures["readouts"] == 2 * LINES
    assert {"ingest", "classical", "send"} <= {stage["name"] for stage in report["stages"]}
    assert report["readings"] and report["readings"][-1]["resident_mb"] > 1
    assert report["provenance"]["server_machine"]["cores"] >= 1
    assert report["provenance"]["target"] == daemon.target
    assert report["provenance"]["server"]["edge-runtime"] != "not installed"
    assert bool(report["provenance"]["target_notes"]) == (not direct)
    assert gone(daemon), "the server over there is still at work"


@pytest.mark.parametrize("known_hosts", ["other_hosts", "no_hosts"])
def test_a_host_that_is_not_the_known_one_is_not_talked_to(
    known_hosts: str, daemon: Daemon, capsys: pytest.CaptureFixture[str]
) -> None:
    assert daemon.bench(known_hosts=known_hosts) == 1
    assert "Host key verification failed" in capsys.readouterr().err
    assert not daemon.servers()


def test_what_goes_wrong_over_there_is_told(daemon: Daemon, capsys: pytest.CaptureFixture[str]) -> None:
    assert daemon.bench("--remote-program", "/no/such/edge-runtime") == 1
    assert "ended before it listened" in (said := capsys.readouterr().err) and "No such file" in said
    assert daemon.bench("--profile", "/no/such/profile.toml") == 1


@pytest.mark.parametrize("option", ["--remote-program", "--direct"])
def test_words_for_the_shell_over_there_stay_words(option: str, daemon: Daemon) -> None:
    mark = daemon.folder / "mark"
    daemon.bench(option, f"$(touch {mark});touch {mark}")
    assert not mark.exists()


def test_the_budget_is_that_of_the_profile_which_the_server_over_there_tells(daemon: Daemon) -> None:
    daemon.bench(own_profile=False)
    report = daemon.report()
    assert report["provenance"]["profile"] == "x86-cpu"
    assert "server's memory" in {line["name"] for line in report["verdict"]["lines"]}
