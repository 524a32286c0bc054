"""lm-eval's model ``chatplan`` gives the numbers of its model ``hf``, and honours fields of the request."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import forked
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


def test_fields_that_do_not_touch_log_likelihoods_are_named(
    tasks: Path, tiny_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from chatplan.adapters.lm_eval import ChatLM

    with caplog.at_level(logging.WARNING, "chatplan"):
        evaluate(tasks, ChatLM(str(tiny_folder), device="cpu", min_p=0.1), ["tiny_choose"])
    assert "without min_p" in caplog.text


def asked(given: Mapping[str, Any], *, context: str = "Say a:", **about: Any) -> dict[str, Any]:
    """The request that a model of 100 tokens makes of what a task gives."""
    from chatplan.adapters.lm_eval.requests import as_request

    default: dict[str, Any] = {
        "max_length": 100,
        "max_gen_toks": 30,
        "add_bos_token": None,
        "defaults": {},
        "bos": "<s>",
    }
    known = default | about
    model: Any = SimpleNamespace(
        chat=SimpleNamespace(defaults=known["defaults"]), tokenizer=SimpleNamespace(bos_token=known["bos"]), **known
    )
    return as_request(model, context, given)


def test_a_task_that_says_nothing_is_greedy_with_the_models_length() -> None:
    assert asked({}) == {
        "messages": [{"role": "user", "content": "Say a:"}],
        "chat_template": "{{ messages[0].content }}",
        "add_special_tokens": True,
        "truncate_prompt_tokens": 70,
        "max_completion_tokens": 30,
        "temperature": 0,
    }


@pytest.mark.parametrize(
    ("given", "defaults", "limit"),
    [
        ({"max_gen_toks": 8}, {"max_tokens": 20}, 8),
        ({}, {"max_tokens": 20}, 20),
        ({}, {"max_tokens": 20, "max_completion_tokens": 15}, 15),
        ({}, {}, 30),
        ({"max_gen_toks": 99}, {}, 99),
    ],
)
def test_the_length_is_the_tasks_then_the_arguments_then_the_models(
    given: dict[str, Any], defaults: dict[str, Any], limit: int
) -> None:
    request = asked(given, defaults=defaults)
    assert (request["max_completion_tokens"], request["truncate_prompt_tokens"]) == (limit, 100 - limit)
    assert "max_gen_toks" not in request


def test_an_answer_that_leaves_no_room_for_a_prompt_is_refused() -> None:
    from chatplan import RequestError

    with pytest.raises(RequestError, match="leaves no room for a prompt in 100 tokens, got 100") as caught:
        asked({"max_gen_toks": 100})
    assert caught.value.param == "max_tokens"


@pytest.mark.parametrize(
    ("given", "defaults", "temperature"),
    [
        ({}, {}, 0),
        ({}, {"temperature": 0.7}, None),
        ({"do_sample": False}, {"temperature": 0.7}, 0),
        ({"temperature": 0.0}, {"temperature": 0.7}, 0),
        ({"do_sample": True}, {}, None),
        ({"do_sample": True, "temperature": 0.3}, {"temperature": 0.7}, 0.3),
        ({"do_sample": False, "temperature": 0.3}, {}, 0),
    ],
)
def test_it_samples_only_where_the_task_or_else_the_arguments_say_so(
    given: dict[str, Any], defaults: dict[str, Any], temperature: float | None
) -> None:
    request = asked(given, defaults=defaults)
    assert request.get("temperature") == temperature
    assert "do_sample" not in request


def test_stop_strings_beams_and_fields_of_the_request_are_handed_on() -> None:
    request = asked({"until": ["\n", "", "7"], "num_beams": 3, "top_k": 5})
    assert request["stop"] == ["\n", "7"]
    assert (request["use_beam_search"], request["n"], request["top_k"]) == (True, 3, 5)
    assert not {"until", "num_beams"} & set(request)
    assert not {"use_beam_search", "n"} & set(asked({"num_beams": 1}))
    assert "stop" not in asked({"until": []})


@pytest.mark.parametrize(
    ("context", "add", "expected"),
    [("Hi", None, True), ("Hi", True, True), ("Hi", False, False), ("<s>Hi", None, False), ("<s>Hi", True, False)],
)
def test_the_token_of_the_beginning_is_there_once(context: str, add: bool | None, expected: bool) -> None:
    assert asked({}, context=context, add_bos_token=add)["add_special_tokens"] is expected


def test_answers_keep_the_order_of_the_requests_and_are_kept_for_another_run(tiny_folder: Path) -> None:
    from chatplan.adapters.lm_eval import ChatLM

    model: Any = ChatLM(str(tiny_folder), device="cpu", dtype="float32", batch_size=3, think_end_token="]")
    assert model.chat.model.settings.batch_size == 3
    bodies: list[str] = []

    def answered(requests: Any) -> Any:
        for request in requests:
            bodies.append(request["messages"][0]["content"])
            yield SimpleNamespace(text=f"thought] of {bodies[-1]}")

    kept: list[tuple[str, Any, str]] = []
    model.chat = SimpleNamespace(complete_each=answered, defaults={})
    model.cache_hook = SimpleNamespace(add_partial=lambda *given: kept.append(given))
    asked_for = [SimpleNamespace(args=(text, {"max_gen_toks": 4})) for text in ("bb", "a", "dddd", "ccc")]
    assert [text.strip() for text in model.generate_until(asked_for, disable_tqdm=True)] == [
        "of bb", "of a", "of dddd", "of ccc"
    ]  # fmt: skip
    assert bodies == ["dddd", "ccc", "bb", "a"], "the longest first, so that a lack of memory shows at once"
    assert [(name, args[0], text.strip()) for name, args, text in kept] == [
        ("generate_until", text, f"of {text}") for text in bodies
    ]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"truncation": True}, "truncation: has no meaning"),
        ({"mixed_precision_dtype": "float16"}, "mixed_precision_dtype: has no meaning"),
        ({"backend": "seq2seq"}, "backend: chatplan runs causal language models, not seq2seq"),
        ({"think_end_token": "17"}, "think_end_token: give its text"),
        ({"think_end_token": 17}, "think_end_token: give its text"),
    ],
)
def test_what_has_no_meaning_here_is_refused_before_anything_is_loaded(given: dict[str, Any], said: str) -> None:
    from chatplan.adapters.lm_eval import ChatLM

    with pytest.raises(ValueError, match=said):
        ChatLM("./nowhere", **given)


def test_plugins_are_named_by_one_name_or_a_list(tiny_folder: Path) -> None:
    from chatplan.adapters.lm_eval import ChatLM

    one = ChatLM(str(tiny_folder), device="cpu", disable="beam", backend="default", top_k=3, max_stop=5)
    assert "beam" not in one.chat.plugins.names
    assert one.chat.defaults == {"top_k": 3}
    assert one.chat.model.settings.max_stop == 5
    many = ChatLM(str(tiny_folder), device="cpu", disable=["beam", "bias"])
    assert not {"beam", "bias"} & set(many.chat.plugins.names)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_command_line_of_lm_eval_runs_without_a_server(tasks: Path, tiny_folder: Path, tmp_path: Path) -> None:
    words = ["-m", "chatplan.adapters.lm_eval", "run", "--model", "chatplan", "--device", "cpu", "--batch_size", "2"]
    words += ["--model_args", f"pretrained={tiny_folder},dtype=float32,seed=7", "--include_path", str(tasks)]
    words += ["--tasks", "tiny_generate", "--gen_kwargs", "temperature=1,max_gen_toks=8"]
    words += ["--output_path", str(tmp_path), "--log_samples"]
    result = forked.run(words, capture_output=True, encoding="utf-8", timeout=300)
    assert result.returncode == 0, result.stderr[-2000:]
    assert "tiny_generate" in result.stdout
    [samples] = tmp_path.rglob("samples_tiny_generate*.jsonl")
    assert len(samples.read_text("utf-8").splitlines()) == len(WORDS)
