"""Look at a running stack: its parts, its database, its last mails.

Services are the gateway's parts, whatever they are. A service is healthy if nothing of its own is wrong and the
database that it needs can be reached, which is tried anew each time with a connection of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import TupleRow

from local.auth import MAILS_PATH, Outbox
from local.services import Part, Services
from local.status import Database, Health, Mails, SentMail, Service, Status

OPENAPI_PATH = "/openapi.json"
LAST_MAILS = 5
CONNECT_SECONDS = 2  # the least that libpq can wait

_FACTS = """
    select current_setting('server_version'), current_setting('max_connections')::int,
      (select count(*) from pg_catalog.pg_stat_activity
       where backend_type = 'client backend' and pid <> pg_backend_pid())
"""


@dataclass(frozen=True, slots=True)
class StatusReader:
    """Asks the parts of one gateway how they are."""

    services: Services
    parts: Mapping[str, Part]
    outbox: Outbox

    async def read(self) -> Status:
        """Look at everything now. Takes `CONNECT_SECONDS` at most, and fails for nothing that is down."""
        config, keys = self.services.config, self.services.keys
        database, _ = await asyncio.gather(self._database(), self._settled())
        services = [self._service(name, part, database) for name, part in self.parts.items()]
        everything = [database, *services, *(member for service in services for member in service.members)]
        return Status(
            healthy=all(one.healthy for one in everything),
            checked_at=datetime.now(UTC),
            project_dir=str(config.project_dir.absolute()),
            data_dir=str(config.data_dir.absolute()),
            api_url=config.api_url,
            keys={"Publishable key": keys.publishable_key, "Secret key": keys.secret_key},
            legacy_keys={
                "anon key": keys.anon_key,
                "service_role key": keys.service_role_key,
                "JWT secret": keys.jwt_secret,
            },
            database=database,
            services=services,
            mails=self._mails(),
            links=self._links(),
        )

    async def _database(self) -> Database:
        url = self.services.database_url
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                row = await _facts(url)
        except TimeoutError:
            return Database(name="database", url=url, trouble=f"It did not answer within {CONNECT_SECONDS} seconds.")
        except psycopg.Error as exc:
            return Database(name="database", url=url, trouble=f"It does not answer: {_reason(exc)}.")
        version, max_connections, connections = row
        return Database(
            name="database", url=url, version=version, connections=connections, max_connections=max_connections
        )

    async def _settled(self) -> None:
        """Give parts that have just started a moment; one that needs longer says so itself."""
        with suppress(TimeoutError):
            async with asyncio.timeout(CONNECT_SECONDS):
                await asyncio.gather(*(part.settled() for part in self.parts.values()))

    def _service(self, name: str, part: Part, database: Database) -> Service:
        url = f"{self.services.config.api_url}/{name}/v1"
        away = None if database.healthy or not part.needs_database else "It cannot reach the database."
        members = [Health(name=one, url=f"{url}/{one}", trouble=wrong) for one, wrong in sorted(part.members().items())]
        return Service(name=name, url=url, trouble=away or part.trouble(), members=members)

    def _mails(self) -> Mails:
        last = [
            SentMail(subject=mail.subject, to=mail.to, code=mail.code, link=mail.link, sent_at=mail.sent_at)
            for mail in [*self.outbox][:LAST_MAILS]
        ]
        return Mails(url=f"{self.services.config.api_url}{MAILS_PATH}", count=len(self.outbox), last=last)

    def _links(self) -> dict[str, str]:
        config = self.services.config
        links = {
            "Mails": f"{config.api_url}{MAILS_PATH}",
            "Public keys (JWKS)": f"{config.auth_url}/.well-known/jwks.json",
            "Settings of auth": f"{config.auth_url}/settings",
        }
        if config.openapi_file.exists():
            links["OpenAPI of the functions"] = f"{config.api_url}{OPENAPI_PATH}"
        return {**links, "Supabase's documentation": "https://supabase.com/docs"}


async def _facts(url: str) -> TupleRow:
    async with await AsyncConnection.connect(url, connect_timeout=CONNECT_SECONDS, autocommit=True) as connection:
        [row] = await (await connection.execute(_FACTS)).fetchall()
        return row


def _reason(error: psycopg.Error) -> str:
    """The last words of the first line: libpq says first what it wanted."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rsplit("failed: ", 1)[-1].rstrip(".")
