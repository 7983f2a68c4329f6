"""What buckets and objects may be called, how sizes are written, and which types a bucket takes.

Names stay in the database: no path on disk is ever made of one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from local.storage.errors import (
    StorageError,
    invalid_bucket_name,
    invalid_key,
    invalid_mime_type,
    invalid_request,
    too_large,
)

_CHARACTERS = r"A-Za-z0-9_!\-.*'() &$@=;:+,?"
_KEY = re.compile(rf"[{_CHARACTERS}/]{{1,1024}}")  # S3's limit; the whole key also fits an index entry
_BUCKET = re.compile(rf"[{_CHARACTERS}]{{1,100}}")
_MIME_TYPE = re.compile(r"[A-Za-z0-9\-+.]+/(?:[A-Za-z0-9\-+.]+|\*)(?:;\s*charset=[A-Za-z0-9\-]+)?|\*")
_SIZE = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,15})?)(gb|mb|kb|b)", re.IGNORECASE)
_UNITS = {"gb": 10**9, "mb": 10**6, "kb": 10**3, "b": 1}
_HEADER_VALUE = re.compile(r"[\x20-\x7e]{1,1000}")
FOLDER_PLACEHOLDER = ".emptyFolderPlaceholder"  # what Supabase's dashboard uploads to make a folder


def check_key(key: str) -> str:
    """The key, if an object may have it.

    Dot segments are refused: clients and proxies resolve them in URLs, so no such object could be fetched.
    """
    if not _KEY.fullmatch(key) or {".", ".."} & set(key.split("/")):
        raise invalid_key(key)
    return key


def check_bucket_name(name: str) -> str:
    if not _BUCKET.fullmatch(name) or name.strip() != name or name in {".", ".."}:
        raise invalid_bucket_name()
    return name


def check_mime_types(mime_types: Sequence[str] | None) -> list[str] | None:
    """The types a bucket is to allow, empty ones dropped."""
    if mime_types is None:
        return None
    for mime_type in mime_types:
        if mime_type and (len(mime_type) > 1000 or not _MIME_TYPE.fullmatch(mime_type)):
            raise invalid_mime_type(mime_type)
    return [mime_type for mime_type in mime_types if mime_type]


def require_allowed(mime_type: str, allowed: Sequence[str] | None) -> None:
    """Refuse a type that the bucket does not take; parameters such as the charset do not count."""
    if not allowed:
        return
    essence = _essence(mime_type)
    family, slash, _ = essence.partition("/")
    patterns = {_essence(pattern) for pattern in allowed}
    if not slash or not patterns & {"*", "*/*", f"{family}/*", essence}:
        raise invalid_mime_type(mime_type)


def parse_size(limit: int | str | None, *, largest: int) -> int | None:
    """Bytes of a size such as 1000, "20MB" or "3b"."""
    if limit is None:
        return None
    if isinstance(limit, str):
        match = _SIZE.fullmatch(limit.strip())
        if match is None:
            raise invalid_request("Invalid file size format, hint: use 20GB / 20MB / 30KB / 3B")
        limit = int(float(match[1]) * _UNITS[match[2].lower()])
    if limit < 0:
        raise invalid_request("file_size_limit must not be negative")
    if limit > largest:
        raise too_large()
    return limit


def check_header(name: str, value: str) -> str:
    """A value that will be sent back as a header: printable ASCII, so that it ends where the header does."""
    if not _HEADER_VALUE.fullmatch(value):
        message = f'Invalid character in response header "{name}"'
        raise StorageError(400, "InvalidRequest", message, error="invalid_header_char")
    return value


def _essence(mime_type: str) -> str:
    return mime_type.partition(";")[0].strip().lower()
