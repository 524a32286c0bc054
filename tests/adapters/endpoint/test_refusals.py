"""What is refused, and the one line that says so."""

from __future__ import annotations

import json
from typing import Any

import pytest

MESSAGES = [{"role": "user", "content": "Name a fruit."}]
FINE = {"messages": MESSAGES, "max_tokens": 1}


@pytest.mark.parametrize(
    ("body", "start"),
    [
        ({"inputs": {**FINE, "stream": True}}, "stream: "),
        ({"inputs": FINE, "stream": True}, "stream: "),
        ({"inputs": "Once", "stream": True}, "stream: "),
        ({"inputs": {**FINE, "tempurature": 1}}, "tempurature: "),
        ({"inputs": FINE, "parameters": {"max_new_tokens": 1}}, "max_new_tokens: "),
        ({"inputs": FINE, "options": {"use_cache": False}}, "options: "),
        ({"inputs": {**FINE, "temperature": -1}}, "temperature: should be greater than or equal to 0, got -1"),
        ({"inputs": {**FINE, "model": "another"}}, "model: "),
        ({"inputs": FINE, "parameters": {"max_tokens": 1}}, "max_tokens: is given twice"),
        ({"inputs": FINE, "messages": MESSAGES}, "inputs: "),
        ({"inputs": {}}, "messages: is required"),
        ({"inputs": []}, "inputs: "),
        ({"inputs": 7}, "inputs: "),
        ({"inputs": None}, "inputs: "),
        ({"inputs": FINE, "parameters": [1]}, "parameters: should be an object"),
        ({"inputs": [FINE, {**FINE, "top_p": 7}]}, "inputs[1].top_p: "),
        ({"inputs": [FINE, {**FINE, "odd\nname": 1}]}, "inputs[1].odd name: "),
        ({"inputs": [FINE, 7]}, "inputs[1]: "),
        ({"inputs": [FINE, "", FINE]}, "inputs[1]: should not be empty"),
        ({"inputs": ["Once", {**FINE, "top_p": 7}]}, "inputs[1].top_p: "),
        ({"inputs": ["Once", "Twice"], "parameters": {"truncate": 0}}, "inputs[0].truncate: "),
        ({"inputs": ["Once", {"inputs": "O", "parameters": {"max_new_tokens": 10**6}}]}, "inputs[1].max_new_tokens: "),
        ({"instances": []}, "instances: "),
        ({"instances": FINE}, "instances: "),
        ({"instances": [FINE], "inputs": "x"}, "inputs: stands beside instances"),
        ({"instances": [{**FINE, "n": 0}]}, "instances[0].n: "),
        ({"instances": [[FINE, FINE]]}, "instances[0]: "),
    ],
    ids=lambda value: json.dumps(value)[:50],
)
def test_refused(toolkit: Any, body: Any, start: str) -> None:
    assert toolkit.refusal(body).startswith(start)


@pytest.mark.parametrize(
    ("parameters", "name"),
    [
        ({"temperature": 0}, "temperature"),
        ({"temperature": "warm"}, "temperature"),
        ({"top_k": 0}, "top_k"),
        ({"top_p": 1.5}, "top_p"),
        ({"typical_p": 0.5}, "typical_p"),
        ({"watermark": True}, "watermark"),
        ({"adapter_id": "mine"}, "adapter_id"),
        ({"frequency_penalty": 3}, "frequency_penalty"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"seed": -1}, "seed"),
        ({"stop": [""]}, "stop"),
        ({"stop": ["a"] * 65}, "stop"),
        ({"best_of": 2}, "best_of"),
        ({"best_of": 99, "do_sample": True}, "best_of"),
        ({"top_n_tokens": 21}, "top_n_tokens"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"max_new_tokens": 10**6}, "max_new_tokens"),
        ({"max_tokens": 3}, "max_tokens"),
        ({"details": "yes"}, "details"),
        ({"grammar": {"type": "xml", "value": ""}}, "grammar.type"),
        ({"grammar": {"type": "regex", "value": "[0-9"}}, "grammar"),
        ({"grammar": {"type": "regex", "value": 5}}, "grammar"),
        ({"grammar": {"type": "json", "value": "{"}}, "grammar"),
        ({"guided_regex": "a"}, "guided_regex"),
    ],
    ids=lambda value: json.dumps(value)[:50],
)
def test_refused_parameters_of_a_prompt(toolkit: Any, parameters: Any, name: str) -> None:
    assert toolkit.refusal({"inputs": "Once", "parameters": parameters}).startswith(f"{name}: ")


def test_prompt_longer_than_the_context(toolkit: Any) -> None:
    assert toolkit.refusal({"inputs": "word " * 9000}).startswith("inputs: ")
    assert toolkit.refusal({"inputs": {"messages": [{"role": "user", "content": "word " * 9000}]}}).startswith(
        "messages: "
    )


def test_body_that_is_no_object(handler: Any) -> None:
    with pytest.raises(Exception, match=r"^body: should be an object, got \[\]$"):
        handler([])


def test_what_nobody_foresaw_is_one_line(handler: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any, **more: Any) -> None:
        raise MemoryError("no room\nfor tensors")

    monkeypatch.setattr(type(handler.chat.model.require_module()), "generate", fail)
    with pytest.raises(Exception, match=r"^model: MemoryError: no room for tensors$"):
        handler({"inputs": FINE})
