"""API keys: the file, its reloading, and the command line."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import subprocess
import sys
import threading
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from filelock import FileLock
from typer.testing import CliRunner, Result
from waiting import join

from chatplan import Principal
from chatplan.adapters.auth.keys import KeyStore, Limits, now
from chatplan.adapters.auth.settings import AuthSettings
from chatplan.adapters.cli import app
from chatplan.errors import AuthenticationError

if TYPE_CHECKING:
    from tests.adapters.auth.conftest import Identify

KEY = re.compile(r"cp-([0-9a-f]{12})-[A-Za-z0-9_-]{43}")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.delenv("CHATPLAN_AUTH__KEYS_FILE", raising=False)


def refused(send: Any, key: str) -> None:
    with pytest.raises(AuthenticationError, match="^the credential is not valid$"):
        send(x_api_key=key)


# --- the store --------------------------------------------------------------------------------------------------------


def test_a_key_and_its_limits(path: Path, identify: Identify) -> None:
    limits = Limits(models=("a", "b"), max_priority=-1, requests_per_minute=5, tokens_per_minute=6, concurrency=7)
    record, key = KeyStore(path).create("ann", limits)
    assert identify(AuthSettings(keys_file=path))(x_api_key=key) == Principal(
        f"key:{record.id}", frozenset({"a", "b"}), -1, 5, 6, 7
    )


def test_wrong_keys(path: Path, identify: Identify) -> None:
    store = KeyStore(path)
    _, first = store.create("ann", Limits())
    _, second = store.create("bob", Limits())
    send = identify(AuthSettings(keys_file=path))
    other_end = "A" if first[-1] != "A" else "B"
    prefix, key_id, secret = first.split("-", 2)
    swapped = f"{prefix}-{key_id}-{second.split('-', 2)[2]}"
    unknown_id = f"{prefix}-{'0' * 12}-{secret}"
    for key in (first[:-1] + other_end, first[:-1], first + "A", swapped, unknown_id, f"cp-{key_id}-", first.upper()):
        refused(send, key)
    send(x_api_key=first)
    send(x_api_key=second)


def test_expired_and_revoked_keys(path: Path, identify: Identify) -> None:
    store = KeyStore(path)
    old, expired = store.create("old", Limits(), now() - timedelta(seconds=1))
    fresh, key = store.create("fresh", Limits(), now() + timedelta(days=1))
    send = identify(AuthSettings(keys_file=path))
    refused(send, expired)
    send(x_api_key=key)
    when = store.revoke(fresh.id).revoked
    refused(send, key)
    assert store.revoke(fresh.id).revoked == when
    assert [record.state for record in store.records()] == ["expired", "revoked"]
    with pytest.raises(ValueError, match="no key of that id"):
        store.revoke("0" * 12)
    assert old.state == "expired"


def test_a_key_ends_in_the_second_that_it_says(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moment = now()
    record, _ = KeyStore(path).create("ann", Limits(), moment + timedelta(seconds=5))
    states = []
    for seconds in (4, 5, 6):
        monkeypatch.setattr("chatplan.adapters.auth.keys.now", lambda at=moment + timedelta(seconds=seconds): at)
        states.append(record.state)
    assert states == ["valid", "expired", "expired"]
    assert record.model_copy(update={"revoked": moment}).state == "revoked"
    assert (moment.microsecond, moment.utcoffset()) == (0, timedelta(0))


def test_days_until_a_key_expires(path: Path) -> None:
    before = now()
    made = json.loads(printed("create", "--file", path, "--name", "ann", "--expires-in", 1.5, "--json"))
    days = datetime.fromisoformat(made["expires"].replace("Z", "+00:00")) - timedelta(days=1.5)
    assert before <= days <= now()
    assert before <= datetime.fromisoformat(made["created"].replace("Z", "+00:00")) <= now()
    assert made["revoked"] is None


def test_a_lock_that_another_process_keeps(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chatplan.adapters.auth.keys._LOCK_SECONDS", 0.05)
    store = KeyStore(path)
    with FileLock(f"{path}.lock"), pytest.raises(ValueError, match="cannot be changed"):
        store.create("ann", Limits())
    assert not path.exists()
    store.create("ann", Limits())


def test_a_file_that_cannot_be_replaced_leaves_nothing_behind(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = KeyStore(path)
    store.create("ann", Limits())
    before = path.read_bytes()

    def fail(*names: Any) -> None:
        raise OSError("no space")

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", fail)
        with pytest.raises(ValueError, match="no space"):
            store.create("bob", Limits())
    assert path.read_bytes() == before
    assert [name for name in os.listdir(path.parent) if name not in ("keys.json", "keys.json.lock")] == []


def test_a_private_file_is_not_warned_of(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    KeyStore(path).create("ann", Limits())
    KeyStore(path).load()
    assert "can be opened" not in caplog.text


def test_changes_are_seen_without_a_restart(path: Path, identify: Identify, caplog: pytest.LogCaptureFixture) -> None:
    store = KeyStore(path)
    _, first = store.create("ann", Limits())
    send = identify(AuthSettings(keys_file=path))
    send(x_api_key=first)
    _, second = store.create("bob", Limits())
    send(x_api_key=second)
    whole = path.read_bytes()
    for broken in (b"{", b"", b'{"keys": [{"id": "very-secret"}]}', b"\xff"):
        path.write_bytes(broken)
        send(x_api_key=first)
        send(x_api_key=second)
    path.unlink()
    send(x_api_key=first)
    errors = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert len(errors) == 5
    assert all("the keys stay as they were" in line and "secret" not in line for line in errors)
    path.write_bytes(whole.replace(b'"revoked": null', b'"revoked": "2026-01-01T00:00:00Z"', 1))
    refused(send, first)
    send(x_api_key=second)


def test_the_file_keeps_hashes_for_its_owner_only(path: Path) -> None:
    old = os.umask(0)
    try:
        store = KeyStore(path)
        record, key = store.create("ann", Limits())
        store.revoke(record.id)
    finally:
        os.umask(old)
    assert path.stat().st_mode & 0o777 == 0o600
    match = KEY.fullmatch(key)
    assert match is not None
    assert match.group(1) == record.id
    text = path.read_text("utf-8")
    assert key not in text
    assert key.split("-", 2)[2] not in text
    assert record.sha256 not in repr(record)
    assert [name for name in os.listdir(path.parent) if not name.startswith("keys.json")] == []


def test_a_file_that_others_can_read_is_warned_of(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    KeyStore(path).create("ann", Limits())
    path.chmod(0o644)
    KeyStore(path).load()
    assert "can be opened by others" in caplog.text


def test_a_link_stays_a_link(path: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.json"
    link.symlink_to(path)
    KeyStore(link).create("ann", Limits())
    assert link.is_symlink()
    assert len(KeyStore(path).records()) == 1


def test_two_who_write_at_once_lose_nothing(path: Path) -> None:
    def create(name: str) -> None:
        for _ in range(5):
            KeyStore(path).create(name, Limits())

    threads = [threading.Thread(target=create, args=[f"t{number}"]) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        join(thread)
    assert len({record.id for record in KeyStore(path).records()}) == 30


def test_questions_while_the_file_changes(path: Path, identify: Identify) -> None:
    store = KeyStore(path)
    _, key = store.create("ann", Limits())
    send = identify(AuthSettings(keys_file=path))
    names: list[str] = []

    def ask() -> None:
        for _ in range(50):
            names.append(send(x_api_key=key).name)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number in range(10):
        store.create(f"t{number}", Limits())
    for thread in threads:
        join(thread)
    assert len(names) == 200


def test_nothing_secret_is_logged(path: Path, identify: Identify, caplog: pytest.LogCaptureFixture) -> None:
    store = KeyStore(path)
    record, key = store.create("ann", Limits())
    send = identify(AuthSettings(keys_file=path))
    with caplog.at_level(logging.DEBUG):
        send(x_api_key=key)
        refused(send, key[:-4] + "AAAA")
        store.revoke(record.id)
        refused(send, key)
    assert f"credential refused: API key {record.id}: revoked" in caplog.text
    assert key.split("-", 2)[2][:20] not in caplog.text


# --- the command line -------------------------------------------------------------------------------------------------


def run(*arguments: Any) -> Result:
    return CliRunner().invoke(app, ["keys", *(str(argument) for argument in arguments)])


def printed(*arguments: Any) -> str:
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_create_list_and_revoke(path: Path, identify: Identify) -> None:
    models = ("--model", "a", "--model", "b", "--model", "a")
    key = printed("create", "--file", path, "--name", "ann", *models, "--concurrency", 2).strip()
    match = KEY.fullmatch(key)
    assert match is not None
    send = identify(AuthSettings(keys_file=path))
    assert send(x_api_key=key).models == {"a", "b"}
    table = printed("list", "--file", path)
    assert all(text in table for text in (match.group(1), "ann", "valid", "concurrency=2"))
    assert key not in table
    assert printed("revoke", "--file", path, match.group(1)) == f"revoked {match.group(1)} (ann)\n"
    refused(send, key)
    assert "revoked" in printed("list", "--file", path)


def test_json(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHATPLAN_AUTH__KEYS_FILE", str(path))
    rates = ("--requests-per-minute", 3, "--tokens-per-minute", 4, "--max-priority", -2, "--expires-in", 1)
    made = json.loads(printed("create", "--name", "[bold]ann[/bold]", *rates, "--json"))
    key = made.pop("key")
    assert KEY.fullmatch(key)
    (listed,) = json.loads(printed("list", "--json"))
    assert listed == made
    assert {name: listed[name] for name in made if name not in ("id", "created", "expires")} == {
        "name": "[bold]ann[/bold]", "state": "valid", "revoked": None, "models": None, "max_priority": -2,
        "requests_per_minute": 3, "tokens_per_minute": 4, "concurrency": None}  # fmt: skip
    assert "sha256" not in listed
    assert "[bold]ann[/bold]" in printed("list")


@pytest.mark.parametrize(
    "arguments",
    [
        ["create", "--name", "x", "--requests-per-minute", 0],
        ["create", "--name", "x", "--concurrency", "two"],
        ["create", "--name", "x", "--expires-in", -1],
        ["create", "--name", "x", "--expires-in", 36501],
        ["create", "--name", "x", "--tokens-per-minute", 0],
        ["create"],
        ["revoke"],
    ],
    ids=str,
)
def test_bad_use(path: Path, arguments: list[Any]) -> None:
    result = run(*arguments, "--file", path)
    assert (result.exit_code, result.stdout) == (2, "")
    assert not path.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["create", "--name", ""], "name: "),
        (["create", "--name", "a\nb"], "characters that cannot be printed"),
        (["create", "--name", "x" * 101], "name: "),
        (["create", "--name", "x", "--model", ""], "models.0: "),
        (["revoke", "0" * 12], "there is no key of that id"),
        (["list"], "cannot be read: No such file"),
    ],
)
def test_errors_are_one_line(path: Path, arguments: list[Any], message: str) -> None:
    result = run(*arguments, "--file", path)
    assert (result.exit_code, result.stdout) == (2, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert message in line


def test_without_a_file_or_with_another(path: Path) -> None:
    assert run("list").exit_code == 2
    path.write_text("[1]", "utf-8")
    for arguments in (["list"], ["create", "--name", "x"], ["revoke", "0" * 12]):
        result = run(*arguments, "--file", path)
        assert result.exit_code == 2
        assert "is no file of keys" in result.stderr
    assert path.read_text("utf-8") == "[1]"
    assert "cannot be changed" in run("create", "--name", "x", "--file", path / "keys.json").stderr


def test_the_installed_command(path: Path) -> None:
    command = shutil.which("chatplan", path=str(Path(sys.executable).parent))
    assert command is not None
    environment = {**os.environ, "CHATPLAN_AUTH__KEYS_FILE": str(path)}
    making = [command, "keys", "create", "--name", "ann"]
    both = [subprocess.Popen(making, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    keys = [process.communicate(timeout=90)[0].strip() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    found = {record.id for key in keys if (record := KeyStore(path).find(key))}
    assert len(found) == 2
