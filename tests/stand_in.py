"""A small stand-in for pibot.pyz, built by the real builder: it keeps the tests of starts quick.

It has the real unpacking, one module in the core, and one part with a package of its own.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, List, Mapping

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "build"))

import make_pyz  # noqa: E402
import parts  # noqa: E402

CLI = """
import os, sys

def main():
    import inside, pibot
    if "serve" in sys.argv:  # imports more, and unpacks the part, only when it is told to
        print("serving", flush=True)
        sys.stdin.readline()
        import pibot.late
    if "part" in sys.argv:
        from pibot import errors, parts
        try:
            parts.ensure("toy")
        except errors.StoreError as error:
            sys.exit(str(error))
        import toy.words
        print(toy.words.WORD)
    print("stand-in", pibot.__version__, inside.WORD, *sys.argv[1:])
    return 3 if "fail" in sys.argv else 0
"""
OURS = ("SHIV_ROOT", "STATE_DIRECTORY", "CACHE_DIRECTORY", "PIBOT_STATE_DIR", "TMPDIR")


@dataclass
class StandIn:
    """A stand-in program: what it is built of, and its file once `build` has written it."""

    folder: Path
    version: str = "1"
    word: str = "toy"
    core: Dict[str, bytes] = field(default_factory=lambda: {"inside.py": b"WORD = 'inside'\n"})
    tags: List[str] = field(default_factory=list)

    @property
    def pyz(self) -> Path:
        return self.folder / "pibot.pyz"

    def source(self) -> Path:
        package = self.folder / f"src-{self.version}" / "pibot"
        package.mkdir(parents=True, exist_ok=True)
        for name in ("unpacking", "parts", "errors"):
            shutil.copy(ROOT / "src" / "pibot" / f"{name}.py", package)
        (package / "cli.py").write_text(CLI)
        (package / "late.py").touch()
        (package / "soul.md").write_text("You are PiBot.\n")
        (package / "__init__.py").write_text(f"__version__ = {self.version!r}\n")
        return package.parent

    def parts(self) -> Any:
        files = {f"any/toy/more{i}.py": b"X = %d\n" % i for i in range(200)}
        files["any/toy/__init__.py"] = b""
        files["any/toy/words.py"] = f"WORD = {self.word!r}\n".encode()
        offer = {"part": "toy", "python": [3, 9], "archives": ["toy"], "tags": self.tags}
        return parts.Parts({"toy": files}, [offer])

    def build(self) -> Path:
        chosen, stage = self.parts(), self.folder / "stage"
        built: Path = make_pyz.build(self.source(), self.core, chosen, stage, self.pyz)
        return built


def environment(home: Path, **more: str) -> Dict[str, str]:
    """This process's environment, for a user with that home."""
    kept = {key: value for key, value in os.environ.items() if key not in OURS}
    return {**kept, "HOME": str(home), **more}


def start(pyz: Path, env: Mapping[str, str], *words: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-I", str(pyz), *words],
        env=env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(pyz: Path, env: Mapping[str, str], *words: str) -> "subprocess.CompletedProcess[str]":
    process = start(pyz, env, *words)
    out, err = process.communicate("\n", timeout=60)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def folders(root: Path) -> List[str]:
    return sorted(path.name for path in root.iterdir() if path.is_dir())


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
