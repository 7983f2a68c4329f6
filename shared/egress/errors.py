"""How a call to the outside fails, finer than the codes that callers see.

AddressBlocked                the address may not be called from here: nothing was connected
UpstreamBusy
└─ Unreachable                no such host, or nothing listens there: nothing was sent
UpstreamTimeout               no answer in time
└─ ConnectionBroke            the connection ended before the answer did; whether the other side acted is unknown
UpstreamRefused
├─ TlsFailed                  no trustworthy encrypted connection: nothing was sent
└─ AnswerRefused              the answer is too large, or encoded or redirected in a way that we do not follow
"""

from __future__ import annotations

from shared.errors import AddressBlocked, UpstreamBusy, UpstreamRefused, UpstreamTimeout

__all__ = ["AddressBlocked", "AnswerRefused", "ConnectionBroke", "TlsFailed", "Unreachable"]


class Unreachable(UpstreamBusy):
    """The host has no address, or no address of it takes a connection. Nothing was sent."""


class ConnectionBroke(UpstreamTimeout):
    """The connection ended before the answer was complete."""


class TlsFailed(UpstreamRefused):
    """The other side does not prove who it is, or speaks no TLS. Nothing was sent."""


class AnswerRefused(UpstreamRefused):
    """What came back is more than we take, or not in a form that we take."""
