"""The likeliest answers instead of drawn ones, and what the length penalty does to them.

python examples/beam_search.py
"""

from __future__ import annotations

import os
from typing import Any

from chatplan import RequestError, pipeline

MODEL = os.environ.get("CHATPLAN_MODEL", "HuggingFaceTB/SmolLM2-135M-Instruct")
QUESTION = [{"role": "user", "content": "Name the largest ocean."}]


def main() -> None:
    chat = pipeline("chat", model=MODEL, max_tokens=20)
    beams: dict[str, Any] = {"use_beam_search": True, "n": 2, "best_of": 4, "logprobs": True}
    for penalty in (0.0, 1.0):
        print(f"length_penalty {penalty}, the best 2 of 4 beams:")
        # Temperature 1 compares beams by the model's own log-probabilities.
        for choice in chat(QUESTION, **beams, length_penalty=penalty, temperature=1).choices:
            tokens = choice.logprobs.content
            total = sum(token.logprob for token in tokens)
            print(f"  {total:7.2f} over {len(tokens)} tokens: {choice.message.content!r}")

    # Nothing is drawn in beam search, so filters of the draw have no meaning and are refused.
    try:
        chat(QUESTION, **beams, top_p=0.9)
    except RequestError as error:
        print(f"refused: {error}")


if __name__ == "__main__":
    main()
