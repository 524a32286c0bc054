"""The forms in which a question comes: which keys of a body are the question, and which are its fields."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from chatplan.errors import RequestError
from chatplan.request_rules import shown

__all__ = ["Body", "Question", "read_body"]

_NUMBERS = frozenset(
    "temperature top_p min_p typical_p frequency_penalty presence_penalty repetition_penalty length_penalty".split()
)


@dataclass(frozen=True)
class Question:
    """One request of a body.

    Attributes:
        place: where it is in a batch, as ``inputs[1]``; ``""`` when it is the whole body.
        prompt: text for the model as it is; ``None`` for a conversation, whose messages are among the fields.
        fields: everything else that was given for it.
    """

    place: str
    prompt: str | None
    fields: Mapping[str, Any]


@dataclass(frozen=True)
class Body:
    """The questions of a body, and how their answers, in order, become one."""

    questions: list[Question]
    answer: Callable[[list[Any]], Any]


def read_body(body: Any) -> Body:
    """The questions in the body of an HTTP request.

    Raises:
        RequestError: it has none of the known forms; the error names the key.
    """
    given = {name: value for name, value in _object(body, "body").items() if name == "inputs" or value is not None}
    if "instances" in given:
        for name in ("inputs", "messages"):
            if name in given:
                raise RequestError("stands beside instances; give one of them", param=name)
        return Body(_batch("instances", given), lambda answers: {"predictions": answers})
    inputs = given.get("inputs")
    if isinstance(inputs, list) and "messages" not in given and not _is_conversation(inputs):
        return Body(_batch("inputs", given), list)
    return Body([_question(given, "")], lambda answers: answers[0])


def _batch(key: str, given: dict[str, Any]) -> list[Question]:
    """Each item is a question; what stands beside the list goes for all of them."""
    items = given[key]
    if not isinstance(items, list) or not items:
        raise RequestError(f"should be a list of at least one request, got {shown(items)}", param=key)
    shared = {name: value for name, value in given.items() if name != key}
    return [_item(item, shared, f"{key}[{at}]") for at, item in enumerate(items)]


def _item(item: Any, shared: Mapping[str, Any], place: str) -> Question:
    whole = dict(item) if isinstance(item, Mapping) and "inputs" in item else {"inputs": item}
    own, common = whole.pop("parameters", None), dict(shared)
    parameters = _merged(_parameters(common.pop("parameters", None)), _parameters(own, place), place)
    return _question(_merged({**whole, "parameters": parameters}, common, place), place)


def _question(given: Mapping[str, Any], place: str) -> Question:
    fields = dict(given)
    inputs, parameters = fields.pop("inputs", None), _parameters(fields.pop("parameters", None), place)
    prompt = None
    if "messages" in fields:  # the toolkit wants the key inputs whatever is in it
        if isinstance(inputs, (Mapping, list)) and inputs not in ({}, [], fields["messages"]):
            raise RequestError("holds a request beside messages; give one of them", param=_at(place, "inputs"))
    elif isinstance(inputs, str):
        prompt = inputs
    elif isinstance(inputs, Mapping):
        fields = _merged(inputs, fields, place)
    elif isinstance(inputs, list) and _is_conversation(inputs):
        fields["messages"] = inputs
    else:
        what = "should be an object with messages, a list of messages, or a prompt"
        raise RequestError(f"{what}, got {shown(inputs)}", param=place or "inputs")
    return Question(place, prompt, _whole(_merged(fields, parameters, place), place))


def _whole(fields: dict[str, Any], place: str) -> dict[str, Any]:
    if fields.get("stream"):
        reason = "an endpoint handler sends whole answers; leave it out, or deploy the custom container"
        raise RequestError(reason, param=_at(place, "stream"))
    return {name: value for name, value in fields.items() if name != "stream"}


def _parameters(value: Any, place: str = "") -> dict[str, Any]:
    """Query parameters come as these, and some toolkits leave fractions in them as text."""
    given = {} if value is None else _object(value, _at(place, "parameters"))
    return {name: _number(item) if name in _NUMBERS else item for name, item in given.items()}


def _number(value: Any) -> Any:
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value  # refused where its type is checked


def _merged(first: Mapping[str, Any], second: Mapping[str, Any], place: str) -> dict[str, Any]:
    """Both together; null is absent, and what both have is an error, since neither place is the right one."""
    for name, value in second.items():
        if value is not None and first.get(name) is not None:
            raise RequestError("is given twice, in two places of the body", param=_at(place, name))
    return {**first, **{name: value for name, value in second.items() if value is not None or name not in first}}


def _object(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise RequestError(f"should be an object, got {shown(value)}", param=name)
    return dict(value)


def _is_conversation(items: list[Any]) -> bool:
    return bool(items) and isinstance(items[0], Mapping) and "role" in items[0]


def _at(place: str, name: str) -> str:
    return f"{place}.{name}" if place else name
