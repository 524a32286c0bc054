"""What is known of the values that match some JSON schemas."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from chatplan.schemas.empty import Emptiness, item_rule, property_rules
from chatplan.schemas.reader import Node
from chatplan.schemas.values import same

__all__ = ["Given"]


class Given:
    """Values that match all of ``nodes``."""

    def __init__(self, empty: Emptiness, nodes: Sequence[Node]) -> None:
        self._empty = empty
        self._flat = empty.together(nodes)

    def types(self) -> frozenset[str]:
        """The atoms of the types that these values may have."""
        return self._empty.types(self._flat)

    def values(self) -> list[Any] | None:
        """All of these values, and perhaps more, if they are listed."""
        return self._empty.values(self._flat)

    def requires(self, name: str) -> bool:
        """Whether they have this property, those that are objects."""
        return any(name in node.get("required", ()) for node in self._flat)

    def property(self, name: str) -> Given:
        """The values of a property of these values."""
        return Given(self._empty, [rule for node in self._flat for rule in property_rules(node, name)])

    def property_holds(self, name: str, rule: Node) -> bool:
        """Whether the property matches a rule wherever it exists."""
        rules = [known for node in self._flat for known in property_rules(node, name)]
        return any(same(known, rule) for known in rules) or self._empty.proven(*rules, depth=1)

    def names(self) -> list[str] | None:
        """The names that properties can have, if they are limited."""
        limits = [list(node.get("properties", ())) for node in self._flat if _is_closed(node)]
        return min(limits, key=len) if limits else None

    def items_hold(self, rule: Node, node: dict[str, Any]) -> bool:
        """Whether all items that the rule of ``node`` is for match it."""
        return all(any(same(known, rule) for known in rules) for rules in self._items(node))

    def all_fail(self, keyword: str, node: dict[str, Any]) -> bool:
        """Whether all items or properties that the keyword of ``node`` is for break it."""
        if keyword == "items":
            places = self._items(node)
        elif any(known.get("patternProperties") for known in self._flat):
            return False
        else:
            own = node.get("properties", {})
            names = {name: None for known in (node, *self._flat) for name in known.get("properties", ())}
            names["other" + max(names, key=len, default="")] = None  # a name that none of them knows
            places = [[r for known in self._flat for r in property_rules(known, n)] for n in names if n not in own]
        return all(self._empty.proven(*rules, node[keyword], depth=1) for rules in places)

    def _items(self, node: dict[str, Any]) -> list[list[Node]]:
        """What is known of each item that has no rule of its own in ``node``, the last one for all further ones."""
        start = len(node.get("prefixItems", ()))
        end = max((len(known.get("prefixItems", ())) for known in self._flat), default=0)
        return [[item_rule(known, at) for known in self._flat] for at in range(start, max(start, end) + 1)]


def _is_closed(node: dict[str, Any]) -> bool:
    return node.get("additionalProperties") is False and not node.get("patternProperties")
