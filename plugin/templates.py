"""Reading a chat template without running it: what does it look at, and in which form does it want content?"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

from jinja2 import Environment, TemplateSyntaxError, meta, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser

from chatplan.errors import RequestError

if TYPE_CHECKING:
    from chatplan.model import ModelInfo

__all__ = ["content_format", "template_mentions", "template_of", "template_variables"]


def template_of(model: ModelInfo, own: str | None, tools: Any = None) -> str:
    """The request's ``own`` template, else the tokenizer's, which may have one for requests with ``tools``.

    Raises :class:`RequestError` when there is none.
    """
    if own is not None:
        return own
    try:
        return str(model.tokenizer.get_chat_template(tools=tools))
    except ValueError as error:
        reason = "the model's tokenizer has no chat template; pass one, in Jinja, as chat_template"
        raise RequestError(reason, param="chat_template") from error


class _GenerationBlock(Extension):
    """``{% generation %} … {% endgeneration %}``, which transformers adds to Jinja; read as its body."""

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self.tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


@lru_cache(maxsize=64)
def _syntax_tree(template: str) -> nodes.Template | None:
    """``None`` for a template that does not parse; rendering it says why."""
    try:
        return Environment(extensions=[_GenerationBlock, loopcontrols]).parse(template)
    except TemplateSyntaxError:
        return None


@lru_cache(maxsize=64)
def template_variables(template: str) -> frozenset[str]:
    """The variables that must come from outside, such as ``messages`` and ``documents``."""
    tree = _syntax_tree(template)
    try:
        return frozenset() if tree is None else frozenset(meta.find_undeclared_variables(tree))
    except TemplateSyntaxError:  # it parses, but uses a filter that does not exist
        return frozenset()


@lru_cache(maxsize=64)
def template_mentions(template: str, word: str) -> bool:
    """Whether ``word`` is in the template as a string constant, as the name of a role would be."""
    tree = _syntax_tree(template)
    return tree is not None and any(word in str(node.value) for node in tree.find_all(nodes.Const))


@lru_cache(maxsize=64)
def content_format(template: str) -> Literal["string", "list"]:
    """``list`` for a template that loops over a message's content, ``string`` for one that prints it.

    The loop may run over ``message.content`` or ``message["content"]`` itself, a slice or a filtered form of it, or a
    variable that was set to one of these.
    """
    tree = _syntax_tree(template)
    if tree is None:
        return "string"
    holders: set[str] = set()
    for assignment in tree.find_all(nodes.Assign):
        if isinstance(assignment.target, nodes.Name) and _is_content(assignment.node, holders):
            holders.add(assignment.target.name)
    return "list" if any(_is_content(loop.iter, holders) for loop in tree.find_all(nodes.For)) else "string"


def _is_content(node: Any, holders: set[str]) -> bool:
    if isinstance(node, nodes.Name):
        return node.name in holders
    if isinstance(node, nodes.Getattr):
        return bool(node.attr == "content")
    if isinstance(node, nodes.Getitem):
        if isinstance(node.arg, nodes.Const):
            return bool(node.arg.value == "content")
        return isinstance(node.arg, nodes.Slice) and _is_content(node.node, holders)
    if isinstance(node, (nodes.Filter, nodes.Test)):
        return _is_content(node.node, holders)
    return False
