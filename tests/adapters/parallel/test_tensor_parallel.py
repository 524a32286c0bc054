"""A model on two ranks, under torchrun on CPUs: what it says is what the whole model says, whatever comes between."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import forked
import psutil  # type: ignore[import-untyped]
import pytest
import torch
from transformers import GPT2Config, LlamaConfig, LlamaForCausalLM

from chatplan import ChatPipeline, EngineError, pipeline
from chatplan.adapters.parallel import processes, tensor_parallel
from chatplan.adapters.parallel.loading import attention_plan
from chatplan.standin import stand_in

pytestmark = pytest.mark.dev_only
FOLLOWER = ["-m", "chatplan.adapters.parallel.follower"]
HELLO = [{"role": "user", "content": "Hello there"}]
COMMON = {"messages": HELLO, "max_tokens": 10, "return_token_ids": True}
REQUESTS: dict[str, dict[str, Any]] = {
    "greedy": {**COMMON, "temperature": 0},
    "longer": {**COMMON, "temperature": 0, "messages": [{"role": "user", "content": "A prompt of another length"}]},
    "seeded": {**COMMON, "temperature": 1, "seed": 3},
    "choices": {**COMMON, "seed": 3, "n": 2},
    "best": {**COMMON, "seed": 3, "n": 1, "best_of": 3},
    "guided": {**COMMON, "seed": 1, "guided_regex": "[a-c]{4}"},
    "beams": {**COMMON, "temperature": 0, "n": 2, "use_beam_search": True, "logprobs": True},
    "stopped": {**COMMON, "temperature": 0, "stop": ["$"]},
    "prompt": {**COMMON, "temperature": 0, "prompt_logprobs": 1},
}


@pytest.fixture(scope="module")
def whole(checkpoint: str) -> ChatPipeline:
    return pipeline("chat", model=checkpoint)


@pytest.fixture(scope="module")
def divided(checkpoint: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the program said that torchrun ran; it and its ranks have ended well."""
    folder = tmp_path_factory.mktemp("ranks")
    requests, answers = folder / "requests.json", folder / "answers.json"
    requests.write_text(json.dumps(REQUESTS), "utf-8")
    program = Path(__file__).with_name("on_ranks.py")
    result = forked.run([program, checkpoint, requests, answers], capture_output=True, encoding="utf-8", timeout=300)
    assert result.returncode == 0, result.stdout + result.stderr
    found: dict[str, Any] = json.loads(answers.read_text("utf-8"))
    return found


def essence(answer: dict[str, Any]) -> list[Any]:
    """What must be the same: the tokens, and why they end."""
    return [[choice[name] for name in ("token_ids", "finish_reason", "stop_reason")] for choice in answer["choices"]]


def likely(value: Any) -> Any:
    """Log-probabilities, which may differ in their last digits; the rest is the same."""
    if isinstance(value, dict):
        return {key: likely(item) for key, item in value.items()}
    if isinstance(value, list):
        return [likely(item) for item in value]
    return pytest.approx(value, abs=1e-4) if isinstance(value, float) else value


@pytest.mark.slow
@pytest.mark.parametrize("name", REQUESTS)
def test_same_tokens_as_the_whole_model(name: str, whole: ChatPipeline, divided: dict[str, Any]) -> None:
    expected, found = whole(REQUESTS[name]).to_dict(), divided["one"][name]
    assert divided["engine"] == "tensor_parallel"
    assert essence(found) == essence(expected)
    assert found["prompt_logprobs"] == likely(expected["prompt_logprobs"])
    for mine, theirs in zip(found["choices"], expected["choices"], strict=True):
        assert mine["logprobs"] == likely(theirs["logprobs"])


@pytest.mark.slow
def test_a_batch_and_a_stream(whole: ChatPipeline, divided: dict[str, Any]) -> None:
    expected = [essence(whole(request).to_dict()) for request in REQUESTS.values()]
    assert [essence(answer) for answer in divided["batch"]] == expected
    deltas = [choice for chunk in divided["streamed"] for choice in chunk["choices"]]
    assert [token for delta in deltas for token in delta.get("token_ids") or ()] == expected[0][0][0]
    assert len(deltas) > 5


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cancelled", "broken_processor", "broken_step", "idle"])
def test_the_next_answer_is_right_after(name: str, whole: ChatPipeline, divided: dict[str, Any]) -> None:
    assert essence(divided["after"][name]) == essence(whole(REQUESTS["greedy"]).to_dict())


@pytest.mark.slow
def test_heads_that_cannot_be_divided_say_the_same(tmp_path: Path) -> None:
    """Nine heads are attended to on each of the two ranks, of which the second is a process that we start."""
    config = LlamaConfig(
        vocab_size=300, hidden_size=72, intermediate_size=64, num_hidden_layers=2, num_attention_heads=9,
        num_key_value_heads=3, max_position_embeddings=1024, initializer_range=0.4, bos_token_id=None,
        eos_token_id=257, pad_token_id=256,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(1)
        LlamaForCausalLM(config).save_pretrained(tmp_path)
    stand_in().tokenizer.save_pretrained(tmp_path)
    expected = essence(pipeline("chat", model=str(tmp_path))(REQUESTS["choices"]).to_dict())
    before = set(psutil.Process().children())
    chat = pipeline("chat", model=str(tmp_path), tensor_parallel_size=2, dtype=torch.float32)
    try:
        ranks = set(psutil.Process().children()) - before
        assert [rank.cmdline()[-1] for rank in ranks] == ["chatplan.adapters.parallel.follower"]
        assert essence(chat(REQUESTS["choices"]).to_dict()) == expected
    finally:
        chat.chat.close()
    assert not [rank for rank in ranks if rank.is_running()]


@pytest.mark.slow
def test_what_was_disturbed(divided: dict[str, Any]) -> None:
    assert divided["cancelled"] == 4
    assert "it broke" in divided["broken_processor"]
    assert "RuntimeError" in divided["broken_step"]


# --- without other ranks ----------------------------------------------------------------------------------------------


def test_heads_that_cannot_be_divided_are_attended_to_on_each_rank(tmp_path: Path) -> None:
    LlamaConfig(num_attention_heads=9, num_key_value_heads=3, hidden_size=576).save_pretrained(tmp_path)
    assert attention_plan(str(tmp_path), 3, {}) is None
    assert attention_plan(str(tmp_path), 2, {}) == {
        **{f"model.layers.*.self_attn.{name}_proj": "colwise_gather_output" for name in "qkv"},
        "model.layers.*.self_attn.o_proj": "rowwise_split_input",
    }


def test_a_model_must_have_a_plan(tmp_path: Path) -> None:
    GPT2Config().save_pretrained(tmp_path)
    with pytest.raises(EngineError, match="gpt2 model has no plan for tensor parallel"):
        tensor_parallel(str(tmp_path), 2)


def test_a_model_is_placed_once(checkpoint: str, tiny_model: LlamaForCausalLM) -> None:
    with pytest.raises(EngineError, match="leave out device and device_map"):
        pipeline("chat", model=checkpoint, tensor_parallel_size=2, device_map="auto")
    with pytest.raises(EngineError, match="yet to be loaded"):
        pipeline("chat", model=tiny_model, tensor_parallel_size=2)


def test_what_rank_0_fails_in_leaves_no_process(checkpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ranks: list[Any] = []

    def start(number: int, job: bytes) -> Any:
        environment = {**os.environ, "LOCAL_RANK": str(number)}
        ranks.append(forked.Popen(FOLLOWER, stdin=subprocess.PIPE, env=environment))
        with ranks[-1].stdin as stdin:
            stdin.write(job)
        return ranks[-1]

    monkeypatch.setattr(processes, "_start", start)
    with pytest.raises(ValueError, match="no such attention"):
        tensor_parallel(checkpoint, 2, attn_implementation="no such attention")
    assert [rank.poll() is None for rank in ranks] == [False]
    assert not torch.distributed.is_initialized()
