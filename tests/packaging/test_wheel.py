"""What is built is the whole package. The wheel installs, and its half without PyTorch runs on each Python.

Nothing that is not pinned is installed. This Python borrows what is here, without a network. The oldest and the newest
take the releases of ``constraints/light.txt`` from ``build/wheels``, where the first run puts them.
"""

from __future__ import annotations

import configparser
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import forked
import pytest
from packaging.requirements import Requirement
from packaging.tags import compatible_tags, cpython_tags
from packaging.utils import canonicalize_name, parse_wheel_filename

import chatplan

pytestmark = [pytest.mark.slow, pytest.mark.dev_only, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
WHEELS = ROOT / "build" / "wheels"
LIGHT = ROOT / "constraints" / "light.txt"
FOLDERS = {"plugin": "chatplan", "hooks": "chatplan/hooks", "adapters": "chatplan/adapters"}
HEAVY = {"torch", "transformers", "accelerate", "tokenizers"}  # gigabytes, and what only these need
Run = Callable[..., str]


# --- what is in it ----------------------------------------------------------------------------------------------------


def packaged() -> list[Path]:
    """All that is to be installed: whatever stands in the folders of code, but for what Python leaves there."""
    found = (path for folder in FOLDERS for path in (ROOT / folder).rglob("*"))
    return [path for path in found if path.is_file() and "__pycache__" not in path.parts]


def file_in_wheel(path: Path) -> str:
    folder, *rest = path.relative_to(ROOT).parts
    return "/".join([FOLDERS[folder], *rest])


def test_wheel_holds_every_file(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as opened:
        names = {name for name in opened.namelist() if ".dist-info/" not in name}
        licenses = [name for name in opened.namelist() if name.endswith("/LICENSE")]
    assert names == set(map(file_in_wheel, packaged()))
    assert licenses


def test_sdist_holds_every_file(dist: Path) -> None:
    with tarfile.open(next(dist.glob("*.tar.gz"))) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    assert names >= {str(path.relative_to(ROOT)) for path in packaged()} | {"setup.cfg", "LICENSE"}


# --- where it is installed --------------------------------------------------------------------------------------------

IMPORT_ALL = """
import importlib, sys
sys.path[:] = [path for path in sys.path if "__editable__" not in path]
for name in [name for name in sys.modules if name.partition(".")[0] == "chatplan"]:
    del sys.modules[name]
import chatplan
for name in sys.argv[1:]:
    importlib.import_module(name)
print(*sorted({sys.modules[name].__file__ for name in sys.argv[1:]}), sep="\\n")
"""


def test_every_installed_module_imports(installed: Path, tmp_path: Path) -> None:
    files = [path for path in map(file_in_wheel, packaged()) if path.endswith(".py")]
    names = [path.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for path in files]
    environment = os.environ | {"PYTHONPATH": str(installed)}
    done = forked.run(
        ["-c", IMPORT_ALL, *names], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) == {str(installed / path) for path in files}
    assert (installed / "chatplan" / "py.typed").is_file()


def test_the_command_is_there_and_knows_its_version(installed: Path, run: Run, tmp_path: Path) -> None:
    said = run(installed.parents[2] / "bin" / "chatplan", "--version", cwd=tmp_path)
    assert chatplan.__version__ in said


def test_the_public_types_are_complete(installed: Path, tmp_path: Path) -> None:
    """As pyright's ``--verifytypes`` counts them; what other packages leave unknown is theirs."""
    pyright = Path(sys.executable).with_name("pyright")
    path = f"{installed.parents[2] / 'bin'}{os.pathsep}{os.environ['PATH']}"
    asked = subprocess.run(
        [str(pyright), "--verifytypes", "chatplan", "--ignoreexternal", "--outputjson"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=os.environ | {"PATH": path},
        timeout=500,
    )
    found = json.loads(asked.stdout)["typeCompleteness"]
    unknown = [item["name"] for item in found["symbols"] if item["isExported"] and not item["isTypeKnown"]]
    assert found["exportedSymbolCounts"]["withKnownType"] > 1000
    assert unknown == []
    assert found["completenessScore"] == 1


# --- without PyTorch --------------------------------------------------------------------------------------------------

CHECK = """
import importlib, json, pkgutil, sys
import chatplan
from chatplan.request import parse_request
from chatplan.errors import RequestError
request = parse_request({"messages": [{"role": "user", "content": "Hi"}], "top_k": 3})
try:
    parse_request({"messages": [], "temperature": -1})
except RequestError as error:
    refused = str(error)
found, missing = [], {}
for module in pkgutil.walk_packages(chatplan.__path__, "chatplan.", onerror=lambda name: None):
    if module.name.endswith("__main__"):
        continue
    try:
        importlib.import_module(module.name)
        found.append(module.name)
    except ImportError as error:
        missing[module.name] = error.name or str(error)
print(json.dumps({"python": list(sys.version_info[:2]), "top_k": request.top_k, "refused": refused, "found": found,
                  "missing": missing}))
"""


def setup_cfg() -> configparser.ConfigParser:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", "utf-8")
    return config


def light_requirements() -> list[Requirement]:
    """What the package requires, but for the packages of gigabytes."""
    lines = setup_cfg()["options"]["install_requires"].strip().splitlines()
    return [each for each in map(Requirement, lines) if each.name not in HEAVY]


def pins() -> dict[str, str]:
    lines = [line for line in LIGHT.read_text("utf-8").splitlines() if not line.startswith("#")]
    return {canonicalize_name(name): version for name, _, version in (line.partition("==") for line in lines)}


def versions() -> tuple[str, str]:
    """The oldest and the newest Python that setup.cfg names."""
    lines = setup_cfg()["metadata"]["classifiers"].splitlines()
    named = [line.rpartition(" ")[2] for line in lines if line.startswith("Programming Language :: Python :: 3.")]
    ordered = sorted(named, key=lambda version: int(version.partition(".")[2]))
    return ordered[0], ordered[-1]


def interpreter(version: str) -> str:
    """The one of this version on the path or among pyenv's."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for place in (shutil.which(f"python{version}"), *sorted(pyenv.glob(f"{version}.*/bin/python{version}"))):
        if place is not None:  # a name on the path may be pyenv's, which fails where no such version is chosen
            asked = subprocess.run([str(place), "--version"], capture_output=True, text=True, timeout=60)
            if asked.stdout.startswith(f"Python {version}."):
                return str(place)
    pytest.skip(f"there is no Python {version} here")


def wheels_here(version: str) -> dict[str, Path]:
    """The wheels of the pins in `WHEELS` that fit a Python, by name."""
    numbers = tuple(map(int, version.split(".")))
    fitting = {*cpython_tags(numbers), *compatible_tags(numbers, f"cp{numbers[0]}{numbers[1]}")}
    found = {}
    for path in WHEELS.glob("*.whl"):
        name, release, _, tags = parse_wheel_filename(path.name)
        if pins().get(name) == str(release) and tags & fitting:
            found[str(name)] = path
    return found


def wheels_for(version: str) -> list[Path]:
    """A wheel of each pin; those that are not here yet are fetched."""
    lacking = [f"{name}=={release}" for name, release in pins().items() if name not in wheels_here(version)]
    if lacking:
        WHEELS.mkdir(parents=True, exist_ok=True)
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        more = ["--python-version", version, "--dest", str(WHEELS)]
        done = subprocess.run([*pip, *more, *lacking], capture_output=True, text=True, timeout=500)
        if done.returncode and not index_answers(lacking[0].partition("==")[0]):
            pytest.skip(f"build/wheels lacks {len(lacking)} packages for Python {version}, and no index can be reached")
        assert done.returncode == 0, done.stderr
    return list(wheels_here(version).values())


def index_answers(name: str) -> bool:
    pip = [sys.executable, "-m", "pip", "index", "versions", name]
    return subprocess.run(pip, capture_output=True, timeout=300).returncode == 0


def borrowed() -> Iterator[Path]:
    """The files and folders of the light requirements, and of what these require, in this environment."""
    seen: set[str] = set()
    wanted = light_requirements()
    while wanted:
        one = wanted.pop()
        name = canonicalize_name(one.name)
        extras = one.extras or {""}
        if name in seen or (one.marker and not any(one.marker.evaluate({"extra": extra}) for extra in extras)):
            continue
        seen.add(name)
        package = importlib.metadata.distribution(name)
        for requirement in map(Requirement, package.requires or ()):
            marker = requirement.marker
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in extras):
                requirement.marker = None
                wanted.append(requirement)
        parts = {file.parts[0] for file in package.files or ()} - {"..", "__pycache__"}
        yield from (Path(str(package.locate_file(part))) for part in parts)


def light_environment(python: str, installed: Path, folder: Path, run: Run) -> tuple[Path, Path]:
    """An environment with the installed wheel and nothing else: its interpreter and its site-packages."""
    run(python, "-m", "venv", "--without-pip", folder)
    site_packages = next(folder.glob("lib/python*/site-packages"))
    for part in installed.glob("chatplan*"):
        shutil.copytree(part, site_packages / part.name)
    return folder / "bin" / "python", site_packages


def looked_at(python: Path, site_packages: Path, run: Run, cwd: Path) -> dict[str, Any]:
    """What holds of the light half; all of the package has been compiled."""
    run(python, "-W", "error", "-m", "compileall", "-q", site_packages / "chatplan")
    found: dict[str, Any] = json.loads(run(python, "-c", CHECK, cwd=cwd))
    assert found["top_k"] == 3
    assert found["refused"].startswith("messages: ")
    return found


@pytest.fixture(scope="module")
def here(installed: Path, run: Run, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What this Python finds with the light requirements alone, by links to what is here."""
    folder = tmp_path_factory.mktemp("light")
    python, site_packages = light_environment(sys.executable, installed, folder / "venv", run)
    for path in borrowed():
        (site_packages / path.name).symlink_to(path)
    return looked_at(python, site_packages, run, folder)


def test_the_light_half_needs_no_other_package_than_it_says(here: dict[str, Any]) -> None:
    extras = {Requirement(line).name.replace("-", "_")
              for lines in setup_cfg()["options.extras_require"].values()
              for line in lines.strip().splitlines()}  # fmt: skip
    assert {"chatplan.request", "chatplan.chat", "chatplan.compiler", "chatplan.hooks.stops"} <= set(here["found"])
    assert "chatplan.engine.generate" in here["missing"]
    allowed = {*HEAVY, *extras, "click"}  # click comes with llm
    assert {name: why for name, why in here["missing"].items() if why.partition(".")[0] not in allowed} == {}


@pytest.mark.parametrize("which", ["oldest", "newest"])
def test_the_light_half_is_whole_on_the_oldest_and_the_newest_python(
    which: str, here: dict[str, Any], installed: Path, run: Run, tmp_path: Path
) -> None:
    version = dict(zip(("oldest", "newest"), versions(), strict=True))[which]
    python, site_packages = light_environment(interpreter(version), installed, tmp_path / "venv", run)
    for wheel in wheels_for(version):
        with zipfile.ZipFile(wheel) as opened:
            opened.extractall(site_packages)
    found = looked_at(python, site_packages, run, tmp_path)
    assert found["python"] == list(map(int, version.split(".")))
    lost = {name: why for name, why in found["missing"].items() if name in here["found"]}
    # The server brings it to Python 3.10, which has no tomllib.
    assert {name: why for name, why in lost.items() if why != "tomli"} == {}


def test_the_wheel_says_which_pythons_it_is_for(installed: Path) -> None:
    (package,) = importlib.metadata.distributions(path=[str(installed)], name="chatplan")
    assert package.metadata["Requires-Python"] == f">={versions()[0]}"
    assert package.version == chatplan.__version__


def test_the_light_pins_are_within_what_the_package_allows() -> None:
    for requirement in light_requirements():
        assert requirement.specifier.contains(pins()[canonicalize_name(requirement.name)]), requirement
