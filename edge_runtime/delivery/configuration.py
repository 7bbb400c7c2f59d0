"""Where images go, when, and under which policy: one TOML file, checked key by key (docs/delivery.md).

Secrets are never in it: certificates, keys and tokens are named by their files, or by a variable of the environment, and read when
they are used.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from edge_runtime.delivery.outbox.backoff import Patience
from edge_runtime.delivery.outbox.windows import ALWAYS, TimeWindows, parse_windows
from edge_runtime.errors import DeliveryConfigurationError, NotAdmitted
from edge_runtime.scan import Method
from edge_runtime.toml_table import TomlTable, read_toml

Review = Literal["all", "learned", "none"]
Confirm = Literal["commitment", "qido", "read-back", "none"]
Compress = Literal["never", "slow-link", "always"]
Objects = Literal["classic", "enhanced"]

LONGEST_SECRET_BYTES = 64 << 10

SLOW_LINK_KBIT_S = 20_000
"""Below this a link is slow: compressing 256 x 256 pixels and making sure of them takes milliseconds and saves a third to a half of
their 131 kB, which such a link needs 17 ms and more for (docs/delivery.md)."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files of one side of a TLS connection; there is no way to leave the other side unchecked.

    Attributes:
        authorities: whose signatures the other side's certificate must bear; ``None``: those that the system trusts.
        certificate, key: that this side shows; ``None``: none.
        server_name: the name that the other side's certificate must bear, where it is not its host's.
    """

    authorities: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    server_name: str = ""


@dataclass(frozen=True, slots=True)
class DicomPeer:
    """An application entity of somebody else.

    Attributes:
        tls: mutual authentication; ``None`` where the configuration says ``plain = true``.
        timeout_s: how long one answer may take.
    """

    host: str
    port: int
    ae_title: str
    tls: TlsFiles | None = None
    timeout_s: float = 30.0


@dataclass(frozen=True, slots=True)
class Token:
    """Where a bearer token is found each time it is needed, so that a new one takes effect at once."""

    file: Path | None = None
    variable: str = ""

    def read(self) -> str:
        """The token.

        Raises:
            NotAdmitted: it is not there, or nothing that a header can carry; says so without saying what it is.
        """
        if self.file is not None:
            where = str(self.file)
            try:
                with self.file.open("rb") as file:
                    token = file.read(LONGEST_SECRET_BYTES + 1).decode("ascii").strip()
            except (OSError, UnicodeDecodeError) as error:
                reason = error.strerror if isinstance(error, OSError) else "not ASCII"
                raise NotAdmitted(f"token file {where}: {reason}") from None
        else:
            where = f"environment variable {self.variable}"
            token = os.environ.get(self.variable, "").strip()
        if not re.fullmatch(r"[\x21-\x7e]{1,65536}", token):
            raise NotAdmitted(f"{where}: no bearer token: one line of printable ASCII is expected")
        return token


@dataclass(frozen=True, slots=True)
class WebPeer:
    """A DICOMweb service.

    Attributes:
        url: its root, to which ``/studies`` is appended.
        tls: of ``https``.
    """

    url: str
    tls: TlsFiles = TlsFiles()
    token: Token | None = None
    timeout_s: float = 30.0


@dataclass(frozen=True, slots=True)
class FolderPeer:
    """A folder or a medium.

    Attributes:
        mounted: the folder must be a mount point, so that nothing goes to the device's own disk while no medium is there.
        dicomdir: keep a DICOMDIR there, and file names that it allows.
    """

    path: Path
    mounted: bool = False
    dicomdir: bool = False


@dataclass(frozen=True, slots=True)
class Pace:
    """When and how fast a destination is sent to.

    Attributes:
        bandwidth_bytes_per_s: cap; ``None``: what the link carries.
        windows: of the local time of day.
        emergency_any_time: emergencies do not wait for a window.
        first_retry_s, longest_retry_s: of the exponential back-off.
        associations: how many connections send at once; two, where nothing else is said, for C-STORE, which waits for each answer.
        batch: the most objects over one connection.
    """

    bandwidth_bytes_per_s: int | None = None
    windows: TimeWindows = ALWAYS
    emergency_any_time: bool = True
    first_retry_s: float = 5.0
    longest_retry_s: float = 900.0
    associations: int = 1
    batch: int = 1000


@dataclass(frozen=True, slots=True)
class Destination:
    """Where objects go.

    Attributes:
        name: by which the outbox knows it.
        methods: of the images that go there.
        incomplete: images of scans that ended early go there, too.
        confirm: how it is made sure that an object is kept there.
        verify: the DICOMweb service that is asked where ``confirm`` is ``qido``; the destination itself where it is one.
        confirm_timeout_s: after so long without confirmation an object is asked for again, and sent again when it is missing.
        attempts: how often one object may fail by itself before it goes to the dead letters.
        objects: images one by one as they come, or one object a series when the scan has ended.
        compress: whether objects are compressed without loss where the destination takes that.
        slow_link_bytes_per_s: below which a connection counts as slow.
    """

    name: str
    peer: DicomPeer | WebPeer | FolderPeer
    pace: Pace = Pace()
    methods: frozenset[Method] = frozenset({Method.LEARNED, Method.CLASSICAL})
    incomplete: bool = True
    confirm: Confirm = "commitment"
    verify: WebPeer | None = None
    confirm_timeout_s: float = 3600.0
    attempts: int = 10
    objects: Objects = "classic"
    compress: Compress = "never"
    slow_link_bytes_per_s: int = SLOW_LINK_KBIT_S * 125

    @property
    def patience(self) -> Patience:
        """With one object."""
        return Patience(self.attempts, self.pace.first_retry_s, self.pace.longest_retry_s)


@dataclass(frozen=True, slots=True)
class Callback:
    """Where PACS report the outcome of a storage commitment on a connection of their own.

    Attributes:
        callers: AE titles that may; others are turned away.
    """

    host: str
    port: int
    callers: frozenset[str]
    tls: TlsFiles | None = None


@dataclass(frozen=True, slots=True)
class Device:
    """This device among application entities."""

    ae_title: str
    callback: Callback | None = None


@dataclass(frozen=True, slots=True)
class OutboxSettings:
    """Attributes:
    folder: of the queue and the objects in it.
    review: which images a person releases before they leave.
    keep_committed_s: how long objects that are confirmed everywhere stay.
    keep_unconfirmed_s: how long those that went where nothing is confirmed stay; ``None``: until an operator purges them.
    purge_below_bytes: free space below which confirmed objects go before their time.
    stop_below_bytes: free space that the outbox leaves to the device: below it nothing is taken in.
    """

    folder: Path
    review: Review
    keep_committed_s: float = 86400.0
    keep_unconfirmed_s: float | None = None
    purge_below_bytes: int = 2048 << 20
    stop_below_bytes: int = 512 << 20


@dataclass(frozen=True, slots=True)
class DeliverySettings:
    """Everything of the file."""

    outbox: OutboxSettings
    device: Device
    destinations: tuple[Destination, ...]
    worklist: DicomPeer | None = None
    mpps: DicomPeer | None = None

    def destination(self, name: str) -> Destination:
        """One of the destinations.

        Raises:
            DeliveryConfigurationError: there is none of that name; says which there are.
        """
        for one in self.destinations:
            if one.name == name:
                return one
        known = ", ".join(one.name for one in self.destinations)
        raise DeliveryConfigurationError(f"destination {name!r} is not configured; known are {known}")


def load_delivery(path: Path) -> DeliverySettings:
    """Settings from a file; paths in it are relative to its folder.

    Raises:
        DeliveryConfigurationError: no such file, or one of its values is wrong; names the key, the value and what is expected.
    """
    try:
        return parse_delivery(path.read_text(encoding="utf-8"), str(path), path.absolute().parent)
    except OSError as error:
        raise DeliveryConfigurationError(f"{path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise DeliveryConfigurationError(f"{path}: not UTF-8: byte {error.start} is not") from error


def parse_delivery(text: str, where: str, base: Path) -> DeliverySettings:
    """Settings from a text; `load_delivery` says more."""
    table = read_toml(text, where, DeliveryConfigurationError)
    callback = None
    if table.has_section("device.callback"):
        callback = Callback(
            host=table.text("device.callback.host"),
            port=table.integer("device.callback.port", 1, 65535),
            callers=frozenset(_title(table, title) for title in table.texts("device.callback.callers")),
            tls=_mutual_tls(table, base, "device.callback."),
        )
    settings = DeliverySettings(
        outbox=_outbox(table, base),
        device=Device(_title(table, table.text("device.ae_title")), callback),
        destinations=tuple(_destination(one, base) for one in table.tables("destination")),
        worklist=_dicom_peer(table, base, "worklist.") if table.has_section("worklist") else None,
        mpps=_dicom_peer(table, base, "mpps.") if table.has_section("mpps") else None,
    )
    table.refuse_unknown()
    names = [one.name for one in settings.destinations]
    if not names:
        raise DeliveryConfigurationError(f"{where}: [[destination]] is missing: at least one is expected")
    if len(set(names)) != len(names):
        raise DeliveryConfigurationError(f"{where}: destinations {', '.join(names)}: each needs a name of its own")
    return settings


def _outbox(table: TomlTable, base: Path) -> OutboxSettings:
    stop_mb = table.integer("outbox.stop_below_mb", 1, 1 << 30, 512)
    has_days = table.has("outbox.keep_unconfirmed_days")
    review = table.choice("outbox.review", ("all", "learned", "none"))
    return OutboxSettings(
        folder=base / table.text("outbox.folder"),
        review=review,  # type: ignore[arg-type]  # one of those three
        keep_committed_s=3600 * table.number("outbox.keep_committed_hours", 0, 87600, 24),
        keep_unconfirmed_s=86400 * table.number("outbox.keep_unconfirmed_days", 0.01, 36500) if has_days else None,
        purge_below_bytes=table.integer("outbox.purge_below_mb", stop_mb, 1 << 30, max(stop_mb, 2048)) << 20,
        stop_below_bytes=stop_mb << 20,
    )


def _destination(table: TomlTable, base: Path) -> Destination:
    name = table.text("name")
    if not _NAME.fullmatch(name):
        raise table.wrong("name", name, "up to 64 letters, digits, dots, hyphens and underscores")
    kind = table.choice("kind", ("dimse", "web", "folder"))
    peer: DicomPeer | WebPeer | FolderPeer
    ways: tuple[str, ...]
    if kind == "dimse":
        peer = _dicom_peer(table, base, "")
        ways, usual = ("commitment", "qido", "none"), "commitment"
    elif kind == "web":
        peer = _web_peer(table, base, "")
        ways, usual = ("qido", "none"), "qido"
    else:
        peer = FolderPeer(base / table.text("path"), table.flag("mounted", False), table.flag("dicomdir", False))
        ways, usual = ("read-back",), "read-back"
    confirm = table.choice("confirm", ways, usual)
    verify = peer if isinstance(peer, WebPeer) else None
    if kind == "dimse" and confirm == "qido":
        verify = _web_peer(table, base, "verify.")
    # What a web service takes can't be asked beforehand, and a medium is read by whoever comes: both get what everybody reads.
    degrees = ("never", "slow-link", "always") if kind == "dimse" else ("never",)
    compress = table.choice("compress", degrees, "never")
    slow = (
        table.integer("slow_link_kbit_s", 8, 1 << 30, SLOW_LINK_KBIT_S) if compress == "slow-link" else SLOW_LINK_KBIT_S
    )
    known = tuple(method.value for method in Method)
    methods = table.choices("methods", known, (Method.LEARNED.value, Method.CLASSICAL.value))
    destination = Destination(
        name=name,
        peer=peer,
        pace=_pace(table, kind),
        methods=frozenset(Method(method) for method in methods),
        incomplete=table.flag("incomplete", True),
        confirm=confirm,  # type: ignore[arg-type]  # one of those
        verify=verify,
        confirm_timeout_s=table.number("confirm_timeout_s", 1, 604800, 3600),
        attempts=table.integer("attempts", 1, 1000, 10),
        objects=table.choice("objects", ("classic", "enhanced"), "classic"),  # type: ignore[arg-type]  # one of those
        compress=compress,  # type: ignore[arg-type]  # one of those
        slow_link_bytes_per_s=125 * slow,
    )
    table.refuse_unknown()
    return destination


def _pace(table: TomlTable, kind: str) -> Pace:
    kbit = table.integer("bandwidth_kbit_s", 8, 1 << 30) if table.has("bandwidth_kbit_s") else None
    first = table.number("first_retry_s", 0.05, 86400, 5)
    windows = ALWAYS
    if table.has("windows"):
        texts = table.texts("windows")
        try:
            windows = parse_windows(texts)
        except ValueError as error:
            raise table.wrong("windows", list(texts), str(error)) from None
    return Pace(
        bandwidth_bytes_per_s=None if kbit is None else kbit * 125,
        windows=windows,
        emergency_any_time=table.flag("emergency_any_time", True),
        first_retry_s=first,
        longest_retry_s=table.number("longest_retry_s", first, 604800, max(first, 900)),
        associations=1 if kind == "folder" else table.integer("associations", 1, 16, 2 if kind == "dimse" else 1),
        batch=table.integer("batch", 1, 1000000, 1000),
    )


def _dicom_peer(table: TomlTable, base: Path, prefix: str) -> DicomPeer:
    return DicomPeer(
        host=table.text(f"{prefix}host"),
        port=table.integer(f"{prefix}port", 1, 65535),
        ae_title=_title(table, table.text(f"{prefix}ae_title")),
        tls=_mutual_tls(table, base, prefix),
        timeout_s=table.number(f"{prefix}timeout_s", 0.1, 3600, 30),
    )


def _mutual_tls(table: TomlTable, base: Path, prefix: str) -> TlsFiles | None:
    """TLS in which both sides show certificates, or ``None`` where the configuration says ``plain = true``."""
    if table.flag(f"{prefix}plain", False):
        if table.has_section(f"{prefix}tls"):
            raise table.wrong(f"{prefix}plain", True, f"either that or [{prefix}tls], not both")
        return None
    if not table.has_section(f"{prefix}tls"):
        raise table.wrong(
            f"{prefix}plain",
            False,
            f"[{prefix}tls] with authorities, certificate and key, or plain = true, which sends patients' names unencrypted",
        )
    return TlsFiles(
        base / table.text(f"{prefix}tls.authorities"),
        base / table.text(f"{prefix}tls.certificate"),
        base / table.text(f"{prefix}tls.key"),
        table.text_or(f"{prefix}tls.server_name"),
    )


def _web_peer(table: TomlTable, base: Path, prefix: str) -> WebPeer:
    key = f"{prefix}url"
    url = table.text(key).rstrip("/")
    try:
        parts = urlsplit(url)
        port_is_valid = parts.port is None or parts.port > 0
    except ValueError:
        raise table.wrong(key, url, "https://host[:port]/path") from None
    if (
        parts.scheme not in ("http", "https")
        or not parts.hostname
        or not port_is_valid
        or parts.query
        or parts.fragment
    ):
        raise table.wrong(key, url, "https://host[:port]/path")
    if parts.username is not None or parts.password is not None:
        raise table.wrong(key, "…", "no user and no password in it: name a token's file or variable")
    plain = table.flag(f"{prefix}plain", False)
    if parts.scheme == "http" and not plain and parts.hostname not in _LOOPBACK:
        raise table.wrong(key, url, "https, or plain = true beside it, which sends patients' names unencrypted")
    token_file, variable = table.text_or(f"{prefix}token_file"), table.text_or(f"{prefix}token_variable")
    if token_file and variable:
        raise table.wrong(f"{prefix}token_file", token_file, "either that or token_variable, not both")
    names = {name: table.text_or(f"{prefix}tls.{name}") for name in ("authorities", "certificate", "key")}
    if bool(names["certificate"]) != bool(names["key"]):
        raise table.wrong(f"{prefix}tls.certificate", names["certificate"], "certificate and key, or neither")
    files = {name: base / text if text else None for name, text in names.items()}
    return WebPeer(
        url=url,
        tls=TlsFiles(**files, server_name=""),
        token=Token(base / token_file if token_file else None, variable) if token_file or variable else None,
        timeout_s=table.number(f"{prefix}timeout_s", 0.1, 3600, 30),
    )


def _title(table: TomlTable, title: str) -> str:
    """An AE title (PS3.5 6.2)."""
    if not re.fullmatch(r"(?=.*[^ ])[\x20-\x5b\x5d-\x7e]{1,16}", title):
        raise table.wrong("ae_title", title, "1 to 16 printable ASCII characters without backslash")
    return title.strip()
