"""What chatplan does, in half a minute: an answer, a stream, a seeded sample repeated, and the odds of each token.

    python examples/demo.py

`make demo` runs this. Without CHATPLAN_MODEL the model comes from the hub.
"""

from __future__ import annotations

import os
from typing import Any

from rich.console import Console
from rich.table import Table
from transformers.utils import logging

from chatplan import ChatPipeline, pipeline

MODEL = os.environ.get("CHATPLAN_MODEL", "HuggingFaceTB/SmolLM2-135M-Instruct")
console = Console()


def ask(question: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}]


def plain(chat: ChatPipeline) -> None:
    answer = chat(ask("What is the capital of France?"), temperature=0)
    console.print(answer.text)
    console.print(
        f"[dim]{answer.usage.completion_tokens} tokens, finish_reason {answer.choices[0].finish_reason}[/dim]"
    )


def streamed(chat: ChatPipeline) -> None:
    with chat(ask("Explain the tides in two sentences."), stream=True, temperature=0, max_tokens=60) as stream:
        for chunk in stream:
            for choice in chunk.choices:
                console.print(choice.delta.content or "", end="", markup=False, highlight=False, soft_wrap=True)
    console.print()


def seeded(chat: ChatPipeline) -> None:
    wish: dict[str, Any] = {"seed": 7, "temperature": 1.0, "top_p": 0.9, "max_tokens": 12}
    question = ask("Invent a name for a lighthouse keeper's cat.")
    with console.status("sampling alone"):
        alone = chat(question, **wish)
    with console.status("sampling again, beside two other requests"):
        beside = chat([ask("Name a river."), question, ask("Name a mountain.")], **wish)[1]
    assert alone.text == beside.text, "the same request with the same seed must give the same answer"
    console.print(alone.text, markup=False)
    console.print("[green]Seed 7 gave exactly this answer twice: alone, and in a batch of three.[/green]")


def odds(chat: ChatPipeline) -> None:
    answer = chat(ask("Is the sky blue? Answer yes or no."), temperature=0, max_tokens=6, logprobs=True, top_logprobs=3)
    table = Table("token", "logprob", "the three likeliest")
    for token in answer.choices[0].logprobs.content:
        likeliest = "  ".join(f"{other.token!r} {other.logprob:.2f}" for other in token.top_logprobs)
        table.add_row(repr(token.token), f"{token.logprob:.2f}", likeliest)
    console.print(table)


def main() -> None:
    logging.disable_progress_bar()  # the status line below says what is going on
    with console.status(f"loading {MODEL}"):
        chat = pipeline("chat", model=MODEL)
    parts = {
        "A plain answer": plain,
        "A streamed answer": streamed,
        "A seeded sample, repeated": seeded,
        "How likely each token was": odds,
    }
    for title, part in parts.items():
        console.rule(title)
        part(chat)


if __name__ == "__main__":
    main()
