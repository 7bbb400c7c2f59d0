"""TLS contexts; there is none that does not check the other side."""

from __future__ import annotations

import ssl
from pathlib import Path

from edge_runtime.delivery.configuration import TlsFiles
from edge_runtime.errors import NotAdmitted


def client_context(files: TlsFiles) -> ssl.SSLContext:
    """Of this side when it calls: the other's certificate is checked, with its name.

    Raises:
        NotAdmitted: a file is missing or is not what it should be; names it.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    return _filled(context, files)


def server_context(files: TlsFiles) -> ssl.SSLContext:
    """Of this side when it is called: whoever calls must show a certificate of the authorities.

    Raises:
        NotAdmitted: a file is missing or is not what it should be; names it.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = ssl.CERT_REQUIRED
    return _filled(context, files)


def _filled(context: ssl.SSLContext, files: TlsFiles) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if files.authorities is None:
        context.load_default_certs()
    else:
        _readable(files.authorities, "authorities")
        try:
            context.load_verify_locations(files.authorities)
        except (ssl.SSLError, OSError):
            raise NotAdmitted(f"TLS authorities {files.authorities}: no PEM certificate in it") from None
    if files.certificate is not None and files.key is not None:
        _readable(files.certificate, "certificate")
        _readable(files.key, "key")
        try:
            context.load_cert_chain(files.certificate, files.key, password=_no_password)
        except (ssl.SSLError, OSError, ValueError) as error:
            reason = "they do not belong together" if "MISMATCH" in str(error) else "not PEM, or encrypted"
            raise NotAdmitted(f"TLS certificate {files.certificate} and key {files.key}: {reason}") from None
    return context


def _readable(path: Path, what: str) -> None:
    try:
        path.open("rb").close()
    except OSError as error:
        raise NotAdmitted(f"TLS {what} {path}: {error.strerror or error}") from None


def _no_password() -> str:
    raise ValueError("encrypted")  # nobody is there to type one
