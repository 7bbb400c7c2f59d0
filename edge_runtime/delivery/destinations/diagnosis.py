"""Why a connection fails, in plain words: tried step by step, from the name to the first answer."""

from __future__ import annotations

import contextlib
import socket
import ssl

from edge_runtime.delivery.configuration import TlsFiles
from edge_runtime.delivery.destinations.tls import client_context
from edge_runtime.errors import DestinationError, NotAdmitted, Unreachable

ANSWER_S = 2.0
"""How long a server that is called wrongly may take to say so."""

HANGS = "it hangs"
"""What is said of a server that was not found to be anything else."""

_TLS_ALERT = b"\x15\x03"

_WANTS_TLS = "it wants TLS: give [destination.tls], or use its unencrypted port"


def connected(host: str, port: int, timeout_s: float) -> socket.socket:
    """A connection.

    Raises:
        Unreachable: says at which step it failed.
    """
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise Unreachable(
            f"{host}: no address is known for that name ({reason}): is it right, does DNS work?"
        ) from None
    failure: OSError | None = None
    for family, kind, protocol, _, address in addresses:
        connection = socket.socket(family, kind, protocol)
        connection.settimeout(timeout_s)
        try:
            connection.connect(address)
            return connection
        except OSError as error:
            connection.close()
            failure = error
    where = f"{host} port {port}"
    if isinstance(failure, ConnectionRefusedError):
        raise Unreachable(f"{where}: nothing listens there (connection refused): is it running, is the port right?")
    if isinstance(failure, TimeoutError):
        raise Unreachable(
            f"{where}: no answer in {timeout_s:g} s: is it switched on, does a firewall keep this device out?"
        )
    reason = "no address" if failure is None else failure.strerror or failure
    raise Unreachable(f"{where}: can't be reached ({reason}): is the network up?")


def explain_tls(error: OSError, where: str, files: TlsFiles) -> DestinationError:
    """What a failed handshake means."""
    if isinstance(error, ssl.SSLCertVerificationError):
        said = error.verify_message
        if "expired" in said:
            mend = "it needs a new one; or is this device's clock wrong?"
        elif "not yet valid" in said:
            mend = "is this device's clock wrong?"
        elif "mismatch" in said.lower() or "not valid for" in said.lower():
            mend = "it is another server, or tls.server_name is to name what the certificate bears"
        else:
            source = files.authorities or "the system's authorities"
            mend = f"it is not signed by an authority in {source}"
        return NotAdmitted(f"{where}: its TLS certificate is refused ({said}): {mend}")
    reason = (getattr(error, "reason", None) or "").replace("_", " ").lower()
    if (
        "wrong version number" in reason
        or "record layer" in reason
        or "http request" in reason
        or "packet length" in reason
    ):
        return NotAdmitted(
            f"{where}: it does not speak TLS: use its TLS port, or say plain = true for an unencrypted one"
        )
    if "alert" in reason and ("certificate" in reason or "unknown ca" in reason or "handshake failure" in reason):
        shown = files.certificate or "no certificate, and it wants one"
        return NotAdmitted(f"{where}: it refuses this device's TLS certificate ({reason}): shown was {shown}")
    if "alert" in reason or "unsupported protocol" in reason or "no shared cipher" in reason:
        return NotAdmitted(f"{where}: TLS failed ({reason}): TLS 1.2 or 1.3 is expected")
    if isinstance(error, TimeoutError):
        return Unreachable(f"{where}: it takes the connection and does not answer TLS: hung, or no TLS port")
    return Unreachable(
        f"{where}: it breaks off the TLS handshake ({reason or error.strerror or error}): most likely it does not speak TLS: "
        "use its TLS port, or say plain = true for an unencrypted one"
    )


def shaken_hands(connection: socket.socket, host: str, where: str, files: TlsFiles) -> ssl.SSLSocket:
    """A connection with TLS; closes the given one where that fails.

    Raises:
        NotAdmitted, Unreachable: says why.
    """
    try:
        context = client_context(files)
        return context.wrap_socket(connection, server_hostname=files.server_name or host)
    except OSError as error:
        connection.close()
        raise explain_tls(error, where, files) from None
    except BaseException:
        connection.close()
        raise


def diagnose(host: str, port: int, timeout_s: float, tls: TlsFiles | None) -> DestinationError:
    """Why no association came about that was not rejected either; connects anew to find out."""
    where = f"{host} port {port}"
    try:
        connection = connected(host, port, timeout_s)
        if tls is not None:
            secured = shaken_hands(connection, host, where, tls)
            with secured:
                secured.settimeout(min(timeout_s, ANSWER_S))
                try:
                    # TLS 1.3 tells only now whether this side's certificate is accepted.
                    if not secured.recv(1):
                        return Unreachable(f"{where}: it closes the connection after the TLS handshake")
                except TimeoutError:
                    pass
                except OSError as error:
                    return explain_tls(error, where, tls)
            return Unreachable(
                f"{where}: TLS works, but an association request gets no answer in {timeout_s:g} s: {HANGS}, or is no DICOM port"
            )
        with connection:
            found = _who_is_there(connection, where, timeout_s)
        if HANGS in str(found) and _speaks_tls(host, port, timeout_s):
            return NotAdmitted(f"{where}: {_WANTS_TLS}")
        return found
    except DestinationError as error:
        return error


def _speaks_tls(host: str, port: int, timeout_s: float) -> bool:
    """Whether a server answers TLS, if only with a certificate that nobody here knows."""
    try:
        with connected(host, port, min(timeout_s, ANSWER_S)) as connection:
            client_context(TlsFiles()).wrap_socket(connection, server_hostname=host).close()
        return True
    except ssl.SSLCertVerificationError:
        return True
    except (OSError, DestinationError) as error:
        return "alert" in (getattr(error, "reason", None) or "").lower()


def _who_is_there(connection: socket.socket, where: str, timeout_s: float) -> DestinationError:
    """What a server that does not answer an association request says to a browser."""
    connection.settimeout(min(timeout_s, ANSWER_S))
    answer = b""
    with contextlib.suppress(OSError):
        connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
        answer = connection.recv(16)
    if answer.startswith(_TLS_ALERT):
        return NotAdmitted(f"{where}: {_WANTS_TLS}")
    if answer.startswith(b"HTTP/"):
        return NotAdmitted(
            f'{where}: a web server (HTTP) is there, no DICOM: the port is wrong, or kind should be "web"'
        )
    if answer.startswith((b"SSH-", b"220", b"* OK", b"+OK")):
        return NotAdmitted(
            f"{where}: another service is there ({answer[:12].decode('ascii', 'replace')!r}), no DICOM: the port is wrong"
        )
    return Unreachable(
        f"{where}: it takes the connection, but an association request gets no answer in {timeout_s:g} s: {HANGS}"
    )
