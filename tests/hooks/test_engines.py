"""Which engine runs a model."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import pytest

from chatplan import Chat, ModelInfo, PluginError
from chatplan.errors import EngineError
from chatplan.standin import stand_in

OLD = find_spec("transformers.generation.continuous_batching") is None or not find_spec(
    "transformers.generation.continuous_batching.cb_logits_processors"
)


@pytest.fixture
def info(new_model: Callable[[], Any]) -> ModelInfo:
    return ModelInfo.of(new_model(), stand_in().tokenizer)


def test_an_engine_that_nobody_offers(info: ModelInfo) -> None:
    with pytest.raises(PluginError, match="no plugin offers the engine 'warp'"):
        Chat(info, engine="warp")


def test_a_pipelines_engine_is_generate(info: ModelInfo) -> None:
    assert Chat(info).engine.name == "generate"


@pytest.mark.skipif(not OLD, reason="this transformers has continuous batching")
def test_older_transformers_say_what_continuous_needs(info: ModelInfo, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(EngineError, match="needs transformers 5.23 or newer"):
        Chat(info, engine="continuous")
    assert Chat(info, options={"serving": True}).engine.name == "generate"
    assert "needs transformers 5.23" in caplog.text
