"""From a request to a plan: how hooks' results combine, and what is refused."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from transformers import LogitsProcessor, MinLengthLogitsProcessor

from chatplan.compiler import compile_plan
from chatplan.errors import PluginConflictError, PluginError, RequestError, UnsupportedFieldError
from chatplan.hookspecs import hookimpl
from chatplan.manager import Plugins
from chatplan.output import OutputStage, StageState
from chatplan.plan import GenerationPlan, OutputOrder, Prompt, Stage, StopTokens
from chatplan.request import parse_request
from chatplan.row import Row
from chatplan.standin import stand_in

MESSAGES = [{"role": "user", "content": "Hi"}]
# For each field: a value that means something, and the values that mean the same as leaving it out.
UNANSWERED: dict[str, tuple[Any, list[Any]]] = {
    "no_such_field": (1, [None]),
}


def plugin(name: str, **hooks: Any) -> Any:
    return SimpleNamespace(name=name, **{hook: hookimpl(function) for hook, function in hooks.items()})


def returning(name: str, hook: str, answer: Any) -> Any:
    return plugin(name, **{hook: lambda: answer})


def compiled(*plugins: Any, disable: Any = (), unsupported: Any = None, **fields: Any) -> GenerationPlan:
    loaded = Plugins(plugins, disable, installed=False)
    request = parse_request({"messages": MESSAGES, **fields}, loaded.request_type)
    return compile_plan(request, stand_in(), loaded, unsupported)


# --- nothing is ignored -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", UNANSWERED)
def test_a_field_that_nobody_answers_for_is_refused_by_name(field: str) -> None:
    value, _ = UNANSWERED[field]
    with pytest.raises(UnsupportedFieldError) as caught:
        compiled(**{field: value})
    assert caught.value.param == field
    assert "refused rather than ignored, got " in caught.value.message


@pytest.mark.parametrize(
    ("field", "value"), [(field, value) for field, (_, off) in UNANSWERED.items() for value in off]
)
def test_a_field_that_is_off_needs_no_answer(field: str, value: Any) -> None:
    assert compiled(**{field: value}, request_id="x") == compiled(request_id="x")


def test_a_disabled_plugins_fields_are_refused() -> None:
    with pytest.raises(UnsupportedFieldError) as caught:
        compiled(disable=["penalties"], presence_penalty=1)
    assert caught.value.param == "presence_penalty"
    compiled(disable=["penalties"], presence_penalty=0)


def test_fields_that_the_engine_cannot_honour_are_refused_with_its_reason() -> None:
    unsupported = {"seed": "this engine draws as it likes"}
    with pytest.raises(UnsupportedFieldError, match="^seed: this engine draws as it likes, got 1$"):
        compiled(unsupported=unsupported, seed=1)
    compiled(unsupported=unsupported, seed=None)
    compiled(unsupported=unsupported)


# --- the order of the work --------------------------------------------------------------------------------------------

PER_REQUEST = (
    "check_request",
    "template_args",
    "render_prompt",
    "generation_config",
    "logits_processors",
    "stopping_criteria",
    "output_stages",
)


def noting(log: list[str]) -> Any:
    return plugin("notes", **{hook: lambda hook=hook: log.append(hook) for hook in PER_REQUEST})


def test_hooks_are_called_once_and_in_order() -> None:
    log: list[str] = []
    compiled(noting(log))
    assert log == list(PER_REQUEST)


def test_every_check_comes_before_any_other_work() -> None:
    log: list[str] = []

    def refuse(request: Any) -> None:
        raise RequestError("not today", param="messages")

    with pytest.raises(RequestError, match="not today"):
        compiled(noting(log), plugin("strict", check_request=refuse))
    assert set(log) <= {"check_request"}


def test_nobody_is_asked_about_a_request_with_unanswered_fields() -> None:
    log: list[str] = []
    with pytest.raises(UnsupportedFieldError):
        compiled(noting(log), no_such_field=1)
    assert log == []


# --- merging ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hook", "key", "one", "other"),
    [("template_args", "mood", "glad", "sad"), ("generation_config", "num_beam_groups", 1, 2)],
)
def test_two_values_for_one_key_name_both_plugins(hook: str, key: str, one: Any, other: Any) -> None:
    with pytest.raises(PluginConflictError) as caught:
        compiled(returning("a", hook, {key: one}), returning("b", hook, {key: other}))
    assert set(caught.value.plugins) == {"a", "b"}
    assert all(text in str(caught.value) for text in (hook, repr(key), repr(one), repr(other), "'a'"[1:-1], "b"))


def test_a_plugin_conflicts_with_a_built_in_too() -> None:
    with pytest.raises(PluginConflictError) as caught:
        compiled(returning("mine", "generation_config", {"max_new_tokens": 3}), max_tokens=4)
    assert set(caught.value.plugins) == {"mine", "length"}


def test_the_same_value_twice_is_fine_and_is_the_first_ones_doing() -> None:
    plan = compiled(
        returning("a", "template_args", {"mood": "glad"}), returning("b", "template_args", {"mood": "glad"})
    )
    assert plan.template_args["mood"] == "glad"
    assert [effect.plugin for effect in plan.effects if effect.name == "mood"] == ["b"]


def test_a_third_plugin_conflicts_with_the_one_whose_value_stands() -> None:
    made = [returning(name, "template_args", {"mood": mood}) for name, mood in [("c", 2), ("b", 1), ("a", 1)]]
    with pytest.raises(PluginConflictError) as caught:
        compiled(*made)
    assert caught.value.plugins == ("a", "c")


def test_template_args_reach_the_template() -> None:
    plan = compiled(returning("glad", "template_args", {"mood": "glad"}), chat_template="so {{ mood }}")
    assert plan.prompt.text == "so glad"


def test_a_misspelt_attribute_names_its_plugin() -> None:
    # Another plugin's template argument of that name is no reason to blame it.
    other = returning("other", "template_args", {"do_smaple": True})
    with pytest.raises(PluginError, match="plugin 'typo': GenerationConfig has no attribute 'do_smaple'"):
        compiled(other, returning("typo", "generation_config", {"do_smaple": True}))


def test_an_attribute_of_generation_config_is_kept() -> None:
    assert compiled(returning("a", "generation_config", {"use_cache": False})).generation_config["use_cache"] is False


# --- processors -------------------------------------------------------------------------------------------------------


class Plain(LogitsProcessor):
    pass


def test_processors_are_sorted_by_stage() -> None:
    first, last, also_last = Plain(), Plain(), Plain()
    work = [(Stage.TOP_P, last), (Stage.TOP_P, also_last), (Stage.GRAMMAR, first)]
    plan = compiled(returning("mine", "logits_processors", work), frequency_penalty=1, top_k=5, logit_bias={"1": 1})
    stages = [stage for stage, _ in plan.processors]
    assert stages == [
        Stage.GRAMMAR,
        Stage.BIAS,
        Stage.PENALTIES,
        Stage.TEMPERATURE,
        Stage.TOP_K,
        Stage.TOP_P,
        Stage.TOP_P,
        Stage.DRAW,
    ]
    assert plan.processors[0] == (Stage.GRAMMAR, first)
    assert [processor for stage, processor in plan.processors if stage == Stage.TOP_P] == [last, also_last]


@pytest.mark.parametrize("item", [MinLengthLogitsProcessor(1, 2), (70, Plain()), (Stage.BIAS, Plain(), 3), ()])
def test_a_processor_without_a_stage_names_its_plugin(item: Any) -> None:
    with pytest.raises(PluginError, match="plugin 'mine'.*Stage"):
        compiled(returning("mine", "logits_processors", [item]))


# --- prompt, stopping criteria, output stages -------------------------------------------------------------------------


def test_the_first_prompt_wins() -> None:
    prompts = [returning(name, "render_prompt", Prompt((at,))) for at, name in enumerate("ab")]
    assert compiled(*prompts, returning("none", "render_prompt", None)).prompt == Prompt((1,))
    assert len(compiled().prompt.token_ids) > 1


def test_a_prompt_that_is_none_names_its_plugin() -> None:
    with pytest.raises(PluginError, match="plugin 'mine': render_prompt returned list, not a Prompt"):
        compiled(returning("mine", "render_prompt", [1, 2]))


@pytest.mark.parametrize(("name", "what"), [("template", "renders prompts"), ("length", "max_new_tokens")])
def test_what_no_plan_can_do_without(name: str, what: str) -> None:
    with pytest.raises(PluginError, match=f"{what}.*`{name}` is switched off"):
        compiled(returning("mine", "request_fields", ["messages"]), disable=[name])


@dataclass(frozen=True)
class Last(OutputStage):
    order: ClassVar[OutputOrder] = OutputOrder.TOKEN_IDS

    def open(self, row: Row) -> StageState:
        return StageState()


def test_stopping_criteria_and_output_stages_are_those_of_all_plugins() -> None:
    one, other = (StopTokens((at,)) for at in (1, 2))
    plan = compiled(
        plugin("a", stopping_criteria=lambda: [one], output_stages=lambda: [Last()]),
        returning("b", "stopping_criteria", iter([other])),
        stop_token_ids=[3],
        stop="x",
    )
    assert set(plan.stopping_criteria) == {one, other, StopTokens((3,))}
    assert [stage.order for stage in plan.output_stages] == sorted(
        [OutputOrder.DETOKENIZE, OutputOrder.STOPS, OutputOrder.TOKEN_IDS]
    )


@pytest.mark.parametrize(
    ("hook", "answer"),
    [
        ("template_args", ["mood"]),
        ("generation_config", 5),
        ("logits_processors", Plain()),
        ("stopping_criteria", StopTokens((1,))),
        ("output_stages", Last()),
        ("output_stages", [StageState()]),
    ],
)
def test_an_answer_of_the_wrong_type_names_its_plugin(hook: str, answer: Any) -> None:
    with pytest.raises(PluginError, match=f"plugin 'mine': {hook} "):
        compiled(returning("mine", hook, answer))


# --- the rest of the plan ---------------------------------------------------------------------------------------------


def test_names_and_ids() -> None:
    plan = compiled(request_id="x")
    assert (plan.request_id, plan.model) == ("x", "stand-in")
    assert compiled(model="stand-in").model == "stand-in"
    assert compiled().request_id != compiled().request_id


def test_effects_say_who_did_what() -> None:
    plan = compiled(frequency_penalty=1, stop=["x"], stop_token_ids=[7])
    found = {(effect.plugin, effect.kind, effect.name) for effect in plan.effects}
    assert found >= {
        ("template", "template_args", "add_generation_prompt"),
        ("template", "render_prompt", "prompt"),
        ("length", "generation_config", "max_new_tokens"),
        ("penalties", "logits_processors", "penalties"),
        ("stops", "stopping_criteria", "StopTokens"),
        ("stops", "output_stages", "StopStrings"),
        ("detokenize", "output_stages", "Detokenize"),
    }
