"""Logging: one line for each request, as JSON or as text, without what people wrote."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from chatplan.adapters.server.record import Record
    from chatplan.adapters.server.settings import ServerSettings

__all__ = ["adopt_libraries", "configure", "log_access"]

access: logging.Logger = logging.getLogger("chatplan.access")
content: logging.Logger = logging.getLogger("chatplan.content")
_QUIET = frozenset(("/health", "/live", "/metrics"))


def log_access(record: Record) -> None:
    """The line of one request; probes that succeed are of level debug."""
    level = logging.DEBUG if record.path in _QUIET and record.status < 400 else logging.INFO
    access.log(level, "%s %s %s", record.method, record.path, record.status or "-", extra=_fields(record))
    if record.content is not None:
        content.info("content", extra={"request_id": record.request_id, "content": record.content})


def _fields(record: Record) -> dict[str, Any]:
    found = {
        "request_id": record.request_id,
        "principal": None if record.principal is None else record.principal.name,
        "model": record.model,
        "method": record.method,
        "path": record.path,
        "status": record.status,
        "stream": record.stream,
        "error": record.code,
        "param": record.param,
        "prompt_tokens": record.prompt_tokens,
        "completion_tokens": record.completion_tokens,
        "ttft": None if record.ttft is None else round(record.ttft, 4),
        "duration": round(record.seconds, 4),
        "disconnected": record.disconnected or None,
    }
    return {name: value for name, value in found.items() if value is not None}


def configure(settings: ServerSettings) -> None:
    """Send all log lines to standard error, in the format and from the level that the settings say."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_formatter(settings.log_format))
    logging.basicConfig(handlers=[handler], level=settings.log_level.upper(), force=True)
    logging.captureWarnings(True)
    for name in ("httpx", "httpcore", "asyncio"):
        logging.getLogger(name).setLevel(logging.WARNING)


def adopt_libraries() -> None:
    """Make transformers log like everybody else. It sets itself up when it is imported, so this comes after."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    transformers_logging.disable_default_handler()
    transformers_logging.enable_propagation()
    batching = logging.getLogger("ContinuousBatchingLogger")
    batching.handlers.clear()
    batching.propagate = True
    batching.setLevel(logging.WARNING)


def _formatter(kind: str) -> logging.Formatter:
    if kind == "plain":
        return _Plain("%(asctime)s %(levelname)s %(name)s: %(message)s")
    from pythonjsonlogger.core import RESERVED_ATTRS
    from pythonjsonlogger.json import JsonFormatter

    names = {"asctime": "time", "levelname": "level", "name": "logger"}
    return JsonFormatter(
        "%(asctime)s %(levelname)s %(name)s %(message)s",
        rename_fields=names,
        json_ensure_ascii=False,
        reserved_attrs=[*RESERVED_ATTRS, "color_message"],
    )


class _Plain(logging.Formatter):
    """The same fields, as ``name=value`` behind the message."""

    _own = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}

    def format(self, record: logging.LogRecord) -> str:
        extra = [f"{name}={value!r}" for name, value in vars(record).items() if name not in self._own]
        return " ".join([super().format(record), *extra])
