"""Random constraints: whatever the model draws, an answer that ends matches, and one that is cut off can go on."""

from __future__ import annotations

import json
import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import jsonschema
import pytest

from chatplan import Chat, ChatPipeline, fold
from chatplan.guided.mask import GrammarMask
from chatplan.plan import GenerationPlan

ASK = [{"role": "user", "content": "Say something, briefly."}]

Case = tuple[dict[str, Any], Callable[[str], object]]

# --- constraints ------------------------------------------------------------------------------------------------------


def word(random: Random) -> str:
    letters = random.choices(string.ascii_lowercase + "éß日😀 _-/\"\\'", k=random.randint(1, 6))
    return "".join(letters)


def schema(random: Random, depth: int = 2) -> dict[str, Any]:
    kind = random.choice(
        ["enum", "const", "number", "boolean", "string", "array", "object", "any"][: 8 if depth else 5]
    )
    if kind == "enum":
        return {"enum": random.sample([1, -3, 2.5, None, True, word(random), word(random) + "!", []], 3)}
    if kind == "const":
        return {"const": random.choice([word(random), 0, {"a": [1]}, None])}
    if kind == "number":
        low = random.randint(-50, 50)
        bounds = {"minimum": low, "maximum": low + random.randint(1, 500)}
        return {"type": random.choice(["integer", "number"]), **bounds}
    if kind == "string":
        return random.choice([
            {"type": "string", "minLength": 1, "maxLength": random.randint(2, 9)},
            {"type": "string", "pattern": f"^{pattern(random)}$"},
            {"type": "string", "format": random.choice(["date", "time", "uuid", "ipv4"])},
        ])  # fmt: skip
    if kind == "array":
        low = random.randint(0, 2)
        return {"type": "array", "items": schema(random, depth - 1), "minItems": low, "maxItems": low + 2}
    if kind == "object":
        names = [f"{word(random)}{at}" for at in range(random.randint(1, 3))]
        properties = {name: schema(random, depth - 1) for name in names}
        needed = random.sample(names, random.randint(0, len(names)))
        return {"type": "object", "properties": properties, "required": needed, "additionalProperties": False}
    if kind == "any":
        return {"anyOf": [schema(random, depth - 1), schema(random, depth - 1)]}
    return {"type": kind}


def pattern(random: Random, depth: int = 2) -> str:
    kind = random.choice(["text", "class", "digit", "join", "join", "or", "repeat"][: 7 if depth else 3])
    if kind == "text":
        return re.escape("".join(random.choices("abcXYZ .,+é日/", k=random.randint(1, 3)))).replace("\\ ", " ")
    if kind == "class":
        return random.choice(["[a-f]", "[^a-z\n]", "[0-9_]", "[é-ü]", r"[\d.]", "[A-Z]"])
    if kind == "digit":
        return random.choice([r"\d", r"\d{2}", r"\d+"])
    if kind == "join":
        return pattern(random, depth - 1) + pattern(random, depth - 1)
    if kind == "or":
        return f"(?:{pattern(random, depth - 1)}|{pattern(random, depth - 1)})"
    return f"(?:{pattern(random, depth - 1)}){random.choice(['?', '*', '+', '{1,3}'])}"


def grammar(random: Random) -> Case:
    """Lists of words in brackets, nested, with a separator and words that change from case to case."""
    words = sorted({"".join(random.choices("abcé", k=random.randint(1, 3))) for _ in range(3)})
    separator, (opens, closes) = random.choice([",", ";", " - "]), random.choice([("(", ")"), ("[", "]"), ("<", ">")])
    text = (
        f'start: list\nlist: "{opens}" item ("{separator}" item)* "{closes}"\n'
        f"item: list | {' | '.join(map(json.dumps, words))}"
    )

    def fits(answer: str) -> bool:
        inner = "|".join(map(re.escape, [*words, "@"]))
        shape = re.compile(f"{re.escape(opens)}(?:{inner})(?:{re.escape(separator)}(?:{inner}))*{re.escape(closes)}")
        while answer != "@" and shape.search(answer):
            answer = shape.sub("@", answer)
        return answer == "@"

    return {"guided_grammar": text}, fits


def is_json(made: Any) -> Callable[[str], object]:
    def fits(text: str) -> bool:
        jsonschema.validate(json.loads(text), made)
        return True

    return fits


def case(random: Random) -> Case:
    kind = random.choice(["json", "json", "json", "regex", "regex", "choice", "grammar"])
    if kind == "json":
        made = schema(random)
        return {"guided_json": made}, is_json(made)
    if kind == "regex":
        regex = pattern(random, 3)
        return {"guided_regex": regex}, lambda text: re.fullmatch(regex, text, re.ASCII)
    if kind == "choice":
        choices = [word(random) for _ in range(random.randint(1, 6))]
        return {"guided_choice": choices}, choices.__contains__
    return grammar(random)


# --- answers ----------------------------------------------------------------------------------------------------------


def check(choice: Any, plan: GenerationPlan, wish: Case) -> None:
    fields, fits = wish
    if choice.finish_reason == "stop":
        assert fits(choice.message.content), (fields, choice.message.content)
        return
    assert choice.finish_reason == "length"
    (mask,) = (item for _, item in plan.processors if isinstance(item, GrammarMask))
    matcher = mask.grammar.start()
    for token in choice.token_ids:
        matcher.accept(token)


def requests(wishes: Sequence[Case], tokens: int) -> list[dict[str, Any]]:
    fixed = {"messages": ASK, "temperature": 1, "max_tokens": tokens, "return_token_ids": True}
    return [{**fixed, "seed": at, **fields} for at, (fields, _) in enumerate(wishes)]


def test_random_constraints(tiny: Chat) -> None:
    random, reasons = Random(7), Counter[str]()
    wishes = [case(random) for _ in range(150)]
    for answer, request, wish in zip(
        tiny.complete_batch(requests(wishes, 60)), requests(wishes, 60), wishes, strict=True
    ):
        check(answer.choices[0], tiny.plan(request), wish)
        reasons[str(answer.choices[0].finish_reason)] += 1
    assert reasons.total() == 150
    assert reasons["stop"] > 75


@pytest.mark.model
def test_random_constraints_in_words(pipe: ChatPipeline) -> None:
    random = Random(11)
    wishes = [case(random) for _ in range(24)]
    answers = pipe(requests(wishes, 24))
    for answer, request, wish in zip(answers, requests(wishes, 24), wishes, strict=True):
        check(answer.choices[0], pipe.chat.plan(request), wish)


def test_random_constraints_streamed(tiny: Chat) -> None:
    random = Random(7)
    wishes = [case(random) for _ in range(16)]
    for request, answer in zip(requests(wishes, 40), tiny.complete_batch(requests(wishes, 40)), strict=True):
        assert fold(list(tiny.stream(request))).choices == answer.choices
