"""What setup.cfg lists is the whole package, and nothing else."""

from __future__ import annotations

import configparser
import re
from pathlib import Path

import chatplan

ROOT = Path(__file__).parents[2]
FOLDERS = {"plugin": "chatplan", "hooks": "chatplan.hooks", "adapters": "chatplan.adapters"}


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


def test_the_version_is_the_same_everywhere() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text("utf-8")
    citation = (ROOT / "CITATION.cff").read_text("utf-8")
    assert re.findall(r"^## \[(\d[^\]]*)\]", changelog, re.MULTILINE)[0] == chatplan.__version__
    assert f"\nversion: {chatplan.__version__}\n" in citation
