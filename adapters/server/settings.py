"""What ``chatplan serve`` can be told: one class, read from flags, ``CHATPLAN_*`` variables and a TOML file."""

from __future__ import annotations

import dataclasses
import inspect
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, get_type_hints

from pydantic import Field, create_model, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)
from typing_extensions import Self

from chatplan.adapters.auth.settings import AuthSettings
from chatplan.adapters.server.upstream import UpstreamSettings
from chatplan.settings import Settings

__all__ = ["ServerSettings"]

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def _described(cls: type) -> dict[str, str]:
    """The ``Attributes:`` of a class's docstring: a sentence for each name."""
    text = inspect.getdoc(cls) or ""
    found = re.findall(r"^    (\w+): (.*(?:\n {6,}.*)*)", text, re.MULTILINE)
    return {name: re.sub(r"\s+", " ", about).replace("``", "") for name, about in found}


def _model_fields() -> dict[str, Any]:
    """The fields of :class:`chatplan.Settings`, so that a new one is a setting of the server by itself."""
    hints, texts = get_type_hints(Settings), _described(Settings)
    return {
        item.name: (hints[item.name], Field(item.default, description=texts[item.name]))
        for item in dataclasses.fields(Settings)
    }


if TYPE_CHECKING:
    _ModelSettings = BaseSettings
else:
    _ModelSettings = create_model("_ModelSettings", __base__=BaseSettings, **_model_fields())

Names = Annotated[list[str], NoDecode]


class ServerSettings(_ModelSettings):
    """Everything the server can be told. Flags win over ``CHATPLAN_*`` variables, these over the TOML file.

    Raises:
        pydantic.ValidationError: a value is not valid, or there is no such setting.
    """

    model_config: ClassVar[SettingsConfigDict] = SettingsConfigDict(
        env_prefix="CHATPLAN_",
        env_nested_delimiter="__",
        extra="forbid",
        validate_default=False,
        protected_namespaces=(),
        use_attribute_docstrings=True,
    )

    if TYPE_CHECKING:

        def __init__(self, **values: Any) -> None: ...

    config: Path | None = Field(None, description="A TOML file with these settings.")

    # --- the model
    model: str | None = Field(None, description="A checkpoint: a name on the hub, or a folder.")
    served_model_name: Names = Field([], description="What requests call the model; the first name is in answers.")
    plugins: Names = Field([], description="Plugins to add, by dotted name.")
    disable: Names = Field([], description="Names of plugins to leave out.")
    engine: str = Field("auto", description="The engine: auto, continuous, generate, or one that a plugin offers.")
    dtype: str = Field("auto", description="The type of the weights: auto, float32, bfloat16, float16.")
    device: str | None = Field(None, description="Where the model runs: cpu, cuda, cuda:1; absent lets torch choose.")
    device_map: str | None = Field(None, description="How accelerate places the layers: auto, balanced, sequential.")
    max_memory: dict[str, int | str] = Field(
        {}, description='The most memory on each device, for device_map: {"0": "20GiB", "cpu": "60GiB"}.'
    )
    offload_folder: Path | None = Field(None, description="Where layers go that device_map leaves on disk.")
    tensor_parallel_size: int = Field(1, ge=1, description="On how many devices to divide each layer.")
    tensor_parallel_seconds: float = Field(300.0, gt=0, description="The most time a rank waits for another in a step.")
    upstream: UpstreamSettings = Field(UpstreamSettings.model_validate({}), description="Who generates instead.")
    defaults: dict[str, Any] = Field({}, description="Values for request fields that a request leaves out.")

    # --- the socket
    host: str = Field("127.0.0.1", description="The address to listen on.")
    port: int = Field(8000, ge=0, le=65535, description="The port to listen on; 0 takes a free one.")
    uds: Path | None = Field(None, description="A Unix socket to listen on, in place of host and port.")
    root_path: str = Field("", description="The path under which a reverse proxy shows the server.")
    ssl_certfile: Path | None = Field(None, description="The TLS certificate, in PEM.")
    ssl_keyfile: Path | None = Field(None, description="The key of the certificate, in PEM.")
    cors_origins: Names = Field([], description="Origins whose pages may call the server; none means CORS is off.")

    # --- who may ask
    auth: AuthSettings = Field(AuthSettings.model_validate({}), description="Which credentials are valid.")
    no_auth: bool = Field(False, description="Ask nobody for a credential, whatever the address.")
    metrics_auth: bool = Field(False, description="Ask for a credential for /metrics, too.")

    # --- limits
    max_body_bytes: int = Field(4 * 1024 * 1024, ge=1, description="The longest body of a request.")
    max_messages: int = Field(1024, ge=1, description="The most messages of a request.")
    max_choices: int = Field(20, ge=1, description="The most choices of a request: n, and best_of.")
    max_total_tokens: int | None = Field(
        None, ge=1, description="The most tokens of a request: its prompt, and the bounds of all its choices."
    )
    max_queue: int = Field(512, ge=1, description="The most requests that wait for their first token.")
    max_streams: int = Field(512, ge=1, description="The most streams at once.")
    first_token_seconds: float | None = Field(None, gt=0, description="The most time until the first token.")
    total_seconds: float | None = Field(None, gt=0, description="The most time until the answer is complete.")
    planning_threads: int = Field(8, ge=1, description="Threads that check requests and compile constraints.")

    # --- how it answers
    validation_status: Literal[400, 422] = Field(
        400, description="The status for a body that is not valid; 422 comes with a body as FastAPI writes it."
    )
    keep_alive_seconds: float = Field(15.0, gt=0, description="A stream sends a comment after so long without a token.")
    shutdown_seconds: float = Field(30.0, ge=0, description="How long accepted requests may go on after SIGTERM.")

    playground: bool = Field(True, description="Show the page /playground to whoever asks for it.")

    # --- what it tells
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="The least level to log.")
    log_format: Literal["json", "plain"] = Field("json", description="One JSON object a line, or plain text.")
    log_content: bool = Field(False, description="Log messages and answers. Off, no log line holds any of them.")
    otel: bool = Field(False, description="Send traces by OpenTelemetry, as the OTEL_* variables say.")

    @field_validator("served_model_name", "plugins", "disable", "cors_origins", mode="before")
    @classmethod
    def _list_of_names(cls, value: Any) -> Any:
        """``a,b`` is what a flag or a variable can say."""
        if not isinstance(value, str):
            return value
        return [name for name in (part.strip() for part in value.split(",")) if name]

    @model_validator(mode="after")
    def _placed_once(self) -> Self:
        if self.tensor_parallel_size > 1 and (self.device or self.device_map):
            raise ValueError("tensor_parallel_size places the model: leave out device and device_map")
        if (self.max_memory or self.offload_folder) and self.device_map is None:
            raise ValueError("max_memory and offload_folder are for device_map, which is not set")
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, _ConfigFile(settings_cls)

    @property
    def chat_settings(self) -> dict[str, Any]:
        """The fields of :class:`chatplan.Settings`."""
        return {item.name: getattr(self, item.name) for item in dataclasses.fields(Settings)}

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach the server."""
        return self.uds is not None or self.host in LOOPBACK or self.host.startswith("127.")


class _ConfigFile(PydanticBaseSettingsSource):
    """The TOML file that flags or variables name as ``config``; it must be there."""

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        path = self.current_state.get("config")
        if path is None:
            return {}
        if not Path(path).is_file():
            raise SettingsError(f"config: there is no file {path}")
        try:
            return TomlConfigSettingsSource(self.settings_cls, Path(path))()
        except ValueError as error:
            raise SettingsError(f"config: {path} is not TOML: {error}") from error
