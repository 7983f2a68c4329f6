"""Options that every measurement has."""

from __future__ import annotations

import argparse
from pathlib import Path


def common() -> argparse.ArgumentParser:
    """To be a parent of each measurement's own parser."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that it works")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here too")
    parser.add_argument(
        "--assert", dest="strict", action="store_true", help="exit with 1 if a budget is missed, and say which"
    )
    return parser


def positive(text: str) -> int:
    """A whole number from one."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def file(text: str) -> Path:
    """A file that is there."""
    path = Path(text)
    if not path.is_file():
        raise argparse.ArgumentTypeError(f"there is no file {text!r}")
    return path
