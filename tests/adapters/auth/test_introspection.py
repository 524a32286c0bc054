"""Opaque tokens, asked about at a real endpoint."""

from __future__ import annotations

import base64
import logging
import time
from typing import TYPE_CHECKING, Any

import pytest
from clock import After, dated

from chatplan import Principal
from chatplan.errors import AuthenticationError, OverloadedError, PermissionDeniedError

if TYPE_CHECKING:
    from tests.adapters.auth.conftest import Ahead, Identify, Issuer


def refused(send: Any, token: str) -> None:
    with pytest.raises(AuthenticationError, match="^the credential is not valid$"):
        send(authorization=f"Bearer {token}")


def test_an_active_token(issuer: Issuer, identify: Identify) -> None:
    issuer.opaque["opaque-1"] = {"active": True, "sub": "ann", "scope": "chatplan:rpm:3"}
    issuer.opaque["opaque-2"] = {"active": True, "client_id": "app"}
    send = identify(issuer.introspection(concurrency=4))
    assert send(authorization="Bearer opaque-1") == Principal("sub:ann", requests_per_minute=3, concurrency=4)
    assert send(authorization="Bearer opaque-2").name == "client:app"


def test_the_server_shows_who_it_is(issuer: Issuer, identify: Identify) -> None:
    issuer.opaque["t"] = {"active": True, "sub": "ann"}
    identify(issuer.introspection())(authorization="Bearer t")
    assert issuer.form == {"token": ["t"], "token_type_hint": ["access_token"]}
    assert issuer.authorization is not None
    kind, _, value = issuer.authorization.partition(" ")
    assert (kind, base64.b64decode(value)) == ("Basic", b"chat+server:s3cret%3A%2F%2B")


@pytest.mark.parametrize(
    "answer",
    [
        {"active": False},
        {"active": "true", "sub": "ann"},
        {"active": 1, "sub": "ann"},
        {"sub": "ann"},
        {"active": True},
        {"active": True, "sub": "ann", "exp": After(-60)},
        {"active": True, "sub": "ann", "nbf": After(600)},
        {"active": True, "sub": "ann", "exp": "soon"},
        {"active": True, "sub": "ann", "scope": "chatplan:rpm:lots"},
        ["active"],
        "active",
    ],
    ids=str,
)
def test_what_is_not_valid(issuer: Issuer, identify: Identify, answer: Any) -> None:
    issuer.opaque["t"] = dated(answer)
    refused(identify(issuer.introspection()), "t")


def test_audience_and_issuer(issuer: Issuer, identify: Identify) -> None:
    send = identify(issuer.introspection(jwt_issuer=issuer.url, jwt_audience=issuer.audience))
    base = {"active": True, "sub": "ann"}
    issuer.opaque["good"] = {**base, "aud": [issuer.audience, "other"], "iss": issuer.url}
    issuer.opaque["without"] = base
    issuer.opaque["other"] = {**base, "aud": "other"}
    issuer.opaque["foreign"] = {**base, "aud": issuer.audience, "iss": "https://other.example"}
    assert send(authorization="Bearer good").name == "sub:ann"
    for token in ("without", "other", "foreign"):
        refused(send, token)


def test_answers_are_kept_a_while(issuer: Issuer, identify: Identify, day: Ahead) -> None:
    issuer.opaque["t"] = {"active": True, "sub": "ann"}
    send = identify(issuer.introspection(introspection_cache_seconds=20))
    for _ in range(3):
        send(authorization="Bearer t")
        refused(send, "unknown")
    assert len(issuer.asked) == 2
    del issuer.opaque["t"]
    day.ahead = 19
    send(authorization="Bearer t")
    assert len(issuer.asked) == 2
    day.ahead = 21
    refused(send, "t")
    assert len(issuer.asked) == 3


def test_leeway_holds_for_opaque_tokens_too(issuer: Issuer, identify: Identify) -> None:
    issuer.opaque["t"] = {"active": True, "sub": "ann", "exp": int(time.time()) - 100}
    assert identify(issuer.introspection(jwt_leeway_seconds=300))(authorization="Bearer t").name == "sub:ann"
    refused(identify(issuer.introspection(jwt_leeway_seconds=30)), "t")


def test_a_scope_that_everybody_needs(issuer: Issuer, identify: Identify) -> None:
    issuer.opaque["t"] = {"active": True, "sub": "ann", "scope": "mail"}
    issuer.opaque["u"] = {"active": True, "sub": "ann", "scope": "mail chat"}
    send = identify(issuer.introspection(required_scope="chat"))
    assert send(authorization="Bearer u").name == "sub:ann"
    with pytest.raises(PermissionDeniedError, match="lacks the scope chat"):
        send(authorization="Bearer t")


def test_a_kept_answer_ends_with_the_token(issuer: Issuer, identify: Identify, day: Ahead) -> None:
    issuer.opaque["t"] = {"active": True, "sub": "ann", "exp": time.time() + 30}
    issuer.opaque["u"] = {"active": True, "sub": "bob"}
    send = identify(issuer.introspection(introspection_cache_seconds=60, jwt_leeway_seconds=0))
    for token in "tu":
        send(authorization=f"Bearer {token}")
        issuer.opaque[token] = {"active": False}
    day.ahead = 20
    assert send(authorization="Bearer t").name == "sub:ann"
    day.ahead = 40
    refused(send, "t")
    assert len(issuer.asked) == 3  # it was asked about again
    assert send(authorization="Bearer u").name == "sub:bob"
    day.ahead = 61
    refused(send, "u")


def test_nobody_can_tell(issuer: Issuer, identify: Identify) -> None:
    issuer.opaque["t"] = {"active": True, "sub": "ann"}
    send = identify(issuer.introspection())
    issuer.down = True
    with pytest.raises(OverloadedError) as caught:
        send(authorization="Bearer t")
    assert (caught.value.code, caught.value.status) == ("authentication_unavailable", 503)
    assert caught.value.retry_after == 5
    issuer.down = False
    assert send(authorization="Bearer t").name == "sub:ann"


def test_an_answer_that_is_no_json(issuer: Issuer, identify: Identify) -> None:
    issuer.opaque["t"] = {"active": True, "sub": "ann", "exp": float("nan")}
    with pytest.raises(OverloadedError):
        identify(issuer.introspection())(authorization="Bearer t")


def test_jwts_are_asked_about_when_there_is_no_issuer_to_check_them_by(issuer: Issuer, identify: Identify) -> None:
    token = issuer.token(issuer.add_key())
    issuer.opaque[token] = {"active": True, "sub": "bob"}
    assert identify(issuer.introspection())(authorization=f"Bearer {token}").name == "sub:bob"
    both = issuer.introspection(jwt_issuer=issuer.url, jwt_audience=issuer.audience)
    assert identify(both)(authorization=f"Bearer {token}").name == "sub:ann"


def test_other_headers_are_not_asked_about(issuer: Issuer, identify: Identify) -> None:
    issuer.opaque["t"] = {"active": True, "sub": "ann"}
    send = identify(issuer.introspection())
    for headers in ({"token": "t"}, {"x_api_key": "t"}, {"authorization": "t"}, {"authorization": "Basic t"}):
        with pytest.raises(AuthenticationError, match="^the credential is not valid$"):
            send(**headers)
    assert issuer.asked == []


def test_nothing_secret_is_logged(issuer: Issuer, identify: Identify, caplog: pytest.LogCaptureFixture) -> None:
    issuer.opaque["very-secret-1"] = {"active": True, "sub": "ann", "exp": 1}
    send = identify(issuer.introspection())
    with caplog.at_level(logging.DEBUG):
        refused(send, "very-secret-1")
        refused(send, "very-secret-2")
        issuer.down = True
        with pytest.raises(OverloadedError):
            send(authorization="Bearer very-secret-3")
    assert "credential refused: opaque token" in caplog.text
    assert "introspection endpoint fails: HTTPStatusError 500" in caplog.text
    assert "secret" not in caplog.text
    assert "s3cret" not in caplog.text
