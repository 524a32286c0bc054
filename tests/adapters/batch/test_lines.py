"""The format: what a line must be, and that all of the file is looked at before any work."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from chatplan.adapters.batch.lines import Line, check_file, read_batches
from chatplan.errors import RequestError

GOOD: dict[str, Any] = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {"messages": []}}


def written(folder: Path, *lines: object) -> Path:
    path = folder / "in.jsonl"
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("\n".join(texts), "utf-8")
    return path


def named(name: str) -> dict[str, Any]:
    return {**GOOD, "custom_id": name}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "line 2: is not JSON"),
        ('{"custom_id": "b", "body": NaN}', "line 2: is not JSON"),
        ("[]", "line 2: is no request"),
        ({**GOOD, "custom_id": ""}, "line 2: custom_id: "),
        ({**GOOD, "custom_id": 3}, "line 2: custom_id: "),
        ({**named("b"), "method": "GET"}, "line 2: method: "),
        ({**named("b"), "url": "/v1/completions"}, "line 2: url: "),
        ({**named("b"), "body": []}, "line 2: body: "),
        ({"custom_id": "b", "method": "POST", "url": "/v1/chat/completions"}, "line 2: body: "),
        ({**named("b"), "temperature": 1}, "line 2: temperature: "),
        (GOOD, "line 2: custom_id 'a' is that of line 1"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, line: object, reason: str) -> None:
    with pytest.raises(RequestError) as caught:
        check_file(written(tmp_path, GOOD, line))
    assert reason in str(caught.value)
    assert "line 1: " not in str(caught.value)


def test_all_wrong_lines_are_named_up_to_twenty(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="line 1: .*line 3: "):
        check_file(written(tmp_path, "x", GOOD, "y"))
    with pytest.raises(RequestError) as caught:
        check_file(written(tmp_path, *["x"] * 30))
    assert "line 20: " in caught.value.message
    assert "line 21: " not in caught.value.message
    assert caught.value.message.endswith("and more")


@pytest.mark.parametrize("text", ["", "\n\n"])
def test_a_file_without_requests(tmp_path: Path, text: str) -> None:
    with pytest.raises(RequestError, match="has no requests"):
        check_file(written(tmp_path, text))


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path / "none.jsonl", tmp_path):
        with pytest.raises(RequestError, match=r"cannot be read|is no file"):
            check_file(path)


def test_blank_lines_count_as_lines_and_not_as_requests(tmp_path: Path) -> None:
    path = written(tmp_path, "", named("a"), "", named("b"), named("c"), "")
    assert check_file(path).requests == 3
    assert [[line.number for line in batch] for batch in read_batches(path, 2)] == [[2, 4], [5]]


def test_what_is_derived_is_a_lines_own() -> None:
    first, second = Line(1, b"a"), Line(1, b"b")
    assert first.derive("seed") == Line(9, b"a").derive("seed")
    assert len({first.derive("seed"), first.derive("id"), second.derive("seed"), second.derive("id")}) == 4
