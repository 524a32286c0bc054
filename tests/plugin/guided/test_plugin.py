"""A grammar backend, and a constraint, that come from a plugin."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from chatplan import CannotEnforce, Chat, Constraint, Grammar, GrammarBackend, Matcher, ModelInfo, hookimpl
from chatplan.errors import PluginError, RequestError

ASK: dict[str, Any] = {"messages": [{"role": "user", "content": "Hi"}], "temperature": 1, "seed": 3, "max_tokens": 12}


class Capitals(GrammarBackend):
    """Takes one regular expression, and writes capital letters."""

    name = "capitals"

    def __init__(self, model: ModelInfo) -> None:
        self.model = model

    def compile(self, constraint: Constraint) -> Grammar:
        if constraint.text != "[A-Z]+":
            raise CannotEnforce("capitals are all it writes")
        return CapitalsGrammar(self.model)


class CapitalsGrammar(Grammar):
    def __init__(self, model: ModelInfo) -> None:
        self.model = model

    def start(self) -> Matcher:
        return CapitalsMatcher(self.model)


class CapitalsMatcher(Matcher):
    def __init__(self, model: ModelInfo, begun: bool = False) -> None:
        self.model, self.begun = model, begun

    def fill(self, mask: torch.Tensor) -> None:
        letters = [token for token in range(256) if self.model.token_text(token) in list("ABCDEFGHIJKLMNOPQRSTUVWXYZ")]
        bits = 0
        for token in [*letters, *(self.model.eos_token_ids if self.begun else ())]:
            bits |= 1 << token
        words = [bits >> (32 * at) & 0xFFFFFFFF for at in range(len(mask))]
        mask.copy_(torch.tensor([word - 2**32 if word >= 2**31 else word for word in words], dtype=torch.int32))

    def accept(self, token_id: int) -> None:
        self.begun = True

    def copy(self) -> Matcher:
        return CapitalsMatcher(self.model, self.begun)


def plugin(**hooks: Any) -> Any:
    return SimpleNamespace(name="mine", **{hook: hookimpl(function) for hook, function in hooks.items()})


def text(chat: Chat, **fields: Any) -> str:
    return chat.complete({**ASK, **fields}).text


@pytest.fixture
def capitals(new_chat: Callable[..., Chat]) -> Chat:
    return new_chat([plugin(grammar_backend=lambda model: Capitals(model))])


@pytest.mark.parametrize("backend", ["capitals", "auto"])
def test_a_plugins_backend_is_asked_by_name_and_first_by_auto(capitals: Chat, backend: str) -> None:
    fields = {"guided_regex": "[A-Z]+", "guided_decoding_backend": backend}
    assert "backend='capitals'" in str(capitals.plan({**ASK, **fields}).processors)
    answer = text(capitals, **fields)
    assert answer.isalpha()
    assert answer.isupper()


def test_auto_goes_on_to_the_next_backend(capitals: Chat) -> None:
    assert set(text(capitals, guided_regex="[0-9]{3}")) <= set("0123456789")
    with pytest.raises(RequestError, match="^guided_regex: capitals cannot enforce it: capitals are all it writes$"):
        text(capitals, guided_regex="[0-9]{3}", guided_decoding_backend="capitals")


def test_a_plugins_constraint(new_chat: Callable[..., Chat]) -> None:
    chat = new_chat([plugin(constraint=lambda: Constraint("regex", "a{3}", param="aaa"))])
    assert text(chat) == "aaa"
    with pytest.raises(
        RequestError, match="only one constraint on the output is allowed, got .*guided_choice"
    ) as caught:
        text(chat, guided_choice=["x"])
    assert "aaa" in caught.value.message


def test_what_a_plugin_returns_must_be_a_constraint(new_chat: Callable[..., Chat]) -> None:
    with pytest.raises(PluginError, match="'mine': constraint returned str, not a Constraint"):
        text(new_chat([plugin(constraint=lambda: "a+")]))


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        (Constraint("regex", 5), "a text of type int"),  # type: ignore[arg-type]
        (Constraint("nope", "a"), "has the kind 'nope'"),  # type: ignore[arg-type]
        (Constraint("json", "{bad"), "no JSON"),
        (Constraint("choice", "[]"), "a list of strings"),
    ],
)
def test_a_plugins_constraint_that_is_none(new_chat: Callable[..., Chat], wrong: Constraint, problem: str) -> None:
    with pytest.raises(PluginError, match=f"'mine': its constraint .*{problem}"):
        text(new_chat([plugin(constraint=lambda: wrong)]))


@pytest.mark.parametrize("answer", ["guidance", [1], Capitals])
def test_what_a_plugin_returns_must_be_a_backend(new_chat: Callable[..., Chat], answer: Any) -> None:
    with pytest.raises(PluginError, match="'mine': grammar_backend returned .*, not a GrammarBackend with a name"):
        text(new_chat([plugin(grammar_backend=lambda model: answer)]), guided_choice=["a"])
