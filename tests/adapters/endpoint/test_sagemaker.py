"""SageMaker's functions, as its container finds and calls them."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pytest

INFERENCE = Path(__file__).parents[3] / "examples" / "sagemaker" / "code" / "inference.py"
BODY = {"messages": [{"role": "user", "content": "Name a fruit."}], "max_tokens": 3, "temperature": 0}


@pytest.fixture(scope="module")
def functions() -> dict[str, Any]:
    return runpy.run_path(str(INFERENCE))


def test_functions_answer(
    functions: dict[str, Any], repository: Path, fruit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHATPLAN_DTYPE", "float32")
    monkeypatch.setenv("CHATPLAN_DEVICE", "cpu")
    model = functions["model_fn"](str(repository))
    for body in ({"inputs": BODY}, BODY):  # its toolkit asks for no key inputs
        answer = json.loads(json.dumps(functions["predict_fn"](body, model)))
        assert answer["choices"][0]["message"]["content"] == fruit[:3]
    with pytest.raises(Exception, match="^top_p: should be"):
        functions["predict_fn"]({"inputs": {**BODY, "top_p": 9}}, model)


def test_functions_take_a_context(functions: dict[str, Any], handler: Any, story: str) -> None:
    prompt = {"inputs": "Once upon a", "parameters": {"max_new_tokens": 1}}
    assert functions["predict_fn"](prompt, handler, object()) == [{"generated_text": story[:1]}]
