"""Every error that leaves our code, and the one body that HTTP answers with.

A message is a sentence for the person who called; it never holds a secret nor the text of a driver's or
provider's exception. `code` is the public name of the error, `status` its HTTP status, and `retryable` says
whether the same call may succeed later without a change.

    AppError 500 internal
    ├─ InvalidInput 400 invalid_input
    ├─ AddressBlocked 400 address_blocked     a URL leads where nobody's may; nothing was connected
    ├─ Unauthenticated 401 unauthenticated
    ├─ Forbidden 403 forbidden
    ├─ NotFound 404 not_found                 also what row-level security hides
    │  └─ CredentialMissing credential_missing
    ├─ MethodNotAllowed 405 method_not_allowed
    ├─ PayloadTooLarge 413 payload_too_large
    ├─ Conflict 409 conflict
    │  ├─ StaleRevision stale_revision        the caller's copy is old: read again, then decide again
    │  ├─ RunFinished run_finished            an end is final
    │  ├─ InvalidTransition invalid_transition
    │  ├─ IdempotencyConflict idempotency_conflict
    │  └─ LeaseLost lease_lost                somebody else has the run: stop writing
    ├─ LimitExceeded 429 limit_exceeded       retryable after retry_after_seconds
    ├─ BudgetSpent 402 budget_spent           final until credits are added
    ├─ Upstream 502 upstream
    │  ├─ UpstreamTimeout upstream_timeout   retryable
    │  ├─ UpstreamBusy upstream_busy         retryable after retry_after_seconds
    │  └─ UpstreamRefused upstream_refused   final: a wrong key, model or request
    ├─ DatabaseUnavailable 503 database_unavailable   retryable
    └─ VaultSealed 500 vault_sealed           no detail outside the log
       └─ NoVault no_vault                    this worker was given no keys
    Suspend (BaseException)                   not an error: the run waits
"""

# ruff: noqa: N818 - the names say what happened; that they are errors stands in the base class

from __future__ import annotations

import json
from typing import ClassVar, Final, TypedDict


class ErrorBody(TypedDict):
    """PostgREST's four keys and `retryable`, so that one parser serves both."""

    code: str
    message: str
    details: str | None
    hint: str | None
    retryable: bool


class AppError(Exception):
    """An error whose message the caller may see."""

    code: ClassVar[str] = "internal"
    status: ClassVar[int] = 500
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, details: str | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.details = details
        self.hint = hint

    def to_body(self) -> ErrorBody:
        return {
            "code": self.code,
            "message": self.message,
            "details": self.details,
            "hint": self.hint,
            "retryable": self.retryable,
        }


class InvalidInput(AppError):
    """What was sent is wrong; the message names the field."""

    code = "invalid_input"
    status = 400


class AddressBlocked(AppError):
    """A URL leads where nobody's may: to a private network, to our own hosts, or away from the credential's own."""

    code = "address_blocked"
    status = 400


class Unauthenticated(AppError):
    """No caller is known: the token is missing, expired or forged."""

    code = "unauthenticated"
    status = 401


class Forbidden(AppError):
    """The caller is known and may not do this."""

    code = "forbidden"
    status = 403


class NotFound(AppError):
    """There is no such thing, or row-level security hides it from the caller."""

    code = "not_found"
    status = 404


class CredentialMissing(NotFound):
    """The run has no credential for the provider, or it was deleted since."""

    code = "credential_missing"


class MethodNotAllowed(AppError):
    """The endpoint does not know this HTTP method; the Allow header names those it knows."""

    code = "method_not_allowed"
    status = 405


class PayloadTooLarge(AppError):
    """The body is over the limit; the message names the limit."""

    code = "payload_too_large"
    status = 413


class Conflict(AppError):
    """The request does not fit the present state; the message says what that is."""

    code = "conflict"
    status = 409


class StaleRevision(Conflict):
    """The caller named a revision that is no longer current."""

    code = "stale_revision"


class RunFinished(Conflict):
    """The run has ended; retry, re-run and fork make a new one."""

    code = "run_finished"


class InvalidTransition(Conflict):
    """The run's status does not allow this move."""

    code = "invalid_transition"


class IdempotencyConflict(Conflict):
    """The idempotency key was used before with another request."""

    code = "idempotency_conflict"


class LeaseLost(Conflict):
    """Another worker holds the run: drop its results and write nothing more."""

    code = "lease_lost"


class RetryLater(AppError):
    """Base of the errors that may know when to come back; never raised itself."""

    retryable = True

    def __init__(
        self,
        message: str,
        *,
        details: str | None = None,
        hint: str | None = None,
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(message, details=details, hint=hint)
        self.retry_after_seconds = retry_after_seconds


class LimitExceeded(RetryLater):
    """One of our own limits is reached."""

    code = "limit_exceeded"
    status = 429


class BudgetSpent(AppError):
    """The account's credits or the run's cap do not cover the next step."""

    code = "budget_spent"
    status = 402


class Upstream(AppError):
    """A service that we call failed in a way that fits no class below."""

    code = "upstream"
    status = 502


class UpstreamTimeout(Upstream):
    """The service did not answer in time; whether it acted is unknown."""

    code = "upstream_timeout"
    retryable = True


class UpstreamBusy(RetryLater, Upstream):
    """The service is overloaded, limits our rate or cannot be reached."""

    code = "upstream_busy"


class UpstreamRefused(Upstream):
    """The service understood and said no; the same call fails again."""

    code = "upstream_refused"


class DatabaseUnavailable(AppError):
    """The database cannot be reached, is restarting, or has no room, time or connection for this call.

    Nobody may repeat a person's call on account of it: where the answer was lost, the call may have taken effect.
    """

    code = "database_unavailable"
    status = 503
    retryable = True


class VaultSealed(AppError):
    """A secret cannot be opened; the log says why, the caller is not told."""

    code = "vault_sealed"


class NoVault(VaultSealed):
    """This worker was started without the keys that credentials are sealed under."""

    code = "no_vault"


class Suspend(BaseException):
    """The run waits for a person, a timer or a child.

    Derived from BaseException so that a tool's `except Exception` cannot take it for a failure.
    """


_BY_SQLSTATE: Final[dict[str, type[AppError]]] = {
    "RUN01": NotFound,
    "RUN02": InvalidTransition,
    "RUN03": StaleRevision,
    "RUN04": RunFinished,
    "RUN05": IdempotencyConflict,
    "RUN06": Forbidden,
    "RUN07": InvalidInput,
    "RUN08": NotFound,
    "RUN09": LimitExceeded,
    "RUN10": BudgetSpent,
    "RUN11": AppError,
    "RUN12": AppError,
    "RUN14": Conflict,
    "RUN15": Conflict,
    "RUN19": Unauthenticated,
    "RUN20": Forbidden,
    "RUN21": Conflict,
    "RUN22": Conflict,
    "RUN16": NotFound,
    "RUN17": VaultSealed,
    "RUN18": LeaseLost,
    "PGRST301": Unauthenticated,
    "PGRST303": Unauthenticated,
    "42501": Forbidden,
    "22P02": InvalidInput,  # text that is no uuid or number
    "22003": InvalidInput,  # a number out of range
    "22008": InvalidInput,  # a time out of range
    "22P05": InvalidInput,  # a character that cannot be stored
    "25006": DatabaseUnavailable,  # read-only: a failover put us on the standby, or the disk filled up
    "25P04": DatabaseUnavailable,  # transaction timeout: rolled back
    "40001": DatabaseUnavailable,  # serialization failure: rolled back
    "40003": DatabaseUnavailable,  # whether the statement completed is not known
    "40P01": DatabaseUnavailable,  # deadlock victim: rolled back
    "55P03": DatabaseUnavailable,  # lock not available: rolled back
    "57014": DatabaseUnavailable,  # statement timeout: rolled back
    "58030": DatabaseUnavailable,  # the database's disk fails
    "PGRST000": DatabaseUnavailable,
    "PGRST001": DatabaseUnavailable,
    "PGRST002": DatabaseUnavailable,
    "PGRST003": DatabaseUnavailable,
}
_UNAVAILABLE_CLASSES: Final = ("08", "53", "57P")  # connection lost, out of resources, shutting down or starting up


def error_for(sqlstate: str, message: str, *, details: str | None = None, hint: str | None = None) -> AppError:
    """The error of ours that a SQLSTATE (or PostgREST code) means; the same over both wires.

    Our own codes (RUNxx) carry messages written for the caller. Any other message may hold data of the statement, so
    only its code is passed on.
    """
    if sqlstate.startswith(_UNAVAILABLE_CLASSES):
        return DatabaseUnavailable("The database is not available", details=sqlstate)
    kind = _BY_SQLSTATE.get(sqlstate, AppError)
    if kind is LimitExceeded:
        return LimitExceeded(message, details=details, hint=hint, retry_after_seconds=_retry_after(details))
    if sqlstate.startswith("RUN"):
        return kind(message, details=details, hint=hint)
    return kind(f"The database refused the call ({sqlstate})", details=sqlstate, hint=None)


def _retry_after(details: str | None) -> float | None:
    """What RUN09 says in its details, {"retry_after_seconds", ...}."""
    try:
        return float(json.loads(details or "")["retry_after_seconds"])
    except (ValueError, TypeError, KeyError):
        return None
