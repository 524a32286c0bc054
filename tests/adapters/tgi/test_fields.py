"""Every field of the request: honoured in TGI's parameters or here, or refused before anything is sent."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from chatplan import (
    Chat,
    ChatCompletionRequest,
    ContextLengthError,
    RequestError,
    UnsupportedFieldError,
    hookimpl,
)
from chatplan.adapters.tgi import tgi_chat
from chatplan.adapters.tgi.parameters import seeded

if TYPE_CHECKING:
    from tests.adapters.tgi.conftest import StandIn

USER = [{"role": "user", "content": "Name a fruit."}]
SCHEMA = {"type": "object", "properties": {"name": {"enum": ["fig", "plum"]}}, "required": ["name"]}
FORMAT = {"type": "json_schema", "json_schema": {"name": "fruit", "schema": SCHEMA}}
JSON, CHOICE = {"type": "json", "value": SCHEMA}, {"type": "regex", "value": r"fig|a\ plum"}
DOCUMENTS = "{% for d in documents %}{{ d.text }}{% endfor %}{{ messages[0].content }}"
CALLED = {"role": "assistant", "content": "It is"}

# Field → the request beside the user's message, and what TGI gets for it beside the bound of the length.
SENT: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "max_tokens": ({"max_tokens": 3}, {"max_new_tokens": 3}),
    "max_completion_tokens": ({"max_completion_tokens": 4}, {"max_new_tokens": 4}),
    "temperature": ({"temperature": 0.5}, {"temperature": 0.5, "do_sample": True}),
    "top_p": ({"temperature": 1.0, "top_p": 0.5}, {"temperature": 1.0, "do_sample": True, "top_p": 0.5}),
    "top_k": ({"temperature": 1.0, "top_k": 5}, {"temperature": 1.0, "do_sample": True, "top_k": 5}),
    "repetition_penalty": ({"repetition_penalty": 1.2}, {"repetition_penalty": 1.2}),
    "frequency_penalty": ({"frequency_penalty": 0.5}, {"frequency_penalty": 0.5}),
    "seed": ({"seed": 7}, {"seed": 7}),
    "stop": ({"stop": ["fruit", "."]}, {"stop": ["fruit", "."]}),
    "truncate_prompt_tokens": ({"truncate_prompt_tokens": 9}, {"truncate": 9}),
    "top_logprobs": ({"logprobs": True, "top_logprobs": 5}, {"top_n_tokens": 5}),
    "guided_json": ({"guided_json": SCHEMA}, {"grammar": JSON}),
    "guided_regex": ({"guided_regex": "fig|plum"}, {"grammar": {"type": "regex", "value": "fig|plum"}}),
    "guided_choice": ({"guided_choice": ["fig", "a plum"]}, {"grammar": CHOICE}),
    "response_format": ({"response_format": FORMAT}, {"grammar": JSON}),
    "structured_outputs": ({"structured_outputs": {"choice": ["fig", "a plum"]}}, {"grammar": CHOICE}),
    "best_of": ({"best_of": 2, "temperature": 1.0}, {"best_of": 2, "temperature": 1.0, "do_sample": True}),
}
# Fields that hold without a parameter of their own: the request, and what shows it.
HERE: dict[str, dict[str, Any]] = {
    "model": {"model": "tests/tiny"},
    "n": {"n": 2},
    "stream": {"stream": True},
    "stream_options": {"stream": True, "stream_options": {"include_usage": True}},
    "logprobs": {"logprobs": True},
    "prompt_logprobs": {"prompt_logprobs": 0},
    "return_tokens_as_token_ids": {"logprobs": True, "return_tokens_as_token_ids": True},
    "return_token_ids": {"return_token_ids": True},
    "skip_special_tokens": {"skip_special_tokens": False},
    "spaces_between_special_tokens": {"spaces_between_special_tokens": False},
    "include_stop_str_in_output": {"stop": ["."], "include_stop_str_in_output": True},
    "request_id": {"request_id": "mine"},
    "user": {"user": "somebody"},
    "include_reasoning": {"include_reasoning": False},
    "add_generation_prompt": {"add_generation_prompt": False},
    "continue_final_message": {
        "messages": [*USER, CALLED],
        "add_generation_prompt": False,
        "continue_final_message": True,
    },
    "echo": {"messages": [*USER, CALLED], "add_generation_prompt": False, "continue_final_message": True, "echo": True},
    "documents": {"documents": [{"title": "a", "text": "Figs."}], "chat_template": DOCUMENTS},
    "chat_template": {"chat_template": "{{ messages[0].content }}"},
    "chat_template_kwargs": {"chat_template": "{{ word }}", "chat_template_kwargs": {"word": "Hello"}},
    "add_special_tokens": {"add_special_tokens": True},
}
# Field → the request that TGI cannot honour.
REFUSED: dict[str, dict[str, Any]] = {
    "min_p": {"min_p": 0.1},
    "presence_penalty": {"presence_penalty": 0.5},
    "logit_bias": {"logit_bias": {"5": 1.0}},
    "allowed_token_ids": {"allowed_token_ids": [5, 6]},
    "bad_words": {"bad_words": ["no"]},
    "min_tokens": {"min_tokens": 2},
    "ignore_eos": {"ignore_eos": True},
    "stop_token_ids": {"stop_token_ids": [5]},
    "use_beam_search": {"use_beam_search": True, "n": 2},
    "guided_grammar": {"guided_grammar": 'root ::= "a"'},
    "guided_decoding_backend": {"guided_regex": "a|b", "guided_decoding_backend": "guidance"},
    "structured_outputs": {"structured_outputs": {"json": SCHEMA, "whitespace_pattern": "[ ]*"}},
    "guided_whitespace_pattern": {"guided_json": SCHEMA, "guided_whitespace_pattern": " *"},
    "cache_salt": {"cache_salt": "mine"},
    "priority": {"priority": 3},
    "seed": {"seed": -5},
    "stop": {"stop": list("abcde")},
    "top_logprobs": {"logprobs": True, "top_logprobs": 6},
    "prompt_logprobs": {"prompt_logprobs": 1},
    "best_of": {"best_of": 3, "temperature": 1.0},
    "guided_json": {"guided_json": {"type": "object"}},
    "response_format": {"response_format": {"type": "json_object"}},
}
# Refused on every engine by this model, or of effect in company only; other tests have them.
ELSEWHERE = {
    "messages", "tools", "tool_choice", "parallel_tool_calls", "length_penalty", "early_stopping",
    "reasoning_effort", "thinking_token_budget",
}  # fmt: skip


@pytest.fixture(scope="module")
def chat(server: StandIn, checkpoint: str) -> Iterator[Chat]:
    made = tgi_chat(server.url, checkpoint, served_model_name="tests/tiny", client="http", scheduling_policy="priority")
    yield made
    made.close()


def ask(chat: Chat, fields: dict[str, Any]) -> Any:
    request = {"messages": USER, "max_tokens": 4, "temperature": 0, **fields}
    if "max_completion_tokens" in fields:
        del request["max_tokens"]
    answer = chat(request)
    return list(answer) if fields.get("stream") else answer


def test_every_field_is_here() -> None:
    assert set(SENT) | set(HERE) | set(REFUSED) | ELSEWHERE == set(ChatCompletionRequest.model_fields)


@pytest.mark.parametrize("field", SENT)
def test_field_is_sent(chat: Chat, tgi: StandIn, field: str) -> None:
    fields, expected = SENT[field]
    ask(chat, fields)
    (body,) = tgi.sent
    base = {"do_sample": False, "max_new_tokens": 4, "details": True}
    assert body["parameters"] == {**base, **expected}
    assert body["inputs"] == chat.plan({"messages": USER, "max_tokens": 4}).prompt.text


@pytest.mark.parametrize("field", HERE)
def test_field_holds_here(chat: Chat, tgi: StandIn, field: str) -> None:
    fields = HERE[field]
    assert ask(chat, fields)
    plan = chat.plan({"messages": USER, "max_tokens": 4, **fields})
    assert [body["inputs"] for body in tgi.sent] == [plan.prompt.text] * len(tgi.sent)


@pytest.mark.parametrize("field", REFUSED)
def test_field_is_refused_before_anything_is_sent(chat: Chat, tgi: StandIn, field: str) -> None:
    with pytest.raises(RequestError) as caught:
        ask(chat, REFUSED[field])
    assert str(caught.value.param).startswith(field)
    assert not tgi.sent


@pytest.mark.parametrize("fields", [{"seed": 3}, {"stream": True}, {"temperature": 0}])
def test_best_of_has_conditions(chat: Chat, tgi: StandIn, fields: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match="best_of"):
        ask(chat, {"temperature": 1.0, "best_of": 2, **fields})
    assert not tgi.sent


class Shy:
    """A plugin with a processor of its own."""

    @hookimpl
    def request_fields(self) -> dict[str, Any]:
        return {"shy": float}

    @hookimpl
    def logits_processors(self, request: ChatCompletionRequest) -> Any:
        from transformers import LogitsProcessorList

        from chatplan import Stage

        return [(Stage.BIAS, LogitsProcessorList())] if request.get("shy") else None


def test_work_of_a_plugin_is_refused(tgi: StandIn, checkpoint: str) -> None:
    chat = tgi_chat(tgi.url, checkpoint, plugins=[Shy()], client="http")
    with pytest.raises(UnsupportedFieldError) as caught:
        ask(chat, {"shy": 1.0})
    assert caught.value.param == "shy"
    assert ask(chat, {}).text
    chat.close()


def test_schema_that_is_no_object_goes_as_an_expression(chat: Chat, tgi: StandIn) -> None:
    pytest.importorskip("outlines_core")
    answer = ask(chat, {"guided_json": {"type": "array", "items": {"enum": ["fig", "plum"]}, "maxItems": 2}})
    assert tgi.sent[0]["parameters"]["grammar"]["type"] == "regex"
    assert answer.text.startswith("[")


@pytest.mark.parametrize(
    "fields",
    [{"temperature": 1e-6, "top_p": 0.9, "top_k": 5}, {"top_k": 2**40, "top_p": 1 - 1e-11, "temperature": 1.0}],
    ids=["as good as greedy", "of no effect"],
)
def test_filters_without_effect_are_not_sent(chat: Chat, tgi: StandIn, fields: dict[str, Any]) -> None:
    ask(chat, fields)
    sent = tgi.sent[0]["parameters"]
    assert not {"top_k", "top_p"} & sent.keys()
    assert sent["do_sample"] == (fields["temperature"] == 1)


def test_prompt_that_is_too_long_is_refused(chat: Chat, tgi: StandIn) -> None:
    with pytest.raises(ContextLengthError, match="messages"):
        ask(chat, {"messages": [{"role": "user", "content": "word " * 60}]})
    assert not tgi.sent


def test_truncating_goes_no_further_than_the_server(chat: Chat, tgi: StandIn) -> None:
    ask(chat, {"truncate_prompt_tokens": 300})
    assert tgi.sent[0]["parameters"]["truncate"] == 256


def test_names_of_properties_stand_in_the_schema_as_in_json(chat: Chat, tgi: StandIn) -> None:
    name = 'a"b'
    schema = {"type": "object", "properties": {name: {"enum": [1]}}, "required": [name]}
    ask(chat, {"guided_json": schema, "max_tokens": 1})
    assert list(tgi.sent[0]["parameters"]["grammar"]["value"]["properties"]) == ['a\\"b']


def test_schema_that_would_not_be_enforced_is_refused(chat: Chat, tgi: StandIn) -> None:
    schema = {"type": "object", "properties": {"age": {"type": "integer", "minimum": 3}}, "required": ["age"]}
    with pytest.raises(RequestError, match="guided_json.*minimum"):
        ask(chat, {"guided_json": schema})
    assert not tgi.sent


def test_bounds_themselves_are_sent(chat: Chat, tgi: StandIn) -> None:
    ask(chat, {"stop": list("abcd"), "seed": 0, "temperature": 1.0, "top_k": 2**31 - 2, "top_p": 0.9999})
    sent = tgi.sent[0]["parameters"]
    assert (sent["stop"], sent["seed"], sent["top_k"], sent["top_p"]) == (list("abcd"), 0, 2**31 - 2, 0.9999)


def test_a_prompt_may_be_as_long_as_the_server_says(chat: Chat, tgi: StandIn) -> None:
    room = 256 - len(chat.plan(USER).prompt.token_ids)
    text = USER[0]["content"] + "x" * room
    ask(chat, {"messages": [{"role": "user", "content": text}], "max_tokens": 1})
    with pytest.raises(ContextLengthError):
        ask(chat, {"messages": [{"role": "user", "content": f"{text}x"}], "max_tokens": 1})
    assert len(tgi.sent) == 1


def test_penalties_of_one_and_of_nothing_are_not_sent(chat: Chat, tgi: StandIn) -> None:
    ask(chat, {"repetition_penalty": 1.0, "frequency_penalty": 0.5})
    ask(chat, {"repetition_penalty": 1.5, "frequency_penalty": 0.0})
    assert [body["parameters"].keys() & {"repetition_penalty", "frequency_penalty"} for body in tgi.sent] == [
        {"frequency_penalty"}, {"repetition_penalty"},
    ]  # fmt: skip


def test_seeds_go_round(chat: Chat) -> None:
    plan = chat.plan(USER, seed=2**63 - 1, temperature=1.0, n=2)
    assert [seeded({"a": 1}, plan, index) for index in (0, 1)] == [
        {"a": 1, "seed": 2**63 - 1}, {"a": 1, "seed": 2**63},
    ]  # fmt: skip
    assert seeded({"a": 1}, chat.plan(USER, temperature=1.0), 3) == {"a": 1}


def test_echo_of_a_prompt_that_is_scored_is_refused_by_its_name(chat: Chat) -> None:
    talk = HERE["echo"]
    with pytest.raises(UnsupportedFieldError) as caught:
        chat.plan({**talk, "logprobs": True, "top_logprobs": 1})
    assert caught.value.param == "echo"


def test_min_p_of_the_checkpoint_is_refused_until_it_is_set_to_nought(
    tgi: StandIn, checkpoint: str, tmp_path: Path
) -> None:
    folder = shutil.copytree(checkpoint, tmp_path / "checkpoint")
    (folder / "generation_config.json").write_text('{"do_sample": true, "min_p": 0.1}')
    chat = tgi_chat(tgi.url, str(folder), client="http")
    with pytest.raises(UnsupportedFieldError, match="min_p"):
        chat.plan(USER, temperature=1.0)
    assert chat.plan(USER, temperature=1.0, min_p=0)
    chat.close()


@pytest.mark.parametrize(
    ("lost", "named"),
    [({"stopping_criteria": [object()]}, "plugins.Idle"), ({"generation_config": {"num_beams": 2}}, "plugins.Idle")],
)
def test_other_work_of_a_plugin_is_refused_under_its_name(
    tgi: StandIn, checkpoint: str, lost: dict[str, Any], named: str
) -> None:
    class Idle:
        """A plugin without fields."""

        @hookimpl
        def stopping_criteria(self) -> Any:
            return lost.get("stopping_criteria")

        @hookimpl
        def generation_config(self) -> Any:
            return lost.get("generation_config")

    chat = tgi_chat(tgi.url, checkpoint, plugins=[Idle()], client="http")
    with pytest.raises(UnsupportedFieldError) as caught:
        chat.plan(USER)
    assert caught.value.param == named
    chat.close()


def test_explain_shows_the_engine(chat: Chat) -> None:
    rows = {row.field: row for row in chat.explain({"messages": USER, "top_k": 3, "seed": 5}).fields}
    assert rows["top_k"].engines == ("generate", "continuous", "tensor_parallel", "tgi")
    assert "TopK(top_k=3)" in rows["top_k"].became[0]
