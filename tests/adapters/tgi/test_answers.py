"""Answers of a TGI server come back in our shapes: text, stops, log-probabilities, usage, choices, calls."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import pytest
from starlette.responses import JSONResponse, StreamingResponse
from tokenizers.processors import TemplateProcessing
from waiting import wait_until

from chatplan import Chat, EngineError, UnsupportedFieldError
from chatplan.adapters.tgi import TGIEngine, tgi_chat
from chatplan.adapters.tgi.parameters import Limits, text_of
from chatplan.answering import can_parse

if TYPE_CHECKING:
    from tests.adapters.tgi.conftest import StandIn

USER = [{"role": "user", "content": "What is the capital of France?"}]
CLIENT = "text-generation" if find_spec("text_generation") else "http"
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "parameters": {"type": "object", "properties": {"city": {"enum": ["Paris", "Rome"]}}, "required": ["city"]},
        },
    }
]


@pytest.fixture(scope="module")
def chat(server: StandIn, checkpoint: str) -> Iterator[Chat]:
    made = tgi_chat(server.url, checkpoint, client=CLIENT, temperature=0)
    yield made
    made.close()


@pytest.fixture(scope="module")
def http_chat(server: StandIn, checkpoint: str) -> Iterator[Chat]:
    """The same by plain HTTP, whose bodies a test may state."""
    made = tgi_chat(server.url, checkpoint, client="http", temperature=0)
    yield made
    made.close()


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"max_tokens": 3},
        {"guided_choice": ["Rome", "Paris"]},
        {"frequency_penalty": 1.0, "repetition_penalty": 1.1},
        {"messages": [*USER, {"role": "assistant", "content": "It is"}], "add_generation_prompt": False,
         "continue_final_message": True, "echo": True},
        {"truncate_prompt_tokens": 12},
    ],
    ids=str,
)  # fmt: skip
def test_answer_is_that_of_the_model(chat: Chat, tgi: StandIn, here: Chat, fields: dict[str, Any]) -> None:
    compare(chat, here, {"messages": USER, "max_tokens": 12, **fields})


@pytest.mark.parametrize("kept", [False, True])
def test_stops_are_those_of_the_model(chat: Chat, tgi: StandIn, here: Chat, kept: bool) -> None:
    text = here(USER, max_tokens=12, temperature=0).text
    answer = compare(chat, here, {"messages": USER, "max_tokens": 12, "stop": [text[3:6]],
                                  "include_stop_str_in_output": kept})  # fmt: skip
    assert (answer.text, answer.choices[0].stop_reason) == (text[: text.index(text[3:6]) + 3 * kept], text[3:6])


def compare(chat: Chat, here: Chat, request: dict[str, Any]) -> Any:
    """The answer, which is the same there and here."""
    there, local = chat(request), here(request, temperature=0)
    for one, other in zip(there.choices, local.choices, strict=True):
        assert one.message.content == other.message.content
        assert (one.finish_reason, one.stop_reason) == (other.finish_reason, other.stop_reason)
    assert there.usage == local.usage
    return there


def test_log_probabilities_are_of_the_distribution_drawn_from(chat: Chat, tgi: StandIn, here: Chat) -> None:
    fields = {"max_tokens": 3, "logprobs": True, "top_logprobs": 2, "prompt_logprobs": 0}
    there, local = chat(USER, **fields), here(USER, temperature=0, **fields)
    for one, other in zip(there.choices[0].logprobs.content, local.choices[0].logprobs.content, strict=True):
        assert one.token == other.token
        assert one.logprob == pytest.approx(other.logprob, abs=1e-3)
        assert [top.token for top in one.top_logprobs] == [top.token for top in other.top_logprobs]
    assert there.prompt_logprobs[0] is None
    for mine, its in zip(there.prompt_logprobs[1:], local.prompt_logprobs[1:], strict=True):
        assert mine.keys() == its.keys()
        assert [v.logprob for v in mine.values()] == pytest.approx([v.logprob for v in its.values()], abs=1e-3)
        assert [v.decoded_token for v in mine.values()] == [v.decoded_token for v in its.values()]


def test_log_probabilities_of_a_cut_prompt_are_of_what_is_left(http_chat: Chat, tgi: StandIn) -> None:
    answer = http_chat(USER, max_tokens=1, prompt_logprobs=0, truncate_prompt_tokens=9)
    assert len(answer.prompt_logprobs) == 9
    other = next(body["parameters"] for body in tgi.sent if "decoder_input_details" in body["parameters"])
    assert other == {
        "do_sample": False, "max_new_tokens": 1, "details": True, "decoder_input_details": True, "truncate": 9,
    }  # fmt: skip


def test_a_report_on_another_prompt_is_an_error(http_chat: Chat, tgi: StandIn) -> None:
    prefill = [{"id": 5, "text": "a", "logprob": None}]
    details = {"finish_reason": "length", "generated_tokens": 1, "seed": None, "prefill": prefill, "tokens": []}
    tgi.answers.append(lambda: JSONResponse({"generated_text": "", "details": {**details, "top_tokens": []}}))
    engine: Any = http_chat.engine
    with pytest.raises(EngineError, match="tells of 1 prompt tokens"):
        engine.prompt_logprobs(http_chat.plan(USER, prompt_logprobs=0))


def test_choices_are_requests_with_seeds_of_their_own(chat: Chat, tgi: StandIn) -> None:
    answer = chat(USER, n=3, seed=7, temperature=1.0, max_tokens=4)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert sorted(body["parameters"]["seed"] for body in tgi.sent) == [7, 8, 9]
    assert answer.usage.completion_tokens == 12


def test_best_of_is_the_likeliest(http_chat: Chat, tgi: StandIn) -> None:
    tgi.answers.append(lambda: JSONResponse(samples([-2.0, -2.0], [-1.0, -1.5])))
    answer = http_chat(USER, best_of=2, temperature=1.0, max_tokens=2, logprobs=True, top_logprobs=2)
    assert tgi.sent[0]["parameters"]["best_of"] == 2
    assert len(tgi.sent) == len(answer.choices) == 1
    found = answer.choices[0].logprobs.content
    assert [entry.logprob for entry in found] == [-1.0, -1.5]
    # The likeliest of its place is listed beside the drawn token.
    assert [[top.logprob for top in entry.top_logprobs] for entry in found] == [[-1.0, -0.5], [-1.5, -0.5]]
    assert answer.text == "BB"


def samples(*logprobs: list[float]) -> dict[str, Any]:
    """An answer to best_of: one sample for each list."""
    made = []
    for token_id, values in enumerate(logprobs, start=32):  # A, B
        tokens = [{"id": token_id, "text": "?", "logprob": value, "special": False} for value in values]
        tops = [[{"id": 5, "text": "&", "logprob": -0.5, "special": False}] for _ in values]
        made.append({"tokens": tokens, "top_tokens": tops, "generated_text": "?", "generated_tokens": len(values),
                     "finish_reason": "length", "seed": None, "prefill": []})  # fmt: skip
    return {"generated_text": "?", "details": {**made[0], "best_of_sequences": made[1:]}}


def test_fewer_samples_than_asked_for_are_an_error(http_chat: Chat, tgi: StandIn) -> None:
    tgi.answers.append(lambda: JSONResponse(samples([-2.0])))
    with pytest.raises(EngineError, match="1 samples came, not 2"):
        http_chat(USER, best_of=2, temperature=1.0, max_tokens=1)


def test_best_of_is_drawn_by_the_server(chat: Chat, tgi: StandIn) -> None:
    answer = chat(USER, best_of=2, temperature=1.0, max_tokens=4, logprobs=True)
    assert answer.usage.completion_tokens == len(answer.choices[0].logprobs.content)


# --- streams ----------------------------------------------------------------------------------------------------------


def test_stream_comes_token_by_token(chat: Chat, tgi: StandIn, here: Chat) -> None:
    tgi.held_after = 1
    text = ""
    for chunk in chat(USER, stream=True, max_tokens=4):
        text += chunk.choices[0].delta.content or ""
        if text:  # the first came, while the server keeps the others
            tgi.go.set()
    assert text == here(USER, temperature=0, max_tokens=4).text


def test_reader_who_leaves_ends_the_request(chat: Chat, tgi: StandIn) -> None:
    tgi.held_after = 2
    with chat(USER, stream=True, max_tokens=12) as stream:
        next(chunk for chunk in stream if chunk.choices[0].delta.content)
        assert (tgi.open, chat.engine.stats().running) == (1, 1)
    wait_until(lambda: not tgi.open)
    wait_until(lambda: not chat.engine.stats().running)
    assert stream.run.tokens[1] <= 2


def test_answer_that_is_cut_here_ends_the_request(chat: Chat, tgi: StandIn) -> None:
    """The server looks for stops where a token ends; this one lies within a special token's text."""
    tgi.says, tgi.held_after = [65, 258, 66, 67], 2
    answer = chat(USER, max_tokens=12, stop=["im_st"], skip_special_tokens=False)
    assert answer.text == "b<|"
    wait_until(lambda: not tgi.open)


def test_cancelled_task_ends_the_request(chat: Chat, tgi: StandIn) -> None:
    tgi.held_after = 1

    async def leave() -> None:
        task = asyncio.create_task(chat.acomplete(USER, max_tokens=12))
        await asyncio.to_thread(wait_until, lambda: tgi.open)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(leave())
    wait_until(lambda: not tgi.open)


def test_an_end_that_only_the_server_knows_is_one(chat: Chat, tgi: StandIn) -> None:
    """Its context may be over, or it stops where the checkpoint's tokenizer here would not."""
    for reason, expected in (("length", "length"), ("eos_token", "stop"), ("stop_sequence", "stop")):
        token = {"id": 65, "text": "b", "logprob": None, "special": False}
        details = {"finish_reason": reason, "generated_tokens": 1, "seed": None}
        event = {"index": 1, "token": token, "top_tokens": [], "generated_text": "b", "details": details}
        line = f"data:{json.dumps(event)}\n\n"
        tgi.answers.append(partial(StreamingResponse, iter([line]), media_type="text/event-stream"))
        choice = chat(USER, max_tokens=9, logprobs=True).choices[0]
        assert (choice.message.content, choice.finish_reason) == ("b", expected)
        assert choice.logprobs.content[0].logprob == -9999.0  # the server cannot say it


def test_batch_is_answered_in_order(chat: Chat, tgi: StandIn, here: Chat) -> None:
    requests = [{"messages": USER, "guided_regex": f"{word}[a-z]{{3}}", "max_tokens": 9} for word in ("hi", "no")]
    answers = chat(requests)
    assert [a.text for a in answers] == [a.text for a in here(requests, temperature=0)]
    assert [a.text[:2] for a in answers] == ["hi", "no"]


@pytest.mark.dev_only
def test_calls_of_tools_are_enforced_and_read(chat: Chat, tgi: StandIn) -> None:
    assert can_parse()
    answer = chat(USER, tools=TOOLS, tool_choice="required", max_tokens=120)
    (call,) = answer.choices[0].message.tool_calls
    assert call.function.name == "get_weather"
    assert answer.choices[0].finish_reason == "tool_calls"
    assert tgi.sent[0]["parameters"]["grammar"]["type"] == "regex"


def test_credentials_and_headers_are_sent(tgi: StandIn, checkpoint: str) -> None:
    chat = tgi_chat(tgi.url, checkpoint, api_key="secret", headers={"X-Team": "blue"}, temperature=0)
    chat(USER, max_tokens=2)
    chat.close()
    assert tgi.headers[0]["authorization"] == "Bearer secret"
    assert tgi.headers[0]["x-team"] == "blue"


def test_limits_are_the_servers_own(tgi: StandIn, checkpoint: str) -> None:
    tgi.info = {"max_total_tokens": 90, "max_best_of": 1, "max_stop_sequences": 2}
    chat = tgi_chat(tgi.url, checkpoint)
    assert chat.model.context_length == 90
    for field, value in (("stop", ["a", "b", "c"]), ("best_of", 2), ("max_tokens", 80)):
        with pytest.raises(Exception, match=field):
            chat.plan(USER, **{field: value})
    chat.close()


# --- the beginning of the prompt --------------------------------------------------------------------------------------


def with_bos(chat: Chat, template: str) -> TGIEngine:
    """An engine for a tokenizer that puts BOS first, with a chat template."""
    engine = chat.engine
    assert isinstance(engine, TGIEngine)
    tokenizer = chat.model.tokenizer
    bos = str(tokenizer.bos_token)
    processor = TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, int(tokenizer.bos_token_id or 0))])
    tokenizer.backend_tokenizer.post_processor = processor
    tokenizer.chat_template = template
    return engine


@pytest.mark.parametrize("kept", [None, 100])
@pytest.mark.parametrize("written", [True, False])
def test_bos_is_not_doubled(tgi: StandIn, checkpoint: str, written: bool, kept: int | None) -> None:
    chat = tgi_chat(tgi.url, checkpoint, client="http", temperature=0)
    with_bos(chat, "{{ bos_token }}{{ messages[0].content }}" if written else "{{ messages[0].content }}")
    plan = chat.plan(USER, add_special_tokens=not written, truncate_prompt_tokens=kept)
    assert plan.prompt.token_ids.count(chat.model.tokenizer.bos_token_id) == 1
    assert text_of(plan, chat.model) == USER[0]["content"]
    chat.close()


def test_prompt_that_would_be_read_otherwise_is_refused(tgi: StandIn, checkpoint: str) -> None:
    chat = tgi_chat(tgi.url, checkpoint, client="http", temperature=0)
    with_bos(chat, "{{ messages[0].content }}")
    with pytest.raises(UnsupportedFieldError, match="add_special_tokens"):
        chat(USER)
    assert not tgi.sent
    chat.close()


def test_defaults_of_limits_are_those_of_tgi() -> None:
    assert Limits() == Limits(best_of=2, stops=4, tokens=None)
