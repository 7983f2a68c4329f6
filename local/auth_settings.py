"""How the auth server behaves where projects differ, under the names that GoTrue's own settings have.

The defaults are a development stack's: nobody waits for a mail, nothing is limited, and links lead to any port of
this machine. Each `GOTRUE_<NAME>` in the environment of the stack changes one of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from local.errors import StackError

_PREFIX = "GOTRUE_"
_TERM = re.compile(r"(\d+(?:\.\d+)?)(ms|h|m|s)")
_UNIT_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}


@dataclass(frozen=True, slots=True)
class AuthSettings:
    """Limits are how many there may be of a thing; None is no limit."""

    site_url: str = "http://127.0.0.1:3000"
    uri_allow_list: tuple[str, ...] = ()  # besides site_url; `*` and `**` as GoTrue reads them
    allow_loopback_redirects: bool = True
    jwt_exp: int = 3600  # seconds an access token is good for
    disable_signup: bool = False
    external_email_enabled: bool = True
    external_anonymous_users_enabled: bool = True
    security_manual_linking_enabled: bool = True
    security_update_password_require_reauthentication: bool = False
    mailer_autoconfirm: bool = True
    mailer_secure_email_change_enabled: bool = True  # both addresses are asked; one is enough with autoconfirm
    mailer_otp_exp: int = 3600  # seconds a mailed link or code is good for
    mailer_otp_length: int = 6
    mfa_totp_enroll_enabled: bool = True
    mfa_totp_verify_enabled: bool = True
    mfa_max_enrolled_factors: int = 10
    mfa_challenge_expiry_duration: float = 300  # seconds between a challenge and its code
    external_flow_state_expiry_duration: float = 300  # seconds between a link's click and the code's exchange
    smtp_max_frequency: float = 0  # seconds between two mails of a kind to one user
    rate_limit_email_sent: int | None = None  # an hour, in all
    rate_limit_anonymous_users: int | None = None  # an hour and address
    rate_limit_otp: int | None = None  # in five minutes and address, as the rest
    rate_limit_verify: int | None = None
    rate_limit_token_refresh: int | None = None
    mfa_rate_limit_challenge_and_verify: int | None = None  # of each, a minute and address

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> AuthSettings:
        """Read what is set; an empty value counts as not set.

        Raises:
            StackError: a value cannot be what its name says.
        """
        values: dict[str, Any] = {}
        for name, (what, parse) in _READERS.items():
            text = environment.get(_PREFIX + name.upper(), "").strip()
            if not text:
                continue
            try:
                values[name] = parse(text)
            except ValueError:
                raise StackError(f"{_PREFIX}{name.upper()} must be {what}, not {text!r}.") from None
        return cls(**values)

    @classmethod
    def variables(cls) -> dict[str, str]:
        """Each variable that is read, with what it may be."""
        return {_PREFIX + name.upper(): what for name, (what, _) in _READERS.items()}


def _flag(text: str) -> bool:
    match text.lower():
        case "true" | "1" | "t":
            return True
        case "false" | "0" | "f":
            return False
        case _:
            raise ValueError


def _count(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and 0 < int(text) < 10**9):
        raise ValueError
    return int(text)


def _code_length(text: str) -> int:
    length = _count(text)
    if not 6 <= length <= 10:  # GoTrue's own bounds
        raise ValueError
    return length


def _seconds(text: str) -> float:
    if text.isascii() and text.isdecimal():
        return float(text)
    if not re.fullmatch(rf"(?:{_TERM.pattern})+", text):
        raise ValueError
    return sum(float(number) * _UNIT_SECONDS[unit] for number, unit in _TERM.findall(text))


def _url(text: str) -> str:
    parts = urlsplit(text)
    if not parts.scheme or not parts.netloc:
        raise ValueError
    return text


def _list(text: str) -> tuple[str, ...]:
    return tuple(pattern.strip() for pattern in text.split(",") if pattern.strip())


_FLAG = ("true or false", _flag)
_COUNT = ("a positive number", _count)
_DURATION = ("a duration such as 60s", _seconds)
_READERS: dict[str, tuple[str, Callable[[str], object]]] = {
    "site_url": ("a URL", _url),
    "uri_allow_list": ("a list of URLs", _list),
    "allow_loopback_redirects": _FLAG,
    "jwt_exp": _COUNT,
    "disable_signup": _FLAG,
    "external_email_enabled": _FLAG,
    "external_anonymous_users_enabled": _FLAG,
    "security_manual_linking_enabled": _FLAG,
    "security_update_password_require_reauthentication": _FLAG,
    "mailer_autoconfirm": _FLAG,
    "mailer_secure_email_change_enabled": _FLAG,
    "mailer_otp_exp": _COUNT,
    "mailer_otp_length": ("a number from 6 to 10", _code_length),
    "mfa_totp_enroll_enabled": _FLAG,
    "mfa_totp_verify_enabled": _FLAG,
    "mfa_max_enrolled_factors": _COUNT,
    "mfa_challenge_expiry_duration": _DURATION,
    "external_flow_state_expiry_duration": _DURATION,
    "smtp_max_frequency": _DURATION,
    "rate_limit_email_sent": _COUNT,
    "rate_limit_anonymous_users": _COUNT,
    "rate_limit_otp": _COUNT,
    "rate_limit_verify": _COUNT,
    "rate_limit_token_refresh": _COUNT,
    "mfa_rate_limit_challenge_and_verify": _COUNT,
}
