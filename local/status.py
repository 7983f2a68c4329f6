"""What a running stack says of itself, for the page at `/` and for `runbase stack status`."""

from __future__ import annotations

from pydantic import AwareDatetime, BaseModel, ConfigDict


class _Fact(BaseModel):
    model_config = ConfigDict(frozen=True)


class Health(_Fact):
    """Something that answers at `url`, or does not: `trouble` is why, in a sentence."""

    name: str
    url: str
    trouble: str | None = None

    @property
    def healthy(self) -> bool:
        return self.trouble is None


class Service(Health):
    """A part of the gateway, with what it serves under names of their own."""

    members: list[Health] = []


class Database(Health):
    """PostgreSQL. The numbers are None when it does not answer."""

    version: str | None = None
    connections: int | None = None
    max_connections: int | None = None


class SentMail(_Fact):
    """One mail of the outbox, as far as a list shows it."""

    subject: str
    to: str
    code: str
    link: str | None
    sent_at: AwareDatetime


class Mails(_Fact):
    """The outbox: how many it holds, and the last of them, newest first."""

    url: str
    count: int
    last: list[SentMail]


class Status(_Fact):
    """The whole stack at one moment. `keys` and `links` are by name."""

    healthy: bool
    checked_at: AwareDatetime
    project_dir: str
    data_dir: str
    api_url: str
    keys: dict[str, str]
    legacy_keys: dict[str, str]
    database: Database
    services: list[Service]
    mails: Mails
    links: dict[str, str]
