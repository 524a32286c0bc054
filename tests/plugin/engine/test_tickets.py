"""Rows on their way: when a group is over, and what stands for the tokens of a salted request."""

from __future__ import annotations

import copy
from typing import Any

from chatplan import Chat
from chatplan.engine.tickets import Group, Ticket
from chatplan.run import RowRun

ASK = [{"role": "user", "content": "x"}]


def rows_of(chat: Chat, **fields: Any) -> list[Any]:
    return RowRun(chat.plan(ASK, **fields), chat.model, lambda chunk: None).rows


def test_a_group_is_over_once_when_its_last_row_is(tiny: Chat) -> None:
    rows, told = rows_of(tiny, n=3), list[int]()
    group = Group(rows, lambda: told.append(1))
    for row in (rows[2], rows[0], rows[0], rows[2]):
        group.over(row)
        assert told == []
    group.over(rows[1])
    group.over(rows[1])
    assert told == [1]


def ticket(chat: Chat, number: int = 3, **fields: Any) -> Ticket:
    (row,) = rows_of(chat, **fields)
    return Ticket(row, Group([row], lambda: None), number)


def test_a_ticket_knows_its_request(new_chat: Any) -> None:
    chat = new_chat(scheduling_policy="priority")
    made = ticket(chat, request_id="r", priority=-4, cache_salt="s")
    assert (made.name, made.number, made.priority, made.salt, made.followers) == ("3-r", 3, -4, "s", [])
    assert copy.deepcopy({"ticket": made})["ticket"] is made


def test_names_of_one_request_differ(tiny: Chat) -> None:
    assert ticket(tiny, 1, request_id="r").name != ticket(tiny, 2, request_id="r").name


def test_salted_tokens_are_others_for_each_salt_and_the_same_each_time(tiny: Chat) -> None:
    tokens = [5, 5, 6, 2**17]
    plain, a, b = (ticket(tiny, cache_salt=salt).salted(tokens) for salt in (None, "a", "b"))
    assert plain == tokens
    assert a == ticket(tiny, cache_salt="a").salted(tokens)
    assert a[0] == a[1]
    assert len({*plain, *a, *b}) == 9
    # They are kept where token ids are: in 32 bits.
    assert all(-(2**31) <= number < 2**31 for number in a + b)
