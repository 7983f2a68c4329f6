"""`/rest/v1`: the part of the embedded Supabase that speaks PostgREST's protocol."""

from __future__ import annotations

from local.rest.app import build

__all__ = ["build"]
