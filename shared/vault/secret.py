"""A secret value that shows itself to nobody who does not ask by name.

Whatever prints, logs, formats or serialises a `Secret` gets `[secret]` or an error, never the value; `reveal()` is the
one way to it, so that every use can be found by its name. It cannot guard against a debugger nor clear memory: CPython
may keep copies of a text for as long as it likes.
"""

from __future__ import annotations

import hmac
from typing import Final, Never, Self, final

MARK: Final = "[secret]"


@final
class Secret:
    """Holds a text; equal to another secret of the same text, compared in constant time."""

    __slots__ = ("__value",)

    def __init__(self, value: str) -> None:
        self.__value = value

    def reveal(self) -> str:
        """Answer the plain text, to be used at once and kept nowhere."""
        return self.__value

    def __repr__(self) -> str:
        return MARK

    def __format__(self, spec: str) -> str:
        return format(MARK, spec)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        mine, theirs = (one.reveal().encode("utf-8", "surrogatepass") for one in (self, other))
        return hmac.compare_digest(mine, theirs)

    def __hash__(self) -> int:
        return hash((Secret, self.__value))

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, _memo: object) -> Self:
        return self

    def __getstate__(self) -> Never:
        raise TypeError("A secret cannot be pickled")

    def __reduce_ex__(self, _protocol: object) -> Never:
        raise TypeError("A secret cannot be pickled")
