"""The __main__ of pibot.pyz: checks the Python, unpacks the core once, and starts pibot.

shiv's own start-up would read the archive and import half of it again on every run: on a Pi that
is a fifth of a second. Any Python that may be on the machine has to parse this file, so its
syntax is old on purpose.
"""

import os
import stat
import sys

BUILD_ID = "@build_id@"
PLACE = None  # where this build keeps its files; pibot.parts looks here

if sys.version_info < (3, 9):  # noqa: UP036 (older ones do start this file)
    sys.exit("pibot needs Python 3.9 or newer, and this is " + sys.version.split()[0] + ".")


def candidates():
    """The places to unpack to, best first; systemd names the directories of a service."""
    home = os.path.expanduser("~")
    for folder, name in (
        (os.environ.get("SHIV_ROOT"), ""),
        (os.environ.get("CACHE_DIRECTORY", "").split(":")[0], "shiv"),
        (os.environ.get("STATE_DIRECTORY", "").split(":")[0], "shiv"),
        (home if is_mine(home) else None, ".shiv"),
        (os.environ.get("PIBOT_STATE_DIR"), "shiv"),
    ):
        if folder:
            path = os.path.join(os.path.abspath(os.path.expanduser(folder)), name)
            yield os.path.normpath(path)


def is_mine(folder):
    """A home that belongs to somebody else, as with some sudo, is not for this user's programs."""
    try:
        return os.stat(folder).st_uid == os.getuid()
    except OSError:
        return False


def private_temporary():
    """A directory that nobody else can have prepared; raises OSError."""
    import tempfile

    path = os.path.join(tempfile.gettempdir(), "pibot-" + str(os.getuid()))
    os.makedirs(path, 0o700, exist_ok=True)
    status = os.lstat(path)
    safe = stat.S_ISDIR(status.st_mode) and not status.st_mode & 0o022
    if not safe or status.st_uid != os.getuid():
        raise OSError(path + " can be written by others")
    return path


def find(archive):
    """The place where the core lies; it is unpacked to the first one that takes it."""
    sys.path.insert(0, os.path.join(archive, "site-packages", "pibot"))
    import unpacking

    sys.path.pop(0)
    roots = list(candidates())
    for root in roots:
        place = unpacking.Place(archive, root, BUILD_ID)
        if place.holds():
            place.clean()
            return place
    refused = []
    for root in roots + [None]:
        try:
            place = unpacking.Place(archive, root or private_temporary(), BUILD_ID)
            place.provide("", unpacking.fill_core(archive))
            return place
        except OSError as error:
            refused.append(
                (root or "a private directory") + " (" + (error.strerror or str(error)) + ")"
            )
    return sys.exit(
        "pibot cannot unpack itself: make some room, or set SHIV_ROOT to a directory that it can"
        " write; tried " + ", ".join(refused) + "."
    )


def activate(site):
    """Put the unpacked packages before the machine's own, after the standard library."""
    names = [os.path.basename(path) for path in sys.path]
    theirs = [i for i, name in enumerate(names) if name in ("site-packages", "dist-packages")]
    sys.path.insert(theirs[0] if theirs else len(sys.path), site)


def start():
    global PLACE
    archive = os.path.realpath(os.path.dirname(os.path.abspath(__file__)))
    try:
        PLACE = find(archive)
    except KeyboardInterrupt:
        return 130
    except Exception as error:  # of zipfile, zlib, zipimport: they all mean the same
        return archive + " is damaged (" + str(error) + "): copy it to this machine again."
    # The unpacked files are ours alone: without their bytecode each start would compile them anew.
    sys.dont_write_bytecode = False
    os.environ["SHIV_ROOT"] = PLACE.root  # what we start finds it without searching
    activate(os.path.join(PLACE.folder(), "site-packages"))
    from pibot.cli import main

    return main()


sys.exit(start())
