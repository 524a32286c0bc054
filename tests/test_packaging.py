"""What is built and installed is the whole package, and nothing else."""

from __future__ import annotations

import configparser
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = {"plugin": "chatplan", "hooks": "chatplan.hooks", "adapters": "chatplan.adapters"}
SOURCES = ("plugin", "hooks", "adapters", "setup.cfg", "pyproject.toml", "LICENSE", "README.md")
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


def modules() -> list[str]:
    return [import_name(path) for path in files()]


def file_in_wheel(path: Path) -> str:
    folder, *rest = path.relative_to(ROOT).parts
    return "/".join([FOLDERS[folder].replace(".", "/"), *rest])


def run(*command: str | Path, cwd: Path | None = None) -> str:
    result = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist and the wheel that was built from it."""
    source = tmp_path_factory.mktemp("source")
    for name in SOURCES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        if (ROOT / name).exists():
            copy(ROOT / name, source / name)
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", source / "dist", source)
    return source / "dist"


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
    data = sorted((ROOT / "plugin").rglob("*.json"))
    assert names == {*map(file_in_wheel, [*files(), *data]), "chatplan/py.typed"}
    assert licenses


@pytest.mark.dev_only
def test_sdist_holds_every_file(dist: Path) -> None:
    with tarfile.open(next(dist.glob("*.tar.gz"))) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    assert names >= {str(path.relative_to(ROOT)) for path in files()} | {"plugin/py.typed", "setup.cfg", "LICENSE"}


@pytest.mark.dev_only
@pytest.mark.parametrize("pattern", ["*.whl", "*.tar.gz"])
def test_install_imports_every_module(dist: Path, tmp_path: Path, pattern: str) -> None:
    python = fresh_venv(tmp_path / "venv")
    archive = next(dist.glob(pattern))
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-build-isolation", archive)
    where = run(python, "-c", IMPORT_ALL, *modules(), cwd=tmp_path)
    assert Path(where.strip()).is_relative_to(tmp_path)
    assert (Path(where.strip()).parent / "py.typed").is_file()


def fresh_venv(folder: Path) -> Path:
    """A new environment without chatplan that borrows everything else from the current one."""
    run(sys.executable, "-m", "venv", "--without-pip", folder)
    site_packages = next(folder.glob("lib/python*/site-packages"))
    # A path in a .pth file is searched last, and the .pth files in it (our editable install) are not read.
    (site_packages / "borrowed.pth").write_text(str(Path(pytest.__file__).parents[1]), "utf-8")
    return folder / "bin" / "python"
