"""PACS to deliver to: Orthanc and dcmtk's storescp, each in a network namespace that holds a loopback interface alone.

Both listen on all addresses whatever they are told; in such a namespace nothing but this process and its children can reach them.
`loopback_only` moves the calling thread there, and every thread and process that it starts afterwards, until it leaves.
"""

from __future__ import annotations

import contextlib
import ctypes
import email
import email.policy
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PLUGINS = Path("/usr/share/orthanc/plugins")
NOBODY = 65534
START_TIMEOUT_S = 30.0

PACS_AE, PACS_PORT, PACS_HTTP_PORT = "TESTPACS", 14242, 18042
"""Of Orthanc."""

EDGE_AE, EDGE_PORT = "EDGE1", 11113
"""The device as the PACS know it: where they call back with the outcome of a storage commitment."""

STORESCP_AE, STORESCP_PORT = "STORESCP", 14104
WORKLIST_PORT, WORKLIST_AE = 11118, "RIS"

_CLONE_NEWNET = 0x40000000


def missing_parts(*programs: str) -> str:
    """Why PACS can't be run here; empty where they can."""
    if os.geteuid() != 0:
        return "a network namespace of its own takes root"
    lacking = [name for name in programs if shutil.which(name) is None]
    if "Orthanc" in programs and not (PLUGINS / "libOrthancDicomWeb.so").exists():
        lacking.append("orthanc-dicomweb")
    return f"not installed: {', '.join(lacking)} (Debian orthanc, orthanc-dicomweb, dcmtk, nftables)" if lacking else ""


@contextlib.contextmanager
def loopback_only() -> Iterator[None]:
    """Moves this thread into a fresh network namespace with only a loopback interface, and back; needs root."""
    library = ctypes.CDLL(None, use_errno=True)
    with open("/proc/thread-self/ns/net") as before:
        if library.unshare(_CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "unshare")
        try:
            subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
            yield
        finally:
            if library.setns(before.fileno(), _CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")


@dataclass
class Pacs:
    """A PACS that runs.

    Attributes:
        folder: its own, which goes with it.
        process: may be stopped (SIGSTOP) and killed.
    """

    ae_title: str
    port: int
    folder: Path
    process: subprocess.Popen[bytes]

    def pause(self) -> None:
        """It still accepts connections, by its kernel, and never answers."""
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.process.send_signal(signal.SIGCONT)


@dataclass
class Orthanc(Pacs):
    """Attributes:
    url: of its REST interface; ``/dicom-web`` below it is DICOMweb.
    worklists: folder of its Modality Worklist, ``*.wl``.
    """

    url: str
    worklists: Path

    def get(self, path: str) -> Any:
        """The JSON at a path of its REST interface."""
        return json.loads(self.read(path))

    def read(self, path: str, accept: str = "*/*") -> bytes:
        request = urllib.request.Request(self.url + path, headers={"Accept": accept})
        with urllib.request.urlopen(request, timeout=START_TIMEOUT_S) as answer:
            return bytes(answer.read())

    def instances(self) -> set[str]:
        """SOP Instance UIDs of everything that it holds."""
        tags = self.get("/instances?expand")
        return {str(one["MainDicomTags"]["SOPInstanceUID"]) for one in tags}

    def file(self, sop_instance_uid: str) -> bytes:
        """An object as it was stored."""
        (found,) = self._post("/tools/lookup", sop_instance_uid)
        return self.read(f"/instances/{found['ID']}/file")

    def retrieved(self, path: str, accept: str) -> list[bytes]:
        """What WADO-RS answers (PS3.18 10.4), part by part.

        Args:
            path: below ``/dicom-web``.
            accept: the media type of the parts, with its parameters.
        """
        request = urllib.request.Request(
            f"{self.url}/dicom-web{path}", headers={"Accept": f"multipart/related; {accept}"}
        )
        with urllib.request.urlopen(request, timeout=START_TIMEOUT_S) as answer:
            head = f"Content-Type: {answer.headers['Content-Type']}\r\n\r\n".encode("ascii")
            message = email.message_from_bytes(head + answer.read(), policy=email.policy.HTTP)
        return [bytes(part.get_payload(decode=True)) for part in message.iter_parts()]

    def delete(self, sop_instance_uid: str) -> None:
        """Loses an object, as PACS do."""
        (found,) = self._post("/tools/lookup", sop_instance_uid)
        request = urllib.request.Request(f"{self.url}/instances/{found['ID']}", method="DELETE")
        urllib.request.urlopen(request, timeout=START_TIMEOUT_S).close()

    def _post(self, path: str, body: str) -> Any:
        request = urllib.request.Request(self.url + path, data=body.encode(), method="POST")
        with urllib.request.urlopen(request, timeout=START_TIMEOUT_S) as answer:
            return json.loads(answer.read())


@contextlib.contextmanager
def running_orthanc(options: Mapping[str, Any] | None = None, storage: Path | None = None) -> Iterator[Orthanc]:
    """Orthanc with DICOMweb, worklists and storage commitment, as a user without rights.

    Args:
        options: of its configuration, added to these or in place of them.
        storage: a folder of an Orthanc that ran before, to go on with.

    Raises:
        RuntimeError: it ended, or does not answer; says what it printed.
    """
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="orthanc-")))
        folder.chmod(0o755)
        storage = storage or folder / "storage"
        worklists = folder / "worklists"
        for made in (storage, worklists):
            made.mkdir(exist_ok=True)
            os.chown(made, NOBODY, NOBODY)
        settings: dict[str, Any] = {
            "Name": PACS_AE,
            "StorageDirectory": str(storage),
            "IndexDirectory": str(storage),
            "HttpServerEnabled": True,
            "HttpPort": PACS_HTTP_PORT,
            "HttpBindAddresses": ["127.0.0.1"],
            "RemoteAccessAllowed": True,  # in a namespace of its own
            "AuthenticationEnabled": False,
            "DicomServerEnabled": True,
            "DicomAet": PACS_AE,
            "DicomPort": PACS_PORT,
            "DicomCheckCalledAet": True,
            "DicomAlwaysAllowEcho": False,
            "DicomAlwaysAllowStore": False,
            "DicomAlwaysAllowFind": False,
            "DicomAlwaysAllowFindWorklist": False,
            "DicomCheckModalityHost": False,
            "UnknownSopClassAccepted": False,
            "DicomModalities": {
                "edge": {
                    "AET": EDGE_AE,
                    "Host": "127.0.0.1",
                    "Port": EDGE_PORT,
                    "AllowEcho": True,
                    "AllowFind": True,
                    "AllowFindWorklist": True,
                    "AllowStore": True,
                    "AllowGet": True,
                    "AllowStorageCommitment": True,
                }
            },
            "StorageCommitmentReportsSize": 1000,
            "Plugins": [str(PLUGINS / "libModalityWorklists.so"), str(PLUGINS / "libOrthancDicomWeb.so")],
            "Worklists": {"Enable": True, "Database": str(worklists), "FilterIssuerAet": False, "LimitAnswers": 0},
            "DicomWeb": {"Enable": True, "Root": "/dicom-web/", "EnableWado": True, "WadoRoot": "/wado"},
            **(options or {}),
        }
        configuration = folder / "orthanc.json"
        configuration.write_text(json.dumps(settings), encoding="utf-8")
        log = stack.enter_context(open(folder / "log", "w+b"))
        process = _start(["Orthanc", str(configuration)], folder, log)
        stack.callback(_end, process)
        scheme = "https" if settings.get("SslEnabled") else "http"
        orthanc = Orthanc(
            PACS_AE, PACS_PORT, folder, process, f"{scheme}://127.0.0.1:{settings['HttpPort']}", worklists
        )
        _await_ports(process, (settings["HttpPort"], PACS_PORT), folder / "log")
        if scheme == "http":
            _await_answer(orthanc)
        yield orthanc


@contextlib.contextmanager
def running_storescp(*arguments: str, port: int = STORESCP_PORT) -> Iterator[Pacs]:
    """dcmtk's storescp; what it receives lies in its folder.

    Raises:
        RuntimeError: it ended, or does not listen; says what it printed.
    """
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="storescp-")))
        os.chown(folder, NOBODY, NOBODY)
        log = stack.enter_context(tempfile.NamedTemporaryFile("w+b", prefix="storescp-", suffix=".log"))
        command = ["storescp", "--aetitle", STORESCP_AE, "--output-directory", str(folder), *arguments, str(port)]
        process = _start(command, folder, log)
        stack.callback(_end, process)
        _await_ports(process, (port,), Path(log.name))
        yield Pacs(STORESCP_AE, port, folder, process)


@contextlib.contextmanager
def running_wlmscpfs(port: int = WORKLIST_PORT) -> Iterator[Pacs]:
    """dcmtk's worklist; it answers with the files ``*.wl`` of its folder, which whoever runs it readable for all puts there.

    Raises:
        RuntimeError: it ended, or does not listen; says what it printed.
    """
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="wlmscpfs-")))
        orders = folder / WORKLIST_AE
        orders.mkdir()
        (orders / "lockfile").touch()
        for path in (folder, orders, orders / "lockfile"):
            os.chown(path, NOBODY, NOBODY)
        log = stack.enter_context(tempfile.NamedTemporaryFile("w+b", prefix="wlmscpfs-", suffix=".log"))
        process = _start(["wlmscpfs", "--data-files-path", str(folder), str(port)], folder, log)
        stack.callback(_end, process)
        _await_ports(process, (port,), Path(log.name))
        yield Pacs(WORKLIST_AE, port, orders, process)


def _start(command: list[str], folder: Path, log: Any) -> subprocess.Popen[bytes]:
    # dcmtk, which Orthanc receives with, waits for full segments unless this is set: 40 ms an object.
    tuned = {**os.environ, "TCP_NODELAY": "1"}
    return subprocess.Popen(
        command, cwd=folder, stdout=log, stderr=subprocess.STDOUT, user=NOBODY, group=NOBODY, extra_groups=[], env=tuned
    )


def _end(process: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGCONT, signal.SIGTERM):
        process.send_signal(number)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _await_ports(process: subprocess.Popen[bytes], ports: tuple[int, ...], log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    waiting = list(ports)
    while waiting:
        if process.poll() is not None or time.monotonic() > deadline:
            said = log.read_text(encoding="utf-8", errors="replace")[-2000:]
            raise RuntimeError(f"{process.args!r} does not listen on {waiting[0]}: {said}")
        try:
            socket.create_connection(("127.0.0.1", waiting[0]), 1).close()
            waiting.pop(0)
        except OSError:
            time.sleep(0.02)


def _await_answer(orthanc: Orthanc) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            orthanc.get("/system")
            return
        except (OSError, urllib.error.URLError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
