"""The chat of a command: a checkpoint that is loaded here, or a server that runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chatplan.errors import ChatplanError, EngineError, RequestError

if TYPE_CHECKING:
    from chatplan.chat import Chat

__all__ = ["DEFAULT_MODEL", "Place", "check_local", "is_url", "load_chat", "missing_folder"]

DEFAULT_MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"


@dataclass(frozen=True)
class Place:
    """Where answers come from.

    Attributes:
        model: a name on the hub, a folder, or the URL of a server.
        name: what answers call it; on a server with several models, which one.
        settings: those of :class:`~chatplan.Settings` that were given.
        api_key: for a server.
    """

    model: str
    name: str = ""
    plugins: Sequence[str] = ()
    disable: Collection[str] = ()
    engine: str = "auto"
    dtype: str = "auto"
    device_map: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    api_key: str | None = None


def is_url(model: str) -> bool:
    """Whether ``model`` is the address of a server."""
    return model.startswith(("http://", "https://"))


def missing_folder(model: str) -> None:
    """Raises :class:`EngineError` for a path that is no folder, which would be taken for a name on the hub."""
    if model.startswith(("/", "./", "../", "~")) and not Path(model).is_dir():
        raise EngineError("there is no such folder", param=model)


def check_local(place: Place) -> None:
    """Refuse what cannot be right for a model that is loaded here.

    Raises:
        EngineError: there is no such folder.
        RequestError: a key was given, which is for a server; one in the environment may be for others.
    """
    missing_folder(place.model)
    if place.api_key is not None and "CHATPLAN_API_KEY" not in os.environ:
        raise RequestError("is for a server, and the model is loaded here", param="--api-key")


def load_chat(place: Place) -> Chat:
    """Load the model, or ask the server, and say so on a terminal.

    Raises:
        EngineError: the model cannot be loaded.
        ChatplanError: a plugin, a setting or the server is wrong.
    """
    with _waiting(f"{'asking' if is_url(place.model) else 'loading'} {place.model} …"):
        try:
            return _connect(place) if is_url(place.model) else _load(place)
        except ChatplanError as error:
            if error.param == "--model":
                raise EngineError(error.message, param=place.model) from error
            if is_url(place.model):
                error.param = error.param or place.model
            raise
        except Exception as error:  # files of weights are read by several libraries, with errors of their own
            raise EngineError(f"cannot be loaded: {type(error).__name__}: {error}", param=place.model) from error


def _connect(place: Place) -> Chat:
    from chatplan.adapters.connect import connect

    if place.device_map is not None or place.dtype != "auto" or place.engine != "auto":
        raise RequestError("a server has its own --engine, --dtype and --device-map", param=place.model)
    more = {"model": place.name} if place.name else {}
    return connect(
        place.model, api_key=place.api_key, plugins=place.plugins, disable=place.disable, **more, **place.settings
    )


def _load(place: Place) -> Chat:
    check_local(place)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    import torch

    from chatplan.adapters.batch.loading import load_chat as load
    from chatplan.adapters.batch.options import Options
    from chatplan.adapters.weights import likely_device
    from chatplan.settings import Settings

    try:
        settings = Settings(**place.settings)
    except ValueError as error:
        raise RequestError(str(error)) from None
    options = Options(place.model, place.name, place.dtype, tuple(place.plugins), tuple(place.disable), {}, settings,
                      place.engine, place.device_map)  # fmt: skip
    return load(options, torch.device(likely_device()))


@contextmanager
def _waiting(text: str) -> Iterator[None]:
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console
    from rich.markup import escape

    with Console(stderr=True).status(escape(text)):
        yield
