"""The page at `/`: what a person who opens the stack's URL in a browser needs to go on, and the same as JSON.

The page needs nothing from elsewhere and says so to the browser; whatever came from outside (addresses, names of
functions, errors) is escaped.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable
from html import escape
from pathlib import Path
from string import Template

from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, Response
from starlette.routing import Route

from local.status import Database, Health, Mails, SentMail, Service, Status
from local.status_reader import OPENAPI_PATH, StatusReader

TITLE = "Runbase local stack"
_PAGE = Path(__file__).with_name("face.html")


def face_routes(reader: StatusReader) -> list[Route]:
    """`/`, and the description of the project's functions if it has one."""
    template = _PAGE.read_text()
    policy = _policy(template)

    async def show(request: Request) -> Response:
        """A page, unless the caller asks for JSON and for no page."""
        status = await reader.read()
        accept = request.headers.get("accept", "")
        headers = {"Cache-Control": "no-store", "Vary": "Accept"}
        if "application/json" in accept and "text/html" not in accept:
            return Response(status.model_dump_json(), media_type="application/json", headers=headers)
        return HTMLResponse(page(template, status), headers={**headers, "Content-Security-Policy": policy})

    openapi = reader.services.config.openapi_file

    async def describe(_request: Request) -> Response:
        return FileResponse(openapi, media_type="application/json")

    return [Route("/", show), *([Route(OPENAPI_PATH, describe)] if openapi.exists() else [])]


def page(template: str, status: Status) -> str:
    """The status as one HTML page."""
    return Template(template).substitute(
        title=TITLE,
        state=_state_class(status.healthy),
        summary="Everything is up" if status.healthy else "Something is down",
        project=_code(status.project_dir),
        data=_code(status.data_dir),
        checked_at=status.checked_at.strftime("%Y-%m-%d %H:%M:%S UTC"),
        connect=_values({"API URL": status.api_url, "Database URL": status.database.url, **status.keys}),
        legacy=_values(status.legacy_keys),
        services="".join([*map(_service, status.services), _database(status.database)]),
        mails_told=_mails_told(status.mails),
        mails=_mails(status.mails),
        links="".join(
            f'<li><span class="name">{escape(name)}</span> <a class="value" href="{escape(url)}">{_code(url)}</a></li>'
            for name, url in status.links.items()
        ),
    )


def _policy(template: str) -> str:
    """Nothing may be loaded, and of scripts and styles only the page's own run."""
    own = {
        f"{kind}-src": " ".join(_digest(text) for text in re.findall(rf"<{kind}>(.*?)</{kind}>", template, re.DOTALL))
        for kind in ("style", "script")
    }
    rules = {"default-src": "'none'", "img-src": "data:", **own, "base-uri": "'none'", "form-action": "'none'"}
    return "; ".join(f"{name} {value}" for name, value in rules.items())


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _values(values: dict[str, str]) -> str:
    return "".join(
        f'<li><span class="name">{escape(name)}</span> <span class="value">{_code(value)}</span> '
        f'<button type="button" hidden data-copy="{escape(value)}">Copy<span class="unseen"> {escape(name)}</span>'
        "</button></li>"
        for name, value in values.items()
    )


def _service(service: Service) -> str:
    where = f'<span class="value">{_code(service.url)}</span>'
    told = [_trouble(service), _members(service.members)]
    return _row(service, where, told)


def _database(database: Database) -> str:
    facts = (
        f"PostgreSQL {escape(database.version)}, "
        f"{database.connections} of {database.max_connections} connections in use"
        if database.version
        else "PostgreSQL"
    )
    return _row(database, f'<span class="value">{facts}</span>', [_trouble(database)])


def _row(one: Health, value: str, told: Iterable[str]) -> str:
    more = "".join(f'<div class="wide">{text}</div>' for text in told if text)
    return f'<li><span class="name">{escape(one.name)}</span> {value} {_state(one)}{more}</li>'


def _members(members: list[Health]) -> str:
    if not members:
        return ""
    items = "".join(
        f'<li><a href="{escape(one.url)}">{escape(one.name)}</a>'
        f"{'' if one.healthy else f' {_state(one)} {_trouble(one)}'}</li>"
        for one in members
    )
    return f'<ul class="members">{items}</ul>'


def _state(one: Health) -> str:
    return f'<span class="state {_state_class(one.healthy)}">{"up" if one.healthy else "down"}</span>'


def _state_class(healthy: bool) -> str:  # noqa: FBT001 - the one thing it is about
    return "up" if healthy else "down"


def _trouble(one: Health) -> str:
    return f"<span>{escape(one.trouble)}</span>" if one.trouble else ""


def _mails_told(mails: Mails) -> str:
    if not mails.count:
        return "What auth would send is kept here. It has sent nothing yet."
    link = f'<a href="{escape(mails.url)}">all {mails.count}</a>' if mails.count > 1 else "the only one"
    return f"What auth would have sent, newest first ({link})."


def _mails(mails: Mails) -> str:
    items = "".join(map(_mail, mails.last))
    return f'<ul class="rows">{items}</ul>' if items else ""


def _mail(mail: SentMail) -> str:
    sent_at = mail.sent_at.strftime("%H:%M:%S UTC")
    link = f', <a href="{escape(mail.link)}">follow its link</a>' if mail.link else ""
    return (
        f'<li><span class="name">{escape(mail.subject)}</span> <span class="value">{escape(mail.to)}, code '
        f'{_code(mail.code)}{link}</span> <time class="quiet">{sent_at}</time></li>'
    )


def _code(text: str) -> str:
    return f"<code>{escape(text)}</code>"
