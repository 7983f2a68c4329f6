"""What is wrong with a request, all at once: each problem names its field, and the refusal carries every one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple, cast

import orjson

from shared.errors import InvalidInput

MAX_PROBLEMS: Final = 50
_FIELD_CHARACTERS: Final = 200


class Problem(NamedTuple):
    """`message` completes the sentence that begins with the field; it never repeats a value that was sent."""

    field: str
    message: str

    @classmethod
    def at(cls, path: Sequence[str | int], message: str) -> Problem:
        return cls(".".join(str(part) for part in path)[:_FIELD_CHARACTERS], message)


def refusal(problems: Sequence[Problem]) -> InvalidInput:
    """The error of one or more problems: the first as its message, all as JSON in `details`, as SQL says them too."""
    first = problems[0]
    listed = [problem._asdict() for problem in problems[:MAX_PROBLEMS]]
    return InvalidInput(f"{first.field}: {first.message}", details=orjson.dumps(listed).decode())


def depth_over(value: object, limit: int) -> bool:
    """Whether JSON is nested deeper than `limit`; not itself limited by how deep."""
    level = [value]
    for _ in range(limit + 1):
        level = [inner for outer in level for inner in _inside(outer)]
        if not level:
            return False
    return True


def _inside(value: object) -> Iterable[object]:
    if isinstance(value, dict):
        return cast("dict[str, object]", value).values()
    return cast("list[object]", value) if isinstance(value, list) else ()


def refuse(problems: Sequence[Problem]) -> None:
    """Raise InvalidInput if there are any."""
    if problems:
        raise refusal(problems)
