"""The built distributions, and an environment that has the wheel."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = ("plugin", "hooks", "adapters", "setup.cfg", "pyproject.toml", "LICENSE", "README.md")
Run = Callable[..., str]


@pytest.fixture(scope="session")
def run() -> Run:
    """Runs a command that must end well; what it printed."""

    def call(*command: str | Path, cwd: Path | None = None) -> str:
        words = [str(part) for part in command]
        result = subprocess.run(words, cwd=cwd, capture_output=True, text=True, timeout=300)
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    return call


@pytest.fixture(scope="session")
def dist(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist and the wheel that was built from it, of a copy: the checkout stays as it is."""
    source = tmp_path_factory.mktemp("source")
    for name in SOURCES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", source / "dist", source)
    return source / "dist"


@pytest.fixture(scope="session")
def wheel(dist: Path) -> Path:
    return next(dist.glob("*.whl"))


@pytest.fixture(scope="session")
def installed(wheel: Path, run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site-packages of an environment that has the wheel, and borrows everything else from this one."""
    folder = tmp_path_factory.mktemp("installed") / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", folder)
    site_packages = next(folder.glob("lib/python*/site-packages"))
    pip = (sys.executable, "-m", "pip", "--python", folder / "bin" / "python", "install", "--no-index", "--no-deps")
    run(*pip, "--no-compile", wheel)
    # A path in a .pth file is searched last, and the .pth files in it (our editable install) are not read.
    (site_packages / "borrowed.pth").write_text(str(Path(pytest.__file__).parents[1]), "utf-8")
    return site_packages
