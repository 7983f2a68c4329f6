"""The page at `/`: what a person who opens the stack's URL in a browser needs to go on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from html import escape

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from local.auth import MAILS_PATH
from local.config import StackConfig
from local.keys import Keys

_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Runbase local stack</title>
<style>
  body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 46rem; margin: 3rem auto; padding: 0 1rem; }}
  dt {{ margin-top: 1rem; font-weight: 600; }}
  dd {{ margin: 0; }}
  code {{ font-size: .875rem; overflow-wrap: anywhere; }}
  @media (prefers-color-scheme: dark) {{ body {{ background: #111; color: #eee; }} }}
</style>
<h1>Runbase local stack</h1>
<p>A local Supabase for development. The keys are public and the same on every machine.</p>
<dl>{entries}</dl>
"""


def face(config: StackConfig, keys: Keys) -> Callable[[Request], Awaitable[Response]]:
    """Build the page's endpoint."""
    entries = {
        "URL": config.api_url,
        "Publishable key": keys.publishable_key,
        "Secret key": keys.secret_key,
        "Data": f"{config.api_url}/rest/v1/",
        "Sign-in": f"{config.api_url}/auth/v1/",
        "Live updates": f"{config.api_url}/realtime/v1/",
        "Files": f"{config.api_url}/storage/v1/",
        "Functions": f"{config.api_url}/functions/v1/",
        "Database": config.database_url,
    }
    shown = "".join(f"<dt>{escape(name)}</dt><dd><code>{escape(value)}</code></dd>" for name, value in entries.items())
    mails = f'<dt>Mails</dt><dd><a href="{MAILS_PATH}">What would have been sent</a></dd>'
    page = _PAGE.format(entries=shown + mails)

    async def show(_request: Request) -> Response:
        return HTMLResponse(page)

    return show
