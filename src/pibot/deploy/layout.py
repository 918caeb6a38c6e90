"""Where the parts of PiBot lie on a machine that runs it as a service, and what they are called."""

from __future__ import annotations

ROLES = ("master", "worker")
USER = "pibot"
ROOT = "root"
BROKER = "mosquitto"  # the user and group of the broker, and its unit

FOLDER = "/opt/pibot"
PROGRAM = "/opt/pibot/pibot.pyz"
PROVEN = "/opt/pibot/proven.pyz"  # on a worker: a second name of the last program that worked
COMMAND = "/usr/local/bin/pibot.pyz"
PYTHON = "/usr/bin/python3"

SETTINGS = "/etc/pibot"
CA_FILE = "/etc/pibot/ca.crt"
AUTHORITY = "/etc/pibot/ca.key"  # of the fleet, on its master's machine: for root alone
UPDATE_KEY = "/etc/pibot/update.key"  # on a worker: for root alone
AT_WORK = "/run/pibot-setup"  # stays behind when a setup is interrupted, until the next start
BACKUP = "/etc/pibot/backup-"
SYSUSERS_FOLDER = "/etc/sysusers.d"
SYSUSERS = "/etc/sysusers.d/pibot.conf"

STATE = "/var/lib/pibot"
STATE_MASTER = "/var/lib/pibot/master"
STATE_BROKER = "/var/lib/pibot/broker"
STATE_UPDATE = "/var/lib/pibot/update"  # a worker's, for new programs
IDENTITIES = "/var/lib/pibot/master/identities.json"
AUTHORITY_KEPT = "/var/lib/pibot/ca.key"  # with the records, while nothing is installed
CACHE = "/var/cache/pibot"
CACHES = (CACHE, "/var/cache/pibot-broker", "/var/cache/pibot-update")
UPDATES = "/var/lib/pibot-update"  # what root remembers of a worker's updates

MOSQUITTO = "/etc/mosquitto/mosquitto.conf"
MOSQUITTO_FOLDER = "/etc/mosquitto/conf.d"
MOSQUITTO_CONF = "/etc/mosquitto/conf.d/pibot.conf"
BROKER_FOLDER = "/etc/mosquitto/pibot"
BROKER_FILES = ("passwd", "acl")
CERTIFICATES = tuple(f"{BROKER_FOLDER}/{name}" for name in ("ca.crt", "server.crt", "server.key"))

UNITS_FOLDER = "/etc/systemd/system"
UNITS = {
    "master": ("pibot-master.service",),
    "worker": ("pibot-worker.service", "pibot-update.path", "pibot-update.service"),
    "broker": ("pibot-broker.path", "pibot-broker.service"),
}
ALL_UNITS = tuple(unit for units in UNITS.values() for unit in units)
BROKER_UNIT = f"{BROKER}.service"
CLIENT_FILE = ".config/pibot/client.env"  # below a person's home
USER_FILES = ("/etc/passwd", "/etc/group", "/etc/shadow", "/etc/gshadow")


def settings_file(role: str) -> str:
    return f"{SETTINGS}/{role}.env"


def service(role: str) -> str:
    return f"pibot-{role}.service"


def unit_file(unit: str) -> str:
    return f"{UNITS_FOLDER}/{unit}"


def wanted(target: str, unit: str) -> str:
    """The link that starts a unit with a target."""
    return f"{UNITS_FOLDER}/{target}.wants/{unit}"


# All that setup may make, as far as it does not depend on who runs it.
KNOWN = (
    *(FOLDER, PROGRAM, PROVEN, COMMAND, SETTINGS, CA_FILE, AUTHORITY, UPDATE_KEY, AT_WORK),
    *(SYSUSERS_FOLDER, SYSUSERS),
    *(STATE, STATE_MASTER, STATE_BROKER, STATE_UPDATE, IDENTITIES, AUTHORITY_KEPT),
    *(UPDATES, *CACHES),
    *(f"{folder}/{name}" for folder in (STATE_BROKER, BROKER_FOLDER) for name in BROKER_FILES),
    *(MOSQUITTO_CONF, BROKER_FOLDER, *CERTIFICATES, wanted("multi-user.target", BROKER_UNIT)),
    *(settings_file(role) for role in ROLES),
    *(unit_file(unit) for unit in ALL_UNITS),
    *(wanted("multi-user.target", unit) for unit in ALL_UNITS),
)
OWN_FOLDERS = (FOLDER, SETTINGS, BROKER_FOLDER, *(f"{unit_file(unit)}.d" for unit in ALL_UNITS))
