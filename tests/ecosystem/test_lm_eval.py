"""lm-eval's model ``chatplan`` gives the numbers of its model ``hf``, and honours fields of the request."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.dev_only

GENERATE = """\
task: tiny_generate
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder}/rows.json}}}}
output_type: generate_until
test_split: test
doc_to_text: "Say {{{{word}}}}:"
doc_to_target: "{{{{word}}}}"
generation_kwargs: {{until: ["7", "O@", "\\n"], max_gen_toks: 24, do_sample: false, num_beams: 1}}
metric_list: [{{metric: exact_match}}, {{metric: bleu}}]
"""
CHOOSE = """\
task: tiny_choose
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder}/rows.json}}}}
output_type: multiple_choice
test_split: test
doc_to_text: "Which word? {{{{word}}}}"
doc_to_choice: ["apple", "pear", "a plum"]
doc_to_target: 1
metric_list: [{{metric: acc}}, {{metric: acc_norm}}]
"""
ROLL = """\
task: tiny_roll
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder}/rows.json}}}}
output_type: loglikelihood_rolling
test_split: test
doc_to_text: ""
doc_to_target: "the {{{{word}}}} is there"
metric_list: [{{metric: word_perplexity}}, {{metric: bits_per_byte}}]
"""
TASKS = {"tiny_generate": GENERATE, "tiny_choose": CHOOSE, "tiny_roll": ROLL}
WORDS = ["apple", "pear and plum", "<|im_end|> in the text", "ünïcode", "a longer word than all of the others"]


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tasks")
    (folder / "rows.json").write_text(json.dumps([{"word": word} for word in WORDS]), "utf-8")
    for name, text in TASKS.items():
        (folder / f"{name}.yaml").write_text(text.format(folder=folder), "utf-8")
    return folder


def evaluate(tasks: Path, model: Any, names: list[str], **more: Any) -> dict[str, Any]:
    import lm_eval  # type: ignore[import-untyped]
    from lm_eval.tasks import TaskManager  # type: ignore[import-untyped]

    manager = TaskManager(include_path=str(tasks), include_defaults=False)
    found: dict[str, Any] = lm_eval.simple_evaluate(
        model=model, tasks=names, task_manager=manager, batch_size=2, device="cpu", log_samples=True, **more
    )
    return found


def numbers(found: dict[str, Any]) -> dict[str, Any]:
    """Every metric of every task, but for names and random error bars."""
    return {
        f"{task} {metric}": value
        for task, metrics in found["results"].items()
        for metric, value in metrics.items()
        if isinstance(value, float) and "stderr" not in metric
    }


def answers(found: dict[str, Any], task: str) -> list[Any]:
    return [sample["resps"] for sample in found["samples"][task]]


@pytest.mark.parametrize("templated", [False, True])
def test_numbers_and_answers_are_those_of_hf(tasks: Path, tiny_folder: Path, templated: bool) -> None:
    import chatplan.adapters.lm_eval  # noqa: F401  registers the model

    names = [name for name in TASKS if name != "tiny_roll" or not templated]
    arguments = {"pretrained": str(tiny_folder), "dtype": "float32"}
    theirs = evaluate(tasks, "hf", names, model_args=dict(arguments), apply_chat_template=templated)
    ours = evaluate(tasks, "chatplan", names, model_args=dict(arguments), apply_chat_template=templated)
    for name in names:
        assert answers(ours, name) == answers(theirs, name)
    assert numbers(ours) == numbers(theirs)
    assert len(numbers(ours)) >= 4
    assert any(text for [[text]] in answers(ours, "tiny_generate"))


def test_fields_of_the_request_come_from_the_models_arguments_and_from_the_task(tasks: Path, tiny_folder: Path) -> None:
    from chatplan.adapters.lm_eval import ChatLM

    model = ChatLM(str(tiny_folder), device="cpu", dtype="float32", guided_regex="[0-9]{3} [a-d]+", max_tokens=12)
    sampled = {"until": [], "do_sample": True, "temperature": 1.5}
    drawn = [evaluate(tasks, model, ["tiny_generate"], gen_kwargs={**sampled, "seed": seed}) for seed in (3, 3, 4)]
    found = [answers(result, "tiny_generate") for result in drawn]
    assert found[0] == found[1] != found[2]
    assert all(re.fullmatch(r"[0-9]{3} [a-d]+", text) for [[text]] in found[0])


def test_a_field_that_nobody_answers_for_is_refused_by_name(tasks: Path, tiny_folder: Path) -> None:
    from chatplan import RequestError
    from chatplan.adapters.lm_eval import ChatLM

    model = ChatLM(str(tiny_folder), device="cpu")
    with pytest.raises(RequestError, match="tempurature"):
        evaluate(tasks, model, ["tiny_generate"], gen_kwargs={"tempurature": 1})
    with pytest.raises(RequestError, match="top_p"):
        ChatLM(str(tiny_folder), device="cpu", top_p=7)
    with pytest.raises(ValueError, match="truncation: has no meaning"):
        ChatLM(str(tiny_folder), device="cpu", truncation=True)


def test_fields_that_do_not_touch_log_likelihoods_are_named(
    tasks: Path, tiny_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from chatplan.adapters.lm_eval import ChatLM

    with caplog.at_level(logging.WARNING, "chatplan"):
        evaluate(tasks, ChatLM(str(tiny_folder), device="cpu", min_p=0.1), ["tiny_choose"])
    assert "without min_p" in caplog.text


def test_command_line_of_lm_eval_runs_without_a_server(tasks: Path, tiny_folder: Path, tmp_path: Path) -> None:
    words = ["-m", "chatplan.adapters.lm_eval", "run", "--model", "chatplan", "--device", "cpu", "--batch_size", "2"]
    words += ["--model_args", f"pretrained={tiny_folder},dtype=float32,seed=7", "--include_path", str(tasks)]
    words += ["--tasks", "tiny_generate", "--gen_kwargs", "temperature=1,max_gen_toks=8"]
    words += ["--output_path", str(tmp_path), "--log_samples"]
    result = subprocess.run([sys.executable, *words], capture_output=True, encoding="utf-8", env=os.environ)
    assert result.returncode == 0, result.stderr[-2000:]
    assert "tiny_generate" in result.stdout
    [samples] = tmp_path.rglob("samples_tiny_generate*.jsonl")
    assert len(samples.read_text("utf-8").splitlines()) == len(WORDS)
