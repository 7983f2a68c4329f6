"""The status of a stack for a terminal: plain lines, so that `grep` finds what it looks for."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from local.status import Health, Status

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def status_table(status: Status) -> str:
    """Everything that the page at `/` shows."""
    database, mails = status.database, status.mails
    in_use = f"{database.connections} of {database.max_connections} connections in use"
    sections = [
        [("Everything is up" if status.healthy else "Something is down",)],
        [("Project", status.project_dir), ("Data", status.data_dir)],
        [
            ("API URL", status.api_url),
            ("Database URL", database.url),
            *status.keys.items(),
            *status.legacy_keys.items(),
        ],
        [
            *(row for service in status.services for row in _service(service, service.members)),
            _row(database, f"PostgreSQL {database.version}, {in_use}" if database.healthy else "PostgreSQL"),
        ],
        [
            ("Mails", f"{mails.count} kept"),
            *((f"  {mail.subject}", f"{mail.to}, code {mail.code}") for mail in mails.last),
        ],
        [*status.links.items()],
    ]
    return "\n".join("".join(_aligned(rows)) for rows in sections)


def _service(service: Health, members: Sequence[Health]) -> Iterator[tuple[str, ...]]:
    yield _row(service, service.url)
    for member in members:
        yield _row(member, member.url, indent="  ")


def _row(one: Health, what: str, *, indent: str = "") -> tuple[str, ...]:
    return (f"{indent}{one.name}", "up" if one.healthy else "down", f"{what}  {one.trouble}" if one.trouble else what)


def _aligned(rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Lines whose columns begin under each other. What came from outside cannot steer the terminal."""
    clean = [[_CONTROL.sub(" ", cell) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in clean) for column in range(min(map(len, clean)))]
    for row in clean:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)).rstrip() + "\n"
