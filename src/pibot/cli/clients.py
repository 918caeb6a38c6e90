"""`clients`: list people's and programs' access to the fleet; add or remove one."""

from __future__ import annotations

import argparse
import shlex
from typing import Any, Dict, List, Optional, Tuple

from pibot.cli import enrol, present
from pibot.cli.parser import program, settings, with_json
from pibot.cli.present import line
from pibot.config import Settings
from pibot.errors import EXIT_OK, UsageError
from pibot.identities import check, new_secret
from pibot.topics import CLIENT, VIEWER, Topics

EXAMPLE = """pibot.pyz clients add phone            a file with which phone may give goals
  pibot.pyz clients add tablet --view    a file for the topics below view/ only
  pibot.pyz clients remove phone"""
ACTIONS = ("list", "add", "remove")
HEADER = ("CLIENT", "MAY", "ADDED")
Said = Tuple[Dict[str, Any], str]  # for programs and for people


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "action",
        choices=ACTIONS,
        metavar="|".join(ACTIONS),
        help="add: make credentials and write NAME.env here; remove: end them at once",
    )
    parser.add_argument("client", metavar="NAME", nargs="?", help="the client; not with list")
    parser.add_argument(
        "--view", action="store_true", help="with add: it may only look, at the topics below view/"
    )
    parser.add_argument(
        "--host",
        metavar="ADDRESS",
        help="with add: where the client finds the broker; default this machine's address, if the "
        "broker runs here",
    )
    with_json(parser)


def run(options: argparse.Namespace) -> int:
    action, name = options.action, options.client
    if (name is None) != (action == "list"):
        need = "takes no NAME" if name is not None else "needs the NAME of a client"
        raise UsageError(f"`clients {action}` {need}: see `pibot.pyz clients --help`")
    if action != "add" and (options.view or options.host is not None):
        raise UsageError("--view and --host go with add only")
    kind = VIEWER if options.view else CLIENT
    if name is not None:
        check(kind, name)
    found = settings(options)
    if action == "list":
        document, text = _list(found)
    elif action == "add":
        document, text = _add(found, kind, name, options.host)
    else:
        document, text = _remove(found, name)
    if options.json:
        present.say_json(document)
    else:
        present.say(text)
    return EXIT_OK


def _list(found: Settings) -> Said:
    from pibot import messages as msg
    from pibot.roles.client import Fleet

    with Fleet.connect(found) as fleet:
        document = fleet.ask(msg.Listing("clients"))
    rows = document["clients"]
    if not rows:
        return document, "no client yet: `pibot.pyz clients add laptop` makes one's credentials"
    cells = [(r["client"], "look" if r["view"] else "all", r["added"][:10] or "-") for r in rows]
    return document, present.table(HEADER, [[line(cell) for cell in row] for row in cells])


def _add(found: Settings, kind: str, name: str, host: Optional[str]) -> Said:
    given = enrol.give(found, "add", new_secret(kind, name), host)
    view = kind == VIEWER
    document = {"client": name, "view": view, "state": given.reply["state"], **given.place}
    return document, "\n".join(
        [
            f"{name} is added. {given.files.env} has its password and key: it is a secret.",
            f"It will look for the broker at {given.files.host}; --host says another address.",
            "",
            *(_for_a_viewer(found, name, given) if view else _for_a_client(name, given)),
        ]
    )


def _for_a_client(name: str, given: enrol.Given) -> List[str]:
    pyz = str(program()) if program().suffix == ".pyz" else "pibot.pyz"
    ca = [given.files.ca] if given.files.ca else []
    names = [pyz, str(given.files.env), *map(str, ca)]
    here = " ".join(path.name for path in ca)
    return [
        "Copy it to the person's machine, with pibot.pyz:",
        f"  scp {' '.join(shlex.quote(n) for n in names)} USER@ADDRESS:",
        "and there:",
        "  mkdir -p ~/.config/pibot",
        f"  mv {name}.env ~/.config/pibot/client.env",
        *([f"  mv {here} ~/.config/pibot/"] if ca else []),
        "  python3 pibot.pyz status",
        "Beside pibot.pyz, as .env, it serves as well.",
    ]


def _for_a_viewer(found: Settings, name: str, given: enrol.Given) -> List[str]:
    """MQTT programs have no use for our file: they want what stands in it."""
    files, views = given.files, Topics(found.fleet).view("#")
    ca = f" --cafile {files.ca.name if files.ca else 'pibot-ca.crt'}" if found.tls else ""
    where = f"-h {files.host} -p {found.mqtt_port}{ca}"
    made = f"sed -n 's/^PIBOT_CA=//p' {name}.env | base64 -d | openssl x509 -inform der"
    return [
        "It may only look. A program that speaks MQTT uses the values of that file, such as:",
        *([f"  {made} -out pibot-ca.crt"] if found.tls and not files.ca else []),
        f"  mosquitto_sub {where} -u {name} -P PASSWORD -t '{views}' -v",
        "It also reads -u and -P from ~/.config/mosquitto_sub, which `ps` does not show.",
    ]


def _remove(found: Settings, name: str) -> Said:
    from pibot import messages as msg
    from pibot.roles.client import Fleet

    with Fleet.connect(found) as fleet:
        reply = fleet.ask(msg.Manage("remove", name, kind=CLIENT))
    return reply, f"{name} is removed: its credentials have ended"
