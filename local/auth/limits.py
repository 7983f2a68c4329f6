"""How often one caller may do a thing. Nothing is limited unless a setting says so."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from starlette.requests import Request

from local.auth.errors import AuthError
from local.auth_settings import AuthSettings

HOUR = 3600.0
FIVE_MINUTES = 300.0
MINUTE = 60.0
_MAX_KEYS = 10_000  # callers remembered; beyond that the idlest is forgotten


class Limit:
    """At most `count` in any `seconds`, for each key."""

    def __init__(self, count: int | None, seconds: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._count = count
        self._seconds = seconds
        self._clock = clock
        self._taken: dict[str, deque[float]] = {}

    def take(self, key: str = "") -> bool:
        """Count one more, or say False."""
        if self._count is None:
            return True
        now = self._clock()
        times = self._taken.pop(key, deque[float]())
        while times and times[0] <= now - self._seconds:
            times.popleft()
        self._taken[key] = times  # at the end: the order is that of last use
        if len(self._taken) > _MAX_KEYS:
            del self._taken[next(iter(self._taken))]
        if len(times) >= self._count:
            return False
        times.append(now)
        return True


class Limits:
    """The limits that GoTrue has, by its settings."""

    def __init__(self, settings: AuthSettings) -> None:
        self.anonymous = Limit(settings.rate_limit_anonymous_users, HOUR)
        self.otp = Limit(settings.rate_limit_otp, FIVE_MINUTES)
        self.verify = Limit(settings.rate_limit_verify, FIVE_MINUTES)
        self.token_refresh = Limit(settings.rate_limit_token_refresh, FIVE_MINUTES)
        self.factor_challenge = Limit(settings.mfa_rate_limit_challenge_and_verify, MINUTE)
        self.factor_verify = Limit(settings.mfa_rate_limit_challenge_and_verify, MINUTE)
        self._email_sent = Limit(settings.rate_limit_email_sent, HOUR)

    def check(self, limit: Limit, request: Request) -> None:
        """Count the caller's request.

        Raises:
            AuthError: 429 over_request_rate_limit.
        """
        if not limit.take(request.client.host if request.client else ""):
            raise AuthError(429, "over_request_rate_limit", "Request rate limit reached")

    def check_mail(self) -> None:
        """Count a mail.

        Raises:
            AuthError: 429 over_email_send_rate_limit.
        """
        if not self._email_sent.take():
            raise AuthError(429, "over_email_send_rate_limit", "email rate limit exceeded")
