"""Supabase Realtime, embedded: row changes under RLS, broadcasts, private channels and presence."""

from __future__ import annotations

from local.realtime.app import build

__all__ = ["build"]
