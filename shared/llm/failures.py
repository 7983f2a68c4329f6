"""What a provider's failure means for us, said without its words where they could hold a secret.

Providers echo keys in their messages and SDK exceptions carry whole requests. So nothing of theirs passes but a
short excerpt of the error message with everything that looks like a key cut out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import cast

from shared.errors import Upstream, UpstreamBusy, UpstreamRefused
from shared.llm.model import JsonObject, parse_object

_KEY_SHAPES = re.compile(
    r"""(?x)
    \b(?:sk|rk|pk)[-_][\w*.\-]{6,}                     # Anthropic, OpenAI, DeepSeek, Stripe; also half masked
    | \bAIza[\w\-]{10,}                                # Google
    | \beyJ[\w\-]+\.[\w\-.]+                           # JWT
    | \b(?:gh[pousr]_|github_pat_|sb_secret_|sbp_|hf_|gsk_|xai-|xox[abprse]-|AKIA|ASIA)[\w\-]{6,}
    | \b(?:Bearer|Basic)\s+[\w\-.~+/=*]{6,}
    | (?<=://)[^/\s:@]+:[^/\s@]+(?=@)                  # user:password in a URL
    """
)
_EXCERPT_CHARACTERS = 300
_BUSY = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})  # 529: Anthropic's "overloaded"
# Inside a stream the status is already 200, so the error's type is all there is.
_BUSY_TYPES = frozenset({"overloaded_error", "rate_limit_error", "api_error", "timeout_error", "server_error"})
_OUT_OF_CREDIT = frozenset({"insufficient_quota", "billing_error", "billing_hard_limit_reached"})


def without_keys(text: str, *, known: str | None = None) -> str:
    """Cut out `known` and everything that has the shape of a key."""
    if known:
        text = text.replace(known, "[key]")
    return _KEY_SHAPES.sub("[key]", text)


def failure(
    provider: str,
    *,
    status: int,
    body: object,
    headers: Mapping[str, str],
    model: str,
    key: str | None,
) -> Upstream:
    """Turn a provider's error answer into one of ours."""
    kind, message = _kind_and_message(body)
    excerpt = without_keys(message, known=key)[:_EXCERPT_CHARACTERS] or None
    kind = without_keys(kind, known=key)[:80]
    answer = f"{status} {kind}" if kind else str(status)
    if status == 402 or kind in _OUT_OF_CREDIT:
        return UpstreamRefused(f"The account at {provider} has no credit left ({answer}).", details=excerpt)
    if status in {401, 403}:
        return UpstreamRefused(
            f"{provider} refused the API key ({answer}).", details=excerpt, hint="Check the key and its permissions."
        )
    if status == 404:
        return UpstreamRefused(
            f"{provider} does not know the model {model!r}, or the key may not use it ({answer}).", details=excerpt
        )
    if status in _BUSY or status >= 500 or kind in _BUSY_TYPES:
        return UpstreamBusy(
            f"{provider} is busy or limits our rate ({answer}).",
            details=excerpt,
            retry_after_seconds=retry_after(headers),
        )
    return UpstreamRefused(f"{provider} refused the request ({answer}).", details=excerpt)


def unreachable(provider: str) -> UpstreamBusy:
    return UpstreamBusy(f"{provider} cannot be reached, or the connection broke.")


def broken_off(provider: str) -> UpstreamBusy:
    return UpstreamBusy(f"{provider} ended its answer in the middle.")


def no_protocol(provider: str) -> UpstreamBusy:
    return UpstreamBusy(f"{provider} answered something that is not its protocol.", hint="Check the base URL.")


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds the server asks us to wait: `retry-after-ms`, or `retry-after` as seconds or as an HTTP date."""
    if (milliseconds := _number(headers.get("retry-after-ms"))) is not None:
        return milliseconds / 1000
    value = headers.get("retry-after")
    if value is None:
        return None
    if (seconds := _number(value)) is not None:
        return seconds
    try:
        moment = parsedate_to_datetime(value)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())


def _number(value: str | None) -> float | None:
    # No float(): it takes "nan" and "inf", and a wait of either is a bug far from here.
    return float(value) if value is not None and re.fullmatch(r"\d{1,9}(\.\d+)?", value.strip()) else None


def _kind_and_message(body: object) -> tuple[str, str]:
    """The error's name and text, wherever this provider puts them: `error.*`, the top level, or a list of one."""
    listed = cast("list[object]", body) if isinstance(body, list) else [body]
    first = listed[0] if listed else None
    parsed = parse_object(first) if isinstance(first, str) else first
    if not isinstance(parsed, dict):
        return "", ""
    data = cast("JsonObject", parsed)
    nested = data.get("error")
    error = cast("JsonObject", nested) if isinstance(nested, dict) else data
    kind = next((error[k] for k in ("code", "type", "status") if isinstance(error.get(k), str)), "")
    texts = (error.get("message"), data.get("error"))
    return str(kind), next((text for text in texts if isinstance(text, str)), "")
