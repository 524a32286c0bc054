"""Texts sorted into classes, with the probability of each class.

python examples/classify.py
"""

from __future__ import annotations

import math
import os
from typing import Any

from chatplan import ChatPipeline, pipeline

MODEL = os.environ.get("CHATPLAN_MODEL", "HuggingFaceTB/SmolLM2-135M-Instruct")
CLASSES = ["positive", "negative"]
REVIEWS = ["I love this phone!", "It broke after two days.", "The battery lasts a week, I am delighted."]


def classify(chat: ChatPipeline, reviews: list[str]) -> list[dict[str, float]]:
    """How likely each class is, for each review; all in one batch."""
    system = {"role": "system", "content": "Classify the sentiment of the review."}
    requests = [{"messages": [system, {"role": "user", "content": review}]} for review in reviews]
    answers = chat(requests, guided_choice=CLASSES, temperature=0, logprobs=True, top_logprobs=20)
    return [odds(answer.choices[0].logprobs.content[0].top_logprobs) for answer in answers]


def odds(first: list[Any]) -> dict[str, float]:
    """The classes differ in their first letter, so the first token decides; each may begin in several ways.

    Log-probabilities are those of the tokens that the choice allows, so the sum is 1.
    """
    return {
        name: sum(math.exp(token.logprob) for token in first if token.token and name.startswith(token.token))
        for name in CLASSES
    }


def main() -> None:
    chat = pipeline("chat", model=MODEL)
    for review, found in zip(REVIEWS, classify(chat, REVIEWS), strict=True):
        likeliest = max(found, key=lambda name: found[name])
        print(f"{likeliest:9} {found[likeliest]:.2f}  {review}")
        assert math.isclose(sum(found.values()), 1, abs_tol=1e-3), "the classes are all there is"


if __name__ == "__main__":
    main()
