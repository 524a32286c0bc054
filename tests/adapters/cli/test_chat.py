"""``chatplan chat`` without a terminal: a prompt on standard input is answered, and nothing else is printed."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from transformers import LogitsProcessor

import chatplan.adapters.cli.slash as slash_module
from chatplan import Chat, EngineError, Stage, hookimpl
from chatplan.adapters.cli.chat import Terminal, answer
from chatplan.adapters.cli.conversation import Conversation
from chatplan.adapters.cli.fields import NOT_FLAGS, field_table
from chatplan.adapters.cli.slash import Slash
from chatplan.errors import RequestError
from chatplan.response import ChatCompletion

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
    both = ("--set", 'guided_choice=["up"]', "--guided-choice", "down")  # of the two, --set wins
    assert invoke("chat", weights, *both, "--prompt", "Hi").stdout == "up\n"


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
    for flags in (["--plugin", "slow_field"], ["--plugin=slow_field"]):
        text = command("chat", *flags, "--help").stdout
        assert "--slow " in text
        assert "Slow_field" in text
    assert "--slow " not in command("chat", *flags, "--disable=slow_field", "--help").stdout
    refused = command("chat", weights, "--slow", "1", "--prompt", "Hi")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "--slow" in refused.stderr


def test_a_flag_of_the_command_wins_over_a_field_of_its_name(
    invoke: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin = ModuleType("namesake")
    vars(plugin)["request_fields"] = hookimpl(lambda: {"system": int, "louder": bool}, specname="request_fields")
    monkeypatch.setitem(sys.modules, "namesake", plugin)
    text = invoke("chat", "--plugin", "namesake", "--help").stdout
    assert text.count("--system ") == 1
    assert "--louder" in text
    assert "--no-louder" in text


def test_a_model_that_was_loaded_is_closed(
    invoke: Callable[..., Any], weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[Chat] = []
    close = Chat.close

    def counted(chat: Chat) -> None:
        closed.append(chat)
        close(chat)

    monkeypatch.setattr(Chat, "close", counted)
    assert invoke("chat", weights, *FEW, "--prompt", "Hi").exit_code == 0
    assert len(closed) == 1
    assert invoke("chat", weights, "--temperature", "-1", "--prompt", "Hi").exit_code == 2
    assert len(closed) == 2


def test_the_system_prompt_goes_with_the_request(invoke: Callable[..., Any], weights: Path, tiny: Chat) -> None:
    request = [{"role": "system", "content": "Be brief."}, *HI]
    wanted = tiny.complete(request, temperature=0, max_tokens=6, ignore_eos=True).text
    assert wanted != tiny.complete(HI, temperature=0, max_tokens=6, ignore_eos=True).text
    assert invoke("chat", weights, *FEW, "--system", "Be brief.", stdin="Hi").stdout == f"{wanted}\n"


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
        (["--tool-call-parser", "nothing"], "nothing"),
        (["--disable", "penalties", "--set", "frequency_penalty=1"], "frequency_penalty: "),
        (["--device-map", "{"], "--device-map: is not JSON"),
        (["--api-key", "x"], "--api-key: is for a server"),
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
        for flags in (["--dtype", "float32"], ["--engine", "generate"], ["--device-map", "auto"]):
            refused = invoke("chat", server.url, *flags, stdin="Hi")
            assert (refused.exit_code, refused.stdout) == (2, "")
            assert "a server has its own --engine" in refused.stderr
        other = invoke("chat", server.url, "--served-model-name", "other", stdin="Hi")
        assert other.exit_code != 0
        assert "other" in other.stderr


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
        ("/set stream true", "stream: the chat decides"),
        ("/set stream-options {}", "stream_options: the chat decides"),
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
    assert not slash.run("/exit")


def test_the_last_question_and_what_followed_are_forgotten(slash: Slash, tiny: Chat) -> None:
    said = [*HI, {"role": "assistant", "content": "Ho"}, {"role": "user", "content": "More?"},
            {"role": "assistant", "content": "No"}]  # fmt: skip
    slash.conversation.messages += said
    slash.conversation.last = tiny.complete(HI, max_tokens=1)
    slash.run("/retry")
    assert slash.conversation.messages == said[:3]
    assert slash.conversation.last is None
    slash.run("/undo")
    assert slash.conversation.messages == said[:2]
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    slash.conversation.messages.append({"role": "user", "content": parts})
    assert slash.conversation.undo() == "a\nb"


def test_what_is_explained_ends_with_a_question(slash: Slash, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(slash_module, "print_explanation", lambda given: asked.append(given.plan.request.messages))
    for message in (*HI, {"role": "assistant", "content": "Ho"}):
        slash.conversation.messages.append(message)
        slash.run("/explain")
    roles = [[message.role for message in messages] for messages in asked]
    assert roles == [["system", "user"], ["system", "user", "assistant", "user"]]


def test_the_system_prompt_is_set_and_kept_apart_when_loaded(slash: Slash, tmp_path: Path) -> None:
    slash.run("/system Be long.")
    assert slash.conversation.request()["messages"] == [{"role": "system", "content": "Be long."}]
    parts = {"role": "system", "content": [{"type": "text", "text": "x"}]}
    text = {"role": "system", "content": "x"}
    for first, system, kept in ((text, "x", HI), (parts, "", [parts, *HI]), (HI[0], "", HI * 2)):
        request = {"messages": [first, *HI], "stream": True, "n": 2}
        (tmp_path / "chat.json").write_text(json.dumps(request), "utf-8")
        slash.run(f"/load {tmp_path}/chat.json")
        assert (slash.conversation.system, slash.conversation.messages) == (system, kept)
        assert slash.conversation.fields == {"n": 2}


# --- asking and remembering -------------------------------------------------------------------------------------------


def reply(**message: Any) -> ChatCompletion:
    given = {"id": "1", "created": 0, "model": "m", "choices": [{"index": 0, "message": message}]}
    return ChatCompletion.model_validate(given)


def test_of_an_answer_that_was_stopped_only_the_text_is_kept() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "go", "arguments": "{}"}}
    conversation = Conversation()
    conversation.answered(reply(content="a", tool_calls=[call]), whole=True)
    conversation.answered(reply(content=None, tool_calls=[call]), whole=False)
    assert conversation.messages == [{"role": "assistant", "content": "a", "tool_calls": [call]},
                                     {"role": "assistant", "content": ""}]  # fmt: skip


class Fails(LogitsProcessor):
    """Says a token, then goes wrong."""

    def __init__(self, error: BaseException) -> None:
        self.error, self.seen = error, 0

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        self.seen += 1
        if self.seen > 1:
            raise self.error
        return scores


def test_an_answer_that_fails_is_not_remembered(new_chat: Callable[..., Chat]) -> None:
    plugin = ModuleType("failing")
    vars(plugin)["logits_processors"] = hookimpl(
        lambda request: [(Stage.BIAS, Fails(RuntimeError("no memory")))], specname="logits_processors"
    )
    fields = {"ignore_eos": True}  # else the first token may be the last
    conversation = Conversation(fields=fields)
    with pytest.raises(EngineError):
        answer(new_chat(plugins=[plugin]), conversation, "Hi")
    assert conversation == Conversation(fields=fields)


def test_an_answer_is_remembered_with_its_question(tiny: Chat, capsys: pytest.CaptureFixture[str]) -> None:
    conversation = Conversation(fields={"max_tokens": 4, "temperature": 0, "ignore_eos": True})
    assert answer(tiny, conversation, "Hi")
    text = tiny.complete(HI, max_tokens=4, temperature=0, ignore_eos=True).text
    assert conversation.messages == [*HI, {"role": "assistant", "content": text}]
    assert conversation.last is not None
    assert (conversation.last.text, capsys.readouterr().out) == (text, f"{text}\n")


class Typed:
    """A prompt at which these lines are typed; ``None`` is Ctrl-C, after ``typed``."""

    def __init__(self, *lines: str | None, typed: str = "") -> None:
        self.lines, self.typed = list(lines), typed

    def ask(self) -> str:
        if not self.lines:
            raise EOFError
        line = self.lines.pop(0)
        if line is None:
            raise KeyboardInterrupt
        return line


@pytest.fixture
def terminal(tiny: Chat, monkeypatch: pytest.MonkeyPatch) -> Callable[[Typed], None]:
    """Runs a chat at such a prompt."""

    def run(typed: Typed) -> None:
        monkeypatch.setattr("chatplan.adapters.cli.prompts.new_prompt", lambda candidates: typed)
        Terminal(tiny, Conversation(fields={"max_tokens": 1})).run()

    return run


def test_ctrl_c_leaves_only_twice_in_a_row_at_an_empty_line(
    terminal: Callable[[Typed], None], capsys: pytest.CaptureFixture[str]
) -> None:
    terminal(Typed(None, "/show", None, "", None))
    assert capsys.readouterr().err.count("Ctrl-C again leaves") == 3
    terminal(Typed(None, None, None, typed="half a line"))
    assert "again" not in capsys.readouterr().err
    with pytest.raises(KeyboardInterrupt):
        terminal(Typed(None, None, "/show"))


def test_a_blank_line_asks_nothing_and_quit_leaves(
    terminal: Callable[[Typed], None], capsys: pytest.CaptureFixture[str]
) -> None:
    typed = Typed("", "  ", "/dance", "/quit", "Hi")
    terminal(typed)
    told = capsys.readouterr()
    assert (told.out, typed.lines) == ("", ["Hi"])
    assert told.err.splitlines()[0] == "tests/tiny on generate; /help lists commands, Ctrl-D leaves"
    assert "error: there is no /dance" in told.err


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("/se", ["/set"]),
        ("/set temp", ["temperature"]),
        ("/set logprobs ", ["true", "false"]),
        ("/set reasoning_effort lo", ["low"]),
        ("/unset ", ["temperature"]),
        ("/set logprobs f", ["false"]),
        ("/qu", ["/quit"]),
        ("/set mess", []),
        ("/unset top", []),
        ("/set temperature ", []),
        ("/dance lo", []),
        ("Hello", []),
    ],
)
def test_completion(slash: Slash, line: str, found: list[str]) -> None:
    assert list(slash.candidates(line)) == found
