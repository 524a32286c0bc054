"""From settings to a chat."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chatplan.adapters.auth import authenticators
from chatplan.adapters.server.logs import adopt_libraries
from chatplan.manager import Plugins
from chatplan.settings import Settings

if TYPE_CHECKING:
    from chatplan.adapters.server.settings import ServerSettings
    from chatplan.chat import Chat

__all__ = ["check_access", "load_chat", "load_plugins"]


def load_plugins(settings: ServerSettings) -> Plugins:
    """The plugins that ``settings`` name, and those that know credentials."""
    return Plugins([*settings.plugins, *authenticators(settings.auth)], settings.disable)


def check_access(settings: ServerSettings, plugins: Plugins) -> None:
    """Raises :class:`ValueError` when strangers could ask, and nobody said that they may."""
    if plugins.has("authenticate") or settings.no_auth or settings.is_local:
        return
    raise ValueError(
        f"host {settings.host} can be reached from elsewhere, and no way to prove who asks is set up: make a key with "
        "`chatplan keys create` and pass its file as --auth.keys-file, or set --auth.jwt-issuer or "
        "--auth.introspection-url; --no-auth lets everybody ask"
    )


def load_chat(settings: ServerSettings, plugins: Plugins) -> Chat:
    """Load the model.

    Raises:
        OSError: there is no such checkpoint.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from chatplan.chat import Chat
    from chatplan.model import ModelInfo

    assert settings.model is not None
    adopt_libraries()
    place = settings.device_map or settings.device or _likely_device()
    model = AutoModelForCausalLM.from_pretrained(settings.model, device_map=place, **_dtype(settings.dtype)).eval()
    tokenizer = AutoTokenizer.from_pretrained(settings.model)
    name = next(iter(settings.served_model_name), settings.model)
    info = ModelInfo.of(model, tokenizer, Settings(**settings.chat_settings), name)
    # The model is for requests alone, which lets `auto` take the engine that changes it.
    options = {"serving": True}
    chat = Chat(info, plugins=plugins, engine=settings.engine, defaults=settings.defaults, options=options)
    adopt_libraries()  # the engine brought another one
    return chat


def _likely_device() -> str:
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _dtype(name: str) -> dict[str, str]:
    """The argument for the type of the weights, which transformers 4 calls otherwise."""
    import transformers

    return {"dtype" if int(transformers.__version__.split(".")[0]) >= 5 else "torch_dtype": name}
