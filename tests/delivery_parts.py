"""What deliveries are tried against beside whole PACS: certificates, receivers that misbehave, links that break."""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import random
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from pydicom.dataset import Dataset
from pydicom.uid import MRImageStorage
from pynetdicom import AE, evt
from pynetdicom.sop_class import StorageCommitmentPushModel, Verification  # type: ignore[attr-defined]

from edge_runtime.delivery.configuration import DeliverySettings
from edge_runtime.delivery.outbox.sender import Sender
from edge_runtime.delivery.outbox.states import State
from edge_runtime.delivery.outbox.store import Outbox

PATIENCE_S = 90.0
DAY = datetime.timedelta(days=1)


@contextlib.contextmanager
def sending(settings: DeliverySettings, outbox: Outbox) -> Iterator[Sender]:
    """A sender that runs meanwhile."""
    sender = Sender(settings, outbox, seed=1)
    sender.start()
    try:
        yield sender
    finally:
        sender.stop()
        assert sender.join(PATIENCE_S), "the sender does not end"


def until(what: Callable[[], object], patience_s: float = PATIENCE_S) -> None:
    """Waits for something that must come."""
    deadline = time.monotonic() + patience_s
    while not what():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.05)


def all_are(outbox: Outbox, state: State) -> Callable[[], bool]:
    """Whether every delivery is in a state."""
    return lambda: all(one.state is state for one in outbox.deliveries())


P_DATA = 0x04
"""Type of a unit that carries a message (PS3.8 9.3.5)."""


@dataclass
class Authority:
    """A certificate authority in a folder."""

    folder: Path
    name: str = "authority"
    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self.name)])
        certificate = (
            self._builder(self._subject, self.key, -DAY, 10 * DAY)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(self.key, hashes.SHA256())
        )
        self.path = self.folder / f"{self.name}.pem"
        self.path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def issue(
        self, name: str, *, begins: datetime.timedelta = -DAY, ends: datetime.timedelta = DAY
    ) -> tuple[Path, Path]:
        """Certificate and key of somebody at 127.0.0.1; times are from now."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        names = x509.SubjectAlternativeName(
            [x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.DNSName("localhost")]
        )
        certificate = (
            self._builder(subject, key, begins, ends)
            .add_extension(names, critical=False)
            .sign(self.key, hashes.SHA256())
        )
        paths = self.folder / f"{name}.crt", self.folder / f"{name}.key"
        paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        paths[1].write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return paths

    def _builder(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        begins: datetime.timedelta,
        ends: datetime.timedelta,
    ) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.timezone.utc)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + begins)
            .not_valid_after(now + ends)
        )


@dataclass
class Receiver:
    """A DICOM receiver that does what a test wants.

    Attributes:
        store: told each object and how many came before on all associations; returns a status, or ``None`` to abort.
        keeps: whether an object that was answered with success is kept, by SOP Instance UID.
        report: how commitment is reported: on the same association, by calling back, or never.
        abort_within: of so many objects that came whole the next is cut off when half of it is there, once.
    """

    port: int
    store: Callable[[str, int], int | None] = lambda uid, before: 0x0000
    keeps: Callable[[str], bool] = lambda uid: True
    report: str = "same"
    callback_port: int = 0
    title: str = "RECEIVER"
    abort_within: int | None = None
    received: list[str] = field(default_factory=list)
    kept: set[str] = field(default_factory=set)
    asked: int = 0
    _parts: int = 0

    @contextlib.contextmanager
    def running(self, tls: ssl.SSLContext | None = None) -> Iterator[Receiver]:
        entity = AE(ae_title=self.title)
        entity.require_called_aet = True
        entity.add_supported_context(MRImageStorage)
        entity.add_supported_context(Verification)
        entity.add_supported_context(StorageCommitmentPushModel)
        handlers = [
            (evt.EVT_C_STORE, self._store), (evt.EVT_N_ACTION, self._action), (evt.EVT_DATA_RECV, self._data),
        ]  # fmt: skip
        server = entity.start_server(
            ("127.0.0.1", self.port),
            block=False,
            evt_handlers=handlers,
            ssl_context=tls,  # type: ignore[arg-type]
        )
        try:
            yield self
        finally:
            server.shutdown()

    def _store(self, event: Any) -> int:
        uid = str(event.request.AffectedSOPInstanceUID)
        status = self.store(uid, len(self.received))
        self.received.append(uid)
        if status is None:
            event.assoc.abort()
            return 0xC000
        if status == 0x0000 and self.keeps(uid):
            self.kept.add(uid)
        return status

    def _data(self, event: Any) -> None:
        """Told every protocol data unit as it comes."""
        if self.abort_within != len(self.received) or event.data[0] != P_DATA:
            return
        self._parts += 1
        if self._parts == 3:  # the command, and of some units of pixels the second
            self.abort_within = None
            event.assoc.abort()

    def _action(self, event: Any) -> tuple[int, None]:
        self.asked += 1
        request = event.action_information
        threading.Thread(target=self._report, args=(event.assoc, request), daemon=True).start()
        return 0x0000, None

    def _report(self, association: Any, request: Dataset) -> None:
        answer = Dataset()
        answer.TransactionUID = request.TransactionUID
        answer.ReferencedSOPSequence, answer.FailedSOPSequence = [], []
        for item in request.ReferencedSOPSequence:
            one = Dataset()
            one.ReferencedSOPClassUID = item.ReferencedSOPClassUID
            one.ReferencedSOPInstanceUID = item.ReferencedSOPInstanceUID
            if str(item.ReferencedSOPInstanceUID) in self.kept:
                answer.ReferencedSOPSequence.append(one)
            else:
                one.FailureReason = 0x0112
                answer.FailedSOPSequence.append(one)
        kind = 2 if answer.FailedSOPSequence else 1
        for name in ("ReferencedSOPSequence", "FailedSOPSequence"):
            if not answer[name].value:
                del answer[name]
        instance = "1.2.840.10008.1.20.1.1"
        if self.report == "same":
            time.sleep(0.2)
            association.send_n_event_report(answer, kind, StorageCommitmentPushModel, instance)
        elif self.report == "back":
            from pynetdicom import build_role

            entity = AE(ae_title=self.title)
            entity.add_requested_context(StorageCommitmentPushModel)
            back = entity.associate(
                "127.0.0.1",
                self.callback_port,
                ae_title="EDGE1",
                ext_neg=[build_role(StorageCommitmentPushModel, scu_role=False, scp_role=True)],  # type: ignore[list-item]
            )
            if back.is_established:
                back.send_n_event_report(answer, kind, StorageCommitmentPushModel, instance)
                back.release()


class Link:
    """A user-space link to a server: a rate, and cuts after some bytes.

    Args:
        bytes_per_s: ``None``: as fast as it goes.
        cut_after: draws how many bytes a connection carries until it breaks; ``None``: it does not.
    """

    def __init__(
        self,
        port: int,
        target: int,
        *,
        bytes_per_s: float | None = None,
        cut_after: Callable[[], int] | None = None,
    ) -> None:
        self._target = target
        self._rate, self._cut_after = bytes_per_s, cut_after
        self.cuts = 0
        self.carried_bytes = 0
        self._lock = threading.Lock()
        self._free_at = 0.0
        self._ended = threading.Event()
        self._server = socket.create_server(("127.0.0.1", port))
        self.port = int(self._server.getsockname()[1])
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def __enter__(self) -> Link:
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self._thread.join()

    def _accept(self) -> None:
        while not self._ended.is_set():
            try:
                near, _ = self._server.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(("127.0.0.1", self._target), 5)
            except OSError:
                near.close()
                continue
            for one in (near, far):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            # Small buffers: what the sender has got rid of is on its way.
            near.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32 << 10)
            most = self._cut_after() if self._cut_after is not None else None
            threading.Thread(target=self._carry, args=(near, far, most), daemon=True).start()
            threading.Thread(target=self._carry, args=(far, near, None), daemon=True).start()

    def _carry(self, source: socket.socket, target: socket.socket, most: int | None) -> None:
        carried = 0
        try:
            while data := source.recv(8 << 10):
                if most is not None and carried + len(data) >= most:
                    self.cuts += 1
                    break
                if self._rate is not None:
                    self._take_turn(len(data))
                target.sendall(data)
                carried += len(data)
                self.carried_bytes += len(data)
        except OSError:
            pass
        for one in (source, target):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _take_turn(self, size: int) -> None:
        """Waits until the link has carried what came before, of all connections."""
        assert self._rate is not None
        with self._lock:
            begin = max(time.monotonic(), self._free_at)
            self._free_at = begin + size / self._rate
        time.sleep(max(0.0, self._free_at - time.monotonic()))


def drawn_cuts(seed: int, low: int, high: int) -> Callable[[], int]:
    """Cuts after so many bytes, drawn anew for each connection."""
    draw = random.Random(seed)
    return lambda: draw.randrange(low, high)


class Gate(ThreadingHTTPServer):
    """A web server before another: it wants a bearer token, and passes everything else on."""

    daemon_threads = True

    def __init__(self, port: int, target: int, token: str, tls: ssl.SSLContext | None = None) -> None:
        self.token, self.target = token, target
        self.fail_with = 0
        super().__init__(("127.0.0.1", port), _Passing)
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket, server_side=True)
        self._thread = threading.Thread(target=self.serve_forever, daemon=True)
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()
        self._thread.join()


class _Passing(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Gate

    def _pass(self) -> None:
        import http.client

        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Authorization") != f"Bearer {self.server.token}":
            self._answer(401, {}, b"")
            return
        if self.server.fail_with:
            self._answer(self.server.fail_with, {}, b"")
            return
        connection = http.client.HTTPConnection("127.0.0.1", self.server.target)
        headers = {name: value for name, value in self.headers.items() if name not in ("Authorization", "Host")}
        connection.request(self.command, self.path, body or None, headers)
        answer = connection.getresponse()
        self._answer(answer.status, {"Content-Type": answer.getheader("Content-Type", "")}, answer.read())
        connection.close()

    do_GET = do_POST = _pass  # noqa: N815

    def _answer(self, status: int, headers: dict[str, str], content: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Nothing."""
