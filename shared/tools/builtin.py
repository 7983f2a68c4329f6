"""The tools that every run may use."""

from __future__ import annotations

from shared.tools.code import CodeTool
from shared.tools.message import MessageTool
from shared.tools.router import ToolRouter
from shared.tools.write_file import WriteFileTool


def builtin_router() -> ToolRouter:
    """Build the router of a worker; one serves all its runs, so that its programs share one bound on parallelism."""
    return ToolRouter([MessageTool(), CodeTool(), WriteFileTool()])
