"""What can end the demo early."""

from __future__ import annotations


class DemoError(Exception):
    """The demo cannot go on; the message is for the person at the terminal."""
