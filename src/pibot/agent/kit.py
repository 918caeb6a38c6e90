"""The tools of one attempt: the groups that its task names or needs, not everything there is.

Every tool that is described costs tokens in each step and distracts a small model. So a task gets
what its words speak of, beside what every task needs, and the model can ask for another group.
This saves tokens, and protects nothing: a skill that is called without having been described is
run all the same, unless the task says which skills it is for.
"""

from __future__ import annotations

import re
from typing import Any, Dict, List, Mapping, Sequence, Set, Tuple

from pibot.agent.calls import GIVE_UP, GIVE_UP_TOOL
from pibot.agent.tools import OWN, Result, Skill, Toolbox

MORE = "more_tools"
ALWAYS = frozenset({"core", "files", "shell", OWN})
# Beginnings of words that speak of a group; Chinese ones may stand anywhere.
_WORDS: Mapping[str, str] = {
    "web": "http web site page url internet online download browse fetch news article search robots"
    " 网页 网站 网址 网络上 下载 抓取 上网 互联网 新闻 搜索",
    "hardware": "gpio pin led relay sensor temperature humidity pressure i2c 1-wire onewire camera"
    " photo picture image microphone record sound audio play speaker usb serial device display"
    " screen throttl volt vcgencmd"
    " 引脚 传感器 温度 湿度 气压 摄像头 相机 拍照 照片 录音 声音 播放 设备 串口 显示 屏幕"
    " 电压 降频",
    "system": "service unit systemd restart process package upgrade update disk mount network ip"
    " ping port dns wifi wi-fi log journal timer cron database sqlite sql"
    " 服务 重启 进程 软件包 升级 更新 磁盘 硬盘 网络 端口 日志 定时 数据库",
    "home": "mqtt topic broker zigbee home light lamp switch plug thermostat notif message alert"
    " webhook api node-red http_request"
    " 灯 开关 插座 家居 通知 消息 提醒 报警 主题",
}


class Kit:
    """What the model is offered. `names` are all that it may call; `tools` what it is told of."""

    def __init__(self, toolbox: Toolbox, skills: Sequence[str], text: str) -> None:
        """`skills` are names of skills and groups (none: whatever `text`, the task, needs)."""
        self._all = [one for one in toolbox.skills if one.name not in (GIVE_UP, MORE)]
        self._free = not skills
        if self._free:
            groups = needed(text) | ALWAYS
            self._offered = [one for one in self._all if one.group in groups]
        else:
            groups = {one.group for one in self._all if one.name in skills} - {OWN} | {*skills}
            self._offered = [s for s in self._all if s.name in skills or s.group in groups]

    @property
    def tools(self) -> List[Dict[str, Any]]:
        """The `tools` of the next request."""
        rest = self._rest()
        more = [_more_tool(rest)] if rest else []
        return [*(one.tool() for one in self._offered), *more, GIVE_UP_TOOL]

    @property
    def told(self) -> List[str]:
        return [tool["function"]["name"] for tool in self.tools]

    @property
    def names(self) -> List[str]:
        return [*(one.name for one in self._callable()), *self.told[len(self._offered) :]]

    def reach(self, name: str) -> None:
        """A skill is called: whoever knows one of a group uses the others, too."""
        found = next((one for one in self._callable() if one.name == name), None)
        if found is not None and found not in self._offered:
            self._bring(found.group)

    def more(self, args: Mapping[str, Any]) -> Result:
        """What a call of `more_tools` returns."""
        group, rest = str(args.get("group") or ""), self._rest()
        if group not in rest:
            there = ", ".join(rest) or "none, you have all"
            return Result(False, {}, f"there is no group {group!r} to add; there are: {there}")
        self._bring(group)
        return Result(True, {"tools": rest[group]}, f"added: {', '.join(rest[group])}")

    def _callable(self) -> List[Skill]:
        return self._all if self._free else self._offered

    def _bring(self, group: str) -> None:
        self._offered += [
            one for one in self._all if one.group == group and one not in self._offered
        ]

    def _rest(self) -> Dict[str, List[str]]:
        """The groups that are not offered, with the names of their skills."""
        found: Dict[str, List[str]] = {}
        for one in self._callable():
            if one not in self._offered:
                found.setdefault(one.group, []).append(one.name)
        return found


def needed(text: str) -> Set[str]:
    """The groups that the words of a task speak of."""
    return {group for group, form in _FORMS if form.search(text)}


def _form(words: str) -> "re.Pattern[str]":
    ascii_words = [re.escape(word) for word in words.split() if word.isascii()]
    others = [re.escape(word) for word in words.split() if not word.isascii()]
    return re.compile(
        rf"(?<![a-z0-9])(?:{'|'.join(ascii_words)})|{'|'.join(others)}", re.IGNORECASE
    )


_FORMS: Tuple[Tuple[str, "re.Pattern[str]"], ...] = tuple(
    (group, _form(words)) for group, words in _WORDS.items()
)


def _more_tool(rest: Mapping[str, Sequence[str]]) -> Dict[str, Any]:
    there = "; ".join(f"{group}: {', '.join(names)}" for group, names in rest.items())
    group = {"type": "string", "enum": list(rest)}
    return {
        "type": "function",
        "function": {
            "name": MORE,
            "description": f"Add a group of tools that this task needs. There are {there}.",
            "parameters": {"type": "object", "properties": {"group": group}, "required": ["group"]},
        },
    }
