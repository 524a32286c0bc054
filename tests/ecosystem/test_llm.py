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

    chat = pipeline("chat", str(tiny_folder), device="cpu")
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


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/model", "~/nowhere/model", "alone", "a/b/c"])
def test_only_folders_and_names_of_the_hub_are_added(llm_command: Command, name: str) -> None:
    said = llm_command("chatplan", "add", name, code=1)
    assert f"{name} is neither a folder nor a name on the hub like owner/name" in said


def test_added_models_are_kept_in_order_once_and_forgotten_one_by_one(llm_command: Command, tmp_path: Path) -> None:
    from chatplan.adapters.llm_models.known import added_models, known_models

    folder = tmp_path / "mine"
    folder.mkdir()
    for name in ("owner/one", str(folder), "owner/two", "owner/one"):
        assert llm_command("chatplan", "add", name) == f"chatplan/{name}\n"
    assert added_models() == ["owner/one", str(folder), "owner/two"]
    assert known_models()[:3] == added_models()
    assert len(set(known_models())) == len(known_models())
    folder.rmdir()
    llm_command("chatplan", "remove", str(folder))
    assert added_models() == ["owner/one", "owner/two"]
    said = llm_command("chatplan", "remove", "owner/three", code=1)
    assert "owner/three was not added; there are owner/one, owner/two" in said
    llm_command("chatplan", "remove", "owner/one")
    llm_command("chatplan", "remove", "owner/two")
    assert "there are none" in llm_command("chatplan", "remove", "owner/two", code=1)


def test_a_relative_folder_is_known_by_its_absolute_path(
    llm_command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path)
    assert llm_command("chatplan", "add", "./mine") == f"chatplan/{tmp_path / 'mine'}\n"
    (tmp_path / "mine").rmdir()
    llm_command("chatplan", "remove", "./mine")


def test_models_in_the_hubs_cache_that_can_chat_are_known_by_themselves(tiny_folder: Path, tmp_path: Path) -> None:
    from chatplan.adapters.llm_models.known import cached_models

    def cached(kind: str, name: str, **files: str | None) -> None:
        repo = tmp_path / f"{kind}s--owner--{name}"
        snapshot = shutil.copytree(tiny_folder, repo / "snapshots" / ("0" * 40))
        (repo / "refs").mkdir()
        (repo / "refs" / "main").write_text("0" * 40)
        for stem, text in files.items():
            for path in [*snapshot.glob(f"{stem}.*")] if text is None else []:
                path.unlink()
            if text is not None:
                (snapshot / f"{stem}.json").write_text(text)

    cached("model", "tiny")
    cached("model", "base", chat_template=None, tokenizer_config="{}")
    cached("model", "bare", chat_template=None, tokenizer_config=None)
    cached("model", "inside", chat_template=None, tokenizer_config='{"chat_template": "x"}')
    cached("model", "encoder", config='{"architectures": ["BertModel"]}')
    cached("model", "half", config=None)
    cached("dataset", "data")
    assert list(cached_models(tmp_path)) == ["owner/inside", "owner/tiny"]
    assert list(cached_models(tmp_path / "none")) == []


# --- requests and answers ---------------------------------------------------------------------------------------------


def test_a_conversation_becomes_messages_with_reasoning_calls_and_results() -> None:
    from llm import Message
    from llm.parts import ReasoningPart, TextPart, ToolCallPart, ToolResultPart

    from chatplan.adapters.llm_models.messages import as_messages

    calls = [ToolCallPart("f", {"x": 1}, "c1"), ToolCallPart("g", {}, "c2")]
    said = [ReasoningPart("Let "), ReasoningPart("me."), TextPart("One "), TextPart("moment."), *calls]
    results = [ToolResultPart("f", "42", "c1"), ToolResultPart("g", "43", "c2")]
    messages = [
        Message("system", [TextPart("Be brief.")]),
        Message("assistant", said),
        Message("tool", [*results]),
        Message("user", [ToolResultPart("f", "44", "c3"), TextPart("And?")]),
    ]
    assert as_messages(messages) == [
        {"role": "system", "content": "Be brief."},
        {
            "role": "assistant",
            "content": "One moment.",
            "reasoning_content": "Let me.",
            "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}},
                {"id": "c2", "type": "function", "function": {"name": "g", "arguments": "{}"}},
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "42"},
        {"role": "tool", "tool_call_id": "c2", "content": "43"},
        {"role": "tool", "tool_call_id": "c3", "content": "44"},
        {"role": "user", "content": "And?"},
    ]


def test_tools_become_functions() -> None:
    from llm import Tool

    from chatplan.adapters.llm_models.messages import as_tools

    schema = {"type": "object", "properties": {"x": {"type": "integer"}}}
    assert as_tools([Tool("f", "Does it.", schema), Tool("g")]) == [
        {"type": "function", "function": {"name": "f", "description": "Does it.", "parameters": schema}},
        {"type": "function", "function": {"name": "g", "description": "", "parameters": {}}},
    ]


def test_options_are_all_fields_but_those_that_llm_has_arguments_for() -> None:
    from chatplan import ChatCompletionRequest
    from chatplan.adapters.llm_models.options import options_of

    made = options_of(ChatCompletionRequest)
    left_out = {
        "messages",
        "model",
        "stream",
        "stream_options",
        "tools",
        "guided_json",
        "response_format",
        "request_id",
    }
    assert set(made.model_fields) == set(ChatCompletionRequest.model_fields) - left_out
    assert made().model_dump(exclude_none=True) == {}
    for name, field in made.model_fields.items():
        assert field.description == ChatCompletionRequest.model_fields[name].description


@pytest.mark.parametrize(
    ("name", "typed", "read"),
    [
        ("temperature", "0.5", 0.5),
        ("temperature", 0.5, 0.5),
        ("logprobs", "true", True),
        ("stop", "1", "1"),
        ("stop", '["a", "b"]', ["a", "b"]),
        ("guided_regex", "[0-9]", "[0-9]"),
        ("guided_regex", "null", "null"),
        ("logit_bias", '{"5": 1.5}', {"5": 1.5}),
    ],
)
def test_what_is_typed_is_read_as_json_where_the_field_takes_that(name: str, typed: Any, read: Any) -> None:
    from chatplan import ChatCompletionRequest
    from chatplan.adapters.llm_models.options import options_of

    found = getattr(options_of(ChatCompletionRequest)(**{name: typed}), name)
    assert (type(found), found) == (type(read), read)


def test_only_the_first_choice_is_shown_reasoning_before_text() -> None:
    from chatplan.adapters.llm_models.model import _events
    from chatplan.response import ChatCompletionChunk, ChunkChoice, Delta

    first = ChunkChoice(index=0, delta=Delta(reasoning_content="Hm.", content="Yes."))
    second = ChunkChoice(index=1, delta=Delta(reasoning_content="Or?", content="No."))
    chunk = ChatCompletionChunk(id="x", created=0, model="m", choices=[first, second])
    assert [(event.type, event.chunk) for event in _events(chunk)] == [("reasoning", "Hm."), ("text", "Yes.")]


def test_a_model_is_loaded_when_it_is_asked_in_its_own_type_where_it_runs_best(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from types import SimpleNamespace

    from chatplan.adapters import pipeline, weights
    from chatplan.adapters.llm_models import AsyncChatModel, ChatModel

    loads: list[Any] = []

    def load(*given: Any, **where: Any) -> Any:
        loads.append((given, where))
        return SimpleNamespace(chat="chat")

    monkeypatch.setattr(pipeline, "pipeline", load)
    monkeypatch.setattr(weights, "likely_device", lambda: "best")
    model: Any = ChatModel("owner/name")
    both = (model.model_id, AsyncChatModel(model).model_id)
    assert (both, model.aliases, loads) == (("chatplan/owner/name",) * 2, [], [])
    assert model.chat == "chat" == model.chat
    assert loads == [(("chat", "owner/name"), {"device": "best", **weights.dtype_argument("auto")})]
