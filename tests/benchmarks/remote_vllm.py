"""Each field in turn through the engine ``remote`` to a real vLLM server: does it have its effect?

    CHATPLAN_PEERS=FOLDER python tests/benchmarks/remote_vllm.py [--url http://host:port] [--quick]

vLLM's CPU build is started from ``$CHATPLAN_PEERS/vllm`` as ``serving/README.md`` says, unless ``--url`` names a server
that runs with SmolLM2-135M-Instruct. Without either there is nothing to do. Not a measurement. ``--quick`` asks
``chatplan serve`` with a tiny model in vLLM's place for some fields of each kind.
"""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from quick import arguments, checkpoint

from chatplan import Chat, ChatCompletion, ChatCompletionRequest, ChatplanError, UnsupportedFieldError
from chatplan.adapters.remote import remote_chat

HERE = Path(__file__).parent
ASK: list[Any] = [{"role": "user", "content": "Name three fruits."}]
START: list[Any] = [*ASK, {"role": "assistant", "content": "Three fruits are"}]
SCHEMA = {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"], "additionalProperties": False}
TOOL = {"type": "function", "function": {"name": "look", "description": "Look it up.", "parameters": SCHEMA}}
FORMAT = {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}
GREEDY: dict[str, Any] = {"messages": ASK, "temperature": 0, "max_tokens": 8}
LONG = {"max_tokens": 60, "ignore_eos": True}
Check = Callable[[ChatCompletion, ChatCompletion], object]


def text(answer: ChatCompletion) -> str:
    return answer.choices[0].message.content or ""


def count(answer: ChatCompletion) -> int:
    return 0 if answer.usage is None else answer.usage.completion_tokens


def prompt(answer: ChatCompletion) -> int:
    return 0 if answer.usage is None else answer.usage.prompt_tokens


def is_json(answer: ChatCompletion) -> bool:
    return json.loads(text(answer)) in ({"a": 1}, {"a": 2})


def differs(answer: ChatCompletion, plain: ChatCompletion) -> bool:
    return text(answer) != text(plain)


# What is asked beside GREEDY, and what the answer must be; the second argument is the answer without it.
FIELDS: dict[str, tuple[dict[str, Any], Check]] = {
    "messages": (
        {"messages": [{"role": "system", "content": "Speak French."}, *ASK]},
        lambda a, b: prompt(a) != prompt(b),
    ),
    "model": ({}, lambda a, _: "mollm2" in a.model.lower()),
    "frequency_penalty": ({"frequency_penalty": 2, **LONG}, differs),
    "logit_bias": ({"logit_bias": {"28": 100}, "max_tokens": 3}, differs),
    "logprobs": ({"logprobs": True}, lambda a, _: len(a.choices[0].logprobs.content) == count(a)),  # type: ignore[union-attr]
    "top_logprobs": (
        {"logprobs": True, "top_logprobs": 3},
        lambda a, _: {len(each.top_logprobs) for each in a.choices[0].logprobs.content} == {3},  # type: ignore[union-attr]
    ),
    "max_tokens": ({"max_tokens": 3}, lambda a, _: count(a) == 3),
    "max_completion_tokens": ({"max_completion_tokens": 2}, lambda a, _: count(a) == 2),
    "n": ({"n": 3, "temperature": 1, "seed": 1}, lambda a, _: len({each.message.content for each in a.choices}) == 3),
    "presence_penalty": ({"presence_penalty": 2, **LONG}, differs),
    "response_format": ({"response_format": FORMAT, "max_tokens": 40}, lambda a, _: is_json(a)),
    "seed": ({"seed": 5, "temperature": 1}, lambda a, _: True),
    "stop": ({"stop": ["anan"]}, lambda a, _: text(a).endswith("B") and a.choices[0].stop_reason == "anan"),
    "temperature": ({"temperature": 2, "seed": 3}, differs),
    "top_p": ({"temperature": 2, "seed": 3, "top_p": 0.0001}, lambda a, b: not differs(a, b)),
    "tools": ({"tools": [TOOL], "tool_choice": "none"}, lambda a, b: not differs(a, b)),
    "tool_choice": (
        {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "look"}}, "max_tokens": 150},
        lambda a, _: a.choices[0].message.tool_calls[0].function.name == "look",
    ),
    "parallel_tool_calls": (
        {"tools": [TOOL], "tool_choice": "required", "parallel_tool_calls": False, "max_tokens": 60},
        lambda a, _: len(a.choices[0].message.tool_calls) == 1,
    ),
    "user": ({"user": "ada"}, lambda a, b: not differs(a, b)),
    "use_beam_search": ({"use_beam_search": True, "n": 2}, lambda a, _: len(a.choices) == 2),
    "length_penalty": ({"use_beam_search": True, "n": 2, "length_penalty": 0.1}, lambda a, _: len(a.choices) == 2),
    "top_k": ({"temperature": 2, "seed": 3, "top_k": 1}, lambda a, b: not differs(a, b)),
    "min_p": ({"temperature": 2, "seed": 3, "min_p": 1.0}, lambda a, b: not differs(a, b)),
    "repetition_penalty": ({"repetition_penalty": 2.0, **LONG}, differs),
    "stop_token_ids": ({"stop_token_ids": [30]}, lambda a, _: text(a) == "1" and a.choices[0].stop_reason == 30),
    "include_stop_str_in_output": (
        {"stop": ["anan"], "include_stop_str_in_output": True},
        lambda a, _: text(a).endswith("anan"),
    ),
    "ignore_eos": ({"ignore_eos": True, "max_tokens": 120}, lambda a, _: count(a) == 120),
    "min_tokens": ({"min_tokens": 100, "max_tokens": 110}, lambda a, _: count(a) >= 100),
    "skip_special_tokens": (
        {"skip_special_tokens": False, "guided_choice": ["yes"], "ignore_eos": False},
        lambda a, _: "yes" in text(a),
    ),
    "spaces_between_special_tokens": ({"spaces_between_special_tokens": False}, lambda a, b: not differs(a, b)),
    "truncate_prompt_tokens": ({"truncate_prompt_tokens": 9}, lambda a, _: prompt(a) == 9),
    "prompt_logprobs": ({"prompt_logprobs": 1}, lambda a, _: len(a.prompt_logprobs or ()) == prompt(a)),
    "echo": (
        {"messages": START, "echo": True, "continue_final_message": True, "add_generation_prompt": False},
        lambda a, _: text(a).startswith("Three fruits are"),
    ),
    "add_generation_prompt": ({"add_generation_prompt": False}, lambda a, b: prompt(a) < prompt(b)),
    "continue_final_message": (
        {"messages": START, "continue_final_message": True, "add_generation_prompt": False},
        lambda a, _: not text(a).startswith("Three"),
    ),
    "add_special_tokens": ({"add_special_tokens": True}, lambda a, b: prompt(a) >= prompt(b)),
    "documents": ({"documents": [{"title": "a", "text": "b"}]}, lambda a, b: not differs(a, b)),
    "chat_template": ({"chat_template": "{{ messages[0].content }}"}, lambda a, b: prompt(a) < prompt(b)),
    "chat_template_kwargs": ({"chat_template_kwargs": {"a": 1}}, lambda a, b: not differs(a, b)),
    "guided_json": ({"guided_json": SCHEMA, "max_tokens": 40}, lambda a, _: is_json(a)),
    "guided_regex": ({"guided_regex": r"\d{3}-\d{4}"}, lambda a, _: re.fullmatch(r"\d{3}-\d{4}", text(a))),
    "guided_choice": ({"guided_choice": ["red", "blue"]}, lambda a, _: text(a) in ("red", "blue")),
    "guided_grammar": ({"guided_grammar": 'root ::= "ab" | "cd"'}, lambda a, _: text(a) in ("ab", "cd")),
    "structured_outputs": ({"structured_outputs": {"regex": "[ab]{4}"}}, lambda a, _: re.fullmatch("[ab]{4}", text(a))),
    "request_id": ({"request_id": "mine"}, lambda a, _: a.id == "chatcmpl-mine"),
    "reasoning_effort": ({"reasoning_effort": "low"}, lambda a, b: not differs(a, b)),
    "include_reasoning": ({"include_reasoning": False}, lambda a, _: a.choices[0].message.reasoning_content is None),
    "thinking_token_budget": ({"thinking_token_budget": 5}, lambda a, _: count(a) > 0),
    "allowed_token_ids": ({"allowed_token_ids": [28, 29]}, differs),
    "bad_words": ({"bad_words": ["Bananas"]}, lambda a, b: "Bananas" in text(b) and "Bananas" not in text(a)),
    "return_token_ids": (
        {"return_token_ids": True},
        lambda a, _: len(a.choices[0].token_ids or ()) == count(a) and len(a.prompt_token_ids or ()) == prompt(a),
    ),
    "return_tokens_as_token_ids": (
        {"return_tokens_as_token_ids": True, "logprobs": True},
        lambda a, _: a.choices[0].logprobs.content[0].token.startswith("token_id:"),  # type: ignore[union-attr]
    ),
    "cache_salt": ({"cache_salt": "salt"}, lambda a, b: not differs(a, b)),
    "best_of": ({"best_of": 2, "temperature": 1}, lambda a, _: True),
    "guided_decoding_backend": ({"guided_decoding_backend": "outlines", "guided_json": SCHEMA}, lambda a, _: True),
    "guided_whitespace_pattern": ({"guided_whitespace_pattern": "", "guided_json": SCHEMA}, lambda a, _: True),
    "priority": ({"priority": 1}, lambda a, _: True),
    "early_stopping": ({"early_stopping": True, "use_beam_search": True}, lambda a, _: True),
}
QUICK = ("model", "logprobs", "max_tokens", "n", "tool_choice", "prompt_logprobs", "echo", "guided_regex", "request_id",
         "best_of", "priority")  # fmt: skip
ELSEWHERE = {"stream", "stream_options"}  # all that is honoured is asked as a stream, too


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--url", help="a vLLM server that runs")
    options = parser.parse_args()
    assert set(FIELDS) | ELSEWHERE == set(ChatCompletionRequest.model_fields)
    peers = os.environ.get("CHATPLAN_PEERS")
    if options.url is None and not options.quick and (peers is None or not Path(peers, "vllm").is_dir()):
        print("no vLLM in CHATPLAN_PEERS, and no --url: nothing to do")
        return
    with started(options.quick) if options.url is None else given(options.url) as url:
        chat = remote_chat(url, timeout=120)
        print(f"{chat.model.name}, {chat.model.context_length} tokens")
        failed = [name for name in (QUICK if options.quick else FIELDS) if not tried(chat, name)]
        stopped = stops(chat)
        chat.close()
    print(f"without effect or broken: {', '.join(failed) or 'none'}; a stream that is left stops: {stopped}")


def tried(chat: Chat, name: str) -> bool:
    """Prints what becomes of a field. Whether it is honoured or refused."""
    more, check = FIELDS[name]
    try:
        plain = chat({**GREEDY, **{key: more[key] for key in LONG if key in more}})
        answer = chat({**GREEDY, **more})
        good = bool(check(answer, plain))
        streamed = name in ("prompt_logprobs",) or same_streamed(chat, {**GREEDY, **more}, answer)
        what = "honoured" if good and streamed else f"NO EFFECT: {text(answer)!r}" if streamed else "STREAM DIFFERS"
    except UnsupportedFieldError as error:
        good, what, streamed = True, f"refused here: {error.param}", True
    except ChatplanError as error:
        good, streamed = error.status == 400, True
        what = f"refused by the server, {error.param}: {error.message[:150]}" if good else f"FAILED: {error}"
    except Exception as error:
        good, streamed, what = False, True, f"FAILED: {type(error).__name__}: {error}"
    print(f"{name:<32}{what}", flush=True)
    return good and streamed


def same_streamed(chat: Chat, request: dict[str, Any], answer: ChatCompletion) -> bool:
    """Whether its stream is the same answer; drawn ones are so by their seed."""
    from chatplan import fold

    with chat.stream(request, stream_options={"include_usage": True}) as stream:
        found = fold(stream)
    texts = [[choice.message.content or "" for choice in each.choices] for each in (found, answer)]
    return texts[0] == texts[1] and found.usage is not None and count(found) == count(answer)


def stops(chat: Chat) -> bool:
    """Whether the server has nothing to do soon after a reader left."""
    with chat.stream(ASK, max_tokens=2000, ignore_eos=True, min_tokens=1900) as stream:
        for _ in range(5):
            next(stream)
    began = time.monotonic()
    chat({**GREEDY, "max_tokens": 1})
    return time.monotonic() - began < 5


@contextmanager
def started(quick: bool) -> Iterator[str]:
    """The address of vLLM's CPU build, with the checkpoint of ``CHATPLAN_MODEL``; or of what stands for it."""
    sys.path.insert(0, str(HERE / "serving"))
    import servers

    allowed = "--trust-request-chat-template --enable-auto-tool-choice --tool-call-parser hermes".split()
    servers.SERVERS["vllm-fields"] = servers.vllm("--enforce-eager", *allowed)
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "log")
        own = ("chatplan", checkpoint(), "float32", 1, log)
        vllm = ("vllm-fields", os.environ.get("CHATPLAN_MODEL", ""), "bfloat16", 2, log)
        with servers.start(*(own if quick else vllm), patience=300) as server:
            yield server.url


@contextmanager
def given(url: str) -> Iterator[str]:
    yield url


if __name__ == "__main__":
    main()
