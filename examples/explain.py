"""Which plugin turned which field into what, and the plan that came of it. No weights are loaded.

python examples/explain.py
"""

from __future__ import annotations

import os

from chatplan import ModelInfo, Plugins, UnsupportedFieldError, compile_plan, explain
from chatplan.request import parse_request

MODEL = os.environ.get("CHATPLAN_MODEL", "HuggingFaceTB/SmolLM2-135M-Instruct")
REQUEST = {
    "messages": [{"role": "user", "content": "Name a colour."}],
    "temperature": 0.8,
    "top_k": 40,
    "stop": ["\n"],
    "n": 2,
    "seed": 7,
    "max_tokens": 16,
}


def main() -> None:
    model = ModelInfo.without_weights(MODEL)
    plugins = Plugins()
    explanation = explain(parse_request(REQUEST), model, plugins)
    for effect in explanation.fields:
        print(f"{effect.field}={effect.value!r}")
        for what in effect.became:
            print(f"    {', '.join(effect.plugins)}: {what}"[:120])
    print("without being asked for:")
    for effect in explanation.standing:
        print(f"    {', '.join(effect.plugins)}: {', '.join(effect.became)}"[:120])

    # A plan is data: it compares, and serialises to JSON.
    plan = explanation.plan
    print("the processors, in the order they run:", [stage.name.lower() for stage, _ in plan.processors])

    # Leave a plugin out, and the fields it answered for are refused.
    try:
        compile_plan(parse_request(REQUEST), model, Plugins(disable=["filters"]))
    except UnsupportedFieldError as error:
        print(f"without the plugin `filters`: {error}")


if __name__ == "__main__":
    main()
