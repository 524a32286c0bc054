"""``chatplan chat`` without a terminal: a prompt on standard input is answered, and nothing else is printed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chatplan import Chat
from chatplan.adapters.cli.conversation import Conversation
from chatplan.adapters.cli.fields import NOT_FLAGS, field_table
from chatplan.adapters.cli.slash import Slash
from chatplan.errors import RequestError

FEW = ("--temperature", "0", "--max-tokens", "6", "--ignore-eos")
HI = [{"role": "user", "content": "Hi"}]


def test_a_prompt_on_standard_input(command: Callable[..., Any], weights: Path, tiny: Chat) -> None:
    done = command("chat", weights, *FEW, input="Hi\n")
    whole = tiny.complete(HI, temperature=0, max_tokens=6, ignore_eos=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{whole.text}\n", "")


def test_flags_are_fields(invoke: Callable[..., Any], weights: Path) -> None:
    answer = invoke("chat", weights, "--guided-regex", "[0-9]{3}", "--seed", "7", stdin="Hi").stdout
    assert len(answer) == 4
    assert int(answer) >= 0
    choice = invoke("chat", weights, "--guided-choice", "left", "--guided-choice", "right", stdin="Hi").stdout
    assert choice in ("left\n", "right\n")
    assert invoke("chat", weights, "--set", 'guided_choice=["up"]', "--prompt", "Hi").stdout == "up\n"


def test_several_choices_are_a_line_each(invoke: Callable[..., Any], weights: Path) -> None:
    flags = ["--n", "3", "--seed", "1", "--guided-regex", "[a-z]{4}"]
    lines = invoke("chat", weights, *flags, stdin="Hi").stdout.splitlines()
    assert len(lines) == 3
    assert all(len(line) == 4 for line in lines)


@pytest.mark.dev_only
def test_a_call_of_a_tool_is_shown_as_json(invoke: Callable[..., Any], weights: Path, tmp_path: Path) -> None:
    parameters = {"type": "object", "properties": {"up": {"type": "boolean"}}, "required": ["up"]}
    tool = {"type": "function", "function": {"name": "go", "parameters": parameters}}
    (tmp_path / "tools.json").write_text(json.dumps([tool]), "utf-8")
    flags = ["--tools", f"@{tmp_path}/tools.json", "--tool-choice", "required", "--temperature", "0"]
    call = json.loads(invoke("chat", weights, *flags, stdin="Hi").stdout.splitlines()[0])
    assert call["name"] == "go"
    assert isinstance(call["arguments"]["up"], bool)


def test_a_plugins_field_is_a_flag(command: Callable[..., Any], weights: Path) -> None:
    text = command("chat", "--plugin", "slow_field", "--help").stdout
    assert "--slow " in text
    assert "Slow_field" in text
    refused = command("chat", weights, "--slow", "1", "--prompt", "Hi")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "--slow" in refused.stderr


def test_every_field_is_a_flag_in_the_help(invoke: Callable[..., Any], tiny: Chat) -> None:
    text = invoke("chat", "--help").stdout
    table = field_table(tiny.plugins)
    flags = {name: f"--{name.replace('_', '-')}" for name in table if name not in (*NOT_FLAGS, "force")}
    assert [flag for flag in flags.values() if f"{flag} " not in text] == []
    groups = {field.group for field in table.values() if field.name in flags}
    assert [group for group in groups if f"─ {group[:1].upper()}{group[1:]} ─" not in text] == []


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--temperature", "-1"], "temperature: "),
        (["--temperature", "warm"], "temperature: should be"),
        (["--set", "tempurature=1"], "did you mean temperature?"),
        (["--set", "temperature"], "--set: "),
        (["--guided-regex", "[0-9"], "guided_regex: invalid regex"),
        (["--engine", "steam"], "steam"),
        (["--max-model-len", "3"], "3"),
    ],
)
def test_what_is_refused_is_one_line(flags: list[str], line: str, refusal: Callable[..., str], weights: Path) -> None:
    assert line in refusal("chat", weights, *flags, stdin="Hi")


def test_no_prompt_at_all(refusal: Callable[..., str], weights: Path) -> None:
    assert "standard input is empty" in refusal("chat", weights, stdin="\n")


@pytest.mark.dev_only
def test_the_model_may_be_a_running_server(invoke: Callable[..., Any], serve: Any, tiny: Chat) -> None:
    with serve(tiny) as server:
        answer = invoke("chat", server.url, *FEW, stdin="Hi")
        assert answer.stdout == f"{tiny.complete(HI, temperature=0, max_tokens=6, ignore_eos=True).text}\n"
        refused = invoke("chat", server.url, "--dtype", "float32", stdin="Hi")
        assert (refused.exit_code, refused.stdout) == (2, "")


# --- what a chat obeys ------------------------------------------------------------------------------------------------


@pytest.fixture
def slash(tiny: Chat) -> Slash:
    conversation = Conversation(system="Be brief.", fields={"temperature": 0})
    return Slash(tiny, conversation, lambda text: conversation.messages.append({"role": "user", "content": text}))


def test_fields_are_set_and_unset(slash: Slash) -> None:
    assert slash.run("/set top-p 0.5")
    assert slash.conversation.fields == {"temperature": 0, "top_p": 0.5}
    slash.run("/unset top_p")
    assert slash.conversation.fields == {"temperature": 0}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/set top_p 7", "top_p: "),
        ("/set top_p", "write /set FIELD VALUE"),
        ("/set tempurature 1", "did you mean temperature"),
        ("/set guided_regex [0-9", "invalid regex"),
        ("/set messages []", "messages: the chat decides"),
        ("/unset top_p", "top_p: is not set"),
        ("/undo", "nothing has been said"),
        ("/retry", "nothing has been said"),
        ("/logprobs", "/set logprobs true"),
        ("/save", "which file?"),
        ("/save /no/such/file", "cannot be written"),
        ("/load /no/such/file", "cannot be read"),
        ("/save ~nobody-at-all/file", "cannot be found"),
        ("/dance", "there is no /dance; there are /set"),
    ],
)
def test_what_cannot_be_done_changes_nothing(slash: Slash, line: str, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        slash.run(line)
    assert slash.conversation.fields == {"temperature": 0}


def test_a_chat_is_saved_and_loaded(slash: Slash, tiny: Chat, tmp_path: Path) -> None:
    slash.conversation.messages += [*HI, {"role": "assistant", "content": "Ho"}]
    slash.run(f"/save {tmp_path}/chat.json")
    other = Slash(tiny, Conversation(), lambda text: None)
    other.run(f"/load {tmp_path}/chat.json")
    assert other.conversation == slash.conversation
    assert tiny.plan(json.loads((tmp_path / "chat.json").read_text("utf-8"))).prompt.token_ids
    (tmp_path / "wrong.json").write_text("[1]", "utf-8")
    with pytest.raises(RequestError, match=r"wrong.json: is no request"):
        other.run(f"/load {tmp_path}/wrong.json")
    (tmp_path / "wrong.json").write_text('{"messages": [{"role": "user"}]}', "utf-8")
    with pytest.raises(RequestError, match=r"wrong.json: messages\[0\].content: is required"):
        other.run(f"/load {tmp_path}/wrong.json")
    assert other.conversation == slash.conversation


def test_undo_and_retry_and_reset(slash: Slash) -> None:
    slash.conversation.messages += [*HI, {"role": "assistant", "content": "Ho"}]
    slash.run("/retry")
    assert slash.conversation.messages == HI
    slash.run("/undo")
    assert slash.conversation.messages == []
    slash.conversation.messages.append({"role": "user", "content": [{"type": "text", "text": "Hi"}]})
    slash.run("/retry")
    assert slash.conversation.messages == HI
    slash.run("/reset")
    assert (slash.conversation.messages, slash.conversation.system) == ([], "Be brief.")
    slash.run("/system")
    assert slash.conversation.request() == {"messages": [], "temperature": 0}


def test_a_retry_that_is_refused_forgets_nothing(tiny: Chat) -> None:
    def refuse(text: str) -> None:
        raise RequestError(text)

    said = [*HI, {"role": "assistant", "content": "Ho"}]
    slash = Slash(tiny, Conversation(messages=list(said)), refuse)
    with pytest.raises(RequestError, match="Hi"):
        slash.run("/retry")
    assert slash.conversation.messages == said


def test_explain_and_show_and_help_print(slash: Slash, capsys: pytest.CaptureFixture[str]) -> None:
    slash.run("/explain")
    assert "sampling" in capsys.readouterr().out
    slash.run("/show")
    assert json.loads(capsys.readouterr().out)["messages"] == [{"role": "system", "content": "Be brief."}]
    slash.run("/help")
    told = capsys.readouterr().out
    assert [name for name in (*slash.commands, "quit") if f"  /{name} " not in told] == []
    assert not slash.run("/quit")


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("/se", ["/set"]),
        ("/set temp", ["temperature"]),
        ("/set logprobs ", ["true", "false"]),
        ("/set reasoning_effort lo", ["low"]),
        ("/unset ", ["temperature"]),
        ("Hello", []),
    ],
)
def test_completion(slash: Slash, line: str, found: list[str]) -> None:
    assert list(slash.candidates(line)) == found
