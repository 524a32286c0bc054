"""The door in Python: ``pipeline("chat", model=..., plugins=[...])``, here and as ``transformers.pipeline``."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable
from typing import Any, Literal, overload

from transformers import AutoModelForCausalLM, Pipeline
from transformers.pipelines import PIPELINE_REGISTRY
from transformers.pipelines import pipeline as transformers_pipeline

from chatplan.chat import Chat
from chatplan.explaining import Explanation
from chatplan.model import ModelInfo
from chatplan.plan import GenerationPlan
from chatplan.response import ChatCompletion
from chatplan.settings import Settings
from chatplan.stream import Stream

__all__ = ["ChatPipeline", "pipeline", "register"]

_DEFAULT_MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
_SETTINGS = tuple(Settings.__dataclass_fields__)


class ChatPipeline(Pipeline):
    """Answers chat requests.

    Args:
        model, tokenizer, device …: as for every transformers pipeline.
        plugins, disable: plugins to use beside the built-in and installed ones, and names of plugins to leave out.
        engine: the engine to run on; ``auto`` lets plugins choose.
        fields: the settings of :class:`Settings`, and defaults for fields of the request.
    """

    # The base class declares these as None.
    _pipeline_calls_generate = False
    _load_processor: Any = False
    _load_image_processor: Any = False
    _load_video_processor: Any = False
    _load_feature_extractor: Any = False
    _load_tokenizer: Any = True

    def __init__(
        self,
        *args: Any,
        plugins: Iterable[Any] = (),
        disable: Collection[str] = (),
        engine: str = "auto",
        served_model_name: str = "",
        **fields: Any,
    ) -> None:
        settings = Settings(**{name: fields.pop(name) for name in _SETTINGS if name in fields})
        own = {name: fields.pop(name) for name in list(fields) if name in _TRANSFORMERS_ARGUMENTS}
        super().__init__(*args, **own)
        model = ModelInfo.of(self.model, self.tokenizer, settings, served_model_name)
        self.chat: Chat = Chat(model, plugins=plugins, disable=disable, engine=engine, defaults=fields)

    @overload  # type: ignore[override]
    def __call__(self, inputs: Any, *, stream: Literal[True], **fields: Any) -> Stream: ...
    @overload
    def __call__(self, inputs: Any, **fields: Any) -> Any: ...

    def __call__(self, inputs: Any, **fields: Any) -> Any:
        """As :meth:`Chat.__call__`."""
        return self.chat(inputs, **fields)

    @overload
    async def acomplete(self, inputs: Any, *, stream: Literal[True], **fields: Any) -> Stream: ...
    @overload
    async def acomplete(self, inputs: Any, **fields: Any) -> ChatCompletion: ...

    async def acomplete(self, inputs: Any, **fields: Any) -> Any:
        """The answer to one request, without blocking the event loop; a :class:`Stream` with ``stream=True``."""
        request = self.chat.request(inputs, **fields)
        if request.stream:  # in a thread, since compiling a constraint may take its time
            return await asyncio.to_thread(self.chat.stream, request)
        return await self.chat.acomplete(request)

    def astream(self, inputs: Any, **fields: Any) -> Stream:
        """The chunks of one answer, for ``async for``."""
        return self.chat.stream(inputs, **fields)

    def plan(self, inputs: Any, **fields: Any) -> GenerationPlan:
        """What a request would come to, without generating."""
        return self.chat.plan(inputs, **fields)

    def explain(self, inputs: Any, **fields: Any) -> Explanation:
        """Which plugin turns which field of a request into what."""
        return self.chat.explain(inputs, **fields)

    # The steps of transformers' own loop, which this pipeline does not go through: an engine decides on batches.

    def _sanitize_parameters(self, **fields: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        return {}, {}, {}

    def preprocess(self, input_: Any, **fields: Any) -> dict[str, Any]:
        return {"plan": self.chat.plan(input_, **fields)}

    def _forward(self, input_tensors: dict[str, Any], **fields: Any) -> Any:
        return self.chat.complete(input_tensors["plan"].request)

    def postprocess(self, model_outputs: Any, **fields: Any) -> Any:
        return model_outputs


_TRANSFORMERS_ARGUMENTS = frozenset(
    "model tokenizer feature_extractor image_processor video_processor processor modelcard framework task args_parser "
    "device torch_dtype dtype binary_output num_workers".split()
)


def pipeline(task: str = "chat", model: Any = None, *, tensor_parallel_size: int = 1, **arguments: Any) -> ChatPipeline:
    """``transformers.pipeline`` with ``"chat"`` among its tasks.

    Args:
        task: ``"chat"``; other tasks are transformers' own.
        model: a name on the hub, a folder, or a loaded model (then pass ``tokenizer`` too).
        tensor_parallel_size: on how many devices to divide each layer. Under torchrun this call does not return on the
            ranks above 0: they work for rank 0, and end when it does. ``tensor_parallel_seconds`` (300) is the most
            time that one rank waits for another in a step.
        arguments: as for ``transformers.pipeline`` (``device_map``, ``dtype`` …) and :class:`ChatPipeline`; beside
            ``device_map``, ``max_memory`` and ``offload_folder`` as ``from_pretrained`` takes them.

    Raises:
        EngineError: the model cannot be divided like this.
        ValueError: ``max_memory`` or ``offload_folder`` without a device map.
    """
    make: Any = transformers_pipeline  # its overloads know the tasks of transformers alone
    placing = {name: arguments.pop(name) for name in _PLACING if name in arguments}
    if placing and arguments.get("device_map") is None:
        raise ValueError(f"{', '.join(placing)}: for device_map, which is not given")
    if placing:
        arguments["model_kwargs"] = {**(arguments.get("model_kwargs") or {}), **placing}
    if tensor_parallel_size == 1:
        arguments.pop("tensor_parallel_seconds", None)
    else:
        from chatplan.adapters.parallel.pipelines import divided

        model, arguments = divided(model or _DEFAULT_MODEL, tensor_parallel_size, arguments)
    made: ChatPipeline = make(task, model=model, **arguments)
    return made


_PLACING = ("max_memory", "offload_folder", "offload_buffers")


def register() -> None:
    """Make ``"chat"`` a task of ``transformers.pipeline``. Importing this module does so, and chatplan sees to that."""
    if "chat" not in PIPELINE_REGISTRY.supported_tasks:
        PIPELINE_REGISTRY.register_pipeline(
            "chat",
            pipeline_class=ChatPipeline,
            pt_model=AutoModelForCausalLM,
            default={"model": (_DEFAULT_MODEL, "main")},
            type="text",
        )


register()
