"""The mails that the auth server would have sent, kept for whoever develops against it.

They hold working codes and links, so they stay in memory and go with the stack; the database has only hashes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal
from uuid import UUID, uuid4

Kind = Literal["signup", "invite", "magiclink", "recovery", "email_change", "reauthentication"]

KEPT = 200

_SUBJECTS: dict[Kind, str] = {
    "signup": "Confirm your signup",
    "invite": "You have been invited",
    "magiclink": "Your magic link",
    "recovery": "Reset your password",
    "email_change": "Confirm email change",
    "reauthentication": "Confirm reauthentication",
}


@dataclass(frozen=True, slots=True)
class Mail:
    """One mail. `token_hash` is what the link carries, for applications with links of their own; a reauthentication has
    neither.
    """

    kind: Kind
    to: str
    code: str
    link: str | None = None
    token_hash: str | None = None
    id: UUID = field(default_factory=uuid4)
    sent_at: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def subject(self) -> str:
        return _SUBJECTS[self.kind]

    @property
    def text(self) -> str:
        by_link = f"Follow this link:\n{self.link}\n\nOr enter" if self.link else "Enter"
        return f"{self.subject}\n\n{by_link} this code: {self.code}\n"

    def to_json(self) -> dict[str, Any]:
        return {
            "id": str(self.id),
            "type": self.kind,
            "to": self.to,
            "subject": self.subject,
            "code": self.code,
            "link": self.link,
            "token_hash": self.token_hash,
            "text": self.text,
            "sent_at": self.sent_at.isoformat().replace("+00:00", "Z"),
        }


class Outbox:
    """The last mails, newest first."""

    def __init__(self) -> None:
        self._mails: deque[Mail] = deque(maxlen=KEPT)

    def post(self, mails: Iterable[Mail]) -> None:
        """Keep the mails. Call it when the transaction that made their codes has committed."""
        self._mails.extendleft(mails)

    def clear(self) -> None:
        self._mails.clear()

    def __iter__(self) -> Iterator[Mail]:
        return iter(tuple(self._mails))

    def __len__(self) -> int:
        return len(self._mails)
