"""Grammars in Lark, and structural tags written in it: which texts they take."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import pytest
import torch

from chatplan import ChatPipeline, ModelInfo
from chatplan.guided.backend import CannotEnforce, Grammar
from chatplan.guided.constraint import Constraint
from chatplan.guided.lark import is_ebnf, json_blanks, lark_grammar
from chatplan.guided.tags import as_format
from chatplan.hooks.guidance import GuidanceBackend
from chatplan.standin import stand_in


@lru_cache
def backend() -> GuidanceBackend:
    return GuidanceBackend(stand_in())


def reading(grammar: Grammar, text: str, model: ModelInfo, plain: bool = False) -> str:
    """Token by token: ``no``, or whether the answer may ``end`` there or needs ``more``.

    With ``plain``, names of special tokens are spelled with other tokens.
    """
    matcher, mask = grammar.start(), torch.zeros((model.logits_width + 31) // 32, dtype=torch.int32)
    for token in model.tokenizer.encode(text, add_special_tokens=False, split_special_tokens=plain):
        matcher.fill(mask)
        if not mask[token // 32] >> (token % 32) & 1:
            with pytest.raises(ValueError, match="does not match"):
                matcher.accept(token)
            return "no"
        matcher.accept(token)
    matcher.fill(mask)
    ends = model.eos_token_ids[0]
    return "end" if mask[ends // 32] >> (ends % 32) & 1 else "more"


# --- dialects ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("grammar", "ebnf"),
    [
        ('root ::= "a"', True),
        ('start: "a"\nroot ::= start', True),
        ('start: "a"', False),
        ('start: "::="', False),
        ("start: /::=/", False),
        ('start: "a" // no ::= here', False),
        ('start: "a" # no ::= here', False),
        ('start: "\\"::=" "a"', False),
        ("", False),
    ],
)
def test_ebnf_is_told_from_lark(grammar: str, ebnf: bool) -> None:
    assert is_ebnf(grammar) is ebnf
    if ebnf:
        with pytest.raises(CannotEnforce, match="EBNF") as caught:
            lark_grammar(grammar)
        assert not caught.value.wrong  # another backend reads it


GRAMMARS: list[tuple[str, list[str], list[str], list[str]]] = [
    ('start: "a" | "b" start', ["a", "bba"], ["", "bb"], ["c", "aa"]),
    ("%import common.UNESCAPED_STRING\nstart: UNESCAPED_STRING", ['"a"', '""'], ['"'], ["a", '"a"b']),
    ("%import common.UNESCAPED_STRING -> TEXT\nstart: TEXT TEXT", ['"a""b"'], ['"a"'], ["a"]),
    ("%import common.INT\nstart: INT", ["12"], [""], ["a"]),
    ('start: start "a" | "a"', ["a", "aaa"], [""], ["b"]),
    ('start: a*\na: ""', [""], [], ["a"]),
    # Greedy terminals take in what follows them: no text ends, but none hangs either.
    ('start: /a+/ "ab"', [], ["", "a", "aa"], ["ab", "aab"]),
    ('start: /a+/ "ab"\n%llguidance {"no_forcing": false}', [], ["aaa"], ["ab"]),
    ('start: "x<|im_end|>y"', ["x<|im_end|>y"], ["x"], []),
]


@pytest.mark.parametrize(("grammar", "whole", "parts", "others"), GRAMMARS, ids=lambda value: str(value)[:40])
def test_lark(grammar: str, whole: Sequence[str], parts: Sequence[str], others: Sequence[str]) -> None:
    compiled = backend().compile(Constraint("grammar", grammar))
    for texts, expected in ((whole, "end"), (parts, "more"), (others, "no")):
        for text in texts:
            assert reading(compiled, text, stand_in(), plain=True) == expected, text


def test_special_tokens_of_a_grammar() -> None:
    found = backend().compile(Constraint("grammar", 'start: <|im_start|> "a"'))
    assert reading(found, "<|im_start|>a", stand_in()) == "end"
    assert reading(found, "a", stand_in()) == "no"


@pytest.mark.parametrize(
    ("pattern", "written"),
    [
        (r"\s", r"[ \t\n\r]"),
        (r"\s*|\s", r"[ \t\n\r]*|[ \t\n\r]"),
        (r"[\s]+\s", r"[ \t\n\r]+[ \t\n\r]"),
        (r"[\]\s]", r"[\] \t\n\r]"),
        (r"\[\s", r"\[[ \t\n\r]"),
        (r"\\s", r"\\s"),
        ("[ \n]?", "[ \n]?"),
    ],
)
def test_blanks_of_json_stand_for_those_of_every_script(pattern: str, written: str) -> None:
    assert json_blanks(pattern) == written


@pytest.mark.parametrize("options", ['{"lenient": false}', '{"coerce_one_of": false}'])
def test_a_grammar_may_say_that_its_json_is_strict(options: str) -> None:
    found = backend().compile(Constraint("grammar", f'start: %json {{"type": "null", "x-guidance": {options}}}'))
    assert reading(found, "null", stand_in()) == "end"


# --- structural tags --------------------------------------------------------------------------------------------------


def const(value: Any) -> dict[str, Any]:
    return {"type": "const_string", "value": value}


def elements(kind: str, *parts: Any) -> dict[str, Any]:
    return {"type": kind, "elements": list(parts)}


def tag(begin: Any, content: Any = None, end: Any = "</f>") -> dict[str, Any]:
    return {"type": "tag", "begin": begin, "content": NUMBER if content is None else content, "end": end}


def separated(*tags: Any, **more: Any) -> dict[str, Any]:
    return {"type": "tags_with_separator", "tags": list(tags), "separator": ",", **more}


def triggered(triggers: Any, *tags: Any, **more: Any) -> dict[str, Any]:
    return {"type": "triggered_tags", "triggers": triggers, "tags": list(tags), **more}


NUMBER = {"type": "json_schema", "json_schema": {"type": "integer"}}
ANY = {"type": "any_text"}
BOTH = ("<f=", tag("<f=a>"), tag("<f=b>", const("x")))
ONCE = {"stop_after_first": True}
LEAST = {"at_least_one": True}
SPECIAL = {"separator": "<|im_start|>"}

TAGS: list[tuple[Any, str, str, str]] = [  # form; texts that are whole, that need more, that are wrong
    (const("ab"), "ab", "|a", "b|abc"),
    (const('é"\\\n/'), 'é"\\\n/', 'é"', "e"),
    (const(""), "", "", "a"),
    (NUMBER, "12|-3", "-", "x| 1"),
    ({"type": "json_schema", "json_schema": True}, "[1, 2]|null", "[", "x"),
    ({"type": "regex", "pattern": "a/b|c"}, "a/b|c", "a/", "ab"),
    ({"type": "regex", "pattern": "a\nb"}, "a\nb", "a", "anb"),
    ({"type": "regex", "pattern": "^a$"}, "a", "", "^a"),
    ({"type": "regex", "pattern": r"\d"}, "3", "", "٣"),
    ({"type": "regex", "pattern": ""}, "", "", "a"),
    (ANY, "|a|é\n<", "", "<|im_start|>"),
    ({**ANY, "excludes": ["ab", "é"]}, "|a b|e", "", "xab|é"),
    ({**ANY, "excludes": ["<|im_start|>"]}, "a<", "", "<|im_start|>"),
    (elements("sequence", const("a"), NUMBER, const("b")), "a1b", "a|a1", "ab"),
    (elements("sequence"), "", "", "a"),
    (elements("sequence", const("a"), ANY), "a|ab", "", "b"),
    (elements("sequence", ANY, const("<|im_start|>x")), "hi<|im_start|>x", "hi", "hi<|im_start|>y"),
    (elements("or", const("a"), NUMBER), "a|1", "", "b"),
    ({"type": "optional", "content": const("ab")}, "|ab", "a", "b|abab"),
    ({"type": "plus", "content": const("ab")}, "ab|abab", "|aba", "b"),
    ({"type": "star", "content": const("ab")}, "|ab|abab", "a", "b"),
    (tag("<a>"), "<a>1</f>", "<a>|<a>1<", "1"),
    (tag("<a>", end=["</a>", "</b>"]), "<a>1</a>|<a>1</b>", "<a>1</", "<a>1</f>"),
    (tag("<|im_start|>", const("x"), "<|endoftext|>"), "<|im_start|>x<|endoftext|>", "<|im_start|>x", "x"),
    (tag("a<|im_start|>b", const("x"), "y"), "a<|im_start|>bxy", "a", "ab"),
    (tag("<a>", ANY), "<a>hi</f>|<a></f>|<a>\n</</f>", "<a>hi</", "<a>hi</f>x|<a></f></f>"),
    (tag("<a>", ANY, ["</a>", "."]), "<a>hi</a>|<a>hi.", "<a>hi", "<a>.</a>"),
    (tag("<a>", {**ANY, "excludes": ["no"]}), "<a>hi</f>", "<a>hi", "<a>no"),
    (tag("<a>", ANY, "<|im_start|>"), "<a>hi<|im_start|>", "<a>hi", "<a><|im_start|>x"),
    (tag("<a>", ANY, ["</a>", "<|im_start|>"]), "<a>x<|im_start|>|<a>x</a>", "<a>x", "<a></a>x<|im_start|>"),
    (separated(tag("<a>"), tag("<b>")), "|<a>1</f>|<a>1</f>,<b>2</f>", "<a>1</f>,", ",|<a>1</f><b>"),
    (separated(tag("<a>"), **LEAST), "<a>1</f>|<a>1</f>,<a>2</f>", "", ","),
    (separated(tag("<a>"), **ONCE), "|<a>1</f>", "<a>1", "<a>1</f>,"),
    (separated(tag("<a>"), **LEAST, **ONCE), "<a>1</f>", "", "<a>1</f>,"),
    (triggered(["<f="], *BOTH[1:]), "|hi|hi<f|hi<f=a>1</f>|<f=b>x</f>!<f=a>2</f>.", "<f=a>", "hi<f=c|<f=b>1"),
    (triggered(["<f="], *BOTH[1:], **LEAST), "hi<f=a>1</f>|<f=b>x</f>!<f=a>2</f>.", "|hi|hi<f", "<f=c"),
    (triggered(["<f="], *BOTH[1:], **ONCE), "hi|hi<f=a>1</f>", "hi<f=", "<f=a>1</f>.|<f=a>1</f><f=a>"),
    (triggered(["<f="], *BOTH[1:], **LEAST, **ONCE), "hi<f=a>1</f>", "hi", "<f=a>1</f>."),
    (triggered(["<a", "<b"], tag("<a>"), tag("<b>", const("x"))), "t<b>x</f>u<a>1</f>", "<b>", "<b z|<b>1<a"),
    (triggered(["<a"], tag("<a>"), excludes=["no"]), "ok<a>1</f>ok", "<a>", "no|no<a>1</f>|<a>1</f>no"),
    (triggered(["<a"], tag("<a>", ANY)), "hi<a>x</f>!|<a></f><a></f>", "<a>x", "<a z"),
    (triggered(["<|im_start|>"], tag("<|im_start|>x")), "hi|hi<|im_start|>x1</f>.", "<|im_start|>x", "<|im_start|>y"),
    (tag("<a>", {"type": "regex", "pattern": "[a<]*"}), "<a>aa</f>|<a></f>|<a><</f>", "<a>aa</", "<a>b"),
    (tag("<a>", {"type": "regex", "pattern": "a*"}, ["</f>", "a!"]), "<a>aa</f>|<a>aaa!|<a>a!", "<a>aaa", "<a>b|<a>!"),
    (tag("<a>", {"type": "regex", "pattern": "a+"}, "<|im_start|>"), "<a>aa<|im_start|>", "<a>", "<a><|im_start|>"),
    (tag("<a>", {"type": "regex", "pattern": "b*"}, "x<|im_start|>"), "<a>bbx<|im_start|>", "<a>bbx", "<a>bbxy"),
    (tag("<a>", {"type": "regex", "pattern": "a+"}, ""), "<a>aa", "<a>", "<a>b"),
    (tag("<a>", {**ANY, "excludes": ["no"]}, ["</a>", "<|im_start|>"]), "<a>n<|im_start|>|<a>x</a>", "<a>n",
     "<a>no|<a></a>x"),
    (elements("sequence", triggered(["<a"], tag("<a>"), **LEAST, **ONCE), const("!")), "hi<a>1</f>!", "hi<a>1</f>",
     "<a>1</f>?"),
    (elements("sequence", elements("sequence", ANY, const("<|im_start|>")), const("b")), "hi<|im_start|>b", "hi",
     "<|im_start|>c"),
    (separated(tag("<a>"), tag("<b>"), **SPECIAL), "|<a>1</f><|im_start|><b>2</f>", "<a>1</f><|im_start|>",
     "<a>1</f>,"),
    (triggered(["<|im_start|>"], tag("<|im_start|>x"), excludes=["no"]), "n<|im_start|>x1</f>n", "<|im_start|>",
     "no|n<|im_start|>x1</f>no"),
    (triggered(["<|im_start|>", "<a"], tag("<|im_start|>x"), tag("<a>")), "<a>1</f>|<|im_start|>x1</f>", "<a",
     "<a zz"),
]  # fmt: skip


def texts(joined: str) -> list[str]:
    """The texts between the bars; a bar that is part of a special token's name is none."""
    marked = joined.replace("<|im_start|>", "\1").replace("<|endoftext|>", "\2")
    return [text.replace("\1", "<|im_start|>").replace("\2", "<|endoftext|>") for text in marked.split("|")]


@pytest.mark.parametrize(("form", "whole", "more", "wrong"), TAGS, ids=lambda value: str(value)[:50])
def test_structural_tags(form: Any, whole: str, more: str, wrong: str) -> None:
    found = backend().compile(Constraint.of("structural_tag", {"type": "structural_tag", "format": form}))
    readings = {text: reading(found, text, stand_in()) for text in texts(whole)}
    assert readings == dict.fromkeys(texts(whole), "end")
    readings = {text: reading(found, text, stand_in()) for text in texts(more) if text or not whole.startswith("|")}
    assert set(readings.values()) <= {"more"} or readings == {"": "end"}
    assert [reading(found, text, stand_in()) for text in texts(wrong)] == ["no"] * len(texts(wrong))


@pytest.mark.model
@pytest.mark.parametrize(("form", "whole", "more", "wrong"), TAGS, ids=lambda value: str(value)[:50])
def test_structural_tags_in_words(pipe: ChatPipeline, form: Any, whole: str, more: str, wrong: str) -> None:
    model = pipe.chat.model
    found = _backend_of(model).compile(Constraint.of("structural_tag", form))
    assert {text: reading(found, text, model) for text in texts(whole)} == dict.fromkeys(texts(whole), "end")
    assert [reading(found, text, model) for text in texts(wrong)] == ["no"] * len(texts(wrong))


@lru_cache
def _backend_of(model: ModelInfo) -> GuidanceBackend:
    return GuidanceBackend(model)


WHITESPACE = [("", "[1,2]", "[1, 2]"), ("[ ]?", "[1, 2]", "[1,  2]"), ("\n*", "[\n\n1,2]", "[ 1]")]


@pytest.mark.parametrize(("whitespace", "good", "bad"), WHITESPACE)
def test_blanks_between_json_tokens(whitespace: str, good: str, bad: str) -> None:
    form = {"type": "json_schema", "json_schema": {"type": "array"}}
    found = backend().compile(Constraint.of("structural_tag", form, whitespace=whitespace))
    assert (reading(found, good, stand_in()), reading(found, bad, stand_in())) == ("end", "no")


LEGACY = {"structures": [{"begin": "<f=a>", "schema": {"type": "integer"}, "end": "</f>"}], "triggers": ["<f="]}
IN_TEXT = {**LEGACY, "structures": [{"begin": "<f=a>", "schema": '{"type": "integer"}', "end": "</f>"}]}


@pytest.mark.parametrize("form", [LEGACY, {"type": "structural_tag", **LEGACY}, IN_TEXT], ids=["bare", "typed", "text"])
def test_structures_and_triggers(form: Any) -> None:
    found = backend().compile(Constraint.of("structural_tag", form))
    assert as_format(form)["type"] == "triggered_tags"
    for text, expected in {"hi": "end", "hi<f=a>3</f>": "end", "<f=a>3": "more", "<f=a>x": "no", "<f=b": "no"}.items():
        assert reading(found, text, stand_in()) == expected


MALFORMED: list[tuple[Any, str]] = [
    (3, ""),
    ([], ""),
    ({"type": "structural_tag"}, ""),
    ({"type": "structural_tag", "format": const("a"), "more": 1}, ""),
    ({**LEGACY, "format": const("a")}, ""),
    ({"structures": []}, ""),
    ({"structures": 3, "triggers": ["a"]}, "/structures"),
    ({"structures": [3], "triggers": ["a"]}, "/structures/0"),
    ({"structures": [{"begin": "a"}], "triggers": ["a"]}, "/structures/0"),
    ({"structures": [{"begin": "a", "schema": "{", "end": ""}], "triggers": ["a"]}, "/structures/0/schema"),
    ({}, "/format"),
    ({"type": "nope"}, "/format"),
    ({"type": ["tag"]}, "/format"),
    ({"type": "rule"}, "/format"),
    ({"type": "const_string"}, "/format"),
    (const(3), "/format"),
    ({**const("a"), "more": 1}, "/format"),
    ({"type": "json_schema", "json_schema": 3}, "/format/json_schema"),
    ({"type": "json_schema", "json_schema": False}, "/format/json_schema"),
    ({"type": "json_schema", "json_schema": {"items": {"type": "x"}}}, "/format/json_schema/items/type"),
    ({"type": "regex", "pattern": "(a"}, "/format/pattern"),
    ({"type": "regex", "pattern": 3}, "/format"),
    ({**ANY, "excludes": "ab"}, "/format/excludes"),
    ({**ANY, "excludes": [""]}, "/format/excludes"),
    (elements("sequence", const("a"), elements("or", 3)), "/format/elements/1/elements/0"),
    ({"type": "sequence", "elements": {"a": 1}}, "/format/elements"),
    (elements("or"), "/format/elements"),
    (elements("sequence", ANY, const("a")), "/format/elements/0"),
    (elements("sequence", elements("sequence", const("a"), ANY), const("b")), "/format/elements/0"),
    (elements("sequence", const("a"), {"type": "star", "content": ANY}, const("b")), "/format/elements/1"),
    (elements("sequence", elements("or", ANY, const("b")), const("c")), "/format/elements/0"),
    (elements("sequence", triggered(["<a"], tag("<a>"), **LEAST), const("!")), "/format/elements/0"),
    (elements("sequence", triggered(["<a"], tag("<a>"), **ONCE), const("!")), "/format/elements/0"),
    (triggered(["<a"], tag("<a>"), excludes=[""]), "/format/excludes"),
    (elements("sequence", elements("or", const("b"), triggered(["<a"], tag("<a>"))), NUMBER), "/format/elements/0"),
    ({"type": "star", "content": 3}, "/format/content"),
    (tag(3), "/format"),
    (tag("a", end=[]), "/format/end"),
    (tag("a", end=3), "/format"),
    (tag("a", triggered(["<a"], tag("<a>"))), "/format/content"),
    (tag("a", ANY, ""), "/format/content"),
    (separated(), "/format/tags"),
    ({"type": "tags_with_separator", "tags": [tag("a")]}, "/format"),
    (triggered("<a", tag("<a>")), "/format/triggers"),
    (triggered([], tag("<a>")), "/format/triggers"),
    (triggered([""], tag("<a>")), "/format/triggers"),
    (triggered(["<b"], tag("<b>"), tag("<a>")), "/format/tags/1/begin"),
    (triggered(["<a", "<b"], tag("<a>")), "/format/triggers"),
    (triggered(["<a"], tag("<a>", 3)), "/format/tags/0/content"),
]


@pytest.mark.parametrize(("form", "place"), MALFORMED, ids=lambda value: str(value)[:60])
def test_malformed_tags_are_refused_with_their_place(form: Any, place: str) -> None:
    with pytest.raises(CannotEnforce) as caught:
        backend().compile(Constraint.of("structural_tag", form))
    assert caught.value.place == place


def test_tags_nested_too_deeply() -> None:
    form: Any = const("a")
    for _ in range(300):
        form = {"type": "optional", "content": form}
    with pytest.raises(CannotEnforce, match="nested too deeply"):
        backend().compile(Constraint("structural_tag", _deep_text(5000)))
    assert reading(backend().compile(Constraint.of("structural_tag", form)), "a", stand_in()) == "end"


def _deep_text(levels: int) -> str:
    return '{"type": "optional", "content": ' * levels + '{"type": "const_string", "value": "a"}' + "}" * levels
