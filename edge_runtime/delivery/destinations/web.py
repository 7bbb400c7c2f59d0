"""STOW-RS and QIDO-RS (PS3.18 10.5 and 10.6)."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import logging
import secrets
import socket
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode, urlsplit

from edge_runtime.delivery.configuration import Destination, WebPeer
from edge_runtime.delivery.destinations.courier import Settle
from edge_runtime.delivery.destinations.diagnosis import connected, diagnose, shaken_hands
from edge_runtime.delivery.destinations.progress import tune, watched
from edge_runtime.delivery.outbox.store import Delivery, Failed, Lost, Outcome, Sent, Untried
from edge_runtime.errors import DestinationError, NotAdmitted, Unreachable

log = logging.getLogger(__name__)

LARGEST_ANSWER_BYTES = 16 << 20
"""Of one answer; a server that says more is not believed."""

LEAST_GROUP_BYTES, FIRST_GROUP_BYTES, MOST_GROUP_BYTES = 1, 8 << 20, 64 << 20
"""Of the objects in one request. All of them are lost when it breaks, so that a broken one halves it."""

GROUP_S = 10.0
"""What a request may take at a bandwidth cap: emergencies wait for it."""

PAGE = 1000
"""Of the objects of a series that are asked for at once."""

MOST_HELD = 100_000
"""That are believed to be of one series."""

_CHUNK = 256 << 10

_FAILURES = {
    0x0110: "it failed to process it",
    0x0122: "it does not support its SOP class",
    0x0124: "this device may not store there",
    0xA900: "it does not match its SOP class",
    0xC000: "it can't be understood",
    0xC122: "its transfer syntax is not supported",
}
"""Failure reasons (PS3.18 10.5.3.2, PS3.4 B.2.3)."""


class Service:
    """One connection to a DICOMweb service; made when it is needed, and anew after it broke.

    Args:
        bandwidth_bytes_per_s: cap.
    """

    def __init__(self, peer: WebPeer, bandwidth_bytes_per_s: int | None = None) -> None:
        self.peer = peer
        parts = urlsplit(peer.url)
        self._secure = parts.scheme == "https"
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if self._secure else 80)
        self._root = parts.path
        self._bandwidth = bandwidth_bytes_per_s
        self._connection: http.client.HTTPConnection | None = None
        self._moved = 0
        self.where = f"{parts.scheme}://{self._host}:{self._port}"

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def request(
        self, method: str, path: str, headers: Mapping[str, str], body: Iterator[bytes] | None = None
    ) -> tuple[int, Mapping[str, str], bytes]:
        """One request; status, headers and content of its answer.

        Raises:
            Unreachable: there is no connection, it broke, or nothing moved on it.
            NotAdmitted: TLS or the token fail, or it is not a DICOMweb service.
        """
        sent = {**headers, "User-Agent": "edge-runtime"}
        if self.peer.token is not None:
            sent["Authorization"] = f"Bearer {self.peer.token.read()}"
        connection = self._connected()
        with watched(lambda: connection.sock, lambda: self._moved, self.peer.timeout_s) as gave_up:
            try:
                connection.request(method, self._root + path, None if body is None else self._counted(body), sent)
                answer = connection.getresponse()
                content = answer.read(LARGEST_ANSWER_BYTES + 1)
                self._moved += 1
            except (OSError, http.client.HTTPException) as error:
                self.close()
                if self._secure and isinstance(found := self._diagnosis(), NotAdmitted):
                    raise found from None  # TLS 1.3 tells late that this side's certificate is refused
                if gave_up.is_set():
                    reason = f"nothing moved for {self.peer.timeout_s:g} s: it hangs, or the link is down"
                elif isinstance(error, http.client.BadStatusLine) and not isinstance(
                    error, http.client.RemoteDisconnected
                ):
                    raise NotAdmitted(f"{self.where}: no web server is there: the port is wrong") from None
                else:
                    reason = (
                        f"the connection broke ({getattr(error, 'strerror', None) or error or type(error).__name__})"
                    )
                raise Unreachable(f"{self.where}: {reason}") from None
        if len(content) > LARGEST_ANSWER_BYTES:
            self.close()
            raise Unreachable(f"{self.where}: answers with more than {LARGEST_ANSWER_BYTES >> 20} MB")
        if answer.will_close:
            self.close()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, content

    def refused(self, status: int, headers: Mapping[str, str], path: str) -> DestinationError | None:
        """What a status says of the service or of this device; ``None`` where it is about what was asked."""
        if status in (401, 403):
            held = (
                "the token is refused"
                if self.peer.token is not None
                else "a token is wanted: token_file or token_variable"
            )
            return NotAdmitted(f"{self.where}: status {status}: {held}")
        if status == 404 or status == 405:
            return NotAdmitted(
                f"{self.where}: status {status}: nothing is at {self._root}{path}: url must end at the DICOMweb root"
            )
        if 300 <= status < 400:
            target = headers.get("location", "")[:200]
            return NotAdmitted(f"{self.where}: status {status}: it sends elsewhere ({target}): give that in url")
        if status in (408, 429) or status >= 500:
            return Unreachable(f"{self.where}: status {status}: it is busy or broken for the moment")
        return None

    def _connected(self) -> http.client.HTTPConnection:
        if self._connection is not None:
            return self._connection
        plain = connected(self._host, self._port, self.peer.timeout_s)
        tune(plain, self._bandwidth)
        secured: socket.socket = plain
        if self._secure:
            secured = shaken_hands(plain, self._host, self.where, self.peer.tls)
        secured.settimeout(None)  # the watch knows better when to give up
        connection = http.client.HTTPConnection(self._host, self._port, blocksize=_CHUNK)
        connection.auto_open = 0
        connection.sock = secured
        self._connection = connection
        return connection

    def _diagnosis(self) -> DestinationError:
        return diagnose(self._host, self._port, self.peer.timeout_s, self.peer.tls)

    def _counted(self, body: Iterator[bytes]) -> Iterator[bytes]:
        for chunk in body:
            self._moved += 1
            yield chunk


@dataclass(frozen=True)
class _Part:
    """One object in a request, with the lines before and after it."""

    delivery: Delivery
    before: bytes
    after: bytes = b"\r\n"

    @property
    def size_bytes(self) -> int:
        return len(self.before) + self.delivery.size_bytes + len(self.after)

    def content(self) -> Iterator[bytes]:
        yield self.before
        assert self.delivery.path is not None
        with self.delivery.path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                yield chunk
        yield self.after


class WebCourier:
    """Takes objects to one DICOMweb service."""

    def __init__(self, destination: Destination) -> None:
        if not isinstance(destination.peer, WebPeer):
            raise TypeError(destination.name)
        cap = destination.pace.bandwidth_bytes_per_s
        share = None if cap is None else max(1, cap // destination.pace.associations)
        self._service = Service(destination.peer, share)
        self._most_bytes = MOST_GROUP_BYTES if share is None else max(LEAST_GROUP_BYTES, int(share * GROUP_S))
        self._group_bytes = min(FIRST_GROUP_BYTES, self._most_bytes)
        self._verifier = Verifier(destination.peer)

    def send(self, objects: Iterator[Delivery], kinds: Collection[tuple[str, str]], settle: Settle) -> None:
        """See `courier.Courier`."""
        del kinds
        try:
            for group in self._groups(objects):
                self._send_group(group, settle)
        finally:
            self._service.close()

    def confirm(self, objects: Sequence[Delivery]) -> dict[int, bool]:
        """See `courier.Courier`: asks by QIDO-RS."""
        return self._verifier.confirm(objects)

    def _groups(self, objects: Iterator[Delivery]) -> Iterator[list[Delivery]]:
        """As many as one request carries; at least one."""
        group: list[Delivery] = []
        for delivery in objects:
            group.append(delivery)
            if sum(one.size_bytes for one in group) >= self._group_bytes:
                yield group
                group = []
        if group:
            yield group

    def _send_group(self, group: list[Delivery], settle: Settle) -> None:
        try:
            status, headers, content = self._post(group)
            refusal = self._service.refused(status, headers, "/studies")
        except DestinationError as error:
            self._settle_broken(group, str(error), settle, isinstance(error, Unreachable))
            raise
        if refusal is not None:
            # A server that fails at one of them answers like one that fails at everything: they are told apart by and by.
            self._settle_broken(group, str(refusal), settle, status >= 500)
            raise refusal
        if status not in (200, 202, 409) and len(group) > 1:
            # Which of them it is about is not said.
            self._group_bytes = max(LEAST_GROUP_BYTES, self._group_bytes // 2)
            for one in group:
                self._send_group([one], settle)
            return
        for delivery, outcome in _outcomes(group, status, content, self._service.where):
            settle(delivery, outcome)
        self._group_bytes = min(self._most_bytes, self._group_bytes * 2)

    def _settle_broken(self, group: list[Delivery], reason: str, settle: Settle, broke: bool) -> None:
        alone = len(group) == 1 and broke
        for delivery in group:
            settle(delivery, Lost(reason) if alone else Untried())
        if broke:
            self._group_bytes = max(LEAST_GROUP_BYTES, min(self._group_bytes, sum(d.size_bytes for d in group)) // 2)

    def _post(self, group: list[Delivery]) -> tuple[int, Mapping[str, str], bytes]:
        boundary = secrets.token_hex(24)
        parts = [
            _Part(
                one,
                f"--{boundary}\r\nContent-Type: application/dicom\r\nContent-Length: {one.size_bytes}\r\n\r\n".encode(
                    "ascii"
                ),
            )
            for one in group
        ]
        end = f"--{boundary}--\r\n".encode("ascii")
        headers = {
            "Content-Type": f'multipart/related; type="application/dicom"; boundary={boundary}',
            "Content-Length": str(sum(part.size_bytes for part in parts) + len(end)),
            "Accept": "application/dicom+json",
        }
        body = itertools.chain.from_iterable([*(part.content() for part in parts), [end]])
        return self._service.request("POST", "/studies", headers, body)


def _outcomes(group: list[Delivery], status: int, content: bytes, where: str) -> Iterator[tuple[Delivery, Outcome]]:
    """What an answer says of each object; what it does not name is not believed to be stored."""
    if status not in (200, 202, 409):
        for one in group:
            yield one, Failed(f"{where}: it refuses it, status {status}", final=status in (413, 415))
        return
    try:
        answer = json.loads(content)
        stored = _listed(answer, "00081199")
        failed = _listed(answer, "00081198")
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError):
        for one in group:
            yield one, Failed(f"{where}: status {status}, and what it says is no DICOM JSON")
        return
    for one in group:
        uid = one.identity.sop_instance_uid
        reason = failed.get(uid)
        if reason == 0x0111:
            yield one, Sent("it has it already")
        elif reason is not None:
            said = _FAILURES.get(reason, "it does not say why in words")
            yield one, Failed(f"{where}: it refuses it: {said} ({reason:04X}h)")
        elif uid in stored and status != 409:
            yield one, Sent()
        else:
            yield one, Failed(f"{where}: status {status}, but its answer does not say that it stored it")


def _listed(answer: Any, tag: str) -> dict[str, int]:
    """Objects of a sequence of references, with failure reasons; 0 where there is none."""
    found: dict[str, int] = {}
    for item in answer.get(tag, {}).get("Value", []):
        uid = str(item["00081155"]["Value"][0])
        reason = item.get("00081197", {}).get("Value", [0])[0]
        found[uid] = int(reason)
    return found


class Verifier:
    """Asks a DICOMweb service what it holds."""

    def __init__(self, peer: WebPeer) -> None:
        self._service = Service(peer)

    def confirm(self, objects: Sequence[Delivery]) -> dict[int, bool]:
        """By delivery, whether its object is there.

        Raises:
            Unreachable, NotAdmitted: it could not be asked.
        """
        by_series: dict[tuple[str, str], list[Delivery]] = {}
        for one in objects:
            by_series.setdefault((one.identity.study_uid, one.identity.series_uid), []).append(one)
        found: dict[int, bool] = {}
        try:
            for (study, series), wanted in by_series.items():
                held = self._held(study, series)
                found.update({one.id: one.identity.sop_instance_uid in held for one in wanted})
        finally:
            self._service.close()
        return found

    def capabilities(self) -> None:
        """Asks for one study, to see whether it is a DICOMweb service that admits this device.

        Raises:
            Unreachable, NotAdmitted: it is not.
        """
        with contextlib.closing(self._service):
            self._ask("/studies?limit=1")

    def _held(self, study: str, series: str) -> set[str]:
        held: set[str] = set()
        while True:
            query = urlencode({"includefield": "00080018", "limit": PAGE, "offset": len(held)})
            rows = self._ask(f"/studies/{study}/series/{series}/instances?{query}")
            new = {str(row["00080018"]["Value"][0]) for row in rows} - held
            held |= new
            if len(held) > MOST_HELD:
                raise Unreachable(f"{self._service.where}: names more than {MOST_HELD} objects of one series")
            if not new or len(rows) < PAGE:
                return held

    def _ask(self, path: str) -> list[Any]:
        status, headers, content = self._service.request("GET", path, {"Accept": "application/dicom+json"})
        bare = path.partition("?")[0]
        if status == 404 and bare != "/studies":
            return []  # some say so of a study that they do not have
        if (refusal := self._service.refused(status, headers, bare)) is not None:
            raise refusal
        if status == 204:
            return []
        try:
            rows = json.loads(content) if status == 200 else None
            if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
                raise ValueError(status)
        except (ValueError, RecursionError):
            raise NotAdmitted(
                f"{self._service.where}: status {status}, and what it says is no DICOM JSON: url must end at the DICOMweb root"
            ) from None
        return [row for row in rows if row.get("00080018", {}).get("Value") or bare == "/studies"]
