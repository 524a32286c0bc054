"""TGI's payload: a prompt and its parameters."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from chatplan import RequestError
from chatplan.adapters.endpoint.generation import Grammar, Parameters, read_parameters

PROMPT = "Once upon a"
SCHEMA = {"type": "object", "properties": {"n": {"enum": [4]}}, "required": ["n"], "additionalProperties": False}


def generate(toolkit: Any, **parameters: Any) -> Any:
    return continued(toolkit, PROMPT, **parameters)


def continued(toolkit: Any, prompt: str, /, **parameters: Any) -> Any:
    [answer] = toolkit.ask({"inputs": prompt, "parameters": parameters})
    return answer


def test_text_goes_to_the_model_as_it_is(toolkit: Any, story: str) -> None:
    assert generate(toolkit, max_new_tokens=6) == {"generated_text": story[:6]}


def test_special_tokens_are_added(toolkit: Any, handler: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """This tokenizer adds none by itself, so it is made to."""
    from tokenizers.processors import TemplateProcessing

    backend = handler.chat.model.tokenizer.backend_tokenizer
    monkeypatch.setattr(backend, "post_processor", TemplateProcessing("<|im_start|> $0", None, [("<|im_start|>", 258)]))
    prefill = generate(toolkit, max_new_tokens=1, decoder_input_details=True)["details"]["prefill"]
    assert [token["id"] for token in prefill[:2]] == [258, ord("O") - ord("!")]


def test_details(toolkit: Any) -> None:
    answer = generate(toolkit, max_new_tokens=4, details=True)
    details = answer["details"]
    assert list(details) == ["finish_reason", "generated_tokens", "seed", "prefill", "tokens"]
    assert (details["finish_reason"], details["generated_tokens"], details["seed"]) == ("length", 4, None)
    assert details["prefill"] == []
    assert "".join(token["text"] for token in details["tokens"]) == answer["generated_text"]
    assert all(token["logprob"] < 0 and not token["special"] for token in details["tokens"])


def test_no_details_unless_asked(toolkit: Any) -> None:
    assert list(generate(toolkit, max_new_tokens=1)) == ["generated_text"]


def test_prompt_details(toolkit: Any) -> None:
    prefill = generate(toolkit, max_new_tokens=1, decoder_input_details=True)["details"]["prefill"]
    assert [token["text"] for token in prefill] == list(PROMPT)
    assert prefill[0]["logprob"] is None
    assert all(token["logprob"] < 0 for token in prefill[1:])


def test_likeliest_tokens(toolkit: Any) -> None:
    details = generate(toolkit, max_new_tokens=3, top_n_tokens=2, do_sample=True, seed=5)["details"]
    for token, top in zip(details["tokens"], details["top_tokens"], strict=True):
        assert len(top) == 2
        assert top[0]["logprob"] >= top[1]["logprob"]
        assert token["logprob"] <= top[1]["logprob"] or token in top


def test_stop_text_is_kept(toolkit: Any, story: str) -> None:
    answer = generate(toolkit, max_new_tokens=8, stop=[story[3:5]], details=True)
    assert answer["generated_text"] == story[:5]
    assert answer["details"]["finish_reason"] == "stop_sequence"


def test_end_of_sequence(toolkit: Any) -> None:
    answer = generate(toolkit, details=True, grammar={"type": "regex", "value": "ab"})
    assert answer["generated_text"] == "ab"
    assert answer["details"]["finish_reason"] == "eos_token"
    last = answer["details"]["tokens"][-1]
    assert (last["special"], last["text"]) == (True, "<|im_end|>")
    assert answer["details"]["generated_tokens"] == len(answer["details"]["tokens"])


def test_whole_characters(toolkit: Any) -> None:
    """A character of several tokens comes with the last of them."""
    details = generate(toolkit, details=True, grammar={"type": "regex", "value": "🦊"})["details"]
    texts = [token["text"] for token in details["tokens"] if not token["special"]]
    assert len(texts) > 1
    assert texts == [*([""] * (len(texts) - 1)), "🦊"]


def test_return_full_text(toolkit: Any, story: str) -> None:
    assert generate(toolkit, max_new_tokens=1, return_full_text=True) == {"generated_text": PROMPT + story[:1]}
    several = generate(toolkit, max_new_tokens=1, return_full_text=True, best_of=2, do_sample=True, details=True)
    (other,) = several["details"]["best_of_sequences"]
    assert several["generated_text"].startswith(PROMPT)
    assert other["generated_text"].startswith(PROMPT)


def test_truncate_keeps_the_end(toolkit: Any) -> None:
    body = {"max_new_tokens": 1, "truncate": 2, "decoder_input_details": True}
    assert [token["text"] for token in generate(toolkit, **body)["details"]["prefill"]] == [" ", "a"]


@pytest.mark.parametrize(
    ("parameters", "drawn"),
    [
        ({}, False),
        ({"temperature": 1.0}, False),
        ({"top_p": 1.0}, False),
        ({"do_sample": True}, True),
        ({"temperature": 0.5}, True),
        ({"top_k": 5}, True),
        ({"top_p": 0.5}, True),
    ],
    ids=str,
)
def test_what_samples(toolkit: Any, parameters: Any, drawn: bool) -> None:
    """A seed is reported where tokens were drawn, also one that nobody gave."""
    seed = generate(toolkit, max_new_tokens=1, details=True, **parameters)["details"]["seed"]
    assert (seed is not None) == drawn


def test_seed_repeats_an_answer(toolkit: Any) -> None:
    wild = {"max_new_tokens": 6, "do_sample": True, "temperature": 2.0, "details": True}
    first = generate(toolkit, **wild)
    again = generate(toolkit, **wild, seed=first["details"]["seed"])
    assert again == first
    assert generate(toolkit, **wild, seed=first["details"]["seed"] + 1) != first


def test_best_of(toolkit: Any) -> None:
    answer = generate(toolkit, max_new_tokens=3, do_sample=True, best_of=3, details=True)
    details = answer["details"]
    others = details["best_of_sequences"]
    assert len(others) == 2
    means = [sum(t["logprob"] for t in one["tokens"]) / len(one["tokens"]) for one in [details, *others]]
    assert means == sorted(means, reverse=True)
    assert generate(toolkit, max_new_tokens=3, best_of=3, seed=details["seed"], do_sample=True) == {
        "generated_text": answer["generated_text"]
    }


@pytest.mark.parametrize(
    "grammar",
    [
        {"type": "json", "value": SCHEMA},
        {"type": "json", "value": json.dumps(SCHEMA)},
        {
            "type": "json_schema",
            "value": {"name": "it", "schema": SCHEMA},
        },
    ],
    ids=["object", "text", "named"],
)
def test_grammar_json(toolkit: Any, grammar: Any) -> None:
    text = generate(toolkit, grammar=grammar, max_new_tokens=20)["generated_text"]
    assert json.loads(text) == {"n": 4}


def test_grammar_regex(toolkit: Any) -> None:
    text = generate(toolkit, grammar={"type": "regex", "value": r"\d{3}-\d"})["generated_text"]
    assert re.fullmatch(r"\d{3}-\d", text)


def test_parameters_are_fields() -> None:
    given = {
        "max_new_tokens": 7, "temperature": 0.5, "top_k": 3, "top_p": 0.9, "repetition_penalty": 1.2,
        "frequency_penalty": 0.3, "stop": "a", "truncate": 4, "best_of": 2, "seed": 9, "top_n_tokens": 2,
        "decoder_input_details": True, "grammar": {"type": "regex", "value": "a"},
    }  # fmt: skip
    assert read_parameters(given, 20).fields("Once", 9) == {
        "messages": [{"role": "user", "content": "Once"}], "add_special_tokens": True, "max_tokens": 7,
        "temperature": 0.5, "top_k": 3, "top_p": 0.9, "min_p": 0.0, "repetition_penalty": 1.2,
        "frequency_penalty": 0.3, "seed": 9, "n": 2, "stop": ["a"], "include_stop_str_in_output": True,
        "truncate_prompt_tokens": 4, "guided_regex": "a", "logprobs": True, "top_logprobs": 3,
        "return_tokens_as_token_ids": True, "prompt_logprobs": 0, "return_token_ids": True,
    }  # fmt: skip


def test_what_is_not_given_is_told_as_well() -> None:
    """The checkpoint's own values would step in."""
    assert read_parameters({}, 20).fields("Once", None) == {
        "messages": [{"role": "user", "content": "Once"}], "add_special_tokens": True, "max_tokens": 100,
        "temperature": 0.0, "top_k": -1, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0,
        "frequency_penalty": 0.0, "seed": None, "n": 1, "stop": [], "include_stop_str_in_output": True,
        "truncate_prompt_tokens": None,
    }  # fmt: skip
    assert read_parameters({"do_sample": True}, 20).fields("Once", 1)["temperature"] == 1.0


@pytest.mark.parametrize(
    ("given", "reports"),
    [
        ({"details": True}, {"logprobs": True, "top_logprobs": None, "return_tokens_as_token_ids": True}),
        ({"best_of": 2, "do_sample": True},
         {"logprobs": True, "top_logprobs": None, "return_tokens_as_token_ids": True}),
        ({"top_n_tokens": 20}, {"logprobs": True, "top_logprobs": 21, "return_tokens_as_token_ids": True}),
        ({"top_n_tokens": 0}, {}),
    ],
)  # fmt: skip
def test_what_is_reported(given: dict[str, Any], reports: dict[str, Any]) -> None:
    names = ("logprobs", "top_logprobs", "return_tokens_as_token_ids", "prompt_logprobs", "return_token_ids")
    fields = read_parameters(given, 20).fields("Once", None)
    assert {name: fields[name] for name in names if name in fields} == reports


def test_ranges_end_where_tgi_has_them() -> None:
    for name, value in (("temperature", 1e-6), ("top_p", 1.0), ("frequency_penalty", -2.0), ("seed", 2**63 - 1),
                        ("seed", 0), ("typical_p", 1.0), ("watermark", False), ("best_of", 1)):  # fmt: skip
        assert getattr(read_parameters({name: value}, 20), name) == value
    for name, value in (("seed", 2**63), ("top_p", 0.0), ("frequency_penalty", -2.1), ("top_n_tokens", -1),
                        ("do_sample", 1), ("truncate", 0), ("typical_p", 0.9)):  # fmt: skip
        with pytest.raises(RequestError) as caught:
            read_parameters({name: value}, 20)
        assert caught.value.param == name
    assert read_parameters({"top_n_tokens": 500}, -1).top_n_tokens == 500
    with pytest.raises(RequestError, match="did you mean max_new_tokens"):
        read_parameters({"max_new_token": 1}, 20)


@pytest.mark.parametrize("value", [{"schema": {"type": "object"}}, {"type": "object"}])
def test_only_a_named_schema_is_unwrapped(value: Any) -> None:
    grammar = Grammar(type="json_schema", value=value)
    assert grammar.fields() == {"guided_json": {"type": "object"}}
    assert Grammar(type="json", value=value).fields() == {"guided_json": value}


def test_penalties_are_honoured(toolkit: Any) -> None:
    again = generate(toolkit, max_new_tokens=24)["generated_text"]
    assert len(set(again)) < len(again)
    without = generate(toolkit, max_new_tokens=24, repetition_penalty=1000.0)["generated_text"]
    assert len(set(without)) == len(without)
    assert generate(toolkit, max_new_tokens=24, frequency_penalty=2.0)["generated_text"] != again


def test_nulls_are_absent(toolkit: Any, story: str) -> None:
    nulls = dict.fromkeys(["temperature", "top_k", "grammar", "adapter_id", "stop", "watermark", "typical_p"])
    assert generate(toolkit, max_new_tokens=1, **nulls) == {"generated_text": story[:1]}


def test_a_hundred_tokens_unless_it_says_else(handler: Any) -> None:
    fields = read_parameters({}, 20).fields(PROMPT, None)
    assert handler.prompts.plan(fields).max_new_tokens == 100


def test_page_lists_every_parameter() -> None:
    page = (Path(__file__).parents[3] / "docs" / "endpoints.md").read_text("utf-8")
    rows = page.partition("\n| parameter | |\n")[2].partition("\n\n")[0].splitlines()[1:]
    listed = [name for row in rows for name in re.findall(r"`(\w+)`", row.split(" | ")[0])]
    assert sorted(listed) == sorted(Parameters.model_fields)
