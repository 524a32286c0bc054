"""Which engine runs a model."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

import pytest

from chatplan import Chat, ModelInfo, PluginError, Settings
from chatplan.engine import EngineStats
from chatplan.engine.generate import GenerateEngine
from chatplan.engine.packed import PackedLinear
from chatplan.engine.tensor_parallel import LEADERS
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


@pytest.mark.parametrize("name", ["auto", "generate"])
def test_a_name_and_what_it_comes_to(info: ModelInfo, name: str) -> None:
    assert type(Chat(info, engine=name).engine) is GenerateEngine
    with pytest.raises(PluginError, match="no plugin offers the engine 'tensor_parallel'"):
        Chat(info, engine="tensor_parallel")


@pytest.mark.skipif(OLD, reason="this transformers has no continuous batching")
@pytest.mark.parametrize(
    ("engine", "serving", "name"),
    [
        ("auto", True, "continuous"),
        ("auto", False, "generate"),
        ("generate", True, "generate"),
        ("continuous", False, "continuous"),
        ("continuous", True, "continuous"),
    ],
)
@pytest.mark.parametrize("pack", [None, True, False])
def test_a_model_for_requests_alone_runs_on_continuous(
    new_model: Callable[[], Any], engine: str, serving: bool, name: str, pack: bool | None
) -> None:
    module = new_model()
    info = ModelInfo.of(module, stand_in().tokenizer, Settings(pack_weights=pack, max_num_seqs=1))
    chat = Chat(info, engine=engine, options={"serving": serving})
    packed = any(isinstance(layer, PackedLinear) for layer in module.modules())
    chat.close()
    assert chat.engine.name == name
    assert packed is (name == "continuous" and (serving if pack is None else pack))
    assert not any(isinstance(layer, PackedLinear) for layer in module.modules())


def test_a_model_on_several_ranks_runs_on_tensor_parallel(info: ModelInfo) -> None:
    closed: list[int] = []
    leader: Any = SimpleNamespace(broken=None)
    LEADERS[info.module] = leader, lambda: closed.append(1)
    for name in ("auto", "generate", "tensor_parallel"):
        chat = Chat(info, engine=name, options={"serving": True})
        assert chat.engine.name == "tensor_parallel"
        assert chat.engine.stats() == EngineStats(0, 0)
    chat.close()
    assert closed == [1]
    assert info.module is not None
    assert info.module.generation_config is not None
    assert info.module.generation_config.disable_compile
    with pytest.raises(EngineError, match="runs on generate"):
        Chat(info, engine="continuous")
    with pytest.raises(PluginError, match="warp"):
        Chat(info, engine="warp")


@pytest.mark.skipif(not OLD, reason="this transformers has continuous batching")
def test_older_transformers_say_what_continuous_needs(info: ModelInfo, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(EngineError, match="needs transformers 5.23 or newer"):
        Chat(info, engine="continuous")
    assert Chat(info, options={"serving": True}).engine.name == "generate"
    assert "needs transformers 5.23" in caplog.text
