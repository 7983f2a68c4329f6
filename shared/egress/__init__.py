"""Calls to the outside: the one guarded HTTP client for everything whose URL a person can set."""

from shared.egress.client import check_url, egress_client
from shared.egress.errors import AddressBlocked, AnswerRefused, ConnectionBroke, TlsFailed, Unreachable
from shared.egress.policy import EgressPolicy

__all__ = [
    "AddressBlocked",
    "AnswerRefused",
    "ConnectionBroke",
    "EgressPolicy",
    "TlsFailed",
    "Unreachable",
    "check_url",
    "egress_client",
]
