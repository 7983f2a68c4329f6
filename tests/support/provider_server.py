"""Providers of keys as one HTTP server on this machine, answering in the shapes that the real ones are known to use.

Which key it is asked with decides the answer, so a test needs nothing but a key to meet any of them.
"""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from local.ports import listening
from local.serving import serving
from tests.support.canaries import canary


@dataclass
class ProviderServer:
    """A server at `origin`; `keys` are what it knows, by what it makes of them."""

    keys: Mapping[str, str] = field(default_factory=lambda: {kind: canary() for kind in KINDS})
    origin: str = ""
    asked: list[tuple[str, str]] = field(default_factory=list)

    def __getitem__(self, kind: str) -> str:
        return self.keys[kind]

    def environment(self) -> dict[str, str]:
        """What puts it in the providers' place."""
        providers = ("openai", "deepseek", "anthropic", "gemini")
        return {"RUNBASE_PROVIDER_ORIGINS": json.dumps({name: f"{self.origin}/{name}" for name in providers})}

    def kind(self, request: Request) -> str:
        """What the key of a request is; an unknown key is a wrong one."""
        bearer = request.headers.get("authorization", "").removeprefix("Bearer ")
        given = request.headers.get("x-api-key") or request.headers.get("x-goog-api-key") or bearer
        self.asked.append((request.url.path, given))
        return next((kind for kind, key in self.keys.items() if key == given), "unknown")


KINDS = (
    "good",
    "deactivated",
    "expired",
    "scoped",
    "member",
    "address",
    "poor",
    "limited",
    "down",
    "page",
    "other",
    "suspended",
    "leaked",
    "disabled",
    "abroad",
    "long",
    "redirected",
)


def _said(status: int, message: str, kind: str, code: str | None = None, **headers: str) -> Response:
    error = {"message": message, "type": kind, "param": None, "code": code}
    return JSONResponse({"error": error}, status, headers={k.replace("_", "-"): v for k, v in headers.items()})


def _openai(server: ProviderServer, request: Request) -> Response:  # noqa: PLR0911 - one answer for each key
    match kind := server.kind(request):
        case "good" | "long":
            models = [
                {"id": name, "object": "model", "created": 1, "owned_by": "openai"} for name in ("gpt-5", "gpt-4o")
            ]
            headers = {
                "openai-organization": "acme-inc",
                "openai-version": "2020-10-01",
                "x-ratelimit-limit-requests": "10000",
                "x-ratelimit-remaining-requests": "9999",
                "x-ratelimit-reset-requests": "6ms",
            }
            return JSONResponse({"object": "list", "data": models}, headers=headers)
        case "deactivated":
            message = "Your OpenAI account has been deactivated, please check your email for more information."
            return _said(401, message, "invalid_request_error", "account_deactivated")
        case "scoped":
            message = "You have insufficient permissions for this operation. Missing scopes: api.model.read."
            return _said(403, message, "invalid_request_error")
        case "member":
            return _said(401, "You must be a member of an organization to use the API", "invalid_request_error")
        case "address":
            return _said(
                401, "Your IP is not authorized to access this resource.", "invalid_request_error", "ip_not_authorized"
            )
        case "poor":
            message = "You exceeded your current quota, please check your plan and billing details."
            return _said(429, message, "insufficient_quota", "insufficient_quota")
        case "limited":
            return _said(429, "Rate limit reached for requests", "requests", "rate_limit_exceeded", retry_after="7")
        case "down":
            return _said(500, "The server had an error while processing your request", "server_error")
        case "page":
            return HTMLResponse("<html><title>Welcome</title></html>")
        case "redirected":
            return Response(status_code=302, headers={"location": f"{server.origin}/stolen"})
        case _:
            given = request.headers["authorization"].removeprefix("Bearer ")
            message = f"Incorrect API key provided: {given}. You can find your API key at https://platform.openai.com/account/api-keys."
            assert kind == "unknown"
            return _said(401, message, "invalid_request_error", "invalid_api_key")


def _deepseek_models(server: ProviderServer, request: Request) -> Response:
    match server.kind(request):
        case "good" | "poor":
            return JSONResponse({"object": "list", "data": [{"id": "deepseek-chat", "object": "model"}]})
        case "limited":
            return _said(429, "Rate Limit Reached", "rate_limit_error")
        case "down":
            return Response("overloaded", 503)
        case _:
            message = "Authentication Fails, Your api key: ****abcd is invalid"
            return _said(401, message, "authentication_error", "invalid_request_error")


def _deepseek_balance(server: ProviderServer, request: Request) -> Response:
    rich = server.kind(request) == "good"
    amount = "110.00" if rich else "0.00"
    info = {"currency": "CNY", "total_balance": amount, "granted_balance": "10.00", "topped_up_balance": "100.00"}
    return JSONResponse({"is_available": rich, "balance_infos": [info]})


def _anthropic(server: ProviderServer, request: Request) -> Response:  # noqa: PLR0911 - one answer for each key
    def said(status: int, kind: str, message: str) -> Response:
        return JSONResponse(
            {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_1"}, status
        )

    if request.headers.get("anthropic-version") != "2023-06-01":
        return said(400, "invalid_request_error", "anthropic-version: header is required")
    match server.kind(request):
        case "good":
            model = {
                "type": "model",
                "id": "claude-opus-5",
                "display_name": "Claude",
                "created_at": "2026-01-01T00:00:00Z",
            }
            headers = {
                "anthropic-organization-id": "org-1",
                "anthropic-ratelimit-requests-limit": "50",
                "anthropic-ratelimit-requests-remaining": "49",
                "anthropic-ratelimit-input-tokens-remaining": "30000",
            }
            return JSONResponse({"data": [model], "has_more": False, "first_id": "a", "last_id": "a"}, headers=headers)
        case "poor":
            message = "Your credit balance is too low to access the Anthropic API. Please go to Plans & Billing."
            return said(400, "invalid_request_error", message)
        case "disabled":
            return said(400, "invalid_request_error", "This organization has been disabled.")
        case "scoped":
            return said(403, "permission_error", "Your API key does not have permission to use the specified resource.")
        case "limited":
            return said(429, "rate_limit_error", "This request would exceed your organization's rate limit")
        case "down":
            return said(529, "overloaded_error", "Overloaded")
        case _:
            return said(401, "authentication_error", "invalid x-api-key")


def _gemini(server: ProviderServer, request: Request) -> Response:  # noqa: PLR0911 - one answer for each key
    def said(code: int, status: str, message: str, reason: str | None = None) -> Response:
        info = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": reason, "domain": "googleapis.com"}
        details = [info] if reason else []
        return JSONResponse({"error": {"code": code, "message": message, "status": status, "details": details}}, code)

    key = request.headers.get("x-goog-api-key", "")
    match server.kind(request):
        case "good":
            return JSONResponse({"models": [{"name": "models/gemini-3-pro", "displayName": "Gemini"}]})
        case "expired":
            return said(400, "INVALID_ARGUMENT", "API key expired. Please renew the API key.", "API_KEY_INVALID")
        case "leaked":
            return said(403, "PERMISSION_DENIED", "Your API key was reported as leaked. Please use another API key.")
        case "suspended":
            message = f"Permission denied: Consumer 'api_key:{key}' has been suspended."
            return said(403, "PERMISSION_DENIED", message, "CONSUMER_SUSPENDED")
        case "disabled":
            message = "Generative Language API has not been used in project 1 before or it is disabled."
            return said(403, "PERMISSION_DENIED", message, "SERVICE_DISABLED")
        case "abroad":
            return said(400, "FAILED_PRECONDITION", "User location is not supported for the API use.")
        case "poor":
            return said(403, "PERMISSION_DENIED", "This API method requires billing to be enabled.", "BILLING_DISABLED")
        case "limited":
            return said(429, "RESOURCE_EXHAUSTED", "Resource has been exhausted (e.g. check quota).")
        case "down":
            return said(503, "UNAVAILABLE", "The model is overloaded. Please try again later.")
        case _:
            message = "API key not valid. Please pass a valid API key."
            return said(400, "INVALID_ARGUMENT", message, "API_KEY_INVALID")


def _flowise(server: ProviderServer, request: Request) -> Response:
    if request.url.path.endswith("/version"):
        return JSONResponse({"version": "3.1.4"})
    match server.kind(request):
        case "good":
            return JSONResponse({"data": [{"id": "f", "name": "Support"}], "total": 3})
        case "scoped":
            return JSONResponse({"error": "Forbidden"}, 403)
        case "down":
            return JSONResponse({"statusCode": 500, "success": False, "message": "Error", "stack": {}}, 500)
        case _:
            return JSONResponse({"error": "Unauthorized Access"}, 401)


def _service(server: ProviderServer, request: Request) -> Response:  # noqa: PLR0911 - one answer for each key
    match server.kind(request):
        case "good":
            return JSONResponse({"ok": True})
        case "scoped":
            return Response("no", 403)
        case "poor":
            return Response("pay", 402)
        case "limited":
            return Response("slow", 429, headers={"retry-after": "30"})
        case "down":
            return Response("oops", 502)
        case "page":
            return Response("gone", 404)
        case "other":
            return Response("no GET here", 405)
        case "redirected":
            return Response(status_code=307, headers={"location": f"{server.origin}/stolen"})
        case _:
            return JSONResponse({"message": f"Nobody knows {_told(request)}"}, 401)


def _told(request: Request) -> str:
    """Who the caller says he is, in full, as a careless service repeats it."""
    scheme, _, value = request.headers.get("authorization", "").partition(" ")
    user = base64.b64decode(value).decode() if scheme == "Basic" else value
    return f"{user} {request.headers.get('x-pin', '')}"


_PATHS = {
    "/openai/v1/models": _openai,
    "/deepseek/models": _deepseek_models,
    "/deepseek/user/balance": _deepseek_balance,
    "/anthropic/v1/models": _anthropic,
    "/gemini/v1beta/models": _gemini,
    "/flowise/api/v1/version": _flowise,
    "/flowise/api/v1/chatflows": _flowise,
    "/service": _service,
}


@asynccontextmanager
async def provider_server() -> AsyncGenerator[ProviderServer]:
    """Serve on a free port."""
    server = ProviderServer()

    def route(path: str) -> Route:
        async def answer(request: Request) -> Response:
            return _PATHS[path](server, request)

        return Route(path, answer)

    async def start_page(request: Request) -> Response:
        server.asked.append((request.url.path, request.headers.get("authorization", "")))
        return HTMLResponse("<!doctype html><title>Flowise</title>")

    app = Starlette(routes=[*map(route, _PATHS), Route("/{path:path}", start_page)])
    with listening("127.0.0.1", 0) as listener:
        server.origin = f"http://127.0.0.1:{listener.getsockname()[1]}"
        async with serving(app, listener):
            yield server
