"""An MCP server for tests, over the real package: stdio, or HTTP on the port that is given."""

from __future__ import annotations

import os
import sys
import time

from mcp.server.mcpserver import MCPServer

server = MCPServer("tests")


@server.tool()
def add(a: int, b: int) -> int:
    """Adds two numbers."""
    return a + b


@server.tool()
def slow(seconds: float) -> str:
    """Takes its time."""
    time.sleep(seconds)
    return "done"


@server.tool()
def end() -> str:
    """Ends the server."""
    os._exit(3)


@server.tool()
def variables() -> list[str]:
    """Names the variables of its environment."""
    return sorted(os.environ)


@server.tool()
def number() -> int:
    """The number of its process."""
    return os.getpid()


if __name__ == "__main__":
    if len(sys.argv) > 1:
        server.run("streamable-http", port=int(sys.argv[1]))
    else:
        server.run("stdio")
