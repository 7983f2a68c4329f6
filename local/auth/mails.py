"""`/mails`: the outbox, as a page for people and as JSON for tests."""

from __future__ import annotations

from html import escape

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from local.auth.outbox import KEPT, Mail, Outbox

PATH = "/mails"

_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Mails of the local stack</title>
<style>
  body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 46rem; margin: 3rem auto; padding: 0 1rem; }}
  article {{ border-top: 1px solid #8888; padding: 1rem 0; }}
  h2 {{ font-size: 1rem; margin: 0; }}
  p {{ margin: .25rem 0; overflow-wrap: anywhere; }}
  code {{ font-size: 1.25rem; }}
  @media (prefers-color-scheme: dark) {{ body {{ background: #111; color: #eee; }} a {{ color: #9cf; }} }}
</style>
<h1>Mails</h1>
<p>What the auth server would have sent: the last {kept}, newest first, gone when the stack stops.</p>
{mails}
"""
_MAIL = """<article>
<h2>{subject}</h2>
<p>To {to}, <time>{sent_at}</time></p>
<p>Code <code>{code}</code></p>
{link}</article>
"""


class MailPages:
    """Read the outbox, and empty it. `?to=` narrows to one address."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox

    def routes(self) -> list[Route]:
        return [
            Route(PATH, self.show, methods=["GET"]),
            Route(PATH, self.clear, methods=["DELETE"]),
        ]

    async def show(self, request: Request) -> Response:
        """A page for a browser; JSON for everybody else."""
        address = request.query_params.get("to", "").lower()
        mails = [mail for mail in self._outbox if not address or mail.to == address]
        headers = {"Cache-Control": "no-store", "Vary": "Accept"}
        if "text/html" in request.headers.get("accept", ""):
            return HTMLResponse(page(mails), headers=headers)
        return JSONResponse({"mails": [mail.to_json() for mail in mails]}, headers=headers)

    async def clear(self, request: Request) -> Response:
        del request
        self._outbox.clear()
        return Response(status_code=204)


def page(mails: list[Mail]) -> str:
    """The mails as one HTML page."""
    return _PAGE.format(kept=KEPT, mails="".join(map(_article, mails)) or "<p>None yet.</p>")


def _article(mail: Mail) -> str:
    link = f'<p><a href="{escape(mail.link)}">{escape(mail.link)}</a></p>\n' if mail.link else ""
    sent_at = mail.sent_at.strftime("%Y-%m-%d %H:%M:%S UTC")
    return _MAIL.format(
        subject=escape(mail.subject), to=escape(mail.to), sent_at=sent_at, code=escape(mail.code), link=link
    )
