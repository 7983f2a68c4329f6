"""Names of artifacts: relative paths that mean the same on every system and cannot leave their directory."""

from __future__ import annotations

import unicodedata
from typing import Annotated

from pydantic import AfterValidator, StringConstraints

MAX_NAME = 200  # characters
_MAX_SEGMENT = 255  # bytes; what file systems take


def problem_with_name(name: str) -> str | None:  # noqa: PLR0911 one line a rule
    """Say what is wrong with `name` as the path of an artifact ("must not ..."), or None if nothing is."""
    if not 1 <= len(name) <= MAX_NAME:
        return f"must have 1 to {MAX_NAME} characters"
    if any(unicodedata.category(character) in {"Cc", "Cf", "Cs"} for character in name):
        return "must not contain control or invisible characters"
    if "\\" in name:
        return "must not contain backslashes; separate directories with '/'"
    if name.startswith("/") or (name[1:2] == ":" and name[0].isalpha()):
        return "must be relative, not absolute"
    segments = name.split("/")
    if any(segment in {"", ".", ".."} for segment in segments):
        return "must not contain empty, '.' or '..' segments"
    if any(len(segment.encode()) > _MAX_SEGMENT for segment in segments):
        return f"must not have a segment over {_MAX_SEGMENT} bytes"
    return None


def _check(name: str) -> str:
    if problem := problem_with_name(name):
        raise ValueError(problem)
    return name


ArtifactName = Annotated[str, StringConstraints(min_length=1, max_length=MAX_NAME), AfterValidator(_check)]
