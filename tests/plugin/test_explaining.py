"""Which field, by which plugin, became what."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import LogitsProcessor

from chatplan.capabilities import UNSUPPORTED
from chatplan.explaining import Explanation, FieldEffect, explain
from chatplan.hookspecs import hookimpl
from chatplan.manager import Plugins
from chatplan.plan import Stage
from chatplan.request import parse_request
from chatplan.standin import stand_in

USER = {"role": "user", "content": "Hi"}
BEAMS = {"use_beam_search": True, "n": 2}
PREFILL = {"messages": [USER, {"role": "assistant", "content": "Oh"}], "add_generation_prompt": False}


def explained(*plugins: Any, disable: Any = (), **fields: Any) -> Explanation:
    loaded = Plugins(plugins, disable, installed=False)
    return explain(parse_request({"messages": [USER], **fields}, loaded.request_type), stand_in(), loaded)


def effect_of(name: str, explanation: Explanation) -> FieldEffect:
    (found,) = (item for item in explanation.fields if item.field == name)
    return found


@pytest.mark.parametrize(
    ("name", "value", "beside", "plugin", "became"),
    [
        ("messages", [USER], {}, "template", ["prompt of 21 tokens"]),
        ("model", "stand-in", {}, "answer", ["checked against the model's name"]),
        ("temperature", 0.5, {}, "sampling", ["processor Temperature(temperature=0.5) at temperature"]),
        ("seed", 7, {}, "sampling", ["GenerationConfig seed=7"]),
        ("n", 2, {}, "sampling", ["GenerationConfig num_return_sequences=2"]),
        ("best_of", 2, {}, "sampling", ["GenerationConfig num_samples=2", "processor SumLogprobs() at logprobs"]),
        ("top_k", 5, {}, "filters", ["processor TopK(top_k=5) at top_k"]),
        ("top_p", 0.5, {}, "filters", ["processor TopP(top_p=0.5) at top_p"]),
        ("min_p", 0.5, {}, "filters", ["processor MinP(min_p=0.5) at min_p"]),
        ("bad_words", ["a"], {}, "bias", ["processor BadWords(sequences=((64,),)) at bad_words"]),
        ("allowed_token_ids", [1], {}, "bias", ["processor AllowedTokens(token_ids=(1,)) at allowed_tokens"]),
        ("logit_bias", {"5": 1}, {}, "bias", ["processor LogitBias(token_ids=(5,), values=(1.0,)) at bias"]),
        ("max_tokens", 5, {}, "length", ["GenerationConfig max_new_tokens=5"]),
        ("max_completion_tokens", 5, {"max_tokens": 9}, "length", ["GenerationConfig max_new_tokens=5"]),
        ("min_tokens", 1, {}, "length", ["processor MinTokens(count=1, token_ids=(257,)) at min_tokens"]),
        ("ignore_eos", True, {}, "length", ["GenerationConfig eos_token_id=[]"]),
        ("stop_token_ids", [7], {}, "stops", ["stop rule StopTokens(token_ids=(7,))"]),
        (
            "logprobs",
            True,
            {},
            "logprobs",
            ["GenerationConfig logprobs=0", "processor ReadLogprobs(top=0) at logprobs"],
        ),
        ("prompt_logprobs", 2, {}, "logprobs", ["GenerationConfig prompt_logprobs=2"]),
        ("return_token_ids", True, {}, "answer", ["output stage ShowTokenIds()"]),
        ("length_penalty", 2.0, BEAMS, "beam", ["GenerationConfig length_penalty=2.0"]),
        ("early_stopping", True, BEAMS, "beam", ["GenerationConfig early_stopping=True"]),
        ("continue_final_message", True, PREFILL, "template", ["template argument continue_final_message=True"]),
        ("documents", [{"a": "b"}], {}, "template", ["template argument documents=[{'a': 'b'}]"]),
        ("chat_template_kwargs", {"mood": "sad"}, {}, "template", ["template argument mood='sad'"]),
        ("stream", True, {}, "answer", ["chunks instead of a whole answer"]),
        ("stream_options", {}, {"stream": True}, "answer", ["token counts in the stream"]),
        ("user", "u", {}, "answer", ["told to observers"]),
        ("cache_salt", "s", {}, "scheduling", ["shares cached prompts with the same salt alone"]),
        ("request_id", "r", {}, "answer", ["the answer's id"]),
    ],
)
def test_a_field_and_what_it_became(name: str, value: Any, beside: Any, plugin: str, became: list[str]) -> None:
    effect = effect_of(name, explained(**{**beside, name: value}))
    assert effect.plugins == (plugin,)
    assert [text for text in effect.became if text in became] == became
    missing = {"tgi"} if name in UNSUPPORTED["tgi"] else set()
    assert set(effect.engines) == UNSUPPORTED.keys() - missing


def test_one_field_may_become_several_things() -> None:
    became = effect_of("use_beam_search", explained(use_beam_search=True, n=2)).became
    assert {"GenerationConfig num_beams=2", "GenerationConfig early_stopping='never'"} <= set(became)


def test_several_fields_may_become_one_thing() -> None:
    explanation = explained(frequency_penalty=1, presence_penalty=2)
    text = "processor Penalties(repetition=1.0, frequency=1.0, presence=2.0) at penalties"
    assert effect_of("frequency_penalty", explanation).became == (text,)
    assert effect_of("presence_penalty", explanation).became == (text,)


def test_a_stage_says_what_each_field_did_to_it() -> None:
    became = effect_of("skip_special_tokens", explained(skip_special_tokens=False)).became
    assert len(became) == 1
    assert became[0].startswith("output stage Detokenize(skip_special_tokens=False")


def test_greedy_is_shown_as_what_there_is_no_longer() -> None:
    explanation = explained(temperature=0)
    assert "temperature" not in " ".join(text for item in explanation.standing for text in item.became)
    assert "no processor Draw() at draw" in effect_of("temperature", explanation).became


def test_a_field_that_changes_nothing_says_so() -> None:
    assert effect_of("max_tokens", explained(max_tokens=9, max_completion_tokens=5)).became == (
        "no change: this is what holds without it",
    )


def test_every_field_that_is_set_is_listed_once_and_in_order() -> None:
    explanation = explained(top_k=5, seed=1, temperature=1.0, user="u", n=1)
    assert [item.field for item in explanation.fields] == ["messages", "seed", "temperature", "user", "top_k"]


def test_what_holds_without_being_asked_for_is_standing() -> None:
    explanation = explained()
    standing = {text: item.plugins for item in explanation.standing for text in item.became}
    assert standing["processor Temperature(temperature=0.7) at temperature"] == ("sampling",)
    assert standing["GenerationConfig eos_token_id=[257]"] == ("length",)
    assert all(item.field is None for item in explanation.standing)


def test_what_a_field_became_is_not_standing() -> None:
    standing = [text for item in explained(temperature=0.5).standing for text in item.became]
    assert not [text for text in standing if "Temperature" in text]


# --- other people's plugins -------------------------------------------------------------------------------------------


class Shout(LogitsProcessor):
    def __init__(self, factor: float) -> None:
        self.factor = factor
        self.ids = torch.tensor([1, 2])


def shouting(fields: Any, work: Any) -> Any:
    return SimpleNamespace(
        name="shouting",
        request_fields=hookimpl(lambda: fields),
        logits_processors=hookimpl(lambda request: work(request)),
    )


@pytest.mark.parametrize("fields", [["shout"], {"shout": float}])
def test_a_plugins_field_is_explained_without_its_doing(fields: Any) -> None:
    mine = shouting(fields, lambda r: [(Stage.BIAS, Shout(r.get("shout")))] if r.get("shout") else None)
    explanation = explained(mine, shout=2.0, seed=1)
    shout = effect_of("shout", explanation)
    assert (shout.value, shout.plugins) == (2.0, ("shouting",))
    assert shout.became == ("processor Shout(factor=2.0, ids=tensor([1, 2])) at bias",)
    assert effect_of("seed", explanation).became == ("GenerationConfig seed=1",)


def test_objects_without_a_repr_are_nobody_elses_doing() -> None:
    mine = shouting([], lambda request: [(Stage.BIAS, Shout(2.0))])
    explanation = explained(mine, seed=1)
    assert effect_of("seed", explanation).became == ("GenerationConfig seed=1",)
    assert ("shouting",) in [item.plugins for item in explanation.standing]


def test_functions_and_other_objects_have_no_address() -> None:
    mine = SimpleNamespace(name="mine", template_args=hookimpl(lambda: {"now": lambda: 1, "some": [object()]}))
    explanation = explained(mine, seed=1)
    assert effect_of("seed", explanation).became == ("GenerationConfig seed=1",)
    assert " at 0x" not in str(explanation.standing)


def test_fields_that_need_each_other() -> None:
    mine = shouting(
        {"shout": float, "times": int},
        lambda r: [(Stage.BIAS, Shout(r.get("shout") * r.get("times")))] if r.get("shout") or r.get("times") else None,
    )
    explanation = explained(mine, shout=2.0, times=3)
    for name in ("shout", "times"):
        assert effect_of(name, explanation).became == ("processor Shout(factor=6.0, ids=tensor([1, 2])) at bias",)


def test_all_plugins_that_answer_are_named() -> None:
    loud, louder = (SimpleNamespace(name=name, request_fields=hookimpl(lambda: ["seed"])) for name in ("a", "b"))
    assert effect_of("seed", explained(loud, louder, seed=1)).plugins == ("b", "a", "sampling")


# --- as JSON ----------------------------------------------------------------------------------------------------------


def test_json() -> None:
    explanation = explained(stream=True, stream_options={"include_usage": True}, request_id="x")
    data = json.loads(json.dumps(explanation.to_dict()))
    assert set(data) == {"fields", "standing", "plan"}
    assert data["plan"] == explanation.plan.to_dict()
    assert data["fields"][0] == {
        "field": "messages",
        "value": [USER],
        "plugins": ["template"],
        "became": ["prompt of 21 tokens"],
        "engines": ["generate", "continuous", "tensor_parallel", "tgi"],
    }
    values = {item["field"]: item["value"] for item in data["fields"]}
    assert values["stream_options"] == {"include_usage": True}


def test_the_plan_is_the_one_that_would_run() -> None:
    from chatplan.compiler import compile_plan

    request = parse_request({"messages": [USER], "n": 2, "request_id": "x"})
    plugins = Plugins(installed=False)
    assert explain(request, stand_in(), plugins).plan == compile_plan(request, stand_in(), plugins)
