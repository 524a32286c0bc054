"""What the handler is told, and by whom."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from chatplan import RequestError
from chatplan.adapters.endpoint import EndpointHandler, loading
from chatplan.adapters.endpoint.prompts import prompt_chat
from chatplan.adapters.endpoint.settings import FILE, read_settings

MESSAGES = [{"role": "user", "content": "Name a fruit."}]


def write(folder: Path, **settings: Any) -> Path:
    (folder / FILE).write_text(json.dumps(settings))
    return folder


def test_arguments_win_over_the_environment_and_that_over_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, dtype="float16", max_stop=1, batch_size=2)
    monkeypatch.setenv("CHATPLAN_DTYPE", "bfloat16")
    monkeypatch.setenv("CHATPLAN_MAX_STOP", "5")
    read = read_settings(tmp_path, {"dtype": "float32"})
    assert (read.dtype, read.chat_settings["max_stop"], read.chat_settings["batch_size"]) == ("float32", 5, 2)


def test_variables_are_written_as_for_the_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHATPLAN_PLUGINS", "a.b, c.d")
    monkeypatch.setenv("CHATPLAN_DEFAULTS", '{"top_k": 3}')
    monkeypatch.setenv("CHATPLAN_ENABLE_PREFIX_CACHING", "false")
    monkeypatch.setenv("CHATPLAN_MAX_MODEL_LEN", "64")
    monkeypatch.setenv("CHATPLAN_DEVICE", "")
    monkeypatch.setenv("CHATPLAN_HOST", "0.0.0.0")
    read = read_settings(tmp_path, {})
    assert (read.plugins, read.defaults, read.device) == (["a.b", "c.d"], {"top_k": 3}, None)
    assert (read.chat_settings["enable_prefix_caching"], read.chat_settings["max_model_len"]) == (False, 64)


@pytest.mark.parametrize(
    ("settings", "error"), [({"dtyp": "x"}, "dtyp: is not a known key"), ({"max_stop": "many"}, "max_stop: ")]
)
def test_wrong_settings_are_named(tmp_path: Path, settings: Any, error: str) -> None:
    with pytest.raises(RequestError, match=f"^{error}"):
        read_settings(write(tmp_path, **settings), {})


def test_wrong_variable_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHATPLAN_DEFAULTS", "{")
    with pytest.raises(RequestError, match="^defaults: "):
        read_settings(tmp_path, {})


def test_file_that_is_no_object(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("[]")
    with pytest.raises(ValueError, match=FILE):
        read_settings(tmp_path, {})


@pytest.mark.parametrize(("served", "variable", "name"), [("", "", ""), ("", "hub", "hub"), ("own", "hub", "own")])
def test_how_the_model_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, served: str, variable: str, name: str
) -> None:
    made: list[dict[str, Any]] = []

    def pipeline(*task: str, **given: Any) -> Any:
        made.append(given)
        return SimpleNamespace(chat="the chat")

    monkeypatch.setattr(loading, "pipeline", pipeline)
    monkeypatch.setenv("HF_MODEL_ID", variable)
    given = {"served_model_name": served, "plugins": ["a"], "disable": ["b"], "engine": "generate", "device": "cpu",
             "dtype": "float16", "defaults": {"top_k": 3}, "max_stop": 7}  # fmt: skip
    chat: Any = loading.load("folder", read_settings(tmp_path, given))
    assert chat == "the chat"
    (found,) = made
    assert found["model"] == "folder"
    for key in ("plugins", "disable", "engine", "device", "max_stop"):
        assert found[key] == given[key]
    assert (found["served_model_name"], found["top_k"]) == (name, 3)
    assert "float16" in [str(found.get("dtype")), str(found.get("torch_dtype")).removeprefix("torch.")]
    assert "device_map" not in found
    loading.load("folder", read_settings(tmp_path, {"device_map": "auto"}))
    assert made[1]["device_map"] == "auto"
    assert "device" not in made[1]


def test_as_many_alternatives_as_conversations_have(handler: Any, new_chat: Any) -> None:
    """The drawn token is one more."""
    assert handler.prompts.model.settings.max_logprobs == handler.chat.model.settings.max_logprobs + 1
    assert prompt_chat(new_chat(max_logprobs=-1), [], []).model.settings.max_logprobs == -1
    assert handler.prompts.engine is handler.chat.engine


def test_settings_reach_the_model(
    tmp_path: Path, repository: Path, fruit: str, story: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for file in repository.iterdir():
        os.symlink(file, tmp_path / file.name)
    write(tmp_path, dtype="float32", max_stop=1, defaults={"max_tokens": 2, "temperature": 0}, disable=["penalties"])
    monkeypatch.setenv("HF_MODEL_ID", "owner/fruit")
    handler = EndpointHandler(tmp_path, device="cpu")
    answer = handler({"inputs": {"messages": MESSAGES, "model": "owner/fruit"}})
    assert (answer["model"], answer["choices"][0]["message"]["content"]) == ("owner/fruit", fruit[:2])
    assert handler({"inputs": "Once upon a", "parameters": {"max_new_tokens": 3}}) == [{"generated_text": story[:3]}]
    for body in (
        {"inputs": {"messages": MESSAGES, "stop": ["a", "b"]}},
        {"inputs": "a", "parameters": {"stop": ["a", "b"]}},
    ):
        with pytest.raises(RequestError, match="^stop: at most 1"):
            handler(body)
    with pytest.raises(RequestError, match="^frequency_penalty: no plugin answers"):
        handler({"inputs": {"messages": MESSAGES, "frequency_penalty": 1.0}})
