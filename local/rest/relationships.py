"""How two relations hang together through foreign keys, and which of several ways a request means."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from local.rest.catalog import Catalog, ForeignKey, QualifiedName, Table
from local.rest.errors import ApiError


@dataclass(frozen=True, slots=True)
class Junction:
    """The table between the two sides of a many-to-many; `columns` pairs its columns with the target's."""

    table: QualifiedName
    columns: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Relationship:
    """`columns` pairs the parent's columns with the target's, or with the junction's if there is one."""

    kind: str
    constraint: str
    parent: QualifiedName
    target: QualifiedName
    columns: tuple[tuple[str, str], ...]
    to_one: bool
    junction: Junction | None = None

    def answers(self, target: str, hint: str | None) -> bool:
        return self._is_called(target) and (hint is None or self._is_hinted(hint))

    def _is_called(self, target: str) -> bool:
        """By the target's name, the constraint's, or the single foreign key column of the parent."""
        if target == self.target[1]:
            # A table that refers to itself is its own children by name; its parent goes by the column.
            return not (self.parent == self.target and self.to_one)
        if self.junction is not None:
            return False
        return target == self.constraint or (self.to_one and self._single(0) == target)

    def _is_hinted(self, hint: str) -> bool:
        if self.junction is not None:
            return hint == self.junction.table[1]
        return hint in {self.constraint, self._single(0), self._single(1)}

    def _single(self, side: int) -> str | None:
        return self.columns[0][side] if len(self.columns) == 1 else None

    def describe(self) -> str:
        pairs = f"({', '.join(own for own, _ in self.columns)}) and {self.target[1]}"
        return f"{self.kind} using {self.constraint} on {self.parent[1]}{pairs}"


def find_relationship(catalog: Catalog, parent: Table, target: str, hint: str | None) -> Relationship:
    """Find the one relationship that an embed means.

    Raises:
        ApiError: PGRST200 if there is none, PGRST201 if there are several.
    """
    found = [way for way in _relationships(catalog, parent.qualified) if way.answers(target, hint)]
    if len(found) == 1:
        return found[0]
    if not found:
        raise _no_relationship(parent, target, hint)
    options = "', '".join(f"{target}!{way.constraint}" for way in found)
    raise ApiError(
        300,
        "PGRST201",
        f"Could not embed because more than one relationship was found for '{parent.name}' and '{target}'",
        details="; ".join(way.describe() for way in found),
        hint=f"Try changing '{target}' to one of the following: '{options}'. "
        "Find the desired relationship in the 'details' key.",
    )


def _no_relationship(parent: Table, target: str, hint: str | None) -> ApiError:
    between = f"'{parent.name}' and '{target}'"
    by_hint = f" using the hint '{hint}'" if hint else ""
    return ApiError(
        400,
        "PGRST200",
        f"Could not find a relationship between {between} in the schema cache",
        details=f"Searched for a foreign key relationship between {between}{by_hint} in the schema "
        f"'{parent.schema}', but no matches were found.",
    )


def _relationships(catalog: Catalog, parent: QualifiedName) -> Iterator[Relationship]:
    for key in catalog.foreign_keys_by_table.get(parent, ()):
        if key.table == parent:
            kind = "one-to-one" if key.is_unique else "many-to-one"
            yield Relationship(kind, key.name, parent, key.target, key.columns, to_one=True)
        if key.target == parent:
            kind = "one-to-one" if key.is_unique else "one-to-many"
            yield Relationship(kind, key.name, parent, key.table, _turned(key.columns), to_one=key.is_unique)
            yield from _through(catalog, parent, key)


def _through(catalog: Catalog, parent: QualifiedName, near: ForeignKey) -> Iterator[Relationship]:
    """The ways over `near.table` as a junction: both its keys lie within its primary key."""
    if not near.in_primary_key:
        return
    for far in catalog.foreign_keys_by_table.get(near.table, ()):
        if far.table == near.table and far.name != near.name and far.in_primary_key:
            yield Relationship(
                kind="many-to-many",
                constraint=near.table[1],
                parent=parent,
                target=far.target,
                columns=_turned(near.columns),
                to_one=False,
                junction=Junction(near.table, far.columns),
            )


def _turned(columns: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    return tuple((other, own) for own, other in columns)
