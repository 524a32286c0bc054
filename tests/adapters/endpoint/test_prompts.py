"""TGI's payload: a prompt and its parameters."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from chatplan.adapters.endpoint.generation import Parameters, read_parameters

PROMPT = "Once upon a"


def generate(toolkit: Any, **parameters: Any) -> Any:
    return continued(toolkit, PROMPT, **parameters)


def continued(toolkit: Any, prompt: str, /, **parameters: Any) -> Any:
    [answer] = toolkit.ask({"inputs": prompt, "parameters": parameters})
    return answer


def test_text_goes_to_the_model_as_it_is(toolkit: Any, handler: Any) -> None:
    tokenizer, model = handler.chat.model.tokenizer, handler.chat.model.require_module()
    ids = tokenizer(PROMPT, return_tensors="pt")["input_ids"]
    expected = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=6, do_sample=False)
    assert generate(toolkit, max_new_tokens=6)["generated_text"] == tokenizer.decode(expected[0, ids.shape[1] :])


def test_special_tokens_are_added(toolkit: Any, handler: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """This tokenizer adds none by itself, so it is made to."""
    from tokenizers.processors import TemplateProcessing

    backend = handler.chat.model.tokenizer.backend_tokenizer
    monkeypatch.setattr(backend, "post_processor", TemplateProcessing("<|im_start|> $0", None, [("<|im_start|>", 1)]))
    prefill = generate(toolkit, max_new_tokens=1, decoder_input_details=True)["details"]["prefill"]
    assert [token["id"] for token in prefill[:2]] == [1, 6403]


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
    assert [token["text"] for token in prefill] == ["Once", " upon", " a"]
    assert prefill[0]["logprob"] is None
    assert all(token["logprob"] < 0 for token in prefill[1:])


def test_likeliest_tokens(toolkit: Any) -> None:
    details = generate(toolkit, max_new_tokens=3, top_n_tokens=2, do_sample=True, seed=5)["details"]
    for token, top in zip(details["tokens"], details["top_tokens"], strict=True):
        assert len(top) == 2
        assert top[0]["logprob"] >= top[1]["logprob"]
        assert token["logprob"] <= top[1]["logprob"] or token in top


def test_stop_text_is_kept(toolkit: Any) -> None:
    answer = generate(toolkit, max_new_tokens=8, stop=["city"], details=True)
    assert answer["generated_text"].endswith("city")
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


def test_return_full_text(toolkit: Any) -> None:
    assert generate(toolkit, max_new_tokens=1, return_full_text=True)["generated_text"] == "Once upon a time"


def test_truncate_keeps_the_end(toolkit: Any) -> None:
    body = {"max_new_tokens": 1, "truncate": 2, "decoder_input_details": True}
    assert [token["text"] for token in generate(toolkit, **body)["details"]["prefill"]] == [" upon", " a"]


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
        {"type": "json", "value": {"type": "object", "properties": {"n": {"enum": [4]}}, "required": ["n"]}},
        {"type": "json", "value": '{"properties": {"n": {"enum": [4]}}, "required": ["n"], "type": "object"}'},
        {
            "type": "json_schema",
            "value": {
                "name": "it",
                "schema": {"type": "object", "properties": {"n": {"enum": [4]}}, "required": ["n"]},
            },
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


def test_penalties_are_honoured(toolkit: Any) -> None:
    again = "one, two, one, two, one, two, one,"
    assert continued(toolkit, again, max_new_tokens=1)["generated_text"] == " one"
    assert continued(toolkit, again, max_new_tokens=1, repetition_penalty=9.0)["generated_text"] != " one"
    plain = continued(toolkit, again, max_new_tokens=8)["generated_text"]
    assert continued(toolkit, again, max_new_tokens=8, frequency_penalty=2.0)["generated_text"] != plain


def test_nulls_are_absent(toolkit: Any) -> None:
    nulls = dict.fromkeys(["temperature", "top_k", "grammar", "adapter_id", "stop", "watermark", "typical_p"])
    assert generate(toolkit, max_new_tokens=1, **nulls) == {"generated_text": " time"}


def test_a_hundred_tokens_unless_it_says_else(handler: Any) -> None:
    fields = read_parameters({}, 20).fields(PROMPT, None)
    assert handler.prompts.plan(fields).max_new_tokens == 100


def test_page_lists_every_parameter() -> None:
    page = (Path(__file__).parents[3] / "docs" / "endpoints.md").read_text("utf-8")
    rows = page.partition("\n| parameter | |\n")[2].partition("\n\n")[0].splitlines()[1:]
    listed = [name for row in rows for name in re.findall(r"`(\w+)`", row.split(" | ")[0])]
    assert sorted(listed) == sorted(Parameters.model_fields)
