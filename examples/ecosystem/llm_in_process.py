"""Simon Willison's `llm` with a model in this process; the same from a terminal is in docs/ecosystem.md.

pip install "chatplan[llm]"
python examples/ecosystem/llm_in_process.py
"""

from __future__ import annotations

import os

from pydantic import BaseModel

from chatplan.adapters.llm_models import ChatModel

MODEL = os.environ.get("CHATPLAN_MODEL", "HuggingFaceTB/SmolLM2-135M-Instruct")


class City(BaseModel):
    city: str
    country: str


def main() -> None:
    model = ChatModel(MODEL)  # llm.get_model("chatplan/NAME") gives the same for a model in the hub's cache

    conversation = model.conversation()
    print("answer:", conversation.prompt("What is the capital of France?", temperature=0).text())
    print("stream:", " | ".join(conversation.prompt("And of Italy?", temperature=0, max_tokens=8)))

    print("object:", model.prompt("Paris is in France.", schema=City, temperature=0).text())
    # Every field of the request is an option.
    print("constrained:", model.prompt("Your number?", guided_regex=r"\d{3}-\d{4}", min_p=0.1, seed=7).text())


if __name__ == "__main__":
    main()
