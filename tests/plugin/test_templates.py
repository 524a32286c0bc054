"""What a chat template looks at, read from its source. The templates are in the styles of well-known models."""

from __future__ import annotations

import pytest

from chatplan.templates import content_format, template_mentions, template_variables

CHATML = """
{%- for message in messages %}
    {{- '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{% endif %}
"""
LLAMA3 = """
{{- bos_token }}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}{%- set messages = messages[1:] %}
{%- else %}{%- set system_message = "" %}{%- endif %}
{%- for message in messages %}
    {%- if not (message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim }}
    {%- elif 'tool_calls' in message %}
        {%- for arg_name, arg_val in message.tool_calls[0].function.arguments | items %}{{- arg_name }}{%- endfor %}
    {%- endif %}
{%- endfor %}
{%- if tools is not none %}{{- tools | tojson }}{%- endif %}
"""
DEEPSEEK = """
{% for message in messages %}{% if message['role'] == 'assistant' and message['content'] is not none %}
{% set content = message['content'] %}{% if '</think>' in content %}{% set content = content.split('</think>')[-1] %}
{% endif %}{{ content }}{% endif %}{% endfor %}
"""
QWEN_VL = """
{% set image_count = namespace(value=0) %}{% for message in messages %}<|im_start|>{{ message['role'] }}
{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for content in message['content'] %}
{% if content['type'] == 'image' %}<|vision_start|>{% elif 'text' in content %}{{ content['text'] }}{% endif %}
{% endfor %}{% endif %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}
"""
LLAVA = """
{% for message in messages %}{{ message['role'].upper() + ': ' }}
{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}
{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ content['text'] }}{% endfor %}
{% endfor %}
"""
ASSIGNED = """
{% for message in messages %}{% set content = message.content %}
{% if content is not string %}{% for part in content %}{{ part.text }}{% endfor %}{% endif %}{% endfor %}
"""
ASSIGNED_TWICE = """
{% for m in messages %}{% set body = m['content'] %}{% set parts = body[1:] %}
{% for p in parts %}{{ p.text }}{% endfor %}
{% endfor %}
"""
SLICED = "{% for m in messages %}{% for part in m.content[:-1] %}{{ part.text }}{% endfor %}{% endfor %}"
FILTERED = (
    "{% for m in messages %}{% for part in (m.content | list)[1:] | sort %}{{ part.text }}{% endfor %}{% endfor %}"
)
GENERATION = """
{% for message in messages %}{% if message.role == 'assistant' %}
{% generation %}{% for part in message.content %}{{ part.text }}{% endfor %}{% endgeneration %}
{% else %}{{ message.content }}{% endif %}{% endfor %}
"""
LOOP_CONTROLS = (
    "{% for m in messages %}{% if m.role == 'x' %}{% continue %}{% endif %}{{ m.content }}{% endfor %}{{ mood }}"
)
BROKEN = "{% for m in messages %}{{ m.content }"


@pytest.mark.parametrize("template", [QWEN_VL, LLAVA, ASSIGNED, ASSIGNED_TWICE, SLICED, FILTERED, GENERATION])
def test_a_loop_over_content_wants_a_list(template: str) -> None:
    assert content_format(template) == "list"


@pytest.mark.parametrize("template", [CHATML, LLAMA3, DEEPSEEK, LOOP_CONTROLS, "", "{{ messages }}", BROKEN])
def test_any_other_template_wants_a_string(template: str) -> None:
    assert content_format(template) == "string"


def test_a_loop_over_something_else_does_not_count() -> None:
    assert (
        content_format("{% for m in messages %}{% for c in m.tool_calls %}{{ c }}{% endfor %}{% endfor %}") == "string"
    )
    assert content_format("{% for line in m.content.split('x') %}{{ line }}{% endfor %}") == "string"
    assert content_format("{% set content = 'abc' %}{% for c in content %}{{ c }}{% endfor %}") == "string"


@pytest.mark.parametrize(
    ("template", "variables"),
    [
        (CHATML, {"messages", "add_generation_prompt"}),
        (LLAMA3, {"messages", "bos_token", "tools", "system_message"}),  # set in one branch only
        (LOOP_CONTROLS, {"messages", "mood"}),
        (GENERATION, {"messages"}),
        ("{% set documents = [] %}{{ documents }}", set()),
        ("{% if documents is defined %}{{ documents[0].text }}{% endif %}", {"documents"}),
        ("{% macro show(documents) %}{{ documents }}{% endmacro %}{{ show(tools) }}", {"tools"}),
    ],
)
def test_variables_come_from_outside(template: str, variables: set[str]) -> None:
    assert template_variables(template) - {"raise_exception", "strftime_now", "namespace"} == variables


@pytest.mark.parametrize("template", [BROKEN, "{% endfor %}", "{{ documents | no_such_filter }}", "{% unknown %}"])
def test_a_broken_template_reads_nothing(template: str) -> None:
    assert template_variables(template) == frozenset()
    assert content_format(template) == "string"


def test_words_in_a_template() -> None:
    assert template_mentions("{% if message.role == 'developer' %}x{% endif %}", "developer")
    assert template_mentions("{% if message.role in ['system', 'developer'] %}x{% endif %}", "developer")
    assert not template_mentions("{# developer #} developer {{ developer }}", "developer")
    assert not template_mentions(BROKEN, "m")
