"""Numbers that several JSON schemas bound at once: llguidance joins the bounds, and gets some of them wrong."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from chatplan.guided.backend import CannotEnforce
from chatplan.schemas.numbers import check_bounds, check_multiples
from chatplan.schemas.reader import Document, Node
from chatplan.schemas.values import atoms, found

__all__ = ["check_together"]

MOST = 2_000

Group = dict[int, dict[str, Any]]


def check_together(document: Document, root: Node, targets: dict[str, Node]) -> None:
    """Refuse bounds of numbers that are enforced wrongly when they come together.

    Raises:
        CannotEnforce: there are such bounds, or too many schemas apply at once to find out.
    """
    everything = _Walk(document, root, targets)
    try:
        everything.check({id(node): node for node in _all(root, *targets.values())})
    except CannotEnforce:
        everything.visit()


def _all(*nodes: Node) -> Iterator[dict[str, Any]]:
    todo = list(nodes)
    while todo:
        node = todo.pop()
        if isinstance(node, dict):
            yield node
            todo += _in_place(node)
            todo += node.get("prefixItems", ())
            todo += [item for keyword in ("properties", "patternProperties") for item in node.get(keyword, {}).values()]
            todo += [node[keyword] for keyword in ("additionalProperties", "items") if keyword in node]


def _in_place(node: dict[str, Any]) -> list[Node]:
    return [item for keyword in ("allOf", "anyOf") for item in node.get(keyword, ())]


class _Walk:
    """Visits the groups of schemas that may apply to one value."""

    def __init__(self, document: Document, root: Node, targets: dict[str, Node]) -> None:
        self._document = document
        self._known = {"#": root, **{f"#/$defs/{name}": node for name, node in targets.items()}}
        self._seen: set[frozenset[int]] = set()
        self._todo: list[list[Node]] = [[root]]

    def visit(self) -> None:
        """Check each group."""
        while self._todo:
            group = self._closed(self._todo.pop())
            key = frozenset(group)
            if key and key not in self._seen:
                self._seen.add(key)
                if len(self._seen) > MOST:
                    raise CannotEnforce("the schema is too complicated to check its bounds of numbers")
                self.check(group)
                self._todo += self._below(group)

    def check(self, group: Group) -> None:
        """Refuse a group whose bounds llguidance would get wrong."""
        place = self._document.place(next((node for node in group.values() if "multipleOf" in node), None), "")
        check_multiples([node["multipleOf"] for node in group.values() if "multipleOf" in node], place)
        numbers = [node for node in group.values() if "fraction" in atoms(node.get("type", "number"))]
        bounded = (node for node in numbers if node.keys() & {"exclusiveMinimum", "exclusiveMaximum"})
        check_bounds(numbers, self._document.place(next(bounded, None), ""))

    def _closed(self, nodes: Iterable[Node]) -> Group:
        """The schemas, and those that they combine or refer to."""
        group: Group = {}
        todo = list(nodes)
        while todo:
            node = todo.pop()
            if isinstance(node, dict) and id(node) not in group:
                group[id(node)] = node
                todo += _in_place(node)
                todo += [self._known[node["$ref"]]] if "$ref" in node else []
        return group

    def _below(self, group: Group) -> Iterator[list[Node]]:
        """For each property and item, what may apply to it."""
        nodes = list(group.values())
        for name in {name: None for node in nodes for name in node.get("properties", ())}:
            yield [rule for node in nodes for rule in _rules(node, name)]
        others = [node["additionalProperties"] for node in nodes if "additionalProperties" in node]
        yield others + [rule for node in nodes for rule in node.get("patternProperties", {}).values()]
        for at in range(max((len(node.get("prefixItems", ())) for node in nodes), default=0) + 1):
            prefixes = [(node.get("prefixItems", []), node.get("items", True)) for node in nodes]
            yield [prefix[at] if at < len(prefix) else rest for prefix, rest in prefixes]


def _rules(node: dict[str, Any], name: str) -> Iterator[Node]:
    """What a property of this name may have to match."""
    if name in node.get("properties", {}):
        yield node["properties"][name]
    yield from (
        rule for pattern, rule in node.get("patternProperties", {}).items() if found(pattern, name) is not False
    )
    if name not in node.get("properties", {}):
        yield node.get("additionalProperties", True)
