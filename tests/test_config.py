"""Settings: a table of what is given and what comes out or is refused."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, Mapping, Optional

import pytest

from pibot import config, permits
from pibot.config import ModelSettings, Settings
from pibot.errors import ConfigError
from pibot.permits import Permits

SECRET = "s3cr3t-4f1c9a"


def load(
    environ: Optional[Mapping[str, str]] = None,
    *,
    role: str = "worker",
    flags: Optional[Mapping[str, Optional[str]]] = None,
    env_file: Optional[Path] = None,
    program: Path = Path("/nowhere/pibot.pyz"),
) -> Settings:
    return config.load(role, flags or {}, {"HOME": "/home/u", **(environ or {})}, env_file, program)


def write_env(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)
    return path


def test_defaults() -> None:
    worker = load()
    assert vars(worker) == {
        "role": "worker",
        "fleet": "home",
        "worker_id": worker.worker_id,
        "client": None,
        "model": None,
        "mqtt_host": None,
        "mqtt_port": 1883,
        "mqtt_username": None,
        "mqtt_password": None,
        "mqtt_ca_file": None,
        "ca": None,
        "update_key": None,
        "key": None,
        "state_dir": Path("/home/u/.local/state/pibot"),
        "keep_days": 30,
        "keep_goals": 10_000,
        "log_dir": None,
        "skills_dir": None,
        "soul": None,
        "slots": 1,
        "tags": (),
        "permits": Permits(),
        "mcp_file": None,
        "approval": "tainted",
        "ask": None,
        "health_host": "0.0.0.0",
        "health_port": 5000,
        "health_port_explicit": False,
        "http_host": "127.0.0.1",
        "http_port": 8080,
        "http_token": None,
        "machines": {},
        "secrets": (),
    }
    assert worker.is_loopback_broker and not worker.tls
    assert load(role="master").health_port == 5001


@pytest.mark.parametrize(
    ("environ", "field", "expected"),
    [
        ({"PIBOT_FLEET": "lab-2"}, "fleet", "lab-2"),
        ({"PIBOT_FLEET": "  lab "}, "fleet", "lab"),
        ({"PIBOT_FLEET": ""}, "fleet", "home"),
        ({"WORKER_ID": "worker-1"}, "worker_id", "worker-1"),
        ({"MQTT_USERNAME": "laptop"}, "client", "laptop"),
        ({"MQTT_USERNAME": "Home Assistant"}, "client", None),
        ({"MQTT_HOST": "10.0.0.2"}, "is_loopback_broker", False),
        ({"MQTT_HOST": "127.0.1.1"}, "is_loopback_broker", True),
        ({"MQTT_HOST": "127.1"}, "is_loopback_broker", False),
        ({"MQTT_HOST": "[::1]"}, "mqtt_host", "::1"),
        ({"MQTT_HOST": "LOCALHOST"}, "is_loopback_broker", True),
        ({"MQTT_PORT": "1884"}, "mqtt_port", 1884),
        ({"PIBOT_STATE_DIR": "/srv/p"}, "state_dir", Path("/srv/p")),
        ({"STATE_DIRECTORY": "/var/lib/pibot:/x"}, "state_dir", Path("/var/lib/pibot")),
        ({"XDG_STATE_HOME": "/xdg"}, "state_dir", Path("/xdg/pibot")),
        ({"XDG_STATE_HOME": "rel"}, "state_dir", Path("/home/u/.local/state/pibot")),
        ({"PIBOT_SLOTS": "64"}, "slots", 64),
        ({"PIBOT_KEEP_DAYS": "3650"}, "keep_days", 3_650),
        ({"PIBOT_KEEP_GOALS": "1"}, "keep_goals", 1),
        ({"PIBOT_TAGS": "camera, fast,,camera"}, "tags", ("camera", "fast")),
        ({"PIBOT_ALLOW_SHELL": "Yes"}, "permits", Permits(shell=True)),
        ({"PIBOT_ASK": "0"}, "ask", False),
        ({"PIBOT_APPROVAL": "never"}, "approval", "never"),
        ({"PIBOT_HEALTH_PORT": "5000"}, "health_port_explicit", True),
        ({"PIBOT_HTTP_HOST": "0.0.0.0", "PIBOT_HTTP_TOKEN": SECRET}, "http_host", "0.0.0.0"),
        ({"PIBOT_HTTP_HOST": "::1"}, "http_host", "::1"),
        ({"PIBOT_SERVICES": "a.service,b"}, "permits", Permits(services=("a.service", "b"))),
        (
            {"WORKER_10_IP": "10.0.0.10", "WORKER_2_IP": "pi-two.local", "WORKER_3_IP": ""},
            "machines",
            {"worker-2": "pi-two.local", "worker-10": "10.0.0.10"},
        ),
    ],
)
def test_values(environ: Dict[str, str], field: str, expected: Any) -> None:
    assert getattr(load(environ), field) == expected


VOLC = {"VOLC_API_KEY": "v-key"}
OPENAI = {"OPENAI_API_KEY": "o-key", "OPENAI_MODEL": "gpt"}


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        (VOLC, ModelSettings("v-key", config.VOLC_BASE_URL, "ark-code-latest")),
        (OPENAI, ModelSettings("o-key", "https://api.openai.com/v1", "gpt")),
        (
            {**VOLC, **OPENAI, "OPENAI_BASE_URL": "https://other.example/v1"},
            ModelSettings("v-key", config.VOLC_BASE_URL, "ark-code-latest"),
        ),
        (
            {**VOLC, "VOLC_BASE_URL": "https://llm.example/v1/", "MODEL_NAME": "m"},
            ModelSettings("v-key", "https://llm.example/v1", "m"),
        ),
        (
            {"OPENAI_API_KEY": "k", "MODEL_NAME": "m"},
            ModelSettings("k", config.OPENAI_BASE_URL, "m"),
        ),
        (
            {"OPENAI_BASE_URL": "http://127.0.0.1:8080/v1", "OPENAI_MODEL": "m"},
            ModelSettings("none", "http://127.0.0.1:8080/v1", "m"),
        ),
        (
            {"VOLC_BASE_URL": "http://gpu.lan/v1", "MODEL_NAME": "m"},
            ModelSettings("none", "http://gpu.lan/v1", "m"),
        ),
        ({"MODEL_NAME": "m"}, None),
    ],
)
def test_model(environ: Dict[str, str], expected: Optional[ModelSettings]) -> None:
    assert load(environ).model == expected


@pytest.mark.parametrize(
    ("environ", "key"),
    [
        ({"PIBOT_FLET": "x"}, "PIBOT_FLET"),
        ({"PIBOT_SLOTS": "many"}, "PIBOT_SLOTS"),
        ({"PIBOT_KEEP_DAYS": "0"}, "PIBOT_KEEP_DAYS"),
        ({"PIBOT_KEEP_GOALS": "1000001"}, "PIBOT_KEEP_GOALS"),
        ({"PIBOT_SLOTS": "0"}, "PIBOT_SLOTS"),
        ({"PIBOT_SLOTS": "65"}, "PIBOT_SLOTS"),
        ({"PIBOT_SLOTS": "٣"}, "PIBOT_SLOTS"),
        ({"MQTT_PORT": "65536"}, "MQTT_PORT"),
        ({"MQTT_PORT": "1_883"}, "MQTT_PORT"),
        ({"MQTT_HOST": "mqtt://10.0.0.2"}, "MQTT_HOST"),
        ({"MQTT_HOST": "10.0.0.2:1883"}, "MQTT_HOST"),
        ({"MQTT_HOST": "192.168.1.xxx"}, "MQTT_HOST"),
        ({"WORKER_ID": "master"}, "WORKER_ID"),
        ({"WORKER_ID": "Worker_1"}, "WORKER_ID"),
        ({"WORKER_ID": "w" * 33}, "WORKER_ID"),
        ({"PIBOT_FLEET": "a/b"}, "PIBOT_FLEET"),
        ({"PIBOT_TAGS": "ok,Not Ok"}, "PIBOT_TAGS"),
        ({"PIBOT_ALLOW_SHELL": "maybe"}, "PIBOT_ALLOW_SHELL"),
        ({"PIBOT_APPROVAL": "sometimes"}, "PIBOT_APPROVAL"),
        ({"PIBOT_HTTP_HOST": "0.0.0.0"}, "PIBOT_HTTP_HOST"),
        ({"PIBOT_SOUL": "/no/such/soul.md"}, "PIBOT_SOUL"),
        ({"PIBOT_SKILLS_DIR": "/no/such"}, "PIBOT_SKILLS_DIR"),
        ({"MQTT_HOST": "b", "MQTT_CA_FILE": "/no/ca.pem"}, "MQTT_CA_FILE"),
        ({"VOLC_API_KEY": "your_actual_api_key_here"}, "VOLC_API_KEY"),
        ({"VOLC_API_KEY": "<api key>"}, "VOLC_API_KEY"),
        ({"VOLC_API_KEY": "你的密钥"}, "VOLC_API_KEY"),
        ({"OPENAI_API_KEY": "sk-xxxxxxxx"}, "OPENAI_API_KEY"),
        ({"MQTT_PASSWORD": "changeme"}, "MQTT_PASSWORD"),
        ({"PIBOT_KEY": "REPLACE_ME"}, "PIBOT_KEY"),
        ({"MQTT_PASSWORD": f"{SECRET}\nX"}, "MQTT_PASSWORD"),
        ({"VOLC_API_KEY": f"{SECRET} copied"}, "VOLC_API_KEY"),
        ({"OPENAI_API_KEY": SECRET}, "OPENAI_MODEL"),
        ({"OPENAI_BASE_URL": "https://api.example.com/v1", "OPENAI_MODEL": "m"}, "OPENAI_API_KEY"),
        ({"VOLC_API_KEY": SECRET, "VOLC_BASE_URL": "llm.example/v1"}, "VOLC_BASE_URL"),
        ({"VOLC_API_KEY": SECRET, "VOLC_BASE_URL": f"https://u:{SECRET}@h/v1"}, "VOLC_BASE_URL"),
    ],
)
def test_refused(environ: Dict[str, str], key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(environ)
    said = str(caught.value)
    assert key in said
    assert key == "OPENAI_MODEL" or "in the environment" in said
    assert SECRET not in said


def test_flag_beats_environment_beats_file_beats_default(tmp_path: Path) -> None:
    env = write_env(
        tmp_path / ".env", "PIBOT_FLEET=from-file\nPIBOT_SLOTS=2\nPIBOT_TAGS=file\nOTHER=x\n"
    )
    settings = load(
        {"PIBOT_FLEET": "from-env", "PIBOT_TAGS": "env"},
        flags={"PIBOT_FLEET": "from-flag", "PIBOT_SLOTS": None},
        env_file=env,
    )
    assert (settings.fleet, settings.tags, settings.slots) == ("from-flag", ("env",), 2)
    assert settings.approval == "tainted"


def test_env_beside_the_program_not_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program, elsewhere = tmp_path / "bin", tmp_path / "cwd"
    program.mkdir()
    elsewhere.mkdir()
    write_env(elsewhere / ".env", "PIBOT_FLEET=wrong\n")
    monkeypatch.chdir(elsewhere)
    assert load(program=program / "pibot.pyz").fleet == "home"
    write_env(program / ".env", "PIBOT_FLEET=right\nPIBOT_STATE_DIR=state\n")
    (elsewhere / "link.pyz").symlink_to(program / "pibot.pyz")
    settings = load(program=elsewhere / "link.pyz")
    assert (settings.fleet, settings.state_dir) == ("right", program / "state")


def test_no_interpolation_and_quotes(tmp_path: Path) -> None:
    env = write_env(
        tmp_path / ".env", "export MQTT_PASSWORD='a${HOME}b'\nPIBOT_KEY=\"k #1\" # comment\n"
    )
    settings = load(env_file=env)
    assert (settings.mqtt_password, settings.key) == ("a${HOME}b", "k #1")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601])
def test_env_open_to_others_is_refused(tmp_path: Path, mode: int) -> None:
    env = write_env(tmp_path / ".env", "PIBOT_FLEET=x\n", mode)
    with pytest.raises(ConfigError, match=f"chmod 600 {env}"):
        load(env_file=env)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("\n# note\n\nPIBOT_SLOTS=abc\n", "PIBOT_SLOTS in {env} line 4 "),
        ("A=1\nPIBOT_TAG=x\n", "PIBOT_TAG in {env} line 2 is unknown; perhaps PIBOT_TAGS is meant"),
        ("A=1\nMQTT_PASSWORD='half\n", "{env} line 2"),
        ("A=1\nMQTT_PASSWORD\n", "{env} line 2"),
    ],
)
def test_errors_name_file_and_line(tmp_path: Path, text: str, said: str) -> None:
    env = write_env(tmp_path / ".env", text)
    with pytest.raises(ConfigError) as caught:
        load(env_file=env)
    assert said.format(env=env) in str(caught.value)


def test_a_huge_env_file_is_not_read(tmp_path: Path) -> None:
    """`setup` and `doctor` look as root at files that others have written."""
    huge = tmp_path / "x.env"
    huge.touch(0o600)
    os.truncate(huge, 1 << 40)
    with pytest.raises(ConfigError, match="too large for a file of settings"):
        load(env_file=huge)


def test_missing_and_undecodable_env_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load(env_file=tmp_path / "none.env")
    (tmp_path / "latin.env").write_bytes(b"A=\xe9\n")
    (tmp_path / "latin.env").chmod(0o600)
    with pytest.raises(ConfigError, match="UTF-8"):
        load(env_file=tmp_path / "latin.env")


def test_secrets_stay_out_of_the_repr() -> None:
    keys = ("MQTT_PASSWORD", "PIBOT_KEY", "PIBOT_HTTP_TOKEN", "VOLC_API_KEY")
    assert SECRET not in repr(load(dict.fromkeys(keys, SECRET)))


def test_tls(tmp_path: Path) -> None:
    ca = tmp_path / "ca.pem"
    ca.touch()
    settings = load({"MQTT_HOST": "b.example", "MQTT_CA_FILE": str(ca)})
    assert settings.tls and settings.mqtt_port == 8883
    with pytest.raises(ConfigError, match="MQTT_HOST"):
        load({"MQTT_CA_FILE": str(ca)})


@pytest.mark.parametrize(
    ("host", "machine", "expected"),
    [
        ("raspberrypi", "0123456789abcdef0123456789abcdef\n", "raspberrypi-cdef"),
        ("My_Pi.home.lan", "00ff", "my-pi-00ff"),
        ("x" * 60, "00ff", "x" * 27 + "-00ff"),
        ("树莓派", "00ff", "worker-00ff"),
        ("master", "", "worker"),
        ("pi", "uninitialized", "pi"),
    ],
)
def test_default_worker_id(host: str, machine: str, expected: str) -> None:
    assert config.default_worker_id(host, machine) == expected


@pytest.mark.parametrize("role", ["master", "worker"])
def test_credentials_are_needed_off_loopback(role: str) -> None:
    config.require_credentials(load({"MQTT_HOST": "localhost"}, role=role))
    both = {"MQTT_HOST": "10.0.0.2", "MQTT_PASSWORD": SECRET, "PIBOT_KEY": SECRET}
    config.require_credentials(load(both, role=role))
    bare = load({"MQTT_HOST": "10.0.0.2", "WORKER_ID": "worker-7"}, role=role)
    with pytest.raises(ConfigError, match="MQTT_PASSWORD and PIBOT_KEY must be set") as caught:
        config.require_credentials(bare)
    remedy = {"master": "sudo pibot.pyz setup --role master", "worker": "workers add worker-7`"}
    assert remedy[role] in str(caught.value)
    config.require_credentials(dataclasses.replace(bare, role="client"))


def credential(tmp_path: Path, text: str) -> Dict[str, str]:
    """What a service's environment says of its credentials; systemd's mode is open, with an ACL."""
    folder = tmp_path / "credentials"
    folder.mkdir()
    write_env(folder / "pibot.env", text, 0o440)
    return {"CREDENTIALS_DIRECTORY": str(folder)}


@pytest.mark.parametrize("role", ["master", "worker"])
def test_a_service_reads_its_credential_in_place_of_the_env(role: str, tmp_path: Path) -> None:
    write_env(tmp_path / ".env", "PIBOT_FLEET=beside\nMQTT_PORT=7\n")
    environ = credential(tmp_path, "PIBOT_FLEET=lab\nPIBOT_LOG_DIR=logs\n")
    found = load(environ, role=role, program=tmp_path / "pibot.pyz")
    assert (found.fleet, found.mqtt_port) == ("lab", 1883)
    assert found.log_dir == Path("/etc/pibot/logs")  # from where the file stands that people edit
    assert load({**environ, "PIBOT_FLEET": "env"}, role=role).fleet == "env"
    chosen = write_env(tmp_path / "chosen.env", "PIBOT_FLEET=chosen\n")
    assert load(environ, role=role, env_file=chosen).fleet == "chosen"


def test_an_error_in_a_credential_names_the_file_that_people_edit(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="PIBOT_SLOTS in /etc/pibot/worker.env line 2 must be"):
        load(credential(tmp_path, "PIBOT_FLEET=lab\nPIBOT_SLOTS=many\n"))


def test_credentials_of_another_kind_are_none_of_ours(tmp_path: Path) -> None:
    (tmp_path / "credentials").mkdir()
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path / "credentials")}
    write_env(tmp_path / ".env", "PIBOT_FLEET=beside\n")
    assert load(environ, program=tmp_path / "pibot.pyz").fleet == "beside"
    write_env(tmp_path / "credentials" / "pibot.env", "PIBOT_FLEET=service\n", 0o440)
    assert load(environ, role="client").fleet == "home"


@pytest.mark.parametrize(
    ("user", "name"),
    [("laptop", "laptop"), ("laptop.ab12", "laptop"), ("Me", None), (".ab12", None), ("", None)],
)
def test_a_client_is_called_what_stands_before_the_dot_of_its_user(
    user: str, name: Optional[str]
) -> None:
    found = load({"MQTT_USERNAME": user}, role="client")
    assert (found.client, found.mqtt_username) == (name, user or None)


def write_client_env(config_home: Path, text: str, mode: int = 0o600) -> Path:
    (config_home / "pibot").mkdir(parents=True)
    return write_env(config_home / "pibot" / "client.env", text, mode)


CLIENT = "PIBOT_FLEET=lab\nMQTT_HOST=10.0.0.2\nMQTT_USERNAME=laptop\nMQTT_PASSWORD=p1\n"


def test_a_client_without_a_broker_reads_the_users_own_file(tmp_path: Path) -> None:
    write_client_env(tmp_path / ".config", CLIENT)
    home = {"HOME": str(tmp_path)}
    found = load(home, role="client")
    assert (found.fleet, found.mqtt_host, found.mqtt_password) == ("lab", "10.0.0.2", "p1")
    beside = write_env(tmp_path / ".env", "PIBOT_FLEET=beside\n")
    found = load(home, role="client", program=beside.with_name("pibot.pyz"))
    assert (found.fleet, found.client) == ("beside", "laptop")
    assert load({**home, "PIBOT_FLEET": "env"}, role="client").fleet == "env"
    for role in ("master", "worker", "demo"):
        assert load(home, role=role).mqtt_host is None


@pytest.mark.parametrize(
    "named",
    [{"MQTT_HOST": "b"}, {"MQTT_USERNAME": "u"}, {"MQTT_PASSWORD": "p"}, {"MQTT_PORT": "7"}],
)
def test_whoever_names_a_broker_gets_nothing_from_the_users_file(
    tmp_path: Path, named: Dict[str, str]
) -> None:
    write_client_env(tmp_path, CLIENT)
    home = {"XDG_CONFIG_HOME": str(tmp_path)}
    assert load(home, role="client").fleet == "lab"
    line = "".join(f"{key}={value}\n" for key, value in named.items())
    in_file = load(home, role="client", env_file=write_env(tmp_path / "x.env", line))
    for found in (load({**home, **named}, role="client"), in_file):
        assert found.fleet == "home"
        assert found.mqtt_host in (None, "b") and found.mqtt_password in (None, "p")


def test_the_users_own_file_must_be_private(tmp_path: Path) -> None:
    path = write_client_env(tmp_path, CLIENT, 0o644)
    with pytest.raises(ConfigError, match=f"chmod 600 {path}"):
        load({"XDG_CONFIG_HOME": str(tmp_path)}, role="client")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_a_user_without_a_home_of_their_own(tmp_path: Path) -> None:
    write_client_env(tmp_path / ".config", CLIENT)
    tmp_path.chmod(0o700)
    code = (
        "import os, pwd, sys; from pathlib import Path\n"
        "from pibot import config; from pibot.errors import ConfigError\n"
        "load = lambda role, env: config.load(role, {}, env, None, Path('/nowhere/p'))\n"
        "load('worker', {'HOME': '/'})\n"  # what it imports lies in root's home, perhaps
        "os.setuid(54321)\n"
        "print(load('client', {}).fleet, load('client', {'HOME': sys.argv[1]}).fleet)\n"
        "try: load('worker', {})\n"
        "except ConfigError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        env={"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        capture_output=True,
        text=True,
    )
    said = "home home\nThis user has no home; set PIBOT_STATE_DIR to a directory.\n"
    assert (done.stdout, done.stderr) == (said, "")


def test_the_table_names_every_key_that_is_read() -> None:
    places = (Path(config.__file__), Path(permits.__file__))
    source = "".join(path.read_text(encoding="utf-8") for path in places)
    names = [key.name for key in config.KEYS]
    assert len(set(names)) == len(names)
    assert [n for n in names if n != "WORKER_n_IP" and source.count(f'"{n}"') < 2] == []


def test_light_import() -> None:
    heavy = "{'dotenv', 'asyncio', 'pydantic', 'ssl', 'logging'}"
    code = f"import sys, pibot.config; print(sorted({heavy} & set(sys.modules)))"
    env = {**os.environ, "PYTHONPATH": str(Path(config.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], env=env, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


def test_secrets_are_all_that_a_process_was_told(tmp_path: Path) -> None:
    """Also those of other programs, which stand in the same file or in the environment."""
    path = write_env(tmp_path / ".env", "MQTT_PASSWORD=hush-12345\nMY_MAIL_TOKEN=mail-12345\n")
    found = load(environ={"AWS_SECRET_ACCESS_KEY": "aws-12345"}, env_file=path)
    assert found.secrets == ("aws-12345", "hush-12345", "mail-12345")
    assert "mail-12345" not in repr(found)
