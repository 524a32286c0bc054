"""Models to test with: a real checkpoint, and a tiny one of random weights that is made in a moment."""

from __future__ import annotations

import os
import runpy
import signal
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, LogitsProcessor

from chatplan import Chat, ChatCompletionRequest, ChatPipeline, ModelInfo, Prompt, Settings, Stage, hookimpl, pipeline
from chatplan.standin import stand_in

ROOT = Path(__file__).parents[1]


def pytest_configure(config: pytest.Config) -> None:
    """Pin the device, and let Ctrl-C end what tests start."""
    if "gpu" not in config.getoption("markexpr").replace("not gpu", ""):
        # Texts are compared word for word and tensors are handed over: on the CPU, whatever else the machine has.
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        torch.backends.mps.is_available = lambda: False  # type: ignore[assignment]
    # Two threads for a tiny model cost seven times one, and tests share the cores among processes anyhow.
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    # Jobs in the background of a shell ignore Ctrl-C, and so would the processes that tests end by it.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


COLLECTED = pytest.StashKey[list[str]]()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep the ids before any are deselected. Files with slow tests come first, so that no process ends with one."""
    config.stash[COLLECTED] = [item.nodeid for item in items]
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


class Force:
    """A plugin: the answer begins with the token ids of the request's field ``force``, unless they are banned."""

    @hookimpl
    def request_fields(self) -> Mapping[str, Any]:
        return {"force": list[int]}

    @hookimpl
    def logits_processors(self, request: ChatCompletionRequest, prompt: Prompt) -> Iterable[Any] | None:
        ids = request.get("force")
        return [(Stage.BIAS, _Push(ids, len(prompt.token_ids)))] if ids else None


class _Push(LogitsProcessor):
    """Far more than any model says, but finite: what another processor bans stays banned."""

    def __init__(self, ids: list[int], start: int) -> None:
        self.ids, self.start = ids, start

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> Any:
        position = input_ids.shape[1] - self.start
        if position < len(self.ids):
            scores[0, self.ids[position]] += 10_000
        return scores


@pytest.fixture
def collected_ids(pytestconfig: pytest.Config) -> list[str]:
    """The ids of all tests that this process found, also of those that it does not run."""
    return pytestconfig.stash[COLLECTED]


# --- the real model ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def model_path() -> str:
    """The folder of the real checkpoint."""
    place = os.environ.get("CHATPLAN_MODEL")
    if place is None:
        maker = runpy.run_path(str(ROOT / "examples" / "smollm2.py"))
        place = str(maker["cache_dir"]() / maker["NAME"])
    if not (Path(place) / "config.json").is_file():
        pytest.fail(f"no checkpoint in {place}; `python examples/smollm2.py` makes one and prints what to set "
                    "CHATPLAN_MODEL to", pytrace=False)  # fmt: skip
    return place


@pytest.fixture(scope="session")
def pipe(model_path: str) -> ChatPipeline:
    """The real model, with the plugin :class:`Force`."""
    return pipeline("chat", model=model_path, dtype=torch.float32, plugins=[Force()], served_model_name="smollm2")


# --- the tiny model ---------------------------------------------------------------------------------------------------

NewModel = Callable[[], LlamaForCausalLM]
NewChat = Callable[..., Chat]


@pytest.fixture(scope="session")
def new_model() -> NewModel:
    """Makes the tiny model: two layers, 300 tokens (the last ones are no text), always the same weights."""

    def make() -> LlamaForCausalLM:
        config = LlamaConfig(
            vocab_size=300,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=1024,
            initializer_range=0.4,
            bos_token_id=None,
            eos_token_id=257,
            pad_token_id=256,
        )
        with torch.random.fork_rng():
            torch.manual_seed(1)
            model: LlamaForCausalLM = LlamaForCausalLM(config).eval()
            return model

    return make


@pytest.fixture(scope="session")
def tiny_model(new_model: NewModel) -> LlamaForCausalLM:
    """The tiny model, shared: change it in no test."""
    return new_model()


@pytest.fixture(scope="session")
def new_chat(tiny_model: LlamaForCausalLM) -> NewChat:
    """Makes a chat with the tiny model, or with another ``model``; further arguments are those of ``Settings``."""

    def make(
        plugins: Iterable[Any] = (),
        disable: Collection[str] = (),
        model: Any = None,
        tokenizer: Any = None,
        defaults: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> Chat:
        about = ModelInfo.of(
            model or tiny_model, tokenizer or stand_in().tokenizer, Settings(**settings), name="tests/tiny"
        )
        return Chat(about, plugins=[Force(), *plugins], disable=disable, defaults=defaults)

    return make


@pytest.fixture(scope="session")
def tiny(new_chat: NewChat) -> Chat:
    """The tiny model, with the plugin :class:`Force`."""
    return new_chat()
