"""A plugin that adds a request field of its own: `avoid_letters` forbids every token that has one of these letters.

python examples/custom_plugin.py
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import torch
from pydantic import Field

from chatplan import ChatCompletionRequest, ModelInfo, Processor, Row, Stage, hookimpl, pipeline

MODEL = os.environ.get("CHATPLAN_MODEL", "HuggingFaceTB/SmolLM2-135M-Instruct")


@dataclass(frozen=True)
class AvoidLetters(Processor):
    """What one request wants. `for_rows` serves all rows of a batch that want it, by one tensor operation a step."""

    stage: ClassVar[Stage] = Stage.ALLOWED_TOKENS
    letters: str

    @classmethod
    def for_rows(cls, processors: Sequence[Any], rows: Sequence[Row], device: torch.device) -> Any:
        pairs = zip(processors, rows, strict=True)
        forbidden = torch.stack([with_letters(item.letters, row.model) for item, row in pairs]).to(device)
        return lambda scores: scores.masked_fill_(forbidden, -torch.inf)


@lru_cache(maxsize=16)
def with_letters(letters: str, model: ModelInfo) -> torch.Tensor:
    """Which tokens have one of the letters; bool `[vocabulary]`. Tokens that end the answer stay allowed."""
    texts = [model.token_text(token).lower() for token in range(model.vocab_size or 0)]
    return torch.tensor([any(c in text for c in letters) and text[:1] != "<" for text in texts])


class Lipogram:
    """The plugin: two hooks. One makes the field part of the request, the other gives it its meaning."""

    name = "lipogram"

    @hookimpl
    def request_fields(self) -> Mapping[str, Any]:
        return {"avoid_letters": (str, Field("", max_length=26, description="Letters that must not be written."))}

    @hookimpl
    def logits_processors(self, request: ChatCompletionRequest) -> Iterable[Any] | None:
        letters = request.get("avoid_letters")
        return [AvoidLetters(letters.lower())] if letters else None


def main() -> None:
    chat = pipeline("chat", model=MODEL, plugins=[Lipogram()], temperature=0, max_tokens=12)
    question = {"messages": [{"role": "user", "content": "Describe the sea at night."}]}
    answers = chat([{**question, "avoid_letters": letters} for letters in ("", "e", "st")])
    for letters, answer in zip(("", "e", "st"), answers, strict=True):
        print(f"without {letters!r}: {answer.text!r}")
        assert not set(letters) & set(answer.text.lower())

    for effect in chat.explain(question, avoid_letters="e").fields:
        print(f"{effect.field}={effect.value!r}: {', '.join(effect.plugins)} made it {'; '.join(effect.became)}"[:160])


if __name__ == "__main__":
    main()
