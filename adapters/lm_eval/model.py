"""lm-eval's model for checkpoints, with chatplan answering what is generated."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from lm_eval.api.registry import register_model  # type: ignore[import-untyped]
from lm_eval.models.utils import postprocess_generated_text  # type: ignore[import-untyped]
from tqdm import tqdm  # type: ignore[import-untyped]

from chatplan.adapters.lm_eval.requests import as_request
from chatplan.chat import Chat
from chatplan.manager import Plugins
from chatplan.model import ModelInfo
from chatplan.settings import Settings

__all__ = ["ChatLM"]

log: logging.Logger = logging.getLogger("chatplan")

_OTHERWISE = ("truncation", "mixed_precision_dtype")  # what lm-eval does inside its own generate


if TYPE_CHECKING:

    class HFLM:
        """What is used of lm-eval's ``hf``, which has no types."""

        batch_size: str | int
        max_length: int
        max_gen_toks: int
        rank: int
        model: Any
        tokenizer: Any
        add_bos_token: bool | None
        think_end_token: str | None
        cache_hook: Any

        def __init__(self, pretrained: Any, backend: str, **arguments: Any) -> None: ...
        def _detect_batch_size(self) -> int: ...
        def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]: ...
        def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]: ...

else:
    from lm_eval.models.huggingface import HFLM


class ChatLM(HFLM):
    """Loads, counts log-likelihoods and writes chat templates as lm-eval's ``hf`` does; generates by chatplan.

    Args:
        pretrained: a name on the hub, a folder, or a loaded causal language model.
        plugins: dotted names of plugins, one or a list.
        disable: names of plugins to leave out, one or a list.
        engine: the engine to generate on.
        arguments: those of lm-eval's ``hf``, the settings of :class:`Settings`, and fields of the request, which a
            task's ``generation_kwargs`` win over.

    Raises:
        RequestError: a field is not valid, or nobody answers for it.
        ValueError: an argument of ``hf`` that has no meaning here.
    """

    def __init__(
        self,
        pretrained: Any,
        plugins: str | Iterable[Any] = (),
        disable: str | Iterable[str] = (),
        engine: str = "auto",
        **arguments: Any,
    ) -> None:
        _refuse(arguments)
        known = Plugins(_listed(plugins), _listed(disable))
        fields = _taken(arguments, known.request_type.model_fields)
        settings = _taken(arguments, [name for name in Settings.__dataclass_fields__ if name != "batch_size"])
        super().__init__(pretrained, **(arguments | {"backend": "causal"}))
        rows = self._detect_batch_size() if self.batch_size == "auto" else int(self.batch_size)
        about = ModelInfo.of(self.model, self.tokenizer, Settings(batch_size=rows, **settings))
        self.chat: Chat = Chat(about, plugins=known, engine=engine, defaults=fields)

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """The text of each request, in order: up to the first of its stop strings, without reasoning."""
        order = sorted(range(len(requests)), key=lambda at: -len(requests[at].args[0]))  # as in `hf`: long ones first
        bodies = (as_request(self, *requests[at].args) for at in order)
        hidden = disable_tqdm or self.rank != 0
        answers = tqdm(self.chat.complete_each(bodies), "chatplan generates", len(order), disable=hidden)
        texts: dict[int, str] = {}
        for at, answer in zip(order, answers, strict=True):
            texts[at] = postprocess_generated_text(answer.text, None, self.think_end_token)
            self.cache_hook.add_partial("generate_until", requests[at].args, texts[at])
        return [texts[at] for at in range(len(requests))]

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Log-probability in nats of each continuation, and whether it is what greedy decoding writes."""
        self._warn()
        return super().loglikelihood(requests, disable_tqdm=disable_tqdm)

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """Log-probability in nats of each whole text."""
        self._warn()
        return super().loglikelihood_rolling(requests, disable_tqdm=disable_tqdm)

    def _warn(self) -> None:
        if self.chat.defaults:
            log.warning("log-likelihoods are the model's own, without %s", ", ".join(self.chat.defaults))


register_model("chatplan")(ChatLM)


def _refuse(arguments: Mapping[str, Any]) -> None:
    for name in _OTHERWISE:
        if arguments.get(name):
            raise ValueError(f"{name}: has no meaning for the model `chatplan`")
    if arguments.get("backend", "causal") not in ("causal", "default"):
        raise ValueError(f"backend: chatplan runs causal language models, not {arguments['backend']}")
    if str(arguments.get("think_end_token") or "x").isdigit():
        raise ValueError("think_end_token: give its text, not its id")


def _taken(arguments: dict[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Those of ``names`` that are there, taken out."""
    return {name: arguments.pop(name) for name in list(names) if name in arguments}


def _listed(given: str | Iterable[Any]) -> list[Any]:
    return [given] if isinstance(given, str) else list(given)
