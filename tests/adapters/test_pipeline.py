"""The door in Python: ``pipeline("chat", ...)``, all its call forms, and what it refuses."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

import chatplan
from chatplan import ChatCompletion, ChatCompletionRequest, ChatPipeline, RequestError, Stream, pipeline
from chatplan.errors import PluginError, UnsupportedFieldError
from chatplan.hookspecs import hookimpl
from chatplan.standin import stand_in

HI = [{"role": "user", "content": "Hi"}]
GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 4}
TOKENIZER: Any = stand_in().tokenizer


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    made = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(TOKENIZER),
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=256,
            initializer_range=1.0,
        )
    )
    made.generation_config = GenerationConfig(eos_token_id=257, pad_token_id=256)
    return made


@pytest.fixture(scope="module")
def checkpoint(model: LlamaForCausalLM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    model.save_pretrained(folder)
    TOKENIZER.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def chat(model: LlamaForCausalLM) -> ChatPipeline:
    return pipeline("chat", model=model, tokenizer=TOKENIZER)


@pytest.fixture(scope="module")
def text(chat: ChatPipeline) -> str:
    """The greedy answer to HI."""
    answer = chat(HI, **GREEDY).text
    assert isinstance(answer, str)
    assert answer
    return answer


# --- construction -----------------------------------------------------------------------------------------------------


def test_a_loaded_model(chat: ChatPipeline, model: LlamaForCausalLM) -> None:
    assert isinstance(chat, ChatPipeline)
    assert isinstance(chat, transformers.Pipeline)
    assert chat.model is model
    assert chat.task == "chat"


def test_transformers_pipeline_is_the_same(model: LlamaForCausalLM, text: str) -> None:
    make: Any = transformers.pipeline
    chat = make("chat", model=model, tokenizer=TOKENIZER, max_tokens=4)
    assert isinstance(chat, ChatPipeline)
    assert chat(HI, temperature=0).text == text


def test_a_folder(checkpoint: Path, text: str) -> None:
    chat = pipeline("chat", model=str(checkpoint))
    answer = chat(HI, **GREEDY)
    assert (answer.text, answer.model) == (text, str(checkpoint))
    assert chat(HI, model="tiny", **GREEDY).model == "tiny"


def test_other_tasks_are_transformers_own(model: LlamaForCausalLM) -> None:
    other = pipeline("text-generation", model=model, tokenizer=TOKENIZER)
    assert type(other).__name__ == "TextGenerationPipeline"


ORDERS = {
    "chatplan first": "import chatplan, transformers",
    "transformers first": "import transformers; import chatplan",
    "pipelines first": "import transformers.pipelines; import chatplan",
    "adapter first": "import chatplan.adapters.pipeline; import transformers",
}
CHECK = """
import chatplan
from transformers.pipelines import PIPELINE_REGISTRY
assert "chat" in PIPELINE_REGISTRY.get_supported_tasks(), PIPELINE_REGISTRY.get_supported_tasks()
entry = PIPELINE_REGISTRY.check_task("chat")[1]
import chatplan.adapters.pipeline as home
assert entry["impl"] is home.ChatPipeline is chatplan.ChatPipeline
"""
# One interpreter has torch, which takes the longest, and neither of the two; each order is tried in a fork of it.
FORKS = """
import json, os, sys, torch
codes = {}
for name, script in json.loads(sys.argv[1]).items():
    child = os.fork()
    if child == 0:
        exec(script, {"__name__": "__main__"})
        os._exit(0)
    codes[name] = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
print(json.dumps(codes))
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="each order of imports needs a process of its own, here a fork")
def test_the_task_is_known_in_whatever_order_things_are_imported() -> None:
    scripts = {name: f"{first}\n{CHECK}" for name, first in ORDERS.items()}
    command = [sys.executable, "-c", FORKS, json.dumps(scripts)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == dict.fromkeys(ORDERS, 0), done.stderr


def test_defaults(model: LlamaForCausalLM, text: str) -> None:
    chat = pipeline("chat", model=model, tokenizer=TOKENIZER, **GREEDY)
    assert chat(HI).text == text
    assert chat(HI, max_tokens=2).usage.completion_tokens == 2
    assert chat(HI, max_completion_tokens=3).usage.completion_tokens == 3
    assert chat({"messages": HI, "max_tokens": None}).usage.completion_tokens == 4
    assert chat.plan(HI, temperature=0.5) != chat.plan(HI)


def test_where_layers_go_needs_a_device_map(checkpoint: Path) -> None:
    for placing in ({"max_memory": {"cpu": "1GB"}}, {"offload_folder": "x"}, {"offload_buffers": True}):
        with pytest.raises(ValueError, match=f"{next(iter(placing))}: for device_map"):
            pipeline("chat", model=str(checkpoint), **placing)


def test_the_time_between_ranks_means_nothing_to_one(model: LlamaForCausalLM, text: str) -> None:
    chat = pipeline("chat", model=model, tokenizer=TOKENIZER, tensor_parallel_size=1, tensor_parallel_seconds=5)
    assert chat(HI, **GREEDY).text == text


@pytest.mark.parametrize("engine", ["auto", "generate"])
def test_the_engine_is_the_one_that_is_named(model: LlamaForCausalLM, engine: str) -> None:
    assert pipeline("chat", model=model, tokenizer=TOKENIZER, engine=engine).chat.engine.name == "generate"


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("temperature", -1, RequestError),
        ("max_tokens", "many", RequestError),
        ("no_such_field", 1, UnsupportedFieldError),
        ("batch_size", 0, ValueError),
        ("logprobs_mode", "cooked", ValueError),
        ("disable", ["no_such_plugin"], PluginError),
        ("plugins", ["no.such.module"], PluginError),
        ("engine", "warp", PluginError),
    ],
)
def test_what_is_wrong_at_construction(model: LlamaForCausalLM, name: str, value: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=name if error is not PluginError else str(value).strip("[]'")):
        pipeline("chat", model=model, tokenizer=TOKENIZER, **{name: value})


def test_settings_and_names(model: LlamaForCausalLM) -> None:
    chat = pipeline(
        "chat",
        model=model,
        tokenizer=TOKENIZER,
        served_model_name="org/served",
        max_model_len=40,
        batch_size=2,
        max_logprobs=1,
        max_stop=1,
        logprobs_mode="processed",
    )
    info = chat.chat.model
    assert info.context_length == 40
    assert (info.settings.batch_size, info.settings.logprobs_mode) == (2, "processed")
    assert chat(HI, model="served", **GREEDY).model == "served"
    for fields in ({"logprobs": True, "top_logprobs": 2}, {"stop": ["a", "b"]}, {"max_tokens": 40}, {"model": "other"}):
        with pytest.raises(RequestError) as caught:
            chat(HI, **fields)
        assert caught.value.param == list(fields)[-1]


def test_plugins_are_used_and_left_out(model: LlamaForCausalLM) -> None:
    loud = SimpleNamespace(
        name="loud",
        request_fields=hookimpl(lambda: {"shout": float}),
        generation_config=hookimpl(lambda request: {"max_new_tokens": 1} if request.get("shout") else None),
    )
    chat = pipeline("chat", model=model, tokenizer=TOKENIZER, plugins=[loud], disable=["penalties", "length"])
    assert chat(HI, shout=0.5, temperature=0).usage.completion_tokens == 1
    for name in ("presence_penalty", "max_tokens"):
        with pytest.raises(UnsupportedFieldError, match=f"^{name}: "):
            chat(HI, shout=0.5, **{name: 1})


# --- call forms -------------------------------------------------------------------------------------------------------


def messages() -> list[Any]:
    return ChatCompletionRequest.model_validate({"messages": HI}).messages


@pytest.mark.parametrize(
    "given",
    [HI, tuple(HI), messages(), {"messages": HI}, ChatCompletionRequest.model_validate({"messages": HI})],
    ids=["messages", "tuple", "objects", "dict", "request"],
)
def test_one_request(chat: ChatPipeline, text: str, given: Any) -> None:
    answer = chat(given, **GREEDY)
    assert isinstance(answer, ChatCompletion)
    assert answer.text == text


def test_fields_of_the_request_hold_too(chat: ChatPipeline, text: str) -> None:
    assert chat({"messages": HI, **GREEDY}).text == text
    assert chat({"messages": HI, **GREEDY}, max_tokens=1).usage.completion_tokens == 1


@pytest.mark.parametrize(
    "given",
    [
        [HI, HI],
        (HI, HI),
        [{"messages": HI}, HI],
        [messages(), ChatCompletionRequest.model_validate({"messages": HI})],
        [HI],
    ],
    ids=["messages", "tuple", "mixed", "objects", "one"],
)
def test_a_list_of_requests(chat: ChatPipeline, text: str, given: Any) -> None:
    answers = chat(given, **GREEDY)
    assert [answer.text for answer in answers] == [text] * len(given)
    assert len({answer.id for answer in answers}) == len(given)


def test_a_generator_of_requests(chat: ChatPipeline, text: str) -> None:
    answers = chat((HI for _ in range(3)), **GREEDY)
    assert isinstance(answers, Iterator)
    assert [answer.text for answer in answers] == [text] * 3


def test_a_stream(chat: ChatPipeline, text: str) -> None:
    for chunks in (chat(HI, stream=True, **GREEDY), chat({"messages": HI, "stream": True, **GREEDY})):
        assert isinstance(chunks, Stream)
        assert "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices) == text


def test_in_an_event_loop(chat: ChatPipeline, text: str) -> None:
    async def all_ways() -> list[str | None]:
        chunks = [chunk async for chunk in chat.astream(HI, **GREEDY)]
        later = [chunk async for chunk in await chat.acomplete(HI, stream=True, **GREEDY)]
        streamed = ["".join(c.delta.content or "" for chunk in part for c in chunk.choices) for part in (chunks, later)]
        return [(await chat.acomplete(HI, **GREEDY)).text, *streamed]

    assert asyncio.run(all_ways()) == [text] * 3


def test_a_plan_without_generating(chat: ChatPipeline) -> None:
    plan = chat.plan(HI, **GREEDY)
    assert plan.max_new_tokens == 4
    assert plan.prompt == chat.preprocess(HI, **GREEDY)["plan"].prompt


def test_a_seed_gives_the_same_answer_alone_and_in_a_batch(chat: ChatPipeline) -> None:
    fields: dict[str, Any] = {"seed": 5, "max_tokens": 6, "temperature": 2.0, "n": 2}
    alone = chat(HI, **fields)
    (_, beside) = chat([[{"role": "user", "content": "Something longer"}], HI], **fields)
    assert [choice.message.content for choice in alone.choices] == [c.message.content for c in beside.choices]
    assert alone.choices[0].message.content != alone.choices[1].message.content


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", ["Hi", "", 5, None, {}, [], [[]], [[], HI], [5], ["Hi"], messages()[0]], ids=repr)
def test_what_is_no_request_is_refused_at_once(chat: ChatPipeline, given: Any) -> None:
    with pytest.raises(RequestError, match="messages"):
        chat(given)


def test_a_bad_field_is_refused_by_name(chat: ChatPipeline) -> None:
    with pytest.raises(RequestError, match="^top_p: .*got 2"):
        chat(HI, top_p=2)
    with pytest.raises(RequestError, match="^top_p: "):
        chat(HI, top_p=2, stream=True)


@pytest.mark.parametrize("given", [[HI, HI], iter([HI])], ids=["list", "iterator"])
def test_streams_answer_one_request(chat: ChatPipeline, given: Any) -> None:
    with pytest.raises(RequestError, match="^stream: "):
        chat(given, stream=True)


def test_an_error_in_a_list_names_the_position(chat: ChatPipeline) -> None:
    bad = {"messages": HI, "n": 0}
    with pytest.raises(RequestError) as caught:
        chat([HI, bad, HI])
    assert caught.value.param == "[1].n"
    with pytest.raises(RequestError) as caught:
        list(chat(iter([HI, HI, bad]), **GREEDY))
    assert caught.value.param == "[2].n"


def test_the_module_has_what_it_names() -> None:
    assert chatplan.pipeline is pipeline
