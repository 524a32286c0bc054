"""What a new plugin may be called, and where it may be written."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer import Typer
from typer.testing import CliRunner

from chatplan import RequestError
from chatplan.adapters.new_plugin.commands import new_plugin
from chatplan.adapters.new_plugin.naming import Names
from chatplan.adapters.new_plugin.writing import write_package

app = Typer()
app.command()(new_plugin)


@pytest.mark.parametrize("name", ["loud-words", "Loud_Words", "chatplan-loud.words", "LOUD--words"])
def test_all_names_follow_from_one(name: str) -> None:
    assert Names.of(name) == Names(
        "loud_words", "chatplan-loud-words", "chatplan_loud_words", "LoudWordsProcessor", "loud_words"
    )


@pytest.mark.parametrize(
    "name", ["", "9lives", "-x", "a/b", "../up", "a b", "naïve", "\u017foo", "x" * 51, "a-", ".", "a\n"]
)
def test_what_is_no_package_name_is_refused(name: str) -> None:
    with pytest.raises(RequestError, match="cannot be the name of a package") as caught:
        Names.of(name)
    assert caught.value.param == "NAME"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("class", "means something else to Python"),
        ("chatplan-lambda", "means something else to Python"),
        ("chatplan", "the package itself"),
        ("penalties", "built-in plugin"),
        ("Lm-Format-Enforcer", "built-in plugin"),
        ("temperature", "has a field 'temperature' already"),
        ("top-p", "has a field 'top_p' already"),
        ("copy", "a method of that name"),
    ],
)
def test_a_name_that_is_taken_is_refused(name: str, reason: str) -> None:
    with pytest.raises(RequestError, match=reason) as caught:
        Names.of(name)
    assert caught.value.param == "NAME"


def test_a_field_of_its_own_frees_the_name() -> None:
    assert Names.of("top-p", field="loud").field == "loud"


@pytest.mark.parametrize("field", ["temperature", "Loud", "_loud", "loud-words", "lambda", "model_dump", ""])
def test_a_wrong_field_is_refused(field: str) -> None:
    with pytest.raises(RequestError) as caught:
        Names.of("loud", field=field)
    assert caught.value.param == "--field"


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(RequestError, match="there already"):
        write_package(tmp_path, Names.of("loud"))
    assert (tmp_path / "README.md").read_text() == "mine"
    with pytest.raises(RequestError, match="there already"):
        write_package(tmp_path / "README.md", Names.of("loud"))


def test_force_replaces_its_files_and_keeps_others(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("mine")
    (tmp_path / "notes.txt").write_text("mine")
    write_package(tmp_path, Names.of("loud"), force=True)
    assert (tmp_path / "README.md").read_text().startswith("# chatplan-loud\n")
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RequestError, match="cannot be written"):
        write_package(tmp_path / "file" / "below", Names.of("loud"))


def test_the_command_writes_to_the_folder_of_the_name_and_says_what_is_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["Loud-Words", "--field", "loud", "--type", "int"])
    assert result.exit_code == 0, result.output
    files = {str(path.relative_to(tmp_path / "Loud-Words")) for path in tmp_path.rglob("*") if path.is_file()}
    assert files == {
        *("pyproject.toml", "README.md", ".gitignore", "src/chatplan_loud_words/__init__.py"),
        *("src/chatplan_loud_words/py.typed", "tests/conftest.py", "tests/test_loud_words.py"),
    }
    assert 'cd Loud-Words\n  pip install -e ".[test]"' in result.output


def test_the_command_writes_where_and_as_it_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "a folder"
    arguments = ["loud", "--output", str(folder), "--type", "str", "--field", "hush"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert str(folder / "README.md") in result.output
    assert f"cd '{folder}'" in result.output
    assert "The plugin 'loud' adds the field 'hush'" in result.output
    assert '"hush": (\n        str,' in (folder / "src" / "chatplan_loud" / "__init__.py").read_text("utf-8")
    assert isinstance(CliRunner().invoke(app, arguments).exception, RequestError)
    assert CliRunner().invoke(app, [*arguments, "--force"]).exit_code == 0


def test_a_name_may_have_fifty_letters() -> None:
    assert Names.of("x" * 50).field == "x" * 50
    with pytest.raises(RequestError, match="cannot be a field"):
        Names.of("loud", field="x" * 51)


def test_an_unknown_type_is_refused() -> None:
    result = CliRunner().invoke(app, ["loud", "--type", "list"])
    assert result.exit_code == 2
    assert "'list'" in result.output
