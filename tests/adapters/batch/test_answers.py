"""What is in the output: one line for each request, in order, and what does not change it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

Files = Any
Body = dict[str, Any]
Ask = Callable[..., Body]


def test_each_request_has_its_line_in_order(files: Files, bodies: list[Body]) -> None:
    files.write(bodies)
    result = files.run("--batch-size", "4")
    assert result.exit_code == 0, result.stderr
    assert "10 answered, 1 refused; " in result.stderr
    answers = files.answers()
    assert [answer["custom_id"] for answer in answers] == [f"r-{at}" for at in range(11)]
    assert all(list(answer) == ["id", "custom_id", "response", "error"] for answer in answers)
    assert len({answer["id"] for answer in answers}) == 11
    assert all(answer["error"] is None for answer in answers)
    for answer in answers[:4]:
        body = answer["response"]["body"]
        assert answer["response"]["status_code"] == 200
        assert body["id"] == f"chatcmpl-{answer['response']['request_id']}"
        assert body["created"] == 1_700_000_000
    counts = [len(answer["response"]["body"].get("choices", ())) for answer in answers]
    assert counts == [1, 1, 1, 2, 1, 1, 1, 1, 1, 1, 0]
    assert answers[7]["response"]["body"]["id"] == "chatcmpl-mine"
    assert not files.work.exists()


@pytest.mark.dev_only
def test_openais_client_knows_the_answers(files: Files, ask: Ask) -> None:
    from openai.types.chat import ChatCompletion

    files.write([ask("a"), ask("b", logprobs=True, n=2)])
    assert files.run().exit_code == 0
    for answer in files.answers():
        assert ChatCompletion.model_validate(answer["response"]["body"]).usage is not None


def test_a_refusal_is_a_line_with_the_status_of_a_server(files: Files, ask: Ask) -> None:
    files.write([ask("a"), ask("b", top_p=7), ask("c", model="gpt-4"), ask("d", stream=True), {"messages": []}])
    assert files.run().exit_code == 0
    found = [answer["response"] for answer in files.answers()]
    assert [response["status_code"] for response in found] == [200, 400, 404, 400, 400]
    assert found[1]["body"]["error"].keys() == {"message", "type", "param", "code"}
    params = [response["body"]["error"]["param"] for response in found[1:]]
    assert params == ["top_p", "model", "stream", "messages"]


def test_batch_sizes_and_engines_change_no_answer(files: Files, bodies: list[Body]) -> None:
    files.write([body for body in bodies if "tempurature" not in body])
    assert files.run("--batch-size", "4").exit_code == 0
    other = files.folder / "other.jsonl"
    assert files.run("--batch-size", "3", output=other).exit_code == 0
    assert files.texts() == files.texts(other)
    assert [answer["id"] for answer in files.answers()] == [answer["id"] for answer in files.answers(other)]


@pytest.mark.dev_only
def test_the_engine_continuous_gives_the_same_answers(files: Files, bodies: list[Body]) -> None:
    files.write([body for body in bodies if "tempurature" not in body])
    assert files.run().exit_code == 0
    other = files.folder / "other.jsonl"
    result = files.run("--engine", "continuous", "--batch-size", "2", "--max-num-seqs", "3", output=other)
    assert result.exit_code == 0, result.stderr
    assert files.texts() == files.texts(other)


def test_an_answer_without_a_seed_is_the_same_each_time(files: Files, ask: Ask) -> None:
    files.write([ask("Hi", temperature=1.5, max_tokens=12)] * 2)
    other = files.folder / "other.jsonl"
    assert files.run().exit_code == 0
    assert files.run(output=other).exit_code == 0
    assert files.output.read_bytes() == other.read_bytes()
    assert files.texts()[0] != files.texts()[1]  # but not the same in each line


def test_ids_of_tool_calls_are_the_same_each_time(files: Files, ask: Ask) -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
    named = {"type": "function", "function": {"name": "f"}}
    files.write([ask("Hi", tools=[tool], tool_choice=named, max_tokens=40)])
    other = files.folder / "other.jsonl"
    assert files.run().exit_code == 0
    assert files.run(output=other).exit_code == 0
    assert files.output.read_bytes() == other.read_bytes()
    if "choices" in files.answers()[0]["response"]["body"]:  # older transformers read no tool calls
        (call,) = files.answers()[0]["response"]["body"]["choices"][0]["message"]["tool_calls"]
        assert call["id"].startswith("chatcmpl-tool-")


def test_defaults_names_and_settings(files: Files, ask: Ask) -> None:
    files.write([ask("Hi", model="m"), ask("Hi", logprobs=True, top_logprobs=3)])
    arguments = ["--served-model-name", "m", "--default", "n=2", "--default", "stop=x", "--max-logprobs", "2"]
    assert files.run(*arguments).exit_code == 0
    first, second = (answer["response"] for answer in files.answers())
    assert first["body"]["model"] == "m"
    assert len(first["body"]["choices"]) == 2
    assert second["body"]["error"]["param"] == "top_logprobs"


# --- what fails while it is generated ---------------------------------------------------------------------------------


@pytest.mark.parametrize("trouble", ["fails", "row", "bug"])
def test_a_request_that_fails_leaves_its_neighbours_alone(files: Files, ask: Ask, trouble: str) -> None:
    plain = [ask("a"), ask("b"), ask("c")]
    files.write(plain)
    assert files.run("--plugin", "trouble").exit_code == 0
    expected = files.texts()
    files.write([plain[0], {**plain[1], "trouble": trouble}, plain[2]])
    result = files.run("--plugin", "trouble", "--restart")
    assert result.exit_code == 0, result.stderr
    assert "2 answered, 1 failed; " in result.stderr
    first, failed, last = files.answers()
    assert [item["response"]["status_code"] for item in (first, failed, last)] == [200, 500, 200]
    assert failed["response"]["body"]["error"]["type"] == "InternalServerError"
    texts = [item["response"]["body"]["choices"][0]["message"]["content"] for item in (first, last)]
    assert texts == [expected[0][0], expected[2][0]]


def test_a_model_that_answers_nothing_ends_the_job(files: Files, ask: Ask) -> None:
    files.write([ask("a"), ask("b", top_p=7)])
    result = files.run("--plugin", "trouble", "--default", 'trouble="fails"', "--batch-size", "2")
    assert result.exit_code == 1
    assert "no request of lines 1 to 2 was answered" in result.stderr
    assert "no memory" in result.stderr
    assert not files.output.exists()
    assert not list(files.work.glob("*.jsonl"))


def test_requests_that_fail_alone_do_not_end_the_job(files: Files, ask: Ask) -> None:
    files.write([ask("a"), ask("b", trouble="fails"), ask("c")])
    assert files.run("--plugin", "trouble", "--batch-size", "1").exit_code == 0
    assert [line["response"]["status_code"] for line in files.answers()] == [200, 500, 200]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--plugin", "no.such"], "no.such"),
        (["--engine", "warp"], "warp"),
        (["--default", "tempurature=1"], "tempurature"),
        (["--default", "top_p"], "--default"),
        (["--batch-size", "0"], "batch_size"),
        (["--logprobs-mode", "odd"], "logprobs_mode"),
        (["--model", "no/such"], "--model: "),
        (["--device-map", "{"], "--device-map: "),
    ],
)
def test_what_is_wrong_is_told_in_a_line(files: Files, ask: Ask, arguments: list[str], message: str) -> None:
    files.write([ask("a")])
    result = files.run(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert not files.output.exists()


def test_a_wrong_file_is_told_before_the_model_is_looked_for(files: Files) -> None:
    files.source.write_text("x\n", "utf-8")
    result = files.run("--model", "no/such")
    assert result.exit_code == 2
    assert "line 1: is not JSON" in result.stderr
    assert not files.work.exists()
