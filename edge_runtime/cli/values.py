"""Values of options, parsed once and refused with what would be right."""

from __future__ import annotations

import argparse
import math

RECORDED = "recorded"
"""Value of ``--tr``: as fast as the scan was measured."""


def _number(text: str, expected: str, least: float, most: float) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not least <= number <= most:
        raise argparse.ArgumentTypeError(f"{text!r}: {expected}")
    return number


def _whole(text: str, expected: str, least: int, most: int) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 20 and least <= int(text) <= most):
        raise argparse.ArgumentTypeError(f"{text!r}: {expected}")
    return int(text)


def port_or_any(text: str) -> int:
    return _whole(text, "a TCP port, 1 to 65535, or 0 for a free one", 0, 65535)


def port(text: str) -> int:
    return _whole(text, "a TCP port, 1 to 65535", 1, 65535)


def seed(text: str) -> int:
    return _whole(text, "a whole number from 0", 0, 1 << 63)


def pace(text: str) -> float | str:
    if text == RECORDED:
        return text
    return _number(text, f"0.01 to 1000000 milliseconds, or '{RECORDED}'", 0.01, 1e6)


def acceleration(text: str) -> float:
    return _number(text, "a factor from 1 to 16", 1, 16)


def acs_share(text: str) -> float:
    return _number(text, "a share from 0.01 to 0.5", 0.01, 0.5)


def shares(text: str) -> tuple[float, ...]:
    if text == "none":
        return ()
    try:
        shares = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: numbers between 0 and 1, such as 0.25,0.5") from None
    if not all(0 < share < 1 for share in shares):
        raise argparse.ArgumentTypeError(f"{text!r}: every share must lie between 0 and 1")
    return shares


def host_and_port(text: str) -> tuple[str, int]:
    host, colon, number = text.rpartition(":")
    if colon and not host:
        raise argparse.ArgumentTypeError(f"{text!r}: PORT, or HOST:PORT")
    return host.removeprefix("[").removesuffix("]") or "127.0.0.1", port_or_any(number)


def margin(text: str) -> float:
    return _number(text, "a number from 0 to 100", 0, 100)


def count(text: str) -> int:
    return _whole(text, "a whole number from 1", 1, 1 << 62)


def sha256(text: str) -> str:
    if len(text) != 64 or not set(text.lower()) <= set("0123456789abcdef"):
        raise argparse.ArgumentTypeError(f"{text!r}: 64 hexadecimal digits")
    return text.lower()
