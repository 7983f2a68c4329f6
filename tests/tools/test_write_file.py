from __future__ import annotations

import pytest

from shared.runs.models import NewArtifact
from shared.tools.message import MessageTool
from shared.tools.router import ToolRouter
from shared.tools.tool import ToolResult
from shared.tools.write_file import WriteFileTool
from tests.tools.support import context


async def write(files: dict[str, str] | None = None, /, **arguments: object) -> ToolResult:
    return await ToolRouter([WriteFileTool()]).call("write_file", arguments, context(files))


@pytest.mark.parametrize(
    ("name", "content_type"),
    [
        ("hello.py", "text/x-python"),
        ("docs/a.md", "text/markdown"),
        ("data.json", "application/json"),
        ("Makefile", "text/plain"),
        ("odd.tar.gz", "text/plain"),
    ],
)
async def test_a_file_is_an_artifact_whose_type_follows_from_its_name(name: str, content_type: str) -> None:
    result = await write(name=name, content="ü\n")

    assert result == ToolResult(
        f"Wrote {name} (3 bytes).",
        {"name": name, "content_type": content_type, "size_bytes": 3},
        (NewArtifact(name=name, content="ü\n", content_type=content_type),),
        message=f"Wrote {name} (3 bytes)",
    )


async def test_a_given_type_is_kept_and_a_second_write_replaces() -> None:
    result = await write({"a": "old"}, name="a", content="", content_type="text/html; charset=utf-8")

    assert result.content == "Replaced a (0 bytes)."
    assert result.artifacts[0].content_type == "text/html; charset=utf-8"


async def test_nul_is_dropped_and_not_counted() -> None:
    result = await write(name="a", content="a\x00b")

    assert result.artifacts[0].content == "ab"
    assert result.output["size_bytes"] == 2


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"name": "../a", "content": ""}, "`name`: must not contain empty, '.' or '..' segments"),
        ({"name": "/etc/passwd", "content": ""}, "`name`: must be relative"),
        ({"name": "a\x00b", "content": ""}, "`name`: must not contain control"),
        ({"name": "x" * 201, "content": ""}, "`name`: String should have at most 200 characters"),
        ({"name": "", "content": ""}, "`name`: String should have at least 1 character"),
        ({"name": "a", "content": "é" * 32_769}, "`content`: has 65538 bytes, and a file may have 65536; split it"),
        ({"name": "a", "content": "", "content_type": "text"}, "`content_type`: String should match pattern"),
        ({"name": "a", "content": "", "content_type": "text/html\r\nX: y"}, "`content_type`: String should match"),
        ({"name": "a"}, "`content`: Field required"),
        ({"name": "a", "content": "", "run_id": "x"}, "`run_id` is not a known field"),
    ],
)
async def test_wrong_arguments_are_told_by_field(arguments: dict[str, object], told: str) -> None:
    result = await write(**arguments)

    assert result.is_error
    assert told in result.content
    assert result.artifacts == ()


async def test_a_message_is_stored_and_logged_as_it_was_said() -> None:
    result = await ToolRouter([MessageTool()]).call("message", {"text": "**Done** ü"}, context())

    assert result.output == {"text": "**Done** ü", "format": "markdown"}
    assert result.message == "**Done** ü"
    assert not result.is_error


@pytest.mark.parametrize("arguments", [{}, {"text": ""}, {"text": "a", "format": "html"}, {"text": "x" * 16_001}])
async def test_a_message_without_good_text_is_refused(arguments: dict[str, object]) -> None:
    result = await ToolRouter([MessageTool()]).call("message", arguments, context())

    assert result.is_error
