"""How a model's answers are cut into reasoning, content and tool calls."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from chatplan.families import AnswerFormat, built_in_formats, find_format, format_of_template

if TYPE_CHECKING:
    from chatplan.model import ModelInfo
    from chatplan.plan import Prompt
    from chatplan.request import ChatCompletionRequest

__all__ = [
    "NEEDS_PARSER",
    "answer_prefix",
    "can_parse",
    "has_opened",
    "marker_tokens",
    "model_format",
    "offers_tools",
    "reading",
]

NEEDS_PARSER = "needs the response parser of transformers 5.23 or newer"
_GENERIC = "generic"


def can_parse() -> bool:
    """Whether the installed transformers has the parser that cuts answers into regions."""
    return importlib.util.find_spec("transformers.utils.chat_parsing") is not None


def model_format(model: ModelInfo, formats: Mapping[str, AnswerFormat]) -> AnswerFormat | None:
    """How ``model`` marks calls and reasoning: by the setting, its tokenizer, or its chat template.

    Raises:
        ValueError: the setting ``tool_call_parser`` names no format.
    """
    wanted, template = model.settings.tool_call_parser, _chat_template(model)
    found = find_format(wanted, template, getattr(model.config, "model_type", None), formats)
    stated = getattr(model.tokenizer, "response_template", None)
    if wanted is None and isinstance(stated, Mapping):
        return format_of_template(stated, found)
    # A family may have models that think and models that do not; the template of one that does says so.
    if wanted is None and found is not None and found.reasoning is not None and found.reasoning.close not in template:
        return found.without_reasoning()
    return found


def _chat_template(model: ModelInfo) -> str:
    template = model.tokenizer.chat_template
    if isinstance(template, Mapping):
        return "\n".join(map(str, template.values()))
    return template or ""


def offers_tools(request: ChatCompletionRequest) -> bool:
    """Whether the model may call a tool in its answer."""
    return bool(request.tools) and request.tool_choice != "none"


def reading(request: ChatCompletionRequest, model: ModelInfo) -> AnswerFormat | None:
    """The format to read the answer to ``request`` with; ``None`` when there is nothing to cut out of it."""
    found = model.answer_format
    if offers_tools(request):
        return _for_calls(request, found)
    if found is None or found.reasoning is None:
        return None
    template = dict(found.response_template)
    template["fields"] = {name: field for name, field in template["fields"].items() if name != "tool_calls"}
    return replace(found, response_template=template, calls=None, stream_key=None)


def _for_calls(request: ChatCompletionRequest, found: AnswerFormat | None) -> AnswerFormat | None:
    """Enforced calls need a syntax to enforce; families whose calls are not JSON get the generic one for that."""
    generic = built_in_formats()[_GENERIC]
    if found is None or "tool_calls" not in found.response_template["fields"]:
        return generic if found is None else _beside_reasoning(generic, found)
    if request.tool_choice != "auto" and found.calls is None:
        return _beside_reasoning(generic, found)
    return found


def _beside_reasoning(generic: AnswerFormat, found: AnswerFormat) -> AnswerFormat:
    """The generic calls, with the reasoning of a model's own format."""
    name = next((key for key in found.response_template["fields"] if "reasoning" in key or key == "thinking"), None)
    if name is None or found.reasoning is None:
        return generic
    template, own = dict(generic.response_template), found.response_template
    template["fields"] = {name: own["fields"][name], **template["fields"]}
    anchors = {key: own[key] for key in ("start_anchor", "start_anchor_pattern") if key in own}
    template = {key: item for key, item in template.items() if not key.startswith("start_anchor")} | anchors
    return replace(generic, response_template=template, reasoning=found.reasoning)


def answer_prefix(request: ChatCompletionRequest, prompt: Prompt, reader: AnswerFormat) -> str:
    """What the parser must read before the answer: the prompt, which may have opened the reasoning already."""
    marks = reader.reasoning
    if not request.continue_final_message or marks is None:
        return prompt.text
    # The marks of a message that is continued may be anywhere in it.
    last = prompt.text[prompt.text.rfind(marks.open) :] if marks.open in prompt.text else ""
    written = str(request.messages[-1].content or "")
    # Behind something else: a start anchor would skip marks that are all there is.
    return f"\n{marks.open}" if marks.open in written and marks.close not in last else ""


def has_opened(request: ChatCompletionRequest, prompt: Prompt, reader: AnswerFormat) -> bool:
    """Whether the answer begins inside of reasoning that the prompt has opened."""
    if reader.reasoning is None:
        return False
    if request.continue_final_message:
        return bool(answer_prefix(request, prompt, reader))
    _, mark, rest = prompt.text.rpartition(reader.reasoning.open)
    return bool(mark) and not rest.strip()


def marker_tokens(reader: AnswerFormat, special: Mapping[int, str]) -> tuple[int, ...]:
    """The special tokens that mark regions; they must reach the parser although special tokens are left out of text."""
    texts = list(_strings(reader.response_template["fields"]))
    return tuple(
        token for token, name in special.items() if any(name in text or re.escape(name) in text for text in texts)
    )


def _strings(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    items = value.values() if isinstance(value, Mapping) else value if isinstance(value, (list, tuple)) else ()
    return [text for item in items for text in _strings(item)]
