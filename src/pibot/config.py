"""All settings of a process, read once and passed in: flag > environment > .env > default.

A service of systemd reads the credential `pibot.env` in place of the .env; a client that finds no
broker named anywhere reads the user's own client.env below it.
"""

from __future__ import annotations

import os
import re
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import Dict, Mapping, NamedTuple, Optional, Tuple

from pibot.errors import ConfigError
from pibot.permits import Permits, permits_of
from pibot.secrets import secrets_of
from pibot.topics import name_of_user
from pibot.values import NAME, NAME_RULE, Value, Values, read_env_file

VOLC_BASE_URL = "https://ark.cn-beijing.volces.com/api/coding/v3"
VOLC_MODEL = "ark-code-latest"
OPENAI_BASE_URL = "https://api.openai.com/v1"
NO_KEY = "none"  # for a model server of one's own; the client library wants some key
MAX_SLOTS = 64
MAX_KEEP_DAYS = 3_650
MAX_KEEP_GOALS = 1_000_000
SERVICES = ("master", "worker")


class Key(NamedTuple):
    """A name that PiBot reads, for --help and the guides."""

    name: str
    meaning: str


KEYS = (
    Key("VOLC_API_KEY", "key of the model endpoint (any OpenAI-compatible one)"),
    Key("VOLC_BASE_URL", f"its address; default {VOLC_BASE_URL}"),
    Key("MODEL_NAME", f"its model; default {VOLC_MODEL}"),
    Key("OPENAI_API_KEY", "the same, when no VOLC name is set"),
    Key("OPENAI_BASE_URL", f"the same; default {OPENAI_BASE_URL}"),
    Key("OPENAI_MODEL", "the same; no default"),
    Key("WORKER_ID", "this worker's name; default the host name and four digits"),
    Key("MQTT_HOST", "the broker; default this machine"),
    Key("MQTT_PORT", "the broker's port; default 1883, or 8883 with TLS"),
    Key("MQTT_USERNAME", "the broker's credentials"),
    Key("MQTT_PASSWORD", "the broker's credentials"),
    Key("MQTT_CA_FILE", "certificate file of the broker's authority; turns TLS on"),
    Key("PIBOT_CA", "the certificate of the fleet's authority, in one line; turns TLS on"),
    Key("PIBOT_KEY", "this machine's signing key"),
    Key("PIBOT_UPDATE_KEY", "a worker's key for new programs; `setup` keeps it where only root is"),
    Key("PIBOT_FLEET", "the fleet's name; default home"),
    Key("PIBOT_STATE_DIR", "where the store lies; default ~/.local/state/pibot"),
    Key("PIBOT_KEEP_DAYS", "days of running for which the master keeps what ended; default 30"),
    Key("PIBOT_KEEP_GOALS", "how many goals that ended it keeps at most; default 10000"),
    Key("PIBOT_LOG_DIR", "also write logs to files there"),
    Key("PIBOT_SKILLS_DIR", "your own skills, one *.py each"),
    Key("PIBOT_SOUL", "a file with another system prompt"),
    Key("PIBOT_SLOTS", f"tasks at once on this worker, 1 to {MAX_SLOTS}; default 1"),
    Key("PIBOT_TAGS", "this worker's labels, such as camera,fast"),
    Key("PIBOT_ALLOW_SHELL", "1 allows the shell and python skills; default 0"),
    Key("PIBOT_SHELL_NETWORK", "1 gives their sandbox this machine's network; default 0"),
    Key("PIBOT_READ_PATHS", "what commands and sqlite_query may read beside the workspace"),
    Key("PIBOT_WRITE_PATHS", "what commands may change beside the workspace"),
    Key("PIBOT_WORKSPACE_MB", "how much one task may keep in its workspace; default 1024"),
    Key("PIBOT_WORKSPACE_DAYS", "for how long workspaces are kept; default 7"),
    Key("PIBOT_APPROVAL", "who must approve sensitive skills: tainted (default), always, never"),
    Key("PIBOT_ASK", "1 or 0: goals from the ask topic; default on without credentials only"),
    Key("PIBOT_HEALTH_HOST", "address of GET /health; default 0.0.0.0"),
    Key("PIBOT_HEALTH_PORT", "its port; default 5000 on a worker, 5001 on the master"),
    Key("PIBOT_HTTP_HOST", "address of the dashboard on the master; default 127.0.0.1"),
    Key("PIBOT_HTTP_PORT", "its port; default 8080"),
    Key("PIBOT_HTTP_TOKEN", "its token; needed on any other address than loopback"),
    Key("PIBOT_WEB_ALLOW", "private hosts that the web skills may ask, such as nas.local"),
    Key("PIBOT_WEB_ONLY", "the only public hosts they may ask, such as *.example.org"),
    Key("PIBOT_WEB_DENY", "hosts they may not ask"),
    Key("PIBOT_HOSTS", "hosts that http_request and the network skills may reach"),
    Key("PIBOT_HOST_TOKENS", "their bearer tokens, such as home.local:8123=TOKEN"),
    Key("PIBOT_SERVICES", "units that agents may restart, such as mosquitto.service"),
    Key("PIBOT_GPIO_PINS", "pins (BCM numbers) that agents may drive, such as 17,27"),
    Key("PIBOT_MQTT_TOPICS", "topics for mqtt_publish and mqtt_read, such as zigbee2mqtt/#"),
    Key(
        "PIBOT_MQTT_URL",
        "their broker, such as mqtt://user:password@home.local; default the fleet's",
    ),
    Key("PIBOT_NOTIFY_URL", "where notify sends its messages, such as https://ntfy.sh/my-topic"),
    Key("PIBOT_MCP_FILE", "a JSON file that names MCP servers"),
    Key("WORKER_n_IP", "on the master: a machine that `health` also asks, such as WORKER_1_IP"),
)
_KNOWN = frozenset(key.name for key in KEYS)
_MACHINE = re.compile(r"WORKER_([0-9]{1,4})_IP")
_UPDATE_KEY = re.compile(r"[0-9a-f]{64}")
_PRIVATE_NAMES = (".local", ".lan", ".home", ".internal", ".home.arpa")


@dataclass(frozen=True)
class ModelSettings:
    """A model endpoint; the key goes to `base_url`'s host only and never into a repr."""

    api_key: str = field(repr=False)
    base_url: str
    model: str


@dataclass(frozen=True)
class Settings:
    """What a process of the given role was told; secrets never show in its repr."""

    role: str
    fleet: str
    worker_id: str
    client: Optional[str]  # a client's own name, when the broker's user name can be one
    model: Optional[ModelSettings]
    mqtt_host: Optional[str]  # None: nobody said, so this machine
    mqtt_port: int
    mqtt_username: Optional[str]
    mqtt_password: Optional[str] = field(repr=False)
    mqtt_ca_file: Optional[Path]
    ca: Optional[bytes] = field(repr=False)  # the authority's certificate itself, as DER
    key: Optional[str] = field(repr=False)
    update_key: Optional[str] = field(repr=False)  # for `setup` alone: a service never has it
    state_dir: Path  # of the services; nobody else keeps anything
    keep_days: int
    keep_goals: int
    log_dir: Optional[Path]
    skills_dir: Optional[Path]
    soul: Optional[Path]
    slots: int
    tags: Tuple[str, ...]
    permits: Permits
    mcp_file: Optional[Path]
    approval: str  # tainted | always | never
    ask: Optional[bool]  # None: nobody said
    health_host: str
    health_port: int
    health_port_explicit: bool
    http_host: str
    http_port: int
    http_token: Optional[str] = field(repr=False)
    machines: Mapping[str, str]  # "worker-1" -> address, from WORKER_1_IP
    secrets: Tuple[str, ...] = field(repr=False)  # all that this process was told

    @property
    def tls(self) -> bool:
        return self.ca is not None or self.mqtt_ca_file is not None

    @property
    def is_loopback_broker(self) -> bool:
        return self.mqtt_host is None or is_loopback(self.mqtt_host)


def load(
    role: str,
    flags: Mapping[str, Optional[str]],
    environ: Mapping[str, str],
    env_file: Optional[Path],
    program: Path,
) -> Settings:
    """Read the settings of a role; raise ConfigError naming the key and the place it stood in.

    `flags` are by key ("WORKER_ID", not "--worker-id"), None when not given. `env_file` is
    --env-file; without it the service's credential counts, else the .env beside `program`.
    """
    found = _env_file(role, environ, env_file, program)
    values = Values(flags, environ, found)
    if role == "client" and not any(key.startswith("MQTT_") for key in values.names()):
        values = Values(flags, environ, {**_client_env(environ), **found})
    return settings_of(role, values, environ)


def settings_of(role: str, values: Values, environ: Mapping[str, str]) -> Settings:
    """The settings that these values are; raise ConfigError as `load` does."""
    _refuse_unknown(values)
    user = values.text("MQTT_USERNAME")
    client = name_of_user(user or "")
    ca_file, ca = _authority(values)
    return Settings(
        role=role,
        fleet=values.name("PIBOT_FLEET") or "home",
        worker_id=_worker_id(values),
        client=client if NAME.fullmatch(client) else None,
        model=_model(values, role),
        mqtt_host=values.host("MQTT_HOST"),
        mqtt_port=values.port("MQTT_PORT", 8883 if ca_file or ca else 1883),
        mqtt_username=user,
        mqtt_password=values.text("MQTT_PASSWORD"),
        mqtt_ca_file=ca_file,
        ca=ca,
        key=values.text("PIBOT_KEY"),
        update_key=_update_key(values),
        state_dir=_state_dir(values, environ) if role in SERVICES else Path(),
        keep_days=values.number("PIBOT_KEEP_DAYS", 1, MAX_KEEP_DAYS, 30),
        keep_goals=values.number("PIBOT_KEEP_GOALS", 1, MAX_KEEP_GOALS, 10_000),
        log_dir=values.path("PIBOT_LOG_DIR"),
        skills_dir=values.existing("PIBOT_SKILLS_DIR", directory=True),
        soul=values.existing("PIBOT_SOUL"),
        slots=values.number("PIBOT_SLOTS", 1, MAX_SLOTS, 1),
        tags=_tags(values),
        permits=permits_of(values),
        mcp_file=values.existing("PIBOT_MCP_FILE"),
        approval=values.choice("PIBOT_APPROVAL", ("tainted", "always", "never"), "tainted"),
        ask=values.switch("PIBOT_ASK"),
        health_host=values.host("PIBOT_HEALTH_HOST") or "0.0.0.0",
        health_port=values.port("PIBOT_HEALTH_PORT", 5001 if role == "master" else 5000),
        health_port_explicit=values.text("PIBOT_HEALTH_PORT") is not None,
        http_host=_http_host(values),
        http_port=values.port("PIBOT_HTTP_PORT", 8080),
        http_token=values.text("PIBOT_HTTP_TOKEN"),
        machines=_machines(values),
        secrets=secrets_of(values.texts()),
    )


def require_credentials(settings: Settings) -> None:
    """Raise ConfigError when a master or worker has a broker elsewhere and no password or key."""
    if settings.is_loopback_broker or settings.role not in SERVICES:
        return
    have = {"MQTT_PASSWORD": settings.mqtt_password, "PIBOT_KEY": settings.key}
    missing = " and ".join(key for key, value in have.items() if not value)
    if not missing:
        return
    made = "run `sudo pibot.pyz setup --role master` on this machine, which makes them"
    if settings.role == "worker":
        name = settings.worker_id
        made = (
            f"run `pibot.pyz workers add {name}` on the master, and put the {name}.env that it "
            "writes beside pibot.pyz as .env"
        )
    raise ConfigError(
        f"The broker {settings.mqtt_host} is not on this machine, so {missing} must be set: {made}."
    )


def is_loopback(host: str) -> bool:
    """Whether an address or name certainly means this machine; in doubt it does not."""
    if host.rstrip(".").lower() == "localhost" or host == "::1":
        return True
    try:
        return socket.inet_pton(socket.AF_INET, host)[0] == 127
    except OSError:
        return False


def _env_file(
    role: str, environ: Mapping[str, str], chosen: Optional[Path], program: Path
) -> Dict[str, Value]:
    if chosen is not None:
        return read_env_file(Path(os.path.abspath(chosen)))
    if role in SERVICES and environ.get("CREDENTIALS_DIRECTORY"):
        credential = Path(environ["CREDENTIALS_DIRECTORY"], "pibot.env")
        if credential.exists():  # systemd lets the service in with an access list: the mode is wide
            original = Path(f"/etc/pibot/{role}.env")
            return read_env_file(credential, private=False, copy_of=original)
    beside = program.resolve().parent / ".env"
    return read_env_file(beside) if beside.exists() else {}


def _client_env(environ: Mapping[str, str]) -> Dict[str, Value]:
    """The file that `setup` on the master leaves for the person who ran it."""
    path = client_env_path(environ)
    return read_env_file(path) if path and os.path.exists(path) else {}


def client_env_path(environ: Mapping[str, str]) -> Optional[Path]:
    """Where a person's own client.env lies; None for a user without a home."""
    base = environ.get("XDG_CONFIG_HOME", "")
    if os.path.isabs(base):  # the XDG standard ignores relative ones
        return Path(base, "pibot", "client.env")
    home = _home(environ)
    return home / ".config" / "pibot" / "client.env" if home else None


def _home(environ: Mapping[str, str]) -> Optional[Path]:
    try:
        return Path(environ.get("HOME") or Path.home())
    except RuntimeError:
        return None


def _refuse_unknown(values: Values) -> None:
    for key in values.names():
        if key.startswith("PIBOT_") and key not in _KNOWN:
            import difflib

            near = difflib.get_close_matches(key, _KNOWN, n=1, cutoff=0.8)
            hint = f"; perhaps {near[0]} is meant" if near else ", no setting of PiBot; remove it"
            raise values.error(key, f"is unknown{hint}")


def _authority(values: Values) -> Tuple[Optional[Path], Optional[bytes]]:
    """Whom to trust about the broker: a file of the user's own, or the fleet's certificate."""
    ca_file, ca = values.existing("MQTT_CA_FILE"), values.certificate("PIBOT_CA")
    if ca_file and ca:
        raise values.error("PIBOT_CA", "and MQTT_CA_FILE both say whom to trust; remove one")
    for key in ("MQTT_CA_FILE", "PIBOT_CA"):
        if values.text(key) and not values.text("MQTT_HOST"):
            raise values.error(key, "turns TLS on, which needs MQTT_HOST as well")
    return ca_file, ca


def _update_key(values: Values) -> Optional[str]:
    key = values.text("PIBOT_UPDATE_KEY")
    if key is not None and not _UPDATE_KEY.fullmatch(key):
        raise values.error("PIBOT_UPDATE_KEY", "must be 64 hex digits; copy it anew")
    return key


def _worker_id(values: Values) -> str:
    name = values.name("WORKER_ID")
    if name == "master":
        raise values.error("WORKER_ID", "must not be master, which is reserved; choose another")
    return name or default_worker_id(socket.gethostname(), _machine_id())


def default_worker_id(host: str, machine: str) -> str:
    """The host name made fit, and the machine id's last four digits: fresh Pis share a name."""
    name = re.sub(r"[^a-z0-9]+", "-", host.split(".")[0].lower())[:27].strip("-") or "worker"
    tail = machine.strip()[-4:].lower()
    if re.fullmatch(r"[0-9a-f]{4}", tail):
        return f"{name}-{tail}"
    return "worker" if name == "master" else name


def _machine_id() -> str:
    for path in ("/etc/machine-id", "/var/lib/dbus/machine-id"):
        try:
            return Path(path).read_text(encoding="ascii")
        except (OSError, ValueError):
            continue
    return ""


def _model(values: Values, role: str) -> Optional[ModelSettings]:
    """The VOLC endpoint if any VOLC name is set, else OpenAI's.

    Key and address always come from the same family: a key never goes to the other's host.
    """
    model = values.text("MODEL_NAME")
    if values.text("VOLC_API_KEY") or values.text("VOLC_BASE_URL"):
        key = _api_key(values, "VOLC_API_KEY", "VOLC_BASE_URL")
        url = values.url("VOLC_BASE_URL") or VOLC_BASE_URL
        return ModelSettings(key, url, model or VOLC_MODEL)
    if not values.text("OPENAI_API_KEY") and not values.text("OPENAI_BASE_URL"):
        return None
    key = _api_key(values, "OPENAI_API_KEY", "OPENAI_BASE_URL")
    model = model or values.text("OPENAI_MODEL")
    if model is None and role not in ("master", "worker"):
        return None  # an OPENAI_API_KEY in somebody's shell must not stop `status` or `demo`
    if model is None:
        stands = "OPENAI_API_KEY" if values.text("OPENAI_API_KEY") else "OPENAI_BASE_URL"
        raise values.error(stands, "has no OPENAI_MODEL beside it; name the endpoint's model there")
    return ModelSettings(key, values.url("OPENAI_BASE_URL") or OPENAI_BASE_URL, model)


def _api_key(values: Values, key_name: str, url_name: str) -> str:
    key = values.text(key_name)
    if key is not None:
        if not key.isascii() or " " in key:
            raise values.error(key_name, "has a space or a letter that no key has; copy it anew")
        return key
    if not _is_private_url(values.url(url_name) or ""):
        raise values.error(url_name, f"has no {key_name} beside it; set that too")
    return NO_KEY


def _is_private_url(url: str) -> bool:
    import ipaddress
    from urllib.parse import urlsplit

    host = urlsplit(url).hostname or ""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return "." not in host or host.endswith(_PRIVATE_NAMES)
    return address.is_private


def _state_dir(values: Values, environ: Mapping[str, str]) -> Path:
    chosen = values.path("PIBOT_STATE_DIR")
    if chosen is not None:
        return chosen
    if environ.get("STATE_DIRECTORY"):  # systemd's; several are separated by colons
        return Path(environ["STATE_DIRECTORY"].split(":")[0])
    base = environ.get("XDG_STATE_HOME", "")
    if os.path.isabs(base):  # the XDG standard ignores relative ones
        return Path(base) / "pibot"
    home = _home(environ)
    if home is None:
        raise ConfigError("This user has no home; set PIBOT_STATE_DIR to a directory.")
    return home / ".local" / "state" / "pibot"


def _tags(values: Values) -> Tuple[str, ...]:
    tags = values.items("PIBOT_TAGS")
    if not all(NAME.fullmatch(tag) for tag in tags):
        raise values.error("PIBOT_TAGS", f"must be labels separated by commas, each {NAME_RULE}")
    return tags


def _http_host(values: Values) -> str:
    host = values.host("PIBOT_HTTP_HOST") or "127.0.0.1"
    if not is_loopback(host) and not values.text("PIBOT_HTTP_TOKEN"):
        raise values.error(
            "PIBOT_HTTP_HOST",
            "opens the dashboard to others, which needs PIBOT_HTTP_TOKEN, a long random word",
        )
    return host


def _machines(values: Values) -> Mapping[str, str]:
    found = {}
    for key in values.names():
        match = _MACHINE.fullmatch(key)
        if match:
            found[int(match[1])] = values.host(key) or ""
    return {f"worker-{number}": found[number] for number in sorted(found)}
