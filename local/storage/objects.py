"""The rows of `storage.objects`, as they are read, written and shown."""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any, cast
from uuid import UUID

from psycopg.rows import DictRow
from psycopg.sql import SQL, Identifier
from psycopg.types.json import Jsonb

from local.storage.database import Session
from local.storage.errors import no_such_bucket, no_such_key


@dataclass(frozen=True, slots=True)
class StoredObject:
    """One row. What Storage itself put into `metadata` is read through properties: others may write the column too."""

    id: UUID
    bucket_id: str
    name: str
    owner: UUID | None
    owner_id: str | None
    version: str | None
    metadata: Any
    user_metadata: Any
    created_at: datetime
    updated_at: datetime
    last_accessed_at: datetime | None

    @classmethod
    def from_row(cls, row: DictRow) -> StoredObject:
        return cls(**row)

    @property
    def path(self) -> str:
        return f"{self.bucket_id}/{self.name}"

    @property
    def facts(self) -> dict[str, Any]:
        facts: object = self.metadata
        return cast("dict[str, Any]", facts) if isinstance(facts, dict) else {}

    @property
    def last_modified(self) -> datetime:
        """When the content was written; the row may have changed since."""
        try:
            return datetime.fromisoformat(self.facts["lastModified"])
        except (KeyError, TypeError, ValueError):
            return self.updated_at

    def as_json(self) -> dict[str, Any]:
        shown = {field.name: getattr(self, field.name) for field in fields(self)}
        moments = {name: timestamp(value) for name, value in shown.items() if isinstance(value, datetime)}
        return {**shown, **moments, "id": str(self.id), "owner": str(self.owner or "")}


@dataclass(frozen=True, slots=True)
class NewObject:
    """What a row is to hold. `owner` is the subject of a token, which is usually a user's id."""

    bucket_id: str
    name: str
    owner: str | None
    version: str
    metadata: dict[str, Any] | None
    user_metadata: dict[str, Any] | None = None

    def values(self) -> dict[str, Any]:
        return {
            "bucket_id": self.bucket_id,
            "name": self.name,
            "owner": uuid_or_none(self.owner),
            "owner_id": self.owner,
            "version": self.version,
            "metadata": None if self.metadata is None else Jsonb(self.metadata),
            "user_metadata": None if self.user_metadata is None else Jsonb(self.user_metadata),
        }


COLUMNS = SQL(", ").join(Identifier(field.name) for field in fields(StoredObject))

_FIND = SQL("select {} from storage.objects where bucket_id = %(bucket_id)s and name = %(name)s").format(COLUMNS)
_INSERT = SQL("""
insert into storage.objects as stored (bucket_id, name, owner, owner_id, version, metadata, user_metadata)
values (%(bucket_id)s, %(name)s, %(owner)s, %(owner_id)s, %(version)s, %(metadata)s, %(user_metadata)s)
""")
_UPSERT = _INSERT + SQL("""
on conflict (bucket_id, name) do update set
  owner = excluded.owner, owner_id = excluded.owner_id, version = excluded.version,
  metadata = excluded.metadata, user_metadata = excluded.user_metadata
""")
# What was replaced is what this very statement replaced, however many write the object at the same time.
_RETURNING = SQL(" returning stored.id, old.version as replaced")


async def find_object(session: Session, bucket_id: str, name: str) -> StoredObject:
    """The object, if the session may see it."""
    row = await session.row(_FIND, {"bucket_id": bucket_id, "name": name})
    if row is None:
        raise no_such_key()
    return StoredObject.from_row(row)


async def check_write(session: Session, new: NewObject, *, is_upsert: bool) -> None:
    """Have the policies say whether the caller may write this.

    A plain insert asks for no right to see the row, as on Supabase: so that a bucket can be a letter box.
    """
    await session.check(_UPSERT if is_upsert else _INSERT, new.values())


async def write_object(session: Session, new: NewObject, *, is_upsert: bool) -> tuple[UUID, str | None]:
    """Write the row as whoever the session is; its id, and the version that it replaced."""
    row = await session.row((_UPSERT if is_upsert else _INSERT) + _RETURNING, new.values())
    if row is None:  # only a trigger can have done away with it
        raise no_such_key()
    return row["id"], row["replaced"]


async def require_bucket(session: Session, bucket_id: str) -> DictRow:
    """The bucket's row, whoever may see it."""
    async with session.as_storage():
        bucket = await session.row("select * from storage.buckets where id = %(id)s", {"id": bucket_id})
    if bucket is None:
        raise no_such_bucket()
    return bucket


def uuid_or_none(text: str | None) -> UUID | None:
    try:
        return UUID(text or "")
    except ValueError:
        return None


def timestamp(moment: datetime) -> str:
    """As JavaScript writes a Date."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
