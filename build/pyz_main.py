"""The __main__ of pibot.pyz: checks the Python, unpacks itself once, and starts pibot.

shiv's own start-up would read the archive and import half of it again on every run: on a Pi that
is a fifth of a second. Any Python that may be on the machine has to parse this file, so its
syntax is old on purpose.
"""

import os
import stat
import sys

BUILD_ID = "@build_id@"

if sys.version_info < (3, 9):  # noqa: UP036 (older ones do start this file)
    sys.exit("pibot needs Python 3.9 or newer, and this is " + sys.version.split()[0] + ".")


def candidates():
    """The places to unpack to, best first; systemd names the directories of a service."""
    home = os.path.expanduser("~")
    for folder, name in (
        (os.environ.get("SHIV_ROOT"), ""),
        (os.environ.get("CACHE_DIRECTORY", "").split(":")[0], "shiv"),
        (os.environ.get("STATE_DIRECTORY", "").split(":")[0], "shiv"),
        (home if os.path.isdir(home) else None, ".shiv"),
        (os.environ.get("PIBOT_STATE_DIR"), "shiv"),
    ):
        if folder:
            path = os.path.join(os.path.abspath(os.path.expanduser(folder)), name)
            yield os.path.normpath(path)


def serves(root, site):
    """Whether this build is there already, or can be put there."""
    if os.path.isdir(os.path.join(root, site)):
        return True
    try:
        os.makedirs(root, 0o700, exist_ok=True)
    except OSError:
        return False
    return os.access(root, os.W_OK | os.X_OK)


def private_temporary():
    """A directory that nobody else can have prepared, or None."""
    import tempfile

    path = os.path.join(tempfile.gettempdir(), "pibot-" + str(os.getuid()))
    try:
        os.makedirs(path, 0o700, exist_ok=True)
        status = os.lstat(path)
    except OSError:
        return None
    safe = stat.S_ISDIR(status.st_mode) and not status.st_mode & 0o022
    return path if safe and status.st_uid == os.getuid() else None


def unpack(archive, folder):
    """shiv's extraction, under its lock, with the data on the disk before the final name."""
    import pathlib
    import types
    import zipfile

    import _bootstrap

    def move(source, target):
        os.sync()  # else a power cut leaves empty files under the final name for good
        os.rename(source, target)
        descriptor = os.open(os.path.dirname(target), os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)

    _bootstrap.shutil = types.SimpleNamespace(move=move)
    with zipfile.ZipFile(archive) as opened:
        _bootstrap.extract_site_packages(opened, pathlib.Path(folder))


def compile_light_path(site):
    """Compile what every start needs, in a child: compiling here would cost this process 6 MB."""
    names = [os.path.join(site, name) for name in ("pibot", "paho", "dotenv")]
    os.spawnv(os.P_WAIT, sys.executable, [sys.executable, "-m", "compileall", "-qq"] + names)


def activate(site):
    """Put the unpacked packages before the machine's own, after the standard library."""
    names = [os.path.basename(path) for path in sys.path]
    theirs = [i for i, name in enumerate(names) if name in ("site-packages", "dist-packages")]
    sys.path.insert(theirs[0] if theirs else len(sys.path), site)


def start():
    archive = os.path.realpath(os.path.dirname(os.path.abspath(__file__)))
    folder = os.path.basename(archive) + "_" + BUILD_ID
    site = os.path.join(folder, "site-packages")
    root = next((r for r in candidates() if serves(r, site)), None) or private_temporary()
    if root is None:
        sys.exit("pibot has no directory to unpack to: set SHIV_ROOT to one that it can write.")
    if not os.path.isdir(os.path.join(root, site)):
        try:
            unpack(archive, os.path.join(root, folder))
        except OSError as error:
            why = error.strerror or str(error)
            sys.exit("pibot cannot unpack to " + root + " (" + why + "): free some space there.")
        compile_light_path(os.path.join(root, site))
    # The unpacked files are ours alone: without their bytecode each start would compile them anew.
    sys.dont_write_bytecode = False
    os.environ["SHIV_ROOT"] = root  # what we start finds it without searching
    activate(os.path.join(root, site))
    from pibot.cli import main

    return main()


sys.exit(start())
