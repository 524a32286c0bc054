"""Single tokens as text and bytes, for the kinds of tokenizers there are."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from chatplan.standin import stand_in
from chatplan.tokens import TokenReader, byte_of_character, decoder_types

CORPUS = ["the cat sat on the mat", "der Hund läuft über die Straße", "東京は日本の首都", "naïve café"] * 20


def byte_level() -> Any:
    """As GPT-2, Llama 3, Qwen and SmolLM have it, with merges that join bytes of several characters."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=330, initial_alphabet=alphabet))
    tokenizer.add_special_tokens([AddedToken("<|é|>", special=True)])
    tokenizer.add_tokens([AddedToken("<tool>")])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def byte_fallback() -> Any:
    """As Llama 2, Mistral and Gemma have it: words with U+2581, and single bytes for what has no token."""
    words = ["<s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "c", "a", "t", "ca", "cat", "▁cat", "▁▁"]
    merges = [("c", "a"), ("ca", "t"), ("▁", "cat"), ("▁", "▁")]
    vocab = {word: at for at, word in enumerate(words)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens([AddedToken("<s>", special=True)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>")


BYTE_LEVEL, BYTE_FALLBACK = byte_level(), byte_fallback()
BY_BYTES, BY_WORDS = TokenReader(BYTE_LEVEL), TokenReader(BYTE_FALLBACK)


def test_the_alphabet_holds_each_byte_once() -> None:
    alphabet = byte_of_character()
    assert sorted(alphabet.values()) == list(range(256))
    assert set(alphabet) == set(pre_tokenizers.ByteLevel.alphabet())


def test_decoder_types() -> None:
    assert decoder_types(BYTE_LEVEL) == {"ByteLevel"}
    assert decoder_types(BYTE_FALLBACK) == {"Sequence", "Replace", "ByteFallback", "Fuse", "Strip"}
    assert decoder_types(object()) == set()
    no_decoder = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE(vocab={"a": 0}, merges=[])))
    assert decoder_types(no_decoder) == set()


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=30))
def test_bytes_of_a_byte_level_text(text: str) -> None:
    ids = BYTE_LEVEL.encode(text, add_special_tokens=False)
    assert bytes(byte for token in ids for byte in BY_BYTES.bytes(token)) == text.encode()


@settings(max_examples=50, deadline=None)
@given(st.text(st.characters(codec="utf-8", exclude_characters="▁"), max_size=30))
def test_bytes_of_a_text_with_byte_fallback(text: str) -> None:
    ids = BYTE_FALLBACK.encode(text, add_special_tokens=False)
    joined = bytes(byte for token in ids for byte in BY_WORDS.bytes(token))
    assert joined == (b" " + text.encode() if text else b"")


def test_half_characters_have_exact_bytes() -> None:
    reader = TokenReader(stand_in().tokenizer)  # each of its tokens is one byte
    ids = stand_in().tokenizer.encode("é", add_special_tokens=False)
    assert [reader.bytes(token) for token in ids] == [[0xC3], [0xA9]]
    assert [reader.text(token) for token in ids] == ["\ufffd", "\ufffd"]


def test_bytes_that_stand_for_themselves() -> None:
    token = BYTE_FALLBACK.convert_tokens_to_ids("<0xE6>")
    assert (BY_WORDS.bytes(token), BY_WORDS.text(token)) == ([0xE6], "\ufffd")
    newline = BYTE_FALLBACK.convert_tokens_to_ids("<0x0A>")
    assert (BY_WORDS.bytes(newline), BY_WORDS.text(newline)) == ([10], "\n")


@pytest.mark.parametrize(("word", "text"), [("cat", "cat"), ("▁cat", " cat"), ("▁", " "), ("▁▁", "  ")])
def test_a_leading_space_is_kept(word: str, text: str) -> None:
    token = BYTE_FALLBACK.convert_tokens_to_ids(word)
    assert BY_WORDS.text(token) == text
    assert BY_WORDS.bytes(token) == list(text.encode())


@pytest.mark.parametrize(
    ("reader", "name"),
    [(BY_BYTES, "<|é|>"), (BY_BYTES, "<tool>"), (BY_WORDS, "<s>")],
    ids=["by_bytes-accent", "by_bytes-tool", "by_words"],
)
def test_added_tokens_are_read_by_their_names(reader: TokenReader, name: str) -> None:
    token = reader.tokenizer.convert_tokens_to_ids(name)
    assert isinstance(token, int)
    assert (reader.text(token), bytes(reader.bytes(token)).decode()) == (name, name)


@pytest.mark.parametrize("reader", [BY_BYTES, BY_WORDS])
def test_ids_beyond_the_tokenizer_are_nothing(reader: TokenReader) -> None:
    assert (reader.text(10_000), reader.bytes(10_000)) == ("", [])
    assert (reader.text(10_000), reader.bytes(10_000)) == ("", [])


def test_other_tokenizers_are_read_by_what_they_decode() -> None:
    tokenizer = Tokenizer(models.WordPiece(vocab={"[UNK]": 0, "cat": 1, "##s": 2}, unk_token="[UNK]"))
    tokenizer.decoder = decoders.WordPiece()
    reader = TokenReader(PreTrainedTokenizerFast(tokenizer_object=tokenizer))
    assert (reader.text(1), reader.bytes(1)) == ("cat", list(b"cat"))
