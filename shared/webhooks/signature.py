"""Signatures of webhook deliveries: HMAC-SHA256 with a shared secret, over the body as it came.

Ours is Stripe's scheme: `t=<unix seconds>,v1=<hex>`, where v1 signs `<t>.<body>`; several v1 may stand side by side
while a secret is changed, and a delivery is good for five minutes. Flowise's own, `sha256=<hex>`, signs the body alone
and has no time. Comparing takes the same time whatever is wrong.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from typing import Final

from shared.errors import Unauthenticated

WINDOW_SECONDS: Final = 300  # either way: clocks of senders run ahead, too
MAX_HEADER_CHARS: Final = 2048
MAX_SIGNATURES: Final = 8
_TIME: Final = re.compile(r"[0-9]{1,12}", re.ASCII)
_HEX: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)


def sign(body: bytes, secret: str, *, at: int) -> str:
    """The header of a delivery that is sent at this Unix time."""
    return f"t={at},v1={_hmac(secret, str(at).encode() + b'.' + body)}"


def verify(header: str, body: bytes, secret: str, *, now: float) -> str:
    """Check a delivery against its header and return what names it: the same for the same time and body.

    Raises:
        Unauthenticated: the header is missing or malformed, no signature fits, or the delivery is older or newer than
            five minutes.
    """
    at, signatures = _parsed(header)
    expected = _hmac(secret, at.encode() + b"." + body)
    if not _any_is(expected, signatures):
        raise Unauthenticated("The signature is not that of this body and this agent's secret")
    if abs(now - int(at)) > WINDOW_SECONDS:
        raise Unauthenticated(
            f"The delivery was signed more than {WINDOW_SECONDS} seconds from now",
            hint="Sign each delivery when it is sent, by a clock that is right.",
        )
    return hashlib.sha256(f"{at}.{expected}".encode()).hexdigest()


def sign_as_flowise(body: bytes, secret: str) -> str:
    """The header that Flowise sends with the callback of a flow that has a callback secret."""
    return f"sha256={_hmac(secret, body)}"


def verify_as_flowise(header: str, body: bytes, secret: str) -> None:
    """Check a callback that Flowise signed. Nothing says when: who asked for it must take one answer only.

    Raises:
        Unauthenticated: the header is malformed, or the signature does not fit.
    """
    kind, _, signature = header.partition("=")
    if kind != "sha256" or not _HEX.fullmatch(signature):
        raise Unauthenticated("The signature header is malformed")
    if not _any_is(_hmac(secret, body), [signature]):
        raise Unauthenticated("The signature is not that of this body and this agent's secret")


def _parsed(header: str) -> tuple[str, list[str]]:
    """Time and signatures. Schemes that are not known are passed over, as a sender may bring newer ones beside ours."""
    times: list[str] = []
    signatures: list[str] = []
    for part in header.split(",") if len(header) <= MAX_HEADER_CHARS else ():
        name, _, value = part.strip().partition("=")
        if name == "t":
            times.append(value)
        elif name == "v1":
            signatures.append(value)
    well_formed = (
        len(times) == 1
        and _TIME.fullmatch(times[0])
        and 0 < len(signatures) <= MAX_SIGNATURES
        and all(_HEX.fullmatch(one) for one in signatures)
    )
    if not well_formed:
        raise Unauthenticated("The signature header is missing or malformed", hint="t=<unix seconds>,v1=<hex>")
    return times[0], signatures


def _any_is(expected: str, signatures: list[str]) -> bool:
    fits = [hmac.compare_digest(expected, one) for one in signatures]  # all of them, so that none is told by its time
    return any(fits)


def _hmac(secret: str, message: bytes) -> str:
    return hmac.new(secret.encode(), message, hashlib.sha256).hexdigest()
