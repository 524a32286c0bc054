"""From tokens to text, bit by bit, for the kinds of tokenizers there are: together it is what they say of the whole."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizer, PreTrainedTokenizerFast

from chatplan import Chat, Row, Step
from chatplan.standin import stand_in

NewChat = Callable[..., Chat]
PRINTS = "{% for m in messages %}{{ m.content }}{% endfor %}"
SPECIAL = ("<|a|>", "<|b|>")
TEXTS = ["né 北京和東京", "ok 👩‍👩‍👧 né", "مرحبا!", "a\x00b\r\n\ttab", " lead", "  two  ", "the cat sat"]


# --- tokenizers -------------------------------------------------------------------------------------------------------


def with_specials(tokenizer: Tokenizer, **more: Any) -> Any:
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIAL])
    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, **more)
    made.chat_template = PRINTS
    return made


def merged_bytes() -> Any:
    """Byte-level BPE with merges that end within characters."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    corpus = ["北京和東京 東西南北", "👩‍👩‍👧 👧", "the cat sat on the mat", "naïve café né"] * 20
    tokenizer.train_from_iterator(corpus, trainers.BpeTrainer(vocab_size=290, initial_alphabet=alphabet))
    return with_specials(tokenizer)


WORDS = ["▁", "t", "h", "e", "c", "a", "s", "th", "the", "ca", "cat", "sa", "sat", "▁the", "▁cat", "▁sat"]
MERGES = [("t", "h"), ("th", "e"), ("c", "a"), ("ca", "t"), ("s", "a"), ("sa", "t")]
MERGES += [("▁", word) for word in ("the", "cat", "sat")]


def fallback() -> Any:
    """As Llama 2 and Mistral have it: words that begin with U+2581, and single bytes for what has no token."""
    vocab = {word: at for at, word in enumerate([*(f"<0x{byte:02X}>" for byte in range(256)), *WORDS])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=MERGES, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return with_specials(tokenizer)


def metaspace() -> Any:
    """As T5 and XLM have it."""
    vocab = {word: at for at, word in enumerate(["<unk>", *WORDS])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=MERGES, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return with_specials(tokenizer)


def pieces() -> Any:
    """As BERT has it: the decoder joins words by a space."""
    vocab = {word: at for at, word in enumerate(["[UNK]", "the", "cat", "##s", "sat"])}
    tokenizer = Tokenizer(models.WordPiece(vocab=vocab, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.decoder = decoders.WordPiece(cleanup=False)
    return with_specials(tokenizer)


class Slow(PreTrainedTokenizer):
    """Bytes, in Python. Half a character decodes to U+FFFD, words begin with a space unless they are the first."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        prepare: Any = super().__init__
        prepare(pad_token="<pad>", eos_token="</s>")
        self.add_tokens([AddedToken(text, special=True) for text in SPECIAL], special_tokens=True)
        self.chat_template = PRINTS

    @property
    def vocab_size(self) -> int:
        return 256

    def get_vocab(self) -> dict[str, int]:
        return {chr(byte): byte for byte in range(256)} | self.added_tokens_encoder

    def _tokenize(self, text: str, **kwargs: Any) -> list[str]:
        return [chr(byte) for byte in text.encode()]

    def _convert_token_to_id(self, token: str) -> int:
        return ord(token)

    def _convert_id_to_token(self, index: int) -> str:
        return chr(index)

    def decode(self, token_ids: Any, skip_special_tokens: bool = False, **kwargs: Any) -> str:
        """What is not a byte is a special token; asked to, it stands between spaces."""
        self.asked.append(kwargs)
        space = b" " if kwargs.get("spaces_between_special_tokens", True) else b""
        texts = []
        for token in token_ids:
            name = self.added_tokens_decoder[token].content.encode() if token > 255 else b""
            shown = b"" if name and skip_special_tokens else space + name + space if name else bytes([token])
            texts.append(shown)
        return b"".join(texts).decode(errors="replace")


MADE: dict[str, Callable[[], Any]] = {
    "bytes": lambda: copy.deepcopy(stand_in().tokenizer),
    "merged bytes": merged_bytes,
    "fallback": fallback,
    "metaspace": metaspace,
    "pieces": pieces,
    "slow": Slow,
}


@pytest.fixture(scope="module")
def chats(new_chat: NewChat) -> dict[str, Chat]:
    return {name: new_chat(tokenizer=make()) for name, make in MADE.items()}


def ids(chat: Chat, text: str) -> list[int]:
    return list(chat.model.tokenizer.encode(text, add_special_tokens=False))


def named(chat: Chat, *names: str) -> list[int]:
    tokenizer: Any = chat.model.tokenizer
    return list(tokenizer.convert_tokens_to_ids(list(names)))


def parts(chat: Chat, tokens: Sequence[int], prompt: str = "the cat", **fields: Any) -> list[str]:
    """The text that each token adds, and what comes at the end."""
    steps: list[Step] = []
    request = {"messages": [{"role": "user", "content": prompt}], "max_tokens": len(tokens), "ignore_eos": True}
    row = Row(chat.plan({**request, **fields}), chat.model, emit=lambda row, step: steps.append(step))
    for token in tokens:
        row.push(token)
    return [step.text for step in steps]


# --- whole characters, and every one of them --------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bytes", "merged bytes", "slow"])
@pytest.mark.parametrize("text", TEXTS)
def test_text_of_many_bytes_comes_whole(chats: dict[str, Chat], name: str, text: str) -> None:
    found = parts(chats[name], ids(chats[name], text))
    assert "".join(found) == text
    assert not any("\ufffd" in part for part in found)


@pytest.mark.parametrize("name", ["bytes", "slow"])
def test_a_character_comes_with_its_last_byte(chats: dict[str, Chat], name: str) -> None:
    assert parts(chats[name], ids(chats[name], "aé北b")) == ["a", "", "é", "", "", "北", "b"]


def test_merges_of_these_tests_cut_characters(chats: dict[str, Chat]) -> None:
    """Else the tokens are whole characters or single bytes, which is easier."""
    about = chats["merged bytes"].model
    found = [about.tokens.bytes(token) for text in TEXTS for token in ids(chats["merged bytes"], text)]
    assert any(len(bytes_) > 1 and "\ufffd" in bytes(bytes_).decode(errors="replace") for bytes_ in found)


@pytest.mark.parametrize("text", [" the cat", " né 北京", " 👩‍👩‍👧"])
def test_bytes_for_what_has_no_token_come_whole(chats: dict[str, Chat], text: str) -> None:
    found = parts(chats["fallback"], ids(chats["fallback"], text[1:]))
    assert "".join(found) == text
    assert not any("\ufffd" in part for part in found)


@pytest.mark.parametrize("name", ["bytes", "merged bytes", "slow", "fallback"])
def test_half_a_character_at_the_end_is_not_shown(chats: dict[str, Chat], name: str) -> None:
    tokens = ids(chats[name], "北")
    while len(tokens) < 2:  # the merges make one token of it
        tokens = ids(chats[name], "鳥")
    assert "".join(parts(chats[name], [*ids(chats[name], "the"), *tokens[:-1]])).strip() == "the"


@pytest.mark.parametrize("name", ["bytes", "merged bytes", "slow", "fallback"])
def test_any_tokens_are_text_in_the_end(chats: dict[str, Chat], name: str) -> None:
    """Bytes that are no UTF-8 end no answer, and what is text behind them is shown."""
    chance, clear = random.Random(1), ids(chats[name], "the cat sat")
    for _ in range(40):
        noise = [chance.randrange(256) for _ in range(chance.randint(1, 9))]
        assert "".join(parts(chats[name], [*noise, *clear])).endswith("cat sat")


def test_a_long_answer_of_a_slow_tokenizer_is_not_decoded_again_and_again(chats: dict[str, Chat]) -> None:
    """Only its end is; and that makes no difference to the text."""
    text = "né 北京 👧 " * 30
    tokenizer: Any = chats["slow"].model.tokenizer
    tokens = ids(chats["slow"], text)
    lengths: list[int] = []
    decode = tokenizer.decode

    def counting(token_ids: Any, **options: Any) -> str:
        lengths.append(len(token_ids))
        return str(decode(token_ids, **options))

    tokenizer.decode = counting
    try:
        assert "".join(parts(chats["slow"], tokens)) == text
    finally:
        del tokenizer.decode
    assert max(lengths) < 60


# --- spaces -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["fallback", "metaspace"])
def test_the_first_word_of_an_answer_keeps_its_space(chats: dict[str, Chat], name: str) -> None:
    """Decoders drop the space of a text's first word; an answer goes on from its prompt."""
    tokens = ids(chats[name], "the cat")
    assert len(tokens) == 2
    assert parts(chats[name], tokens, prompt="sat") == [" the", " cat"]


@pytest.mark.parametrize("name", ["fallback", "metaspace"])
def test_a_word_that_goes_on_has_no_space(chats: dict[str, Chat], name: str) -> None:
    tokenizer: Any = chats[name].model.tokenizer
    assert parts(chats[name], tokenizer.convert_tokens_to_ids(["th", "e"]), prompt="ca") == ["th", "e"]


def test_words_are_joined_as_the_decoder_joins_them(chats: dict[str, Chat]) -> None:
    assert "".join(parts(chats["pieces"], ids(chats["pieces"], "cat sat the"))).strip() == "cat sat the"
    assert "".join(parts(chats["pieces"], [2, 3], prompt="the")) == " cats"


def special(chat: Chat) -> list[int]:
    return named(chat, *SPECIAL)


def test_no_space_between_special_tokens_unless_asked_for(chats: dict[str, Chat]) -> None:
    """A decoder that joins words by a space joins special tokens so, too."""
    chat = chats["pieces"]
    fields: dict[str, Any] = {"skip_special_tokens": False}
    tokens = [2, *special(chat), 4, special(chat)[0]]
    assert "".join(parts(chat, tokens, **fields)).strip() == "cat <|a|> <|b|> sat <|a|>"
    close = "".join(parts(chat, tokens, spaces_between_special_tokens=False, **fields)).strip()
    assert close == "cat <|a|><|b|> sat <|a|>"


def test_slow_tokenizers_are_asked_for_spaces_as_the_request_has_it(chats: dict[str, Chat]) -> None:
    chat = chats["slow"]
    tokens = [*b"x", *special(chat), *b"y"]
    assert "".join(parts(chat, tokens, skip_special_tokens=False)) == "x <|a|>  <|b|> y"
    fields: dict[str, Any] = {"skip_special_tokens": False, "spaces_between_special_tokens": False}
    assert "".join(parts(chat, tokens, **fields)) == "x<|a|><|b|>y"
    tokenizer: Any = chat.model.tokenizer
    assert all(options["clean_up_tokenization_spaces"] is False for options in tokenizer.asked)


# --- special tokens ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bytes", "merged bytes", "fallback", "metaspace", "slow"])
def test_special_tokens_are_hidden_or_shown(chats: dict[str, Chat], name: str) -> None:
    chat = chats[name]
    own = special(chat) if name != "bytes" else [258, 256]
    names = [chat.model.tokens.added[token] for token in own]
    tokens = [*ids(chat, "the"), own[0], *ids(chat, "cat"), own[1]]
    assert "".join(parts(chat, tokens)).split() == ["the", "cat"] or "".join(parts(chat, tokens)) == "thecat"
    shown = "".join(parts(chat, tokens, skip_special_tokens=False, spaces_between_special_tokens=False))
    assert [at for text in names if (at := shown.find(text)) > 0] == sorted(shown.index(text) for text in names)


def test_the_token_that_ends_an_answer_has_text_if_the_request_keeps_it(chats: dict[str, Chat]) -> None:
    chat = chats["bytes"]
    stop = ids(chat, "b")
    for ends, shown in ((stop, "b"), (chat.model.eos_token_ids, "<|im_end|>")):
        fields: dict[str, Any] = {"stop_token_ids": stop, "ignore_eos": False, "skip_special_tokens": False}
        tokens = [*ids(chat, "a"), *ends]
        assert "".join(parts(chat, tokens, **fields)) == "a"
        assert "".join(parts(chat, tokens, include_stop_str_in_output=True, **fields)) == f"a{shown}"


MARKED = "{# <tool_call> 'arguments\" </think> #}" + PRINTS


@pytest.fixture(scope="module", params=["fast", "slow"])
def marked(new_chat: NewChat, request: pytest.FixtureRequest) -> Chat:
    """A model that thinks, whose marks are special tokens."""
    tokenizer: Any = Slow() if request.param == "slow" else copy.deepcopy(stand_in().tokenizer)
    added = [AddedToken(mark, special=True) for mark in ("<think>", "</think>")]
    tokenizer.add_tokens(added, special_tokens=True)
    tokenizer.chat_template = MARKED
    return new_chat(tokenizer=tokenizer)


@pytest.mark.dev_only
def test_half_a_character_before_a_mark_does_not_come_out_behind_it(marked: Chat) -> None:
    """Marks go to the parser past the decoder, which may still hold bytes."""
    opened, closed = named(marked, "<think>", "</think>")
    half = ids(marked, "北")[:2]
    steps: list[Step] = []
    request = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 20, "ignore_eos": True}
    row = Row(marked.plan(request), marked.model, emit=lambda row, step: steps.append(step))
    for token in [opened, *ids(marked, "aé"), *half, closed, *ids(marked, "bé"), *half]:
        row.push(token)
    row.finish("length")
    reasoning = [step.reasoning for step in steps]
    assert ("".join(reasoning), "".join(step.text for step in steps)) == ("aé", "bé")


@pytest.mark.dev_only
def test_marks_are_left_out_of_text_where_nothing_reads_them(chats: dict[str, Chat], marked: Chat) -> None:
    kept: list[Any] = [
        about.plan([{"role": "user", "content": "x"}]).output_stages[0] for about in (marked, chats["bytes"])
    ]
    assert [sorted(stage.keep) for stage in kept] == [sorted(named(marked, "<think>", "</think>")), []]
