from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.tools.names import problem_with_name


@pytest.mark.parametrize(
    "name", ["a", "report.md", "src/app.py", ".env.example", "ü/日本.txt", "a b", "x" * 200, "..a"]
)
def test_ordinary_names_are_safe(name: str) -> None:
    assert problem_with_name(name) is None


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("", "characters"),
        ("x" * 201, "characters"),
        ("/etc/passwd", "relative"),
        ("C:\\x", "backslashes"),
        ("c:x", "relative"),
        ("..", "segments"),
        ("a/../b", "segments"),
        ("a/./b", "segments"),
        ("a//b", "segments"),
        ("a/", "segments"),
        ("a\\..\\b", "backslashes"),
        ("a\x00b", "control"),
        ("a\nb", "control"),
        ("a\x1b[0m", "control"),
        ("a\ud800", "control"),
        ("a\u202etxt.exe", "control"),
        ("日" * 100, "255 bytes"),
    ],
)
def test_unsafe_names_are_told_why(name: str, problem: str) -> None:
    assert problem in (problem_with_name(name) or "")


@given(st.text(alphabet=st.sampled_from("ab./\\:\x00\n~"), max_size=12))
def test_a_safe_name_never_leaves_its_directory(name: str) -> None:
    if problem_with_name(name) is None:
        depths = name.split("/")
        assert not name.startswith("/")
        assert not {"", ".", ".."} & set(depths)
