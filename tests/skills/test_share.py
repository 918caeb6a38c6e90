"""The skill that shares a file, as an agent calls it."""

from __future__ import annotations

from dataclasses import replace

from pibot.agent.library import declared
from pibot.agent.sharing import Shared
from pibot.agent.tools import Toolbox
from pibot.skills import Context, share

BOX = Toolbox(declared(share))


def test_sharing(ctx: Context) -> None:
    shared = Shared(ctx.workspace, ctx.redactor)
    (ctx.workspace / "a.txt").write_text("a")
    done = BOX.call("share_file", {"path": "a.txt"}, replace(ctx, share=shared.add))
    assert done.success and "a.txt is shared" in done.output
    assert [f["path"] for f in shared.record()[0]] == ["a.txt"]


def test_the_model_reads_why_it_cannot_be(ctx: Context) -> None:
    done = BOX.call(
        "share_file", {"path": "../x"}, replace(ctx, share=Shared(ctx.workspace, ctx.redactor).add)
    )
    assert not done.success and "is outside the workspace" in done.output
