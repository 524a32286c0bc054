"""What is built and installed is the whole package, and nothing else."""

from __future__ import annotations

import configparser
import re
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

import chatplan

ROOT = Path(__file__).parents[2]
Run = Callable[..., str]
FOLDERS = {"plugin": "chatplan", "hooks": "chatplan.hooks", "adapters": "chatplan.adapters"}
IMPORT_ALL = """
import importlib, sys, chatplan
for name in sys.argv[1:]:
    importlib.import_module(name)
print(chatplan.__file__)
"""


def setup_cfg() -> configparser.ConfigParser:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", "utf-8")
    return config


def import_name(path: Path) -> str:
    """The dotted name of a file or folder: hooks/stops.py is chatplan.hooks.stops."""
    folder, *rest = path.relative_to(ROOT).with_suffix("").parts
    return ".".join([FOLDERS[folder], *(part for part in rest if part != "__init__")])


def files() -> list[Path]:
    return sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))


def packaged() -> list[Path]:
    """All that is to be installed: whatever stands in the folders of code, but for what Python leaves there."""
    found = (path for folder in FOLDERS for path in (ROOT / folder).rglob("*"))
    return [path for path in found if path.is_file() and "__pycache__" not in path.parts]


def modules() -> list[str]:
    return [import_name(path) for path in files()]


def file_in_wheel(path: Path) -> str:
    folder, *rest = path.relative_to(ROOT).parts
    return "/".join([FOLDERS[folder].replace(".", "/"), *rest])


def test_setup_cfg_lists_every_package() -> None:
    listed = setup_cfg()["options"]["packages"].split()
    assert sorted(listed) == sorted(import_name(path) for path in files() if path.name == "__init__.py")


def test_setup_cfg_maps_every_folder() -> None:
    mapping = dict(line.split(" = ") for line in setup_cfg()["options"]["package_dir"].strip().splitlines())
    assert {folder: name for name, folder in mapping.items()} == FOLDERS


def test_every_folder_with_code_is_a_package() -> None:
    assert {path.parent for path in files()} == {path.parent for path in files() if path.name == "__init__.py"}


def test_metadata_is_in_setup_cfg_only() -> None:
    # pip refuses to read setup.cfg's metadata beside a [project] table.
    assert "[project]" not in (ROOT / "pyproject.toml").read_text("utf-8").splitlines()


@pytest.mark.dev_only
def test_wheel_holds_every_file(dist: Path) -> None:
    with zipfile.ZipFile(next(dist.glob("*.whl"))) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
        licenses = [name for name in wheel.namelist() if name.endswith("/LICENSE")]
    assert names == set(map(file_in_wheel, packaged()))
    assert licenses


@pytest.mark.dev_only
def test_sdist_holds_every_file(dist: Path) -> None:
    with tarfile.open(next(dist.glob("*.tar.gz"))) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    assert names >= {str(path.relative_to(ROOT)) for path in packaged()} | {"setup.cfg", "LICENSE"}


@pytest.mark.dev_only
@pytest.mark.parametrize("pattern", ["*.whl", "*.tar.gz"])
def test_install_imports_every_module(
    dist: Path, run: Run, borrowing_venv: Callable[[Path], Path], tmp_path: Path, pattern: str
) -> None:
    python = borrowing_venv(tmp_path / "venv")
    archive = next(dist.glob(pattern))
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-build-isolation", archive)
    where = run(python, "-c", IMPORT_ALL, *modules(), cwd=tmp_path)
    assert Path(where.strip()).is_relative_to(tmp_path)
    assert (Path(where.strip()).parent / "py.typed").is_file()


def test_the_version_is_the_same_everywhere() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text("utf-8")
    citation = (ROOT / "CITATION.cff").read_text("utf-8")
    assert re.findall(r"^## \[(\d[^\]]*)\]", changelog, re.MULTILINE)[0] == chatplan.__version__
    assert f"\nversion: {chatplan.__version__}\n" in citation
