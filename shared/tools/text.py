"""Text as the database and the model take it: no NUL, no lone surrogates, no more bytes than agreed."""

from __future__ import annotations

from shared.runs.models import Json


def clean(text: str) -> str:
    """Drop NUL, which PostgreSQL's text cannot hold, and replace lone surrogates, which are no Unicode."""
    if text.isascii():
        return text.replace("\x00", "")
    return text.replace("\x00", "").encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def clean_json(value: Json) -> Json:
    """Clean every string of a JSON value, keys included."""
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, dict):
        return {clean(key): clean_json(item) for key, item in value.items()}
    if isinstance(value, list):
        return [clean_json(item) for item in value]
    return value


def size_of(text: str) -> int:
    """Return the length of `text` in bytes of UTF-8."""
    return len(text) if text.isascii() else len(text.encode(errors="replace"))


def head(text: str, *, max_bytes: int) -> str:
    """Keep the beginning of `text` with a mark that says how much is missing; the mark fits in `max_bytes` too."""
    size = size_of(text)
    if size <= max_bytes:
        return text
    mark = f"\n[truncated: {size} bytes in all]"
    return text.encode(errors="replace")[: max_bytes - len(mark)].decode(errors="ignore") + mark


def tail(text: str, *, max_bytes: int) -> str:
    """Keep the end of `text` in the same way."""
    size = size_of(text)
    if size <= max_bytes:
        return text
    mark = f"[truncated: {size} bytes in all]\n"
    return mark + text.encode(errors="replace")[len(mark) - max_bytes :].decode(errors="ignore")
