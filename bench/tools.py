"""What the bench needs, made ready without a hand: compiled programs, npm packages, a Python environment."""

import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import distributions
from pathlib import Path

ROOT = Path(__file__).parents[1]
BENCH = ROOT / "bench"
CACHE = ROOT / ".cache" / "bench"
VENV = CACHE / "venv"
NODE_MODULES = CACHE / "node" / "node_modules"
BUILD_TIMEOUT = 300
"""Seconds; a registry may be slow."""


class Missing(Exception):
    """A tool that is not installed here; the text says which and how to get it."""


def load_generator() -> Path:
    """The load generator, compiled."""
    return _compile(BENCH / "load" / "load.c")


def c_program() -> Path:
    """The program that is nothing but send(), compiled."""
    return _compile(BENCH / "peers" / "c" / "fanout.c")


def node_peers() -> None:
    """The packages of the peers on Node, as their lock has them."""
    _need("node", "nodejs")
    npm = _need("npm", "npm")
    source = BENCH / "peers" / "node"
    files = [source / name for name in ("package.json", "package-lock.json", ".npmrc")]

    def install(folder: Path) -> None:
        for file in files:
            shutil.copy(file, folder)
        _run([npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"], folder)

    _once(CACHE / "node", files, install)


def python_peers() -> None:
    """An environment with the packages of the peers on Python, apart from the service's own."""
    lock = BENCH / "peers" / "requirements.lock"

    def install(folder: Path) -> None:
        _run([sys.executable, "-m", "venv", str(folder)], ROOT)
        pip = [str(folder / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "--quiet"]
        _run([*pip, "install", "--require-hashes", "-r", str(lock)], ROOT)

    _once(VENV, [lock], install, sys.version)


def site_packages() -> Path:
    """Where the packages of the peers on Python are."""
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    return VENV / "lib" / version / "site-packages"


def node_versions(*packages: str) -> str:
    """What runs on Node here, and what Node that is."""
    node = subprocess.run(["node", "--version"], capture_output=True, text=True, check=False).stdout.strip()
    found = [json.loads((NODE_MODULES / name / "package.json").read_text())["version"] for name in packages]
    return ", ".join([*(f"{name} {version}" for name, version in zip(packages, found, strict=True)), f"Node {node}"])


def python_versions(*packages: str, installed: Path | None = None) -> str:
    """The same for Python; `installed` is where, the service's own environment unless given."""
    path = sys.path if installed is None else [str(installed)]
    found = [next(iter(distributions(name=name, path=path))).version for name in packages]
    python = f"Python {platform.python_version()}"
    return ", ".join([*(f"{name} {version}" for name, version in zip(packages, found, strict=True)), python])


def check_out(commit: str, folder: Path) -> None:
    """Put the project as it was at a commit into a folder. Raises Missing where there is no such commit."""
    archive = subprocess.run(["git", "archive", commit], cwd=ROOT, capture_output=True, check=False)
    if archive.returncode:
        raise Missing(f"there is no commit {commit} here")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    subprocess.run(["tar", "-x"], cwd=folder, input=archive.stdout, check=True)


def _need(program: str, package: str) -> str:
    found = shutil.which(program)
    if found is None:
        raise Missing(f"{program} is not installed here (Debian's package {package})")
    return found


def _compile(source: Path) -> Path:
    compiler = shutil.which("cc") or _need("gcc", "gcc")

    def build(folder: Path) -> None:
        _run([compiler, "-O2", "-std=c17", "-Wall", "-Wextra", "-o", str(folder / source.stem), str(source)], ROOT)

    folder = CACHE / source.stem
    _once(folder, [source], build)
    return folder / source.stem


def _once(folder: Path, files: list[Path], make: Callable[[Path], None], extra: str = "") -> None:
    """Make a folder, unless it was made from the same files already."""
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in files) + extra.encode()).hexdigest()
    stamp = folder / "stamp"
    if stamp.exists() and stamp.read_text() == digest:
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    make(folder)
    stamp.write_text(digest)


def _run(command: list[str], folder: Path) -> None:
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=BUILD_TIMEOUT, check=False, env=os.environ
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
