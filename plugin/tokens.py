"""Single tokens as text and as bytes."""

from __future__ import annotations

import json
import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["TokenReader"]

_BYTE_FALLBACK = re.compile(r"<0x([0-9A-Fa-f]{2})>")


@lru_cache(maxsize=1)
def byte_of_character() -> dict[str, int]:
    """The alphabet of byte-level BPE: printable Latin-1 stands for itself, other bytes for U+0100 onwards."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + at): byte for at, byte in enumerate(others)}


def decoder_types(tokenizer: Any) -> set[str]:
    """Names of the decoders a fast tokenizer is made of, such as ``ByteLevel`` or ``ByteFallback``."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or backend.decoder is None:
        return set()
    state = json.loads(backend.decoder.__getstate__())
    return {state["type"], *(part["type"] for part in state.get("decoders", ()))}


class TokenReader:
    """Reads tokens one at a time. Texts are those of the tokenizer; bytes are exact, also inside a character."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self.added: dict[int, str] = {i: str(token) for i, token in tokenizer.added_tokens_decoder.items()}
        self.special: dict[int, str] = {
            i: str(token) for i, token in tokenizer.added_tokens_decoder.items() if token.special
        }
        self.byte_level: bool = "ByteLevel" in decoder_types(tokenizer)
        self._texts: dict[int, str] = {}

    def text(self, token_id: int) -> str:
        """The token alone, as :meth:`bytes` spell it: with its leading space, half characters as U+FFFD."""
        if token_id not in self._texts:
            self._texts[token_id] = bytes(self.bytes(token_id)).decode("utf-8", errors="replace")
        return self._texts[token_id]

    def bytes(self, token_id: int) -> list[int]:
        """The token's UTF-8 bytes; those of an answer's tokens, joined, are the bytes of its text.

        A special token's are those of its name. Empty for ids beyond the tokenizer, which a model's logits may have.
        """
        if token_id in self.added:
            return list(self.added[token_id].encode())
        token = str(self.tokenizer.convert_ids_to_tokens(token_id) or "")
        if self.byte_level and all(character in byte_of_character() for character in token):
            return [byte_of_character()[character] for character in token]
        if match := _BYTE_FALLBACK.fullmatch(token):
            return [int(match.group(1), 16)]
        # SentencePiece marks a leading space with U+2581, which decoding one token alone would drop.
        if "\u2581" in token:
            return list(token.replace("\u2581", " ").encode())
        text = str(self.tokenizer.decode([token_id], clean_up_tokenization_spaces=False)) if token else ""
        return list(text.encode())
