"""A model that is not there: enough of one to compile and explain plans without any checkpoint."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from chatplan.model import ModelInfo
from chatplan.settings import Settings

__all__ = ["stand_in"]

_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    "{# stands for templates that read these: #}{% set _ = [documents, tools, reasoning_effort] %}"
    '{# and for models that write calls like this: <tool_call> {"name": …, "arguments": …} </tool_call> #}'
)


def stand_in(name: str | None = None) -> ModelInfo:
    """A byte tokenizer with a ChatML template, no vocabulary limit, a context of 8192 tokens; answers to ``name``."""
    return ModelInfo(name or "stand-in", _byte_tokenizer(), settings=Settings(max_model_len=8192))


@lru_cache(maxsize=1)
def _byte_tokenizer() -> Any:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={character: at for at, character in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = [AddedToken(text, special=True) for text in ("<|endoftext|>", "<|im_end|>", "<|im_start|>")]
    tokenizer.add_special_tokens(special)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=_TEMPLATE
    )
