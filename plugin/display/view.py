"""What notebooks show of completions, plans and explanations."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from chatplan.display.html import render
from chatplan.display.tokens import Token, visible
from chatplan.errors import RequestError
from chatplan.explaining import effect_text
from chatplan.plan import describe

if TYPE_CHECKING:
    from chatplan.explaining import Explanation, FieldEffect
    from chatplan.plan import GenerationPlan
    from chatplan.response import ChatCompletion

__all__ = ["LogprobsView", "completion_html", "explanation_html", "plan_html"]


@dataclass(frozen=True)
class LogprobsView:
    """The tokens of each choice of an answer. Notebooks show it in colours, ``print`` as a table."""

    choices: dict[int, tuple[Token, ...]]

    @classmethod
    def of(cls, completion: ChatCompletion) -> LogprobsView:
        """The tokens of those choices that have log-probabilities.

        Raises:
            RequestError: there is none, as the request did not ask for ``logprobs``.
        """
        choices = {choice.index: tuple(map(Token.of, choice.logprobs.content))
                   for choice in completion.choices if choice.logprobs is not None}  # fmt: skip
        if not choices:
            wanted = "ask with logprobs=True, and top_logprobs=5 for the alternatives"
            raise RequestError(f"this answer has none; {wanted}", param="logprobs")
        return cls(choices)

    def _repr_html_(self) -> str:
        return render("logprobs.html", choices=self.choices)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        return {"text/html": self._repr_html_(), "text/plain": str(self)}

    def __str__(self) -> str:
        return "\n".join(line for index, tokens in self.choices.items() for line in _lines(index, tokens))


def _lines(index: int, tokens: tuple[Token, ...]) -> Iterator[str]:
    yield f"choice {index}"
    for token in tokens:
        mark = "forced" if token.forced else "" if token.entropy is None else f"{token.entropy:.2f} bits"
        others = ", ".join(f"{other.text!r} {other.probability:.1%}" for other in token.possible)
        yield f"  {token.text!r:<16} {token.probability:6.1%}  {mark:>10}  {others}".rstrip()


def completion_html(completion: ChatCompletion) -> str:
    """An answer: each choice, with its tokens where their log-probabilities are known."""
    has_tokens = any(choice.logprobs for choice in completion.choices)
    tokens = LogprobsView.of(completion).choices if has_tokens else {}
    return render("completion.html", completion=completion, tokens=tokens)


def plan_html(plan: GenerationPlan) -> str:
    """A plan: its prompt, and what each plugin put into it."""
    rows = [(effect.plugin, effect_text(effect)) for effect in plan.effects]
    return render("plan.html", plan=plan, rows=rows, prompt=visible(plan.prompt.text))


def explanation_html(explanation: Explanation) -> str:
    """An explanation: each field, whose it is, what it became, and which engines honour it; then the plan."""
    fields = [_row(item) for item in (*explanation.fields, *explanation.standing)]
    return render("explanation.html", plan=explanation.plan, rows=fields, details=Markup(plan_html(explanation.plan)))


def _row(item: FieldEffect) -> tuple[str, str, str, tuple[str, ...], str]:
    value = "" if item.field is None else _json(item.value)
    return item.field or "(default)", value, ", ".join(item.plugins), item.became, ", ".join(item.engines)


def _json(value: Any) -> str:
    return json.dumps(describe(value), ensure_ascii=False)
