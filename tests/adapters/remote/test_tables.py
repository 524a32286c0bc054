"""Each field in turn, on a stand-in for each kind of server that takes nothing but what that server honours."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from chatplan import Chat, ChatCompletionRequest, UnsupportedFieldError, fold
from chatplan.adapters.remote import remote_chat
from chatplan.adapters.remote.tables import KINDS, table_for

HI = [{"role": "user", "content": "Hi"}]
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
TOOL = {"type": "function", "function": {"name": "look", "parameters": SCHEMA}}
NAMED = {"type": "function", "function": {"name": "look"}}
AS_FORMAT = {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA, "strict": True}}

# A request for each field; the field's own value comes first.
EXAMPLES: dict[str, dict[str, Any]] = {
    "messages": {"messages": [{"role": "system", "content": "Be brief."}, *HI]},
    "model": {"model": "another"},
    "frequency_penalty": {"frequency_penalty": 0.5},
    "logit_bias": {"logit_bias": {"5": 1.5}},
    "logprobs": {"logprobs": True},
    "top_logprobs": {"top_logprobs": 3, "logprobs": True},
    "max_tokens": {"max_tokens": 9},
    "max_completion_tokens": {"max_completion_tokens": 9, "max_tokens": 4},
    "n": {"n": 2},
    "presence_penalty": {"presence_penalty": 0.5},
    "response_format": {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}},
    "seed": {"seed": 7},
    "stop": {"stop": ["a", "b"]},
    "stream": {"stream": True},
    "stream_options": {"stream_options": {"include_usage": True, "continuous_usage_stats": True}, "stream": True},
    "temperature": {"temperature": 0.3},
    "top_p": {"top_p": 0.5},
    "tools": {"tools": [TOOL]},
    "tool_choice": {"tool_choice": "required", "tools": [TOOL]},
    "parallel_tool_calls": {"parallel_tool_calls": True, "tools": [TOOL]},
    "user": {"user": "ada"},
    "best_of": {"best_of": 2},
    "use_beam_search": {"use_beam_search": True},
    "top_k": {"top_k": 5},
    "min_p": {"min_p": 0.1},
    "repetition_penalty": {"repetition_penalty": 1.1},
    "length_penalty": {"length_penalty": 0.5, "use_beam_search": True},
    "stop_token_ids": {"stop_token_ids": [5]},
    "include_stop_str_in_output": {"include_stop_str_in_output": True},
    "ignore_eos": {"ignore_eos": True},
    "min_tokens": {"min_tokens": 2},
    "skip_special_tokens": {"skip_special_tokens": False},
    "spaces_between_special_tokens": {"spaces_between_special_tokens": False},
    "truncate_prompt_tokens": {"truncate_prompt_tokens": 5},
    "prompt_logprobs": {"prompt_logprobs": 1},
    "echo": {"echo": True},
    "add_generation_prompt": {"add_generation_prompt": False},
    "continue_final_message": {"continue_final_message": True, "add_generation_prompt": False},
    "add_special_tokens": {"add_special_tokens": True},
    "documents": {"documents": [{"title": "a"}]},
    "chat_template": {"chat_template": "x"},
    "chat_template_kwargs": {"chat_template_kwargs": {"a": 1}},
    "guided_json": {"guided_json": SCHEMA},
    "guided_regex": {"guided_regex": "a+"},
    "guided_choice": {"guided_choice": ["a.", 'b"']},
    "guided_grammar": {"guided_grammar": 'root ::= "a"'},
    "guided_decoding_backend": {"guided_decoding_backend": "xgrammar", "guided_json": SCHEMA},
    "guided_whitespace_pattern": {"guided_whitespace_pattern": "", "guided_json": SCHEMA},
    "priority": {"priority": 1},
    "request_id": {"request_id": "mine"},
    "structured_outputs": {"structured_outputs": {"json": SCHEMA}},
    "reasoning_effort": {"reasoning_effort": "low"},
    "include_reasoning": {"include_reasoning": False},
    "thinking_token_budget": {"thinking_token_budget": 5},
    "allowed_token_ids": {"allowed_token_ids": [5]},
    "bad_words": {"bad_words": ["x"]},
    "return_token_ids": {"return_token_ids": True},
    "return_tokens_as_token_ids": {"return_tokens_as_token_ids": True, "logprobs": True},
    "cache_salt": {"cache_salt": "salt"},
    "early_stopping": {"early_stopping": True, "use_beam_search": True},
}
STREAMED = {"stream": True, "stream_options": {"include_usage": True}}
HONOURED: dict[str, Any] = {  # by OpenAI's API and all that follow it, unless their own table says otherwise
    **{name: EXAMPLES[name] for name in "messages model frequency_penalty logit_bias logprobs top_logprobs".split()},
    **{name: EXAMPLES[name] for name in "max_tokens n presence_penalty seed stop temperature top_p user".split()},
    **{name: EXAMPLES[name] for name in "response_format reasoning_effort".split()},
    "parallel_tool_calls": {**EXAMPLES["parallel_tool_calls"], "tool_choice": "auto"},
    "max_completion_tokens": {"max_completion_tokens": 9},
    "stream": STREAMED,
    "tools": {"tools": [TOOL], "tool_choice": "auto"},
    "tool_choice": EXAMPLES["tool_choice"],
    "request_id": {},
    "include_reasoning": {},
}
GUIDED = ("guided_json", "guided_regex", "guided_choice", "guided_grammar", "structured_outputs")


def structured(**constraint: Any) -> dict[str, Any]:
    return {"structured_outputs": constraint}


def but(base: dict[str, Any], *without: str, **other: Any) -> dict[str, Any]:
    return {name: value for name, value in base.items() if name not in without} | other


def as_they_are(*names: str) -> dict[str, Any]:
    return {name: EXAMPLES[name] for name in " ".join(names).split()}


VLLM_OLD = but(
    HONOURED,
    "reasoning_effort",
    **as_they_are("use_beam_search top_k min_p repetition_penalty length_penalty stop_token_ids ignore_eos min_tokens"),
    **as_they_are("include_stop_str_in_output skip_special_tokens spaces_between_special_tokens echo documents"),
    **as_they_are("truncate_prompt_tokens prompt_logprobs add_generation_prompt continue_final_message"),
    **as_they_are("add_special_tokens chat_template chat_template_kwargs guided_json guided_regex guided_choice"),
    **as_they_are("guided_grammar guided_decoding_backend guided_whitespace_pattern stream_options"),
    structured_outputs={"guided_json": SCHEMA},
    request_id={"request_id": "mine"},
)
SENT: dict[tuple[str, str | None], dict[str, Any]] = {
    ("openai", None): but(
        HONOURED, guided_json={"response_format": AS_FORMAT}, structured_outputs={"response_format": AS_FORMAT}
    ),
    ("vllm", "0.6.4"): VLLM_OLD,
    ("vllm", "0.32.0"): but(
        VLLM_OLD,
        "guided_decoding_backend",
        "guided_whitespace_pattern",
        **as_they_are("reasoning_effort include_reasoning thinking_token_budget allowed_token_ids bad_words"),
        **as_they_are("return_token_ids return_tokens_as_token_ids cache_salt"),
        guided_json=structured(json=SCHEMA),
        guided_regex=structured(regex="a+"),
        guided_choice=structured(choice=["a.", 'b"']),
        guided_grammar=structured(grammar='root ::= "a"'),
        structured_outputs=structured(json=SCHEMA),
    ),
    ("sglang", "0.5.9"): but(
        HONOURED,
        "seed",
        **as_they_are("top_k min_p repetition_penalty min_tokens stop_token_ids ignore_eos skip_special_tokens"),
        **as_they_are("chat_template_kwargs cache_salt"),
        include_stop_str_in_output={"no_stop_trim": True},
        guided_json={"response_format": AS_FORMAT},
        structured_outputs={"response_format": AS_FORMAT},
        guided_regex={"regex": "a+"},
        guided_choice={"regex": '(a\\.|b")'},
        guided_grammar={"ebnf": 'root ::= "a"'},
        request_id={"rid": "mine"},
    ),
    ("llama.cpp", "b8123-0177c34"): but(
        HONOURED,
        "reasoning_effort",
        **as_they_are("min_p ignore_eos chat_template_kwargs add_generation_prompt top_k"),
        logprobs={"logprobs": True, "top_logprobs": 1},
        repetition_penalty={"repeat_penalty": 1.1},
        guided_json={"json_schema": SCHEMA},
        structured_outputs={"json_schema": SCHEMA},
        guided_choice={"grammar": 'root ::= "a." | "b\\""'},
        guided_grammar={"grammar": 'root ::= "a"'},
        user={},
    ),
    ("tgi", "3.3.5"): but(
        HONOURED,
        *("n", "logit_bias", "presence_penalty", "parallel_tool_calls", "reasoning_effort"),
        model={"model": "another"},
        max_completion_tokens={"max_tokens": 9},
        user={},
        response_format={"response_format": {"type": "json", "value": SCHEMA}},
        guided_json={"response_format": {"type": "json", "value": SCHEMA}},
        structured_outputs={"response_format": {"type": "json", "value": SCHEMA}},
        guided_regex={"response_format": {"type": "regex", "value": "a+"}},
        guided_choice={"response_format": {"type": "regex", "value": '(a\\.|b")'}},
    ),
    ("chatplan", "0.1.0"): but(
        EXAMPLES,
        stream=STREAMED,
        tools=HONOURED["tools"],
        parallel_tool_calls=HONOURED["parallel_tool_calls"],
        max_completion_tokens={"max_completion_tokens": 9},
    ),
}


@pytest.fixture(scope="module")
def ask(shared_peer: Any) -> Iterator[Callable[..., Chat]]:
    """A chat with the stand-in as if it were such a server; each is made once."""
    made: dict[Any, Chat] = {}

    def make(kind: str, version: str | None = "1", **options: Any) -> Chat:
        key = (kind, version, str(options))
        if key not in made:
            known: Any = {"server": kind, "version": version or "1", "model": "stand-in"}
            made[key] = remote_chat(shared_peer.url, **known, timeout=10, **options)
        return made[key]

    yield make
    for chat in made.values():
        chat.close()


CASES = [(*server, field) for server in SENT for field in EXAMPLES]


def test_every_field_and_every_kind_of_server_is_tried() -> None:
    assert set(EXAMPLES) == set(ChatCompletionRequest.model_fields)
    assert {kind for kind, _ in SENT} == set(KINDS)


@pytest.mark.parametrize(("kind", "version", "field"), CASES)
def test_each_field_is_sent_as_the_server_knows_it_or_refused(
    ask: Callable[..., Any], peer: Any, kind: str, version: str | None, field: str
) -> None:
    chat, request, honoured = ask(kind, version), {"messages": HI, **EXAMPLES[field]}, SENT[kind, version]
    peer.replies = [(200, events() if "stream" in request else answers(request.get("n", 1)))]
    if field not in honoured:
        with pytest.raises(UnsupportedFieldError) as refused:
            chat(request)
        # Where two fields belong together, either is a good one to name.
        assert refused.value.param in EXAMPLES[field]
        assert not peer.got
        return
    answer = chat(request)
    if "stream" in request:
        assert fold(answer).text == "x"
    body, headers = peer.got[-1]
    id_field = {"vllm": "request_id", "chatplan": "request_id", "sglang": "rid"}.get(kind)
    identity = {id_field: "mine" if field == "request_id" else headers["x-request-id"]} if id_field else {}
    stream = STREAMED if "stream" in request else {}
    assert body == {"model": "stand-in", "messages": HI, **stream, **honoured[field], **identity}


def answers(count: int) -> dict[str, Any]:
    choices = [
        {"index": index, "message": {"role": "assistant", "content": "x"}, "finish_reason": "stop"}
        for index in range(count)
    ]
    return {"id": "theirs", "created": 1, "model": "m", "choices": choices}


def events() -> list[Any]:
    return [{"id": "theirs", "choices": [{"index": 0, "delta": {"content": "x"}, "finish_reason": "stop"}]}, "[DONE]"]


REFUSED: list[tuple[str, str | None, dict[str, Any], str]] = [
    ("openai", None, {"stop": ["a", "b", "c", "d", "e"]}, "stop"),
    ("openai", None, {"temperature": 2.5}, "temperature"),
    ("openai", None, {"response_format": {"type": "structural_tag", "format": {}}}, "response_format"),
    ("openai", None, {"structured_outputs": {"regex": "a"}}, "structured_outputs"),
    ("openai", None, {"structured_outputs": {"json": SCHEMA, "disable_any_whitespace": True}}, "structured_outputs"),
    ("openai", None, {"guided_json": SCHEMA, "tools": [TOOL], "tool_choice": "required"}, "tool_choice"),
    ("vllm", "0.32", {"use_beam_search": True, "n": 2, "frequency_penalty": 1}, "use_beam_search"),
    ("vllm", "0.32", {"structured_outputs": {"json": SCHEMA, "whitespace_pattern": ""}}, "structured_outputs"),
    ("vllm", "0.9", {"structured_outputs": {"structural_tag": {"format": {}}}}, "structured_outputs"),
    ("sglang", "1", {"guided_grammar": 'start: "a"'}, "guided_grammar"),
    ("llama.cpp", "b9999", {"guided_grammar": 'start: "a"'}, "guided_grammar"),
    ("llama.cpp", "b5000-abc", {"n": 2}, "n"),
    ("llama.cpp", "b9999", {"tools": [TOOL], "tool_choice": NAMED}, "tool_choice"),
    ("llama.cpp", "b9999", {"seed": -3}, "seed"),
    ("tgi", None, {"stop": ["a", "b", "c", "d", "e"]}, "stop"),
    ("tgi", None, {"logprobs": True, "top_logprobs": 6}, "top_logprobs"),
    ("tgi", None, {"seed": -3}, "seed"),
    ("tgi", None, {"guided_json": {"type": "array"}}, "guided_json"),
    ("tgi", None, {"response_format": {"type": "json_object"}}, "response_format"),
]


@pytest.mark.parametrize(("kind", "version", "fields", "param"), REFUSED)
def test_values_that_are_refused(
    ask: Callable[..., Any], peer: Any, kind: str, version: str | None, fields: dict[str, Any], param: str
) -> None:
    with pytest.raises(UnsupportedFieldError) as refused:
        ask(kind, version)(HI, **fields)
    assert refused.value.param == param
    assert not peer.got


def test_values_that_change(ask: Callable[..., Any], peer: Any) -> None:
    ask("tgi")(HI, top_p=1.0, stop="a")
    assert "top_p" not in peer.body
    assert peer.body["stop"] == ["a"]
    ask("llama.cpp")(HI, top_k=-1)
    assert peer.body["top_k"] == 0


def test_no_tools_are_sent_that_may_not_be_called(ask: Callable[..., Any], peer: Any) -> None:
    ask("vllm", "0.32")(HI, tools=[TOOL], tool_choice="none")
    assert not {"tools", "tool_choice"} & set(peer.body)


def test_types_are_written_out(ask: Callable[..., Any], peer: Any) -> None:
    call = {"id": "1", "function": {"name": "look", "arguments": "{}"}}
    talk = [*HI, {"role": "assistant", "tool_calls": [call]}, {"role": "tool", "tool_call_id": "1", "content": "x"}]
    tool = {"function": {"name": "look"}}
    ask("openai", None)(talk, tools=[tool], tool_choice={"function": {"name": "look"}})
    assert peer.body["messages"][1]["tool_calls"] == [{**call, "type": "function"}]
    assert peer.body["tools"] == [{**tool, "type": "function"}]
    assert peer.body["tool_choice"] == NAMED


def test_structural_tags_are_texts_for_vllm(ask: Callable[..., Any], peer: Any) -> None:
    tag = {"type": "const_string", "value": "x"}
    ask("vllm", "0.32")(HI, structured_outputs={"structural_tag": {"type": "structural_tag", "format": tag}})
    sent = peer.body["structured_outputs"]["structural_tag"]
    assert json.loads(sent) == {"type": "structural_tag", "format": tag}


def test_sglang_says_what_it_was_started_with() -> None:
    told = {"enable_deterministic_inference": True, "enable_priority_scheduling": True}
    assert "seed" in table_for("sglang", None, told).rules
    assert "priority" not in table_for("sglang", None, told).rules
    assert "priority" in table_for("sglang", None, {**told, "schedule_low_priority_values_first": True}).rules


@pytest.mark.parametrize("version", [None, "dev", "0.11.1rc2.dev5+gabc"])
def test_versions_that_are_no_releases(version: str | None) -> None:
    assert ("guided_whitespace_pattern" in table_for("vllm", version).rules) == (
        version is not None and "0.11" in version
    )


def test_allow_sends_what_the_table_refuses(ask: Callable[..., Any], peer: Any) -> None:
    ask("vllm", "0.32", allow=["priority"])(HI, priority=3)
    assert peer.body["priority"] == 3


# --- the documentation ------------------------------------------------------------------------------------------------

COLUMNS = [("vllm", "0.32.0"), ("vllm", "0.6.4"), ("sglang", "0.5.9"), ("llama.cpp", "b8123-0177c34"), ("tgi", "3.3.5")]
PAGE = Path(__file__).parents[3] / "docs" / "remote.md"


def cell(server: tuple[str, str | None], field: str) -> str:
    """What docs/remote.md says of a field."""
    if field not in SENT[server]:
        return "\N{EN DASH}"
    sent = SENT[server][field]
    if field in sent:
        return "yes"
    return f"as `{next(iter(sent))}`" if sent else "here"


def test_the_documentation_has_this_table() -> None:
    wanted = [
        f"| `{field}` | " + " | ".join(cell(server, field) for server in (*COLUMNS, ("openai", None))) + " |"
        for field in EXAMPLES
    ]
    found = [line for line in PAGE.read_text("utf-8").splitlines() if line.startswith("| `")]
    assert [line for line in found if line.count("|") == 8] == wanted
