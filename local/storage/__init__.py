"""`/storage/v1`: buckets and objects, as storage3 and storage-js expect of Supabase's Storage."""

from __future__ import annotations

from local.storage.app import build

__all__ = ["build"]
