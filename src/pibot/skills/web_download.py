"""The skill that brings a file from the web into the workspace, whole and with its SHA-256."""

from __future__ import annotations

from typing import Annotated

from pibot.agent.tools import Context, Output, skill
from pibot.errors import SkillError
from pibot.skills.web_fetch import reach

_MOST_MB = 4096


@skill(
    timeout_s=900,
    taints=True,
    parallel=False,
    note=reach,
    phrases=(
        '(download|save) [the] [file] {url} => {"share": true}',
        '(下载|保存)[一下|这个][文件][：]{url} => {"share": true}',
    ),
)
def web_download(
    url: Annotated[str, "an http:// or https:// URL"],
    ctx: Context,
    path: Annotated[str, "where in the workspace; by default the server's name for it"] = "",
    max_mb: Annotated[int, "how large it may be, in MiB"] = 64,
    share: Annotated[bool, "also give it to the person who asked"] = False,
) -> Output:
    """Download a file into the workspace, with its SHA-256. Replaces nothing. Called again after
    a break it goes on where it was."""
    from pibot.skills._downloading import MB, download
    from pibot.skills._hosts import WebPolicy

    if not 1 <= max_mb <= _MOST_MB:
        raise SkillError(f"max_mb must be between 1 and {_MOST_MB}, not {max_mb}.")
    data = download(url, WebPolicy.of(ctx.permits), ctx, path, max_mb * MB)
    said = f"{data['url']}\n{data['path']}: {data['size_bytes']:,} bytes, SHA-256 {data['sha256']}"
    data["shared"] = False
    if share:
        try:
            ctx.share(data["path"])
            data["shared"] = True
        except SkillError as error:  # the file is there all the same
            said += f"\n(not shared: {error})"
    return Output(data, said)
