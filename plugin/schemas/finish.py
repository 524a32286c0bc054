"""The last step of rewriting a JSON schema: schemas that match nothing, or only endless texts, become ``false``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from chatplan.schemas.reader import Node
from chatplan.schemas.values import ATOMS, atoms

__all__ = ["finished"]


def finished(root: Node, targets: dict[str, Node]) -> Node:
    """The whole schema, with the definitions it needs; ``False`` if nothing can match it."""
    known = {"#": root, **{f"#/$defs/{name}": node for name, node in targets.items()}}
    possible = _possible(known)
    if "#" not in possible or isinstance(root, bool):
        return "#" in possible
    result = _pruned(root, possible)
    needed: dict[str, Node] = {}
    todo = [result]
    while todo:
        for name in _references(todo.pop()):
            if name != "#" and name not in needed:
                needed[name] = _pruned(known[name], possible)
                todo.append(needed[name])
    definitions = {name.rpartition("/")[2]: needed[name] for name in known if name in needed}
    return {**result, "$defs": definitions} if definitions and isinstance(result, dict) else result


def _possible(known: dict[str, Node]) -> set[str]:
    """The names of the schemas that some finite text matches."""
    users: dict[str, list[str]] = {name: [] for name in known}
    for name, node in known.items():
        for reference in set(_references(node)):
            users[reference].append(name)
    possible: set[str] = set()
    todo = list(known)
    while todo:
        name = todo.pop()
        if name not in possible and _matches(known[name], possible):
            possible.add(name)
            todo += users[name]
    return possible


def _matches(node: Node, possible: set[str]) -> bool:
    """Whether some finite text may match, where references to ``possible`` may be matched."""
    if isinstance(node, bool):
        return node
    if "$ref" in node and node["$ref"] not in possible:
        return False
    if not all(_matches(item, possible) for item in node.get("allOf", ())):
        return False
    if "anyOf" in node and not any(_matches(item, possible) for item in node["anyOf"]):
        return False
    types = atoms(node["type"]) if "type" in node else ATOMS
    if types == {"object"}:
        return all(_matches(_property(node, name), possible) for name in node.get("required", ()))
    if types == {"array"}:
        items = [*node.get("prefixItems", ()), *[node.get("items", True)] * node.get("minItems", 0)]
        return all(_matches(item, possible) for item in items[: min(node.get("minItems", 0), len(items))])
    return True


def _property(node: dict[str, Any], name: str) -> Node:
    if name in node.get("properties", {}):
        return node["properties"][name]  # type: ignore[no-any-return]
    return True if node.get("patternProperties") else node.get("additionalProperties", True)


def _pruned(node: Node, possible: set[str]) -> Node:
    if isinstance(node, bool) or not _matches(node, possible):
        return node is True
    result: dict[str, Any] = {}
    for keyword, value in node.items():
        if keyword in ("properties", "patternProperties"):
            result[keyword] = {name: _pruned(item, possible) for name, item in value.items()}
        elif keyword in ("additionalProperties", "items"):
            result[keyword] = _pruned(value, possible)
        elif keyword in ("allOf", "prefixItems"):
            result[keyword] = [_pruned(item, possible) for item in value]
        elif keyword == "anyOf":
            result[keyword] = [item for item in (_pruned(item, possible) for item in value) if item is not False]
        else:
            result[keyword] = value
    return result


def _references(node: Node) -> Iterator[str]:
    """The references in a schema, at any depth."""
    if isinstance(node, dict):
        if "$ref" in node:
            yield node["$ref"]
        inner = [item for keyword in ("allOf", "anyOf", "prefixItems") for item in node.get(keyword, ())]
        inner += [item for keyword in ("properties", "patternProperties") for item in node.get(keyword, {}).values()]
        inner += [node[keyword] for keyword in ("additionalProperties", "items") if keyword in node]
        for item in inner:
            yield from _references(item)
