"""From settings to a chat."""

from __future__ import annotations

import errno
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chatplan.adapters.auth import authenticators
from chatplan.adapters.server.logs import adopt_libraries
from chatplan.adapters.server.upstream import upstream_chat
from chatplan.adapters.weights import dtype_argument, likely_device
from chatplan.errors import EngineError
from chatplan.manager import Plugins
from chatplan.settings import Settings

if TYPE_CHECKING:
    from chatplan.adapters.server.settings import ServerSettings
    from chatplan.chat import Chat

__all__ = ["check_access", "check_place", "follow", "load_chat", "load_plugins"]


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


def check_place(settings: ServerSettings) -> None:
    """What would come to nothing is found before the server starts, where that takes no time.

    Raises:
        EngineError: there is no model in the folder, or nobody can listen at the address.
    """
    model = settings.model or ""
    if model.startswith(("/", "./", "../", "~")) and not Path(model).is_dir():
        raise EngineError("the model cannot be loaded: there is no such folder", param=model)
    if Path(model or "-").is_dir() and not (Path(model) / "config.json").is_file():
        raise EngineError("the model cannot be loaded: the folder has no config.json", param=model)
    if settings.uds is None:
        _check_address(settings.host, settings.port)


def _check_address(host: str, port: int) -> None:
    try:
        family, kind, number, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, number) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
    except OSError as error:
        used = "another program uses it; --port takes another one, 0 a free one"
        reason = used if error.errno == errno.EADDRINUSE else error.strerror
        raise EngineError(f"port {port} of {host}: {reason}") from error


def load_chat(settings: ServerSettings, plugins: Plugins) -> Chat:
    """Load the model, or ask the servers that have it.

    Raises:
        EngineError: there is no such checkpoint.
        ChatplanError: the servers do not answer, or not as they should.
    """
    if settings.upstream.urls:
        return upstream_chat(settings)
    from transformers import AutoTokenizer

    from chatplan.chat import Chat
    from chatplan.model import ModelInfo

    assert settings.model is not None
    adopt_libraries()
    try:
        model = _load_model(settings, settings.model)
        tokenizer = AutoTokenizer.from_pretrained(settings.model)
    except (OSError, ValueError) as error:  # the libraries' words for a checkpoint that is none
        raise EngineError(str(error), param=settings.model) from error
    name = next(iter(settings.served_model_name), settings.model)
    info = ModelInfo.of(model, tokenizer, Settings(**settings.chat_settings), name)
    # The model is for requests alone, which lets `auto` take the engine that changes it.
    options = {"serving": True}
    chat = Chat(info, plugins=plugins, engine=settings.engine, defaults=settings.defaults, options=options)
    adopt_libraries()  # the engine brought another one
    return chat


def follow(settings: ServerSettings) -> None:
    """On the ranks above 0 that torchrun started: work for rank 0, which serves, and leave when it has ended."""
    from chatplan.adapters.parallel import tensor_parallel

    assert settings.model is not None
    tensor_parallel(settings.model, settings.tensor_parallel_size, **_parallel(settings))


def _load_model(settings: ServerSettings, name: str) -> Any:
    """The model, whole or rank 0's part of it."""
    if settings.tensor_parallel_size > 1:
        from chatplan.adapters.parallel import tensor_parallel

        return tensor_parallel(name, settings.tensor_parallel_size, **_parallel(settings))
    from transformers import AutoModelForCausalLM

    place = settings.device_map or settings.device or likely_device()
    more = {**_offload(settings), **dtype_argument(settings.dtype)}
    return AutoModelForCausalLM.from_pretrained(name, device_map=place, **more).eval()


def _parallel(settings: ServerSettings) -> dict[str, Any]:
    return {"seconds": settings.tensor_parallel_seconds, **dtype_argument(settings.dtype)}


def _offload(settings: ServerSettings) -> dict[str, Any]:
    """What accelerate may fill; it has numbers for accelerators and names for the rest."""
    found: dict[str, Any] = {}
    if settings.max_memory:
        found["max_memory"] = {int(key) if key.isdigit() else key: most for key, most in settings.max_memory.items()}
    if settings.offload_folder is not None:
        found["offload_folder"] = str(settings.offload_folder)
    return found
