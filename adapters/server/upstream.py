"""A server that passes requests on to others, which generate."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator
from pydantic_settings import NoDecode

from chatplan.errors import AuthenticationError, ChatplanError, EngineError, PermissionDeniedError

if TYPE_CHECKING:
    from chatplan.adapters.server.settings import ServerSettings
    from chatplan.chat import Chat

__all__ = ["UpstreamSettings", "own", "upstream_chat"]

Kind = Literal["auto", "chatplan", "vllm", "sglang", "llama.cpp", "tgi", "openai"]


class UpstreamSettings(BaseModel):
    """Servers that generate in place of a model here."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    urls: Annotated[list[str], NoDecode] = Field([], description="Their addresses; none means the model runs here.")
    kind: Kind = Field("auto", description="What they are; auto asks them.")
    api_key: SecretStr | None = Field(None, description="The bearer token they want.")
    headers: dict[str, str] = Field({}, description="Headers to send with each request.")
    timeout: float = Field(600.0, gt=0, description="The most seconds for one answer, with all tries.")
    retries: int = Field(2, ge=0, description="Further tries before the first token, while they are away or busy.")

    @field_validator("urls", mode="before")
    @classmethod
    def _list_of_urls(cls, value: Any) -> Any:
        """``a,b`` is what a flag or a variable can say; JSON is taken as well."""
        if not isinstance(value, str):
            return value
        parts = json.loads(value) if value.lstrip().startswith("[") else value.split(",")
        return [str(url).strip() for url in parts if str(url).strip()]


def upstream_chat(settings: ServerSettings) -> Chat:
    """The chat of a server that has no model itself; ``model`` is the checkpoint's name there, or of its tokenizer.

    Raises:
        OverloadedError: no server can be reached.
        EngineError: a package is missing, or the servers are not alike.
    """
    from chatplan.adapters.auth import authenticators
    from chatplan.adapters.connect import connect, is_tgi

    up = settings.upstream
    key = None if up.api_key is None else up.api_key.get_secret_value()
    kind = "tgi" if up.kind == "auto" and is_tgi(up.urls, key, up.headers) else up.kind
    plugins = [*settings.plugins, *authenticators(settings.auth)]
    common = {"server": kind, "headers": up.headers, "timeout": up.timeout, **settings.defaults}
    common |= {"plugins": plugins, "disable": settings.disable}
    common |= {"api_key": key}
    name = next(iter(settings.served_model_name), "")
    changed = {key: value for key, value in settings.chat_settings.items() if key in settings.model_fields_set}
    if kind == "tgi":
        names: dict[str, Any] = {"tokenizer": settings.model, "served_model_name": name}
        return connect(up.urls, retries=up.retries, **names, **common, **changed)
    return connect(up.urls, max_retries=up.retries, model=settings.model, **common, **changed)


def own(error: ChatplanError) -> ChatplanError:
    """An error as this server's: a credential that the servers behind do not take is not that of who asks here."""
    if not isinstance(error, (AuthenticationError, PermissionDeniedError)):
        return error
    refused = EngineError(f"a server behind this one refuses it: {error}", code="upstream_unauthorized")
    refused.__cause__ = error
    return refused
