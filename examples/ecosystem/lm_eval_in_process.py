"""lm-eval without a server: a task of four questions, once as it is, and once with a constraint on every answer.

pip install "chatplan[lm-eval]"
python examples/ecosystem/lm_eval_in_process.py          # in the root of the repository, where the task's data are
"""

from __future__ import annotations

import os
from typing import Any

import lm_eval  # type: ignore[import-untyped]
from lm_eval.tasks import TaskManager  # type: ignore[import-untyped]

from chatplan.adapters.lm_eval import ChatLM

MODEL = os.environ.get("CHATPLAN_MODEL", "HuggingFaceTB/SmolLM2-135M-Instruct")
FORM = r"The capital of [A-Z][a-z]+ is [A-Z][a-z]+\."


def evaluate(model: Any) -> None:
    tasks = TaskManager(include_path="examples/ecosystem/lm_eval_task", include_defaults=False)
    found = lm_eval.simple_evaluate(
        model, tasks=["capitals"], task_manager=tasks, apply_chat_template=True, bootstrap_iters=0
    )
    answers = [sample["resps"][0][0] for sample in found["samples"]["capitals"]]
    print(found["results"]["capitals"]["exact_match,none"], "of", answers)


def main() -> None:
    evaluate(ChatLM(MODEL, device="cpu", batch_size=4))
    # Arguments of the model that are fields of the request hold for every answer.
    evaluate(ChatLM(MODEL, device="cpu", batch_size=4, guided_regex=FORM))


if __name__ == "__main__":
    main()
