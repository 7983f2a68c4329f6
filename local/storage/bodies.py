"""What clients send as JSON, checked as Storage's schemas do.

A number may come as a string, and unknown keys are ignored.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request

from local.storage.errors import invalid_request, too_large

LARGEST_BODY = 1 << 20  # Storage's limit on everything that is not a file
LONGEST_EXPIRY_SECONDS = 2**31 - 1  # 68 years, and still a date

Order = Literal["asc", "desc"]
Column = Literal["name", "updated_at", "created_at"]
Count = Annotated[int, Field(ge=0, le=2**31 - 1)]


class _Body(BaseModel):
    model_config = ConfigDict(frozen=True)


class NewBucket(_Body):
    name: str
    id: str | None = None
    public: bool = False
    file_size_limit: int | str | None = None
    allowed_mime_types: list[str] | None = None
    type: str | None = None
    versioning_status: str | None = None


class BucketChange(_Body):
    """What is not named stays; null takes a limit away."""

    public: bool | None = None
    file_size_limit: int | str | None = None
    allowed_mime_types: list[str] | None = None
    versioning_status: str | None = None


class BucketListing(_Body):
    limit: Count | None = None
    offset: Count = 0
    sortColumn: Literal["id", "name", "created_at", "updated_at"] = "name"  # noqa: N815 - the wire's name
    sortOrder: Order = "asc"  # noqa: N815
    search: str = ""


class Transfer(_Body):
    """Where to move or copy an object."""

    bucketId: str  # noqa: N815
    sourceKey: str  # noqa: N815
    destinationKey: str  # noqa: N815
    destinationBucket: str | None = None  # noqa: N815
    sourceVersionId: str | None = None  # noqa: N815


class CopyMetadata(_Body):
    cacheControl: str | None = None  # noqa: N815
    contentEncoding: str | None = None  # noqa: N815
    mimetype: str | None = None


class Copy(Transfer):
    copyMetadata: bool = True  # noqa: N815
    metadata: CopyMetadata = CopyMetadata()


class Removal(_Body):
    prefixes: Annotated[list[str], Field(min_length=1)]


class SignOne(_Body):
    expiresIn: Annotated[int, Field(ge=1, le=LONGEST_EXPIRY_SECONDS)]  # noqa: N815
    transform: dict[str, Any] | None = None
    versionId: str | None = None  # noqa: N815


class SignMany(SignOne):
    paths: Annotated[list[str], Field(min_length=1)]


class _Sort(_Body):
    column: Literal["name", "updated_at", "created_at", "last_accessed_at"] = "name"
    order: Order = "asc"


class Listing(_Body):
    prefix: str = ""
    limit: Annotated[int, Field(ge=0, le=10_000)] = 100
    offset: Count = 0
    sortBy: _Sort = _Sort()  # noqa: N815
    search: str = ""


class _SortV2(_Body):
    column: Column = "name"
    order: Order = "asc"


class ListingV2(_Body):
    prefix: str = ""
    limit: Annotated[int, Field(ge=1)] = 1000
    cursor: str | None = None
    with_delimiter: bool = False
    sortBy: _SortV2 = _SortV2()  # noqa: N815


BodyT = TypeVar("BodyT", bound=_Body)


async def read_body(request: Request, body: type[BodyT]) -> BodyT:
    """Decode the request's body.

    Raises:
        StorageError: InvalidRequest, naming the first field that is wrong.
    """
    raw = bytearray()
    async for chunk in request.stream():
        raw += chunk
        if len(raw) > LARGEST_BODY:
            raise too_large("body")
    try:
        return body.model_validate_json(bytes(raw))
    except ValidationError as exc:
        raise invalid_request(_first_problem("body", exc)) from exc


def read_query(query: Mapping[str, str], body: type[BodyT]) -> BodyT:
    """As `read_body`, of the query string."""
    try:
        return body.model_validate(dict(query))
    except ValidationError as exc:
        raise invalid_request(_first_problem("querystring", exc)) from exc


def _first_problem(where: str, exc: ValidationError) -> str:
    first = exc.errors(include_url=False, include_input=False)[0]
    return f"{'/'.join((where, *map(str, first['loc'])))}: {first['msg']}"
