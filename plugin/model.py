"""What the hooks may know of a model: its tokenizer, its limits and its own defaults, never its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from chatplan.errors import EngineError
from chatplan.settings import Settings
from chatplan.tokens import TokenReader

if TYPE_CHECKING:
    from transformers import GenerationConfig, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from chatplan.families import AnswerFormat

__all__ = ["ModelInfo"]

_CONTEXT_NAMES = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "seq_length", "max_sequence_length")
_SAMPLING_NAMES = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
_NO_LIMIT = 1_000_000_000  # tokenizers without a limit state a huge number


@dataclass(frozen=True, eq=False)
class ModelInfo:
    """A model as hooks see it.

    Attributes:
        name: what requests call it, and answers say.
        tokenizer: turns text into ids and back; its chat template is the default one.
        config, generation_config: the checkpoint's own, ``None`` where a stand-in has none.
        module: the weights, for engines; ``None`` when only plans are made.
        settings: start-up choices and limits.
        answer_format: how its answers mark reasoning and calls, found by :meth:`Plugins.introduce`.
    """

    name: str
    tokenizer: PreTrainedTokenizerBase
    config: PretrainedConfig | None = None
    generation_config: GenerationConfig | None = None
    module: PreTrainedModel | None = None
    settings: Settings = field(default_factory=Settings)
    answer_format: AnswerFormat | None = None

    @classmethod
    def of(cls, module: PreTrainedModel, tokenizer: Any, settings: Settings | None = None, name: str = "") -> ModelInfo:
        """A loaded model and its tokenizer."""
        name = name or str(getattr(module.config, "_name_or_path", "") or type(module).__name__)
        config, generation = module.config, getattr(module, "generation_config", None)
        return cls(name, tokenizer, config, generation, module, settings or Settings())

    @classmethod
    def without_weights(cls, path: str, settings: Settings | None = None, name: str = "") -> ModelInfo:
        """Tokenizer and configuration of a checkpoint; enough to compile and explain plans."""
        from transformers import AutoConfig, AutoTokenizer, GenerationConfig

        config = AutoConfig.from_pretrained(path)
        try:
            generation = GenerationConfig.from_pretrained(path)
        except OSError:
            generation = GenerationConfig.from_model_config(config)
        return cls(name or path, AutoTokenizer.from_pretrained(path), config, generation, None, settings or Settings())

    def require_module(self) -> PreTrainedModel:
        """The weights, or an error when only the description was loaded."""
        if self.module is None:
            raise EngineError(f"the weights of {self.name} are not loaded; only plans can be made")
        return self.module

    @property
    def names(self) -> tuple[str, ...]:
        """What a request's ``model`` may say: the full name, or its last part."""
        return (self.name, PurePath(self.name).name)

    @cached_property
    def context_length(self) -> int | None:
        """Most tokens of prompt and answer together; ``None`` when neither model nor tokenizer states one."""
        text_config = None if self.config is None else self.config.get_text_config()
        stated = [getattr(text_config, name, None) for name in _CONTEXT_NAMES]
        limits = [limit for limit in stated if isinstance(limit, int) and limit > 0]
        if not limits and self.tokenizer.model_max_length < _NO_LIMIT:
            limits = [int(self.tokenizer.model_max_length)]
        if self.settings.max_model_len is not None:
            limits.append(self.settings.max_model_len)
        return min(limits) if limits else None

    @cached_property
    def vocab_size(self) -> int | None:
        """Width of the logits; ``None`` for a stand-in that has no model."""
        return None if self.config is None else int(self.config.get_text_config().vocab_size)

    @cached_property
    def logits_width(self) -> int:
        """How many tokens there are to choose from; for a stand-in those of its tokenizer."""
        return self.vocab_size or len(self.tokenizer)

    @cached_property
    def eos_token_ids(self) -> tuple[int, ...]:
        """The tokens that end an answer: the generation config's, else the config's, and the tokenizer's.

        Fine-tuned checkpoints often state the end of a text in the one and the end of a turn in the other.
        """
        found: list[int] = []
        for ids in (getattr(self.generation_config, "eos_token_id", None), getattr(self.config, "eos_token_id", None)):
            if ids is not None and not found:
                found += ids if isinstance(ids, (list, tuple)) else [ids]
        own: Any = self.tokenizer.eos_token_id
        return tuple(dict.fromkeys(int(token) for token in (*found, *(() if own is None else (own,)))))

    @cached_property
    def pad_token_id(self) -> int:
        """What fills the gap in front of shorter prompts; it is masked, so any id will do."""
        pad: Any = self.tokenizer.pad_token_id
        return int(pad) if pad is not None else (self.eos_token_ids or (0,))[0]

    @cached_property
    def sampling_defaults(self) -> Mapping[str, Any]:
        """Sampling values that the checkpoint's own generation config states."""
        stated = {} if self.generation_config is None else self.generation_config.to_diff_dict()
        return {name: stated[name] for name in _SAMPLING_NAMES if stated.get(name) is not None}

    @cached_property
    def default_max_new_tokens(self) -> int | None:
        """The checkpoint's own bound on an answer's length, if it states one."""
        return getattr(self.generation_config, "max_new_tokens", None)

    @cached_property
    def tokens(self) -> TokenReader:
        """Texts and bytes of single tokens."""
        return TokenReader(self.tokenizer)

    def token_text(self, token_id: int) -> str:
        """One token alone as text; bytes that are no whole character show as U+FFFD."""
        return self.tokens.text(token_id)
