"""How two relations hang together, and which of several ways a request means.

Ways come from foreign keys, between tables or the views that show them, and from functions that take a table's row
("computed relationships"), which stand in place of the foreign keys to the relation of their name.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal
from weakref import WeakKeyDictionary

from local.rest.catalog import Catalog, ForeignKey, Function, QualifiedName, Table
from local.rest.errors import ApiError
from local.rest.similar import similar

Cardinality = Literal["one-to-many", "many-to-one", "one-to-one", "many-to-many", "computed"]
# In which order several ways are listed.
_RANKS: dict[Cardinality, int] = {
    "one-to-many": 0,
    "many-to-one": 1,
    "one-to-one": 2,
    "many-to-many": 3,
    "computed": 4,
}


@dataclass(frozen=True, slots=True)
class Junction:
    """The relation between the two sides of a many-to-many; `columns` pairs its columns with the target's."""

    table: QualifiedName
    columns: tuple[tuple[str, str], ...]
    near_constraint: str
    far_constraint: str


@dataclass(frozen=True, slots=True)
class Relationship:
    """`columns` pairs the parent's columns with the target's, or with the junction's if there is one."""

    cardinality: Cardinality
    constraint: str
    parent: QualifiedName
    target: QualifiedName
    columns: tuple[tuple[str, str], ...]
    to_one: bool
    target_is_view: bool = False
    junction: Junction | None = None
    function: Function | None = None

    def answers(self, target: str, hint: str | None) -> bool:
        if self.function is not None:
            return target == self.function.name
        if self.parent == self.target:
            return self._answers_itself(target, hint)
        if hint is None:
            return target == self.target[1] or (not self.target_is_view and self._is_named(target))
        return target == self.target[1] and (
            self._is_named(hint) or hint in {self._single(1), self.junction and self.junction.table[1]}
        )

    def _answers_itself(self, target: str, hint: str | None) -> bool:
        """Of a table that refers to itself: its children by the table's name, its parent by the column's.

        The key's own name chooses neither, as both have it.
        """
        if target == self.target[1]:
            return self.cardinality == "one-to-many" and hint in {None, self._single(1)}
        return hint is None and self.cardinality == "many-to-one" and target == self._single(0)

    def _is_named(self, name: str) -> bool:
        return self.junction is None and name in {self.constraint, self._single(0)}

    def _single(self, side: int) -> str | None:
        return self.columns[0][side] if len(self.columns) == 1 and self.junction is None else None

    @property
    def hint(self) -> str:
        """What, behind a `!`, chooses this way."""
        return self.constraint if self.junction is None else self.junction.table[1]

    def describe(self) -> dict[str, str]:
        if self.junction is None:
            near, far = _names(self.columns, 0), _names(self.columns, 1)
            how = f"{self.constraint} using {self.parent[1]}{near} and {self.target[1]}{far}"
        else:
            near, far = _names(self.columns, 1), _names(self.junction.columns, 0)
            keys = f"{self.junction.near_constraint}{near} and {self.junction.far_constraint}{far}"
            how = f"{self.junction.table[1]} using {keys}"
        return {
            "cardinality": self.cardinality,
            "embedding": f"{self.parent[1]} with {self.target[1]}",
            "relationship": how,
        }


# What was worked out of each catalog, for as long as that is in use.
_known: WeakKeyDictionary[Catalog, dict[QualifiedName, tuple[Relationship, ...]]] = WeakKeyDictionary()


def find_relationship(catalog: Catalog, parent: Table, target: str, hint: str | None) -> Relationship:
    """Find the one relationship that an embed means.

    Raises:
        ApiError: PGRST200 if there is none, PGRST201 if there are several.
    """
    ways = _ways(catalog, parent.qualified)
    found = [way for way in ways if way.answers(target, hint)]
    if len(found) == 1:
        return found[0]
    if not found:
        raise _no_relationship(parent, target, hint, ways)
    options = ", ".join(f"'{way.target[1]}!{way.hint}'" for way in found)
    raise ApiError(
        300,
        "PGRST201",
        f"Could not embed because more than one relationship was found for '{parent.name}' and '{target}'",
        details=[way.describe() for way in found],
        hint=f"Try changing '{target}' to one of the following: {options}. "
        "Find the desired relationship in the 'details' key.",
    )


def _no_relationship(parent: Table, target: str, hint: str | None, ways: tuple[Relationship, ...]) -> ApiError:
    between = f"'{parent.name}' and '{target}'"
    by_hint = f" using the hint '{hint}'" if hint else ""
    names = {way.target[1] for way in ways}
    close = None if target in names else similar(target, sorted(names))
    return ApiError(
        400,
        "PGRST200",
        f"Could not find a relationship between {between} in the schema cache",
        details=f"Searched for a foreign key relationship between {between}{by_hint} in the schema "
        f"'{parent.schema}', but no matches were found.",
        hint=f"Perhaps you meant '{close}' instead of '{target}'." if close else None,
    )


def _ways(catalog: Catalog, parent: QualifiedName) -> tuple[Relationship, ...]:
    known = _known.setdefault(catalog, {})
    if parent not in known:
        known[parent] = _all_ways(catalog, parent)
    return known[parent]


def _all_ways(catalog: Catalog, parent: QualifiedName) -> tuple[Relationship, ...]:
    """All ways from `parent` to a relation of its schema, in the order in which they are listed."""
    computed = [
        Relationship(
            "computed",
            function.name,
            parent,
            function.relation,
            columns=(),
            to_one=function.is_single,
            function=function,
        )
        for function in catalog.computed.get(parent, ())
        if function.relation is not None
    ]
    overridden = {way.constraint for way in computed}
    by_key = {
        way: None  # a junction found from either of its keys is one way
        for key in catalog.foreign_keys
        for way in _by_key(catalog, parent, key)
        if way.target[0] == parent[0] and way.target[1] not in overridden
    }
    return tuple(sorted([*computed, *by_key], key=_rank))


def _rank(way: Relationship) -> tuple[object, ...]:
    junction = way.junction
    keys = () if junction is None else (junction.table[1], junction.near_constraint, junction.far_constraint)
    return way.target, _RANKS[way.cardinality], keys, way.constraint, way.columns


def _by_key(catalog: Catalog, parent: QualifiedName, key: ForeignKey) -> Iterator[Relationship]:
    if key.table == parent:
        cardinality = "one-to-one" if key.is_unique else "many-to-one"
        is_view = catalog.tables[key.target].is_view
        yield Relationship(cardinality, key.name, parent, key.target, key.columns, to_one=True, target_is_view=is_view)
    if key.target == parent:
        cardinality = "one-to-one" if key.is_unique else "one-to-many"
        is_view = catalog.tables[key.table].is_view
        yield Relationship(
            cardinality, key.name, parent, key.table, _turned(key.columns), key.is_unique, target_is_view=is_view
        )
        yield from _through(catalog, parent, key)


def _through(catalog: Catalog, parent: QualifiedName, near: ForeignKey) -> Iterator[Relationship]:
    """The ways over `near.table` as a junction: both its keys lie within its primary key."""
    primary_key = set(catalog.tables[near.table].primary_key)
    if near.is_unique or not primary_key.issuperset(own for own, _ in near.columns):
        return
    for far in catalog.foreign_keys:
        if far.table != near.table or far.name == near.name or far.is_unique:
            continue
        if primary_key.issuperset(own for own, _ in far.columns):
            yield Relationship(
                "many-to-many",
                near.table[1],
                parent,
                far.target,
                _turned(near.columns),
                to_one=False,
                target_is_view=catalog.tables[far.target].is_view,
                junction=Junction(near.table, far.columns, near.name, far.name),
            )


def _turned(columns: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    return tuple((other, own) for own, other in columns)


def _names(columns: tuple[tuple[str, str], ...], side: int) -> str:
    return f"({', '.join(pair[side] for pair in columns)})"
