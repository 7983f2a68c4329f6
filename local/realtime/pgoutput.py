"""The messages of PostgreSQL's `pgoutput` plugin, protocol version 1, values as text.

Version 1 sends a transaction when it has committed and whole, one after the other in commit order; the stream
messages of later versions (parts of transactions that may yet abort) are not asked for and so are no part of
the grammar. A message outside the grammar raises: the stream is then opened anew rather than guessed at.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Literal

_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)  # PostgreSQL's
_BEGIN = struct.Struct("!qqI")  # final LSN, commit time in microseconds, xid
_KEY_COLUMN = 1  # flag: the column is part of the replica identity


class Unchanged(Enum):
    """A large value that an update did not touch, and that the log therefore does not hold."""

    UNCHANGED = "unchanged"


UNCHANGED = Unchanged.UNCHANGED
Value = str | None | Unchanged
Row = dict[str, Value]


class PgoutputError(Exception):
    """The server said something that is not in the grammar."""


@dataclass(frozen=True, slots=True)
class RelationColumn:
    name: str
    type_oid: int
    is_key: bool  # of the replica identity, which need not be the primary key


@dataclass(frozen=True, slots=True, eq=False)
class Relation:
    """A table as it was when the rows that point here were written. The server sends it anew whenever its
    catalog entry changed, so a cache of anything about the table may use the object's identity as key.
    """

    oid: int
    schema: str
    name: str
    identity: Literal["d", "n", "f", "i"]
    columns: tuple[RelationColumn, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Change:
    """One row. `new` is set on INSERT and UPDATE, `old` (identity columns) on DELETE and where an UPDATE has it."""

    kind: Literal["INSERT", "UPDATE", "DELETE"]
    relation: Relation
    committed_at: datetime
    xid: int  # 32 bits, as the log has it
    new: Row | None = None
    old: Row | None = None


@dataclass(slots=True)
class Decoder:
    """Turns the messages of one stream, in order, into row changes."""

    _relations: dict[int, Relation] = field(default_factory=dict[int, Relation])
    _committed_at: datetime = _EPOCH
    _xid: int = 0

    def feed(self, message: bytes) -> Change | None:
        """Take the next message; return the change if it is one.

        Raises:
            PgoutputError: the message is unknown or cut short.
        """
        reader = _Reader(message, offset=1)
        try:
            match message[:1]:
                case b"I":
                    return self._insert(reader)
                case b"U":
                    return self._update(reader)
                case b"D":
                    return self._delete(reader)
                case b"B":
                    _lsn, microseconds, self._xid = _BEGIN.unpack_from(message, 1)
                    self._committed_at = _EPOCH + timedelta(microseconds=microseconds)
                case b"R":
                    relation = _relation(reader)
                    self._relations[relation.oid] = relation
                case b"C" | b"T" | b"O" | b"Y" | b"M":
                    pass  # commit, truncate, origin, type, message: nothing a subscriber is told
                case kind:
                    raise PgoutputError(f"unknown message {kind!r}")
        except (struct.error, IndexError, ValueError, KeyError) as exc:
            raise PgoutputError(f"malformed message {message[:1]!r}") from exc
        return None

    def _insert(self, reader: _Reader) -> Change:
        relation = self._relations[reader.int32()]
        reader.byte()  # always 'N'
        return Change("INSERT", relation, self._committed_at, self._xid, new=_row(reader, relation))

    def _update(self, reader: _Reader) -> Change:
        relation = self._relations[reader.int32()]
        kind, old = reader.byte(), None
        if kind in {b"K", b"O"}:
            old = _old_row(reader, relation, kind)
            reader.byte()
        return Change("UPDATE", relation, self._committed_at, self._xid, new=_row(reader, relation), old=old)

    def _delete(self, reader: _Reader) -> Change:
        relation = self._relations[reader.int32()]
        return Change("DELETE", relation, self._committed_at, self._xid, old=_old_row(reader, relation, reader.byte()))


@dataclass(slots=True)
class _Reader:
    data: bytes
    offset: int = 0

    def byte(self) -> bytes:
        self.offset += 1
        return self.data[self.offset - 1 : self.offset]

    def int16(self) -> int:
        self.offset += 2
        return int.from_bytes(self.data[self.offset - 2 : self.offset])

    def int32(self) -> int:
        self.offset += 4
        return int.from_bytes(self.data[self.offset - 4 : self.offset])

    def string(self) -> str:
        end = self.data.index(b"\0", self.offset)
        text = self.data[self.offset : end].decode()
        self.offset = end + 1
        return text

    def value(self) -> Value:
        match self.byte():
            case b"n":
                return None
            case b"u":
                return UNCHANGED
            case b"t":
                size = self.int32()
                self.offset += size
                if self.offset > len(self.data):
                    raise PgoutputError("a value is cut short")
                return self.data[self.offset - size : self.offset].decode()
            case kind:
                raise PgoutputError(f"unknown kind of value {kind!r}")


def _relation(reader: _Reader) -> Relation:
    oid, schema, name, identity = reader.int32(), reader.string(), reader.string(), reader.byte()
    columns: list[RelationColumn] = []
    for _ in range(reader.int16()):
        flags, column, type_oid, _modifier = reader.byte(), reader.string(), reader.int32(), reader.int32()
        columns.append(RelationColumn(column, type_oid, is_key=flags[0] == _KEY_COLUMN))
    match identity:
        case b"d":
            letter: Literal["d", "n", "f", "i"] = "d"
        case b"n":
            letter = "n"
        case b"f":
            letter = "f"
        case b"i":
            letter = "i"
        case _:
            raise PgoutputError(f"unknown replica identity {identity!r}")
    # The empty name stands for pg_catalog.
    return Relation(oid, schema or "pg_catalog", name, letter, tuple(columns))


def _row(reader: _Reader, relation: Relation) -> Row:
    count = reader.int16()
    if count != len(relation.columns):
        raise PgoutputError(f"{count} values for the {len(relation.columns)} columns of {relation.name!r}")
    return {column.name: reader.value() for column in relation.columns}


def _old_row(reader: _Reader, relation: Relation, kind: bytes) -> Row:
    row = _row(reader, relation)
    if kind == b"O":
        return row
    # A key row has a null in the place of every column that is not of the key.
    return {column.name: row[column.name] for column in relation.columns if column.is_key}
