"""How a goal is done, the cheapest way first. Pure.

a skill by name                        →  its tasks
a greeting, the fleet's state          →  answered on the spot
a sentence that a skill's template has →  its tasks, no model
--on, --all, --tag                     →  the goal itself, as a task for the machines named
no model on the master                 →  one task for a worker that has a model
moderate (one short question)          →  an idle worker, or the master if all are busy
everything else                        →  a plan
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Dict, List, Optional, Sequence, Tuple

from pibot.fleet import phrases
from pibot.fleet.board import Wish
from pibot.fleet.pool import Pool, Worker, suits
from pibot.fleet.records import Goal, Task, changed

# Asked without a place, these mean every machine: a fleet's user rarely means "any one of them".
PER_MACHINE = frozenset({"system_status"})


@dataclass(frozen=True)
class Route:
    """Exactly one of these says how: `answer`, `error`, `tasks`, or `kind` plan | answer."""

    kind: str = ""
    everyone: bool = False  # a row for each machine, even if there is only one
    answer: Optional[str] = None
    error: Optional[str] = None
    tasks: Tuple[Task, ...] = ()


def route(goal: Goal, pool: Pool, model: bool) -> Route:
    """Decide how a goal is done; `model` says whether the master can ask one."""
    refused = refusal(goal, pool)
    if refused is not None:
        return Route(error=refused)
    if goal.skill:
        task = Task("", goal.id, skill=goal.skill, args=goal.args)
        return _tasks(goal, task, goal.on, goal.all, pool)
    spot = None if goal.on or goal.all or goal.tag else on_the_spot(goal, pool)
    if spot is not None:
        return Route(answer=spot)
    found = phrases.match(goal.text, _announced(pool), list(pool.workers))
    if found is not None:
        return _by_sentence(goal, found, pool)
    if goal.on or goal.all or goal.tag:
        return _as_it_is(goal, pool)
    if not model:
        return _without_model(goal, pool)
    return _with_model(goal, pool)


def refusal(goal: Goal, pool: Pool) -> Optional[str]:
    """Why a goal cannot be one: it names a worker or a skill that the fleet does not have."""
    if goal.on and goal.on not in pool.workers:
        return unknown_worker(goal.on, pool)
    here = [pool.workers[goal.on]] if goal.on else list(pool.workers.values())
    if goal.skill and here and all(goal.skill not in w.skills for w in here):
        return unknown_skill(goal.skill, here)
    return None


def unknown_worker(name: str, pool: Pool) -> str:
    known = ", ".join(sorted(pool.workers)) or "none yet"
    return f"no worker is called {name!r}: known are {known}"


def unknown_skill(name: str, workers: Sequence[Worker]) -> str:
    known = ", ".join(sorted(frozenset().union(*(w.skills for w in workers)))) or "none"
    who = workers[0].name if len(workers) == 1 else "the fleet"
    return f"{who} does not have the skill {name!r}: known are {known}"


def _announced(pool: Pool) -> List[Dict[str, Any]]:
    """Every skill of the fleet once."""
    found: Dict[str, Dict[str, Any]] = {}
    for name in sorted(pool.workers):
        for skill in pool.workers[name].announced:
            found.setdefault(skill["name"], skill)
    return list(found.values())


# --- skills, no model ---------------------------------------------------------------------------


def _by_sentence(goal: Goal, found: phrases.Match, pool: Pool) -> Route:
    where = found.where
    if where.worker and where.worker not in pool.workers:
        return Route(error=unknown_worker(where.worker, pool))
    if where.worker and (goal.all or goal.on not in ("", where.worker)):
        asked = "all workers" if goal.all else goal.on
        return Route(error=f"the sentence is about {where.worker}, but {asked} was asked: say one")
    everywhere = goal.all or where.all
    if not (goal.on or goal.tag or where.worker) and found.skill in PER_MACHINE:
        everywhere = True
    on = goal.on or where.worker or ""
    return _tasks(
        goal, Task("", goal.id, skill=found.skill, args=dict(found.args)), on, everywhere, pool
    )


def _as_it_is(goal: Goal, pool: Pool) -> Route:
    here = [pool.workers[goal.on]] if goal.on else pool.online()
    if here and not any(w.model for w in here):
        where = f"{goal.on} has" if goal.on else "the workers have"
        return Route(error=f"{where} no model for this: set VOLC_API_KEY there, or use a skill")
    return _tasks(goal, Task("", goal.id, text=goal.text), goal.on, goal.all, pool)


def _tasks(goal: Goal, task: Task, on: str, everywhere: bool, pool: Pool) -> Route:
    tags = (goal.tag,) if goal.tag else ()
    if not everywhere or on:
        return Route(tasks=(_for(task, goal, on, tags),))
    machines = [w for _, w in sorted(pool.workers.items()) if w.tags.issuperset(tags)]
    if not machines:
        return Route(error="the fleet has no worker" + (f" tagged {goal.tag!r}" if tags else ""))
    return Route(tasks=tuple(_for_one_of_all(task, goal, w) for w in machines), everyone=True)


def _for(task: Task, goal: Goal, worker: str, tags: Tuple[str, ...]) -> Task:
    return changed(task, worker=worker, tags=tags, timeout_s=min(task.timeout_s, goal.timeout_s))


def _for_one_of_all(task: Task, goal: Goal, worker: Worker) -> Task:
    """With `--all` every machine gets a row, also the one that cannot do it."""
    task = _for(task, goal, worker.name, ())
    wish = Wish(worker.name, (task.skill,) if task.skill else (), (), not task.skill, ())
    if worker.state in ("offline", "incompatible", "draining"):
        return changed(task, state="failed", error=f"{worker.name} is {worker.state}")
    if not suits(worker, wish):
        missing = f"the skill {task.skill}" if task.skill else "a model"
        return changed(task, state="failed", error=f"{worker.name} does not have {missing}")
    return task


# --- words --------------------------------------------------------------------------------------


def _without_model(goal: Goal, pool: Pool) -> Route:
    if any(w.model for w in pool.online()):
        return Route(tasks=(Task("", goal.id, text=goal.text, timeout_s=goal.timeout_s),))
    return Route(
        error="no model is configured and no sentence template matches: set VOLC_API_KEY (or "
        "OPENAI_API_KEY) in the .env of the master and of the workers, or try "
        '"disk space on all workers"'
    )


def _with_model(goal: Goal, pool: Pool) -> Route:
    if not is_moderate(goal.text):
        return Route(kind="plan")
    if any(w.free and w.model for w in pool.online()):
        return Route(tasks=(Task("", goal.id, text=goal.text, timeout_s=goal.timeout_s),))
    return Route(kind="answer")


MODERATE_CHARS = 160
_ASKING = re.compile(
    r"\s*(please\s+)?(what|why|how|who|when|where|which|explain|define|translate|rephrase|"
    r"write (me )?an? (short )?(poem|haiku|joke|limerick)|tell me (a joke|about)|calculate|"
    r"请?(解释|翻译|写一首|讲个|计算|什么是|为什么|谁|介绍一下))",
    re.IGNORECASE,
)
_WORKING = re.compile(
    r"\b(files?|folders?|director(y|ies)|disks?|network|https?|urls?|web|internet|download|fetch|"
    r"install|scripts?|commands?|run|gpio|sensors?|cameras?|temperatures?|logs?|services?|"
    r"workers?|machines?|fleet|pis?|devices?|each|every|all|both|then|after|compare|collect|"
    r"reports?|monitor|search|measure|save|send|restart|update)\b|"
    r"文件|目录|磁盘|网络|网页|下载|抓取|安装|脚本|命令|传感器|摄像|温度|日志|服务|机器|工作机|节点|"
    r"每|所有|全部|然后|之后|比较|收集|报告|监控|搜索|测量|保存|发送|重启|更新",
    re.IGNORECASE,
)


def is_moderate(text: str) -> bool:
    """One short question that needs no files, network, hardware or several steps.

    In doubt a goal is not moderate: a plan of one task costs little, a missed plan the goal.
    """
    one = len(text) <= MODERATE_CHARS and len(re.findall(r"[.!?;\n。！？；]+\s*\S", text)) == 0
    return one and _ASKING.match(text) is not None and _WORKING.search(text) is None


# --- on the spot ----------------------------------------------------------------------------------

_GREETING = re.compile(
    r"\s*(hi|hello|hey|good (morning|afternoon|evening)|你好|您好|早上好|晚上好)"
    r"([ ,，]*(there|pibot))?[\s!！.。]*",
    re.IGNORECASE,
)
_FLEET = re.compile(
    r"\s*(please )?(show |what is |what's )?(me )?(the )?((fleet|team)('s)? (status|state)|"
    r"status of the (fleet|team)|who is (online|there)|(which|how many) workers "
    r"(are |do )?(there|online|idle|busy|offline|we have|you have)?|list (the )?workers|workers)"
    r"[\s?!.]*|"
    r"\s*(请)?(查看)?(集群|舰队|团队)(的)?(状态|情况)[？?。]*|\s*有(哪些|几台|多少)(工作机|机器|节点)(在线)?[？?。]*",
    re.IGNORECASE,
)


_TIME = re.compile(
    r"\s*(please )?(tell me )?(what( i|')s the time|what time is it|the time|time|what day is it|"
    r"what( i|')s the date|date)( now| today)?[\s?!.]*|\s*(请问)?(现在)?(几点|时间)(了)?[？?。]*|"
    r"\s*今天(几号|星期几)[？?。]*",
    re.IGNORECASE,
)


def on_the_spot(goal: Goal, pool: Pool) -> Optional[str]:
    """What the master knows by itself, or None."""
    text = goal.text
    if goal.created and _TIME.fullmatch(text):
        return datetime.fromisoformat(goal.created).strftime("It is %A, %d %B %Y, %H:%M:%S (%z).")
    if _GREETING.fullmatch(text):
        return f"Hello! I am PiBot. {summary(pool)} Give me a goal in plain words."
    if _FLEET.fullmatch(text):
        rows = [f"{w.name}: {w.state}" for _, w in sorted(pool.workers.items())]
        return "\n".join([summary(pool), *rows])
    return None


def summary(pool: Pool) -> str:
    states = [w.state for w in pool.workers.values()]
    parts = [f"{states.count(s)} {s}" for s in ("idle", "busy", "offline") if s in states]
    one = len(states) == 1
    return f"The fleet has {len(states)} worker{'' if one else 's'}: {', '.join(parts) or 'none'}."
