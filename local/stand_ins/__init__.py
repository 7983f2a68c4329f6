"""Servers that stand in for outside ones where those cannot be had: in tests and in the demo, never in production."""
