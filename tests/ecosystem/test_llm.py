"""``llm -m chatplan/MODEL``: the command line tool and its library run a model in this process."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.dev_only

Command = Callable[..., str]
GREEDY = ("-o", "temperature", "0", "-o", "max_tokens", "12")


@pytest.fixture
def llm_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Runs ``llm`` with a folder of its own; returns what it wrote, and fails when the exit code is not ``code``."""
    from click.testing import CliRunner
    from llm.cli import cli

    monkeypatch.setenv("LLM_USER_PATH", str(tmp_path / "llm"))
    (tmp_path / "llm").mkdir()

    def run(*words: str, code: int = 0) -> str:
        result = CliRunner().invoke(cli, list(words), catch_exceptions=False)
        assert result.exit_code == code, result.output
        return str(result.output)

    return run


@pytest.fixture
def added(llm_command: Command, tiny_folder: Path) -> Command:
    llm_command("chatplan", "add", str(tiny_folder))
    return llm_command


def last_log(llm_command: Command) -> dict[str, Any]:
    return dict(json.loads(llm_command("logs", "-n", "1", "--json"))[0])


def test_a_folder_that_was_added_answers_by_its_name_and_by_its_path(added: Command, tiny_folder: Path) -> None:
    assert f"chatplan/{tiny_folder}" in added("models", "list")
    by_name = added("-m", "chatplan/tiny", "Name a fruit.", *GREEDY)
    assert by_name.strip()
    assert by_name == added("-m", f"chatplan/{tiny_folder}", "Name a fruit.", *GREEDY, "--no-stream")


def test_answers_are_those_of_the_pipeline(added: Command, tiny_folder: Path) -> None:
    from chatplan import pipeline

    chat = pipeline("chat", str(tiny_folder))
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Name a fruit."}]
    wanted = chat(messages, temperature=0, max_tokens=12).text
    assert added("-m", "chatplan/tiny", "Name a fruit.", "-s", "Be brief.", *GREEDY).removesuffix("\n") == wanted


def test_options_are_the_fields_of_the_request_with_their_types(added: Command) -> None:
    listed = added("models", "list", "--options", "-m", "chatplan/tiny")
    assert re.search(r"guided_regex: str\n\s+The whole answer matches this regular", listed)
    assert "min_p: float" in listed
    assert "guided_choice: array" in listed
    typed = ("-o", "guided_choice", '["left", "right"]', "-o", "seed", "7", "-o", "stop", "1", "-o", "logprobs", "true")
    assert added("-m", "chatplan/tiny", "Where?", *typed).strip() in ("left", "right")
    kept = last_log(added)
    assert kept["options_json"] == {"guided_choice": ["left", "right"], "seed": 7, "stop": "1", "logprobs": True}
    assert kept["response_json"]["choices"][0]["logprobs"]["content"]
    assert kept["output_tokens"] == kept["response_json"]["usage"]["completion_tokens"] > 0


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("temperature", "-1", "greater than or equal to 0"),
        ("tempurature", "1", "Extra inputs are not permitted"),
        ("guided_regex", "[a", "guided_regex: invalid regex"),
        ("seed", "soon", "valid integer"),
    ],
)
def test_a_wrong_option_is_one_error(added: Command, option: str, value: str, said: str) -> None:
    assert said in added("-m", "chatplan/tiny", "Hi", "-o", option, value, code=1)


def test_a_conversation_goes_on_with_all_of_its_messages(added: Command) -> None:
    added("-m", "chatplan/tiny", "Name a fruit.", "-s", "Be brief.", *GREEDY)
    first = last_log(added)["input_tokens"]
    added("-c", "And another?", *GREEDY)
    assert last_log(added)["input_tokens"] > first + 12


def test_a_schema_is_enforced(added: Command) -> None:
    found = json.loads(added("-m", "chatplan/tiny", "Who?", "--schema", "ok bool, kind bool", "-o", "seed", "1"))
    assert {type(found["ok"]), type(found["kind"])} == {bool}


def test_tools_are_called_and_their_results_go_back(tiny_folder: Path) -> None:
    from chatplan.adapters.llm_models import ChatModel

    asked: list[bool] = []

    def weather(sunny: bool) -> str:
        """The weather."""
        asked.append(sunny)
        return "sunny in Bern"

    model = ChatModel(str(tiny_folder))
    conversation = model.conversation(tools=[weather])
    first = conversation.prompt("Weather?", tool_choice="required", seed=1)
    [call] = first.tool_calls()
    assert call.name == "weather"
    [result] = first.execute_tool_calls()
    assert (asked, result.output) == ([call.arguments["sunny"]], "sunny in Bern")
    second = conversation.prompt(tool_results=[result], temperature=0, max_tokens=4)
    assert "sunny in Bern" in model.chat.plan(model.request(second.prompt)).prompt.text
    assert second.text()


def test_half_a_call_of_a_tool_is_one_error(tiny_folder: Path) -> None:
    import llm

    from chatplan.adapters.llm_models import ChatModel

    def weather(sunny: bool) -> str:
        """The weather."""
        return "sunny"

    prompt = ChatModel(str(tiny_folder)).prompt("Weather?", tools=[weather], tool_choice="required", max_tokens=52)
    with pytest.raises(llm.ModelError, match="the call of weather is not whole"):
        prompt.text()


def test_beam_search_answers_at_once(tiny_folder: Path) -> None:
    from chatplan.adapters.llm_models import ChatModel

    options: Any = {"use_beam_search": True, "n": 2, "temperature": 0, "max_tokens": 4, "ignore_eos": True}
    answer = ChatModel(str(tiny_folder)).prompt("Hi", **options)
    answer.text()
    whole: Any = answer.response_json
    assert [choice["index"] for choice in whole["choices"]] == [0, 1]


def test_the_asynchronous_model_says_the_same(tiny_folder: Path) -> None:
    from chatplan.adapters.llm_models import AsyncChatModel, ChatModel

    model = ChatModel(str(tiny_folder))
    whole = model.prompt("Name a fruit.", temperature=0, max_tokens=12).text()

    async def ask() -> list[str]:
        return [piece async for piece in AsyncChatModel(model).prompt("Name a fruit.", temperature=0, max_tokens=12)]

    pieces = asyncio.run(ask())
    assert len(pieces) > 1
    assert "".join(pieces) == whole


def test_what_is_no_model_is_not_added_and_what_was_added_is_forgotten(added: Command, tiny_folder: Path) -> None:
    assert "neither a folder nor a name" in added("chatplan", "add", "./nowhere", code=1)
    added("chatplan", "remove", str(tiny_folder))
    assert "chatplan/" not in added("models", "list")
    assert "was not added" in added("chatplan", "remove", str(tiny_folder), code=1)


def test_models_in_the_hubs_cache_are_known_by_themselves(tiny_folder: Path, tmp_path: Path) -> None:
    from chatplan.adapters.llm_models.known import cached_models

    for name in ("tiny", "base"):
        repo = tmp_path / f"models--owner--{name}"
        shutil.copytree(tiny_folder, repo / "snapshots" / ("0" * 40))
        (repo / "refs").mkdir()
        (repo / "refs" / "main").write_text("0" * 40)
    for template in tmp_path.glob("models--owner--base/snapshots/*/chat_template.jinja"):
        template.unlink()
    assert list(cached_models(tmp_path)) == ["owner/tiny"]
    assert list(cached_models(tmp_path / "none")) == []
