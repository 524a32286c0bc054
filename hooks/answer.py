"""What surrounds an answer: its id, model and stream, and token ids beside its text."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import ClassVar

from chatplan.errors import ModelNotFoundError
from chatplan.hookspecs import hookimpl
from chatplan.model import ModelInfo
from chatplan.output import OutputStage, StageState, Step
from chatplan.plan import OutputOrder, Prompt
from chatplan.request import ChatCompletionRequest
from chatplan.row import Row


@dataclass(frozen=True)
class ShowTokenIds(OutputStage):
    """Gives the reader each token's id beside the text."""

    order: ClassVar[OutputOrder] = OutputOrder.TOKEN_IDS

    def open(self, row: Row) -> StageState:
        return _Showing()


class _Showing(StageState):
    def feed(self, step: Step) -> None:
        step.show_token_ids = True


@hookimpl
def request_fields() -> Collection[str]:
    """``user`` and ``request_id`` reach observers with the request; ``stream`` is the door's choice of method."""
    return ["model", "stream", "stream_options", "user", "request_id", "return_token_ids"]


@hookimpl
def check_request(request: ChatCompletionRequest, model: ModelInfo) -> None:
    if request.model is not None and request.model not in model.names:
        raise ModelNotFoundError(f"the model {request.model!r} does not exist; this is {model.name!r}", param="model")


@hookimpl
def output_stages(request: ChatCompletionRequest, prompt: Prompt, model: ModelInfo) -> Iterable[OutputStage] | None:
    return [ShowTokenIds()] if request.return_token_ids else None
