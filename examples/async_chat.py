"""Answers in an event loop: two requests at once, a stream, and a task that is cancelled.

python examples/async_chat.py
"""

from __future__ import annotations

import asyncio
import os

from chatplan import ChatPipeline, pipeline

MODEL = os.environ.get("CHATPLAN_MODEL", "HuggingFaceTB/SmolLM2-135M-Instruct")


def ask(question: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}]


async def ticks() -> None:
    """Shows that the event loop stays free while the model works."""
    count = 0
    try:
        while True:
            await asyncio.sleep(0.01)
            count += 1
    finally:
        print(f"meanwhile the event loop ticked {'many times' if count > 10 else f'{count} times'}")


async def talk(chat: ChatPipeline) -> None:
    clock = asyncio.create_task(ticks())
    first, second = await asyncio.gather(chat.acomplete(ask("Name a fruit.")), chat.acomplete(ask("Name a planet.")))
    print(f"gathered: {first.text!r} and {second.text!r}")

    print("streamed: ", end="")
    async with chat.astream(ask("Count to five.")) as stream:
        async for chunk in stream:
            print(chunk.choices[0].delta.content or "", end="", flush=True)
    print()

    # Cancelling the task stops the model within one token, so the next request does not wait for this one.
    long = asyncio.create_task(chat.acomplete(ask("Write a long essay."), max_tokens=2000))
    await asyncio.sleep(0.2)
    long.cancel()
    try:
        await long
    except asyncio.CancelledError:
        print("cancelled the essay")
    clock.cancel()
    await asyncio.gather(clock, return_exceptions=True)


def main() -> None:
    chat = pipeline("chat", model=MODEL, temperature=0, max_tokens=8)
    asyncio.run(talk(chat))


if __name__ == "__main__":
    main()
