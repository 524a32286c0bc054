"""JSON web tokens: what is accepted, and what an attacker may try. The issuer is a real server with real keys."""

from __future__ import annotations

import base64
import hmac
import json
import logging
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from clock import After, dated
from waiting import join

from chatplan import Principal
from chatplan.adapters.auth.jwks import read_keys
from chatplan.errors import AuthenticationError, OverloadedError, PermissionDeniedError

if TYPE_CHECKING:
    from tests.adapters.auth.conftest import Ahead, Identify, Issuer


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def refused(send: Any, **headers: str) -> AuthenticationError:
    with pytest.raises(AuthenticationError) as caught:
        send(**headers)
    assert str(caught.value) == "the credential is not valid"
    assert caught.value.__cause__ is None
    return caught.value


# --- valid tokens -----------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:EdDSA is deprecated")  # says joserfc when it signs
@pytest.mark.parametrize(
    ("kind", "size", "algorithm"),
    [("RSA", 2048, "RS256"), ("RSA", 2048, "PS256"), ("EC", "P-256", "ES256"), ("OKP", "Ed25519", "EdDSA")],
)
def test_each_algorithm(issuer: Issuer, identify: Identify, kind: str, size: Any, algorithm: str) -> None:
    key = issuer.add_key(kind, size)
    send = identify(issuer.settings())
    assert send(**bearer(issuer.token(key, algorithm))) == Principal("sub:ann")
    assert send(token=issuer.token(key, algorithm)) == Principal("sub:ann")
    refused(send, **bearer(issuer.token(key, algorithm)[:-8] + "AAAAAAAA"))


def test_the_word_bearer_and_the_type_in_any_case(issuer: Issuer, identify: Identify) -> None:
    key = issuer.add_key()
    send = identify(issuer.settings())
    for type_ in ("at+jwt", "AT+JWT", "application/at+jwt"):
        assert send(authorization=f"BEARER {issuer.token(key, header={'typ': type_})} ").name == "sub:ann"


def test_the_token_header_takes_plain_jwts_too(issuer: Issuer, identify: Identify) -> None:
    key = issuer.add_key()
    send = identify(issuer.settings())
    plain = issuer.token(key, header={"typ": "JWT"}, client_id=None, jti=None)
    assert send(token=plain).name == "sub:ann"
    refused(send, **bearer(plain))
    refused(send, token=issuer.token(key, header={"typ": "JWT"}, sub=None))
    refused(send, token=issuer.token(key, header={"typ": "JWT"}, aud="https://other.example"))
    refused(send, token=issuer.token(key, header={"typ": "logout+jwt"}))


def test_rfc_8414_metadata(issuer: Issuer, identify: Identify) -> None:
    key = issuer.add_key()
    issuer.metadata = "/.well-known/oauth-authorization-server"
    assert identify(issuer.settings())(**bearer(issuer.token(key))).name == "sub:ann"


def test_an_address_of_the_keys_needs_no_metadata(issuer: Issuer, identify: Identify) -> None:
    key = issuer.add_key()
    identify(issuer.settings(jwks_url=f"{issuer.url}/keys"))(**bearer(issuer.token(key)))
    assert issuer.asked == ["/keys"]


def test_scopes_and_defaults(issuer: Issuer, identify: Identify) -> None:
    key = issuer.add_key()
    send = identify(issuer.settings(requests_per_minute=60, concurrency=2, max_priority=0))
    token = issuer.token(
        key, scope="openid chatplan:model:org/a:b chatplan:model:c chatplan:priority:-5 chatplan:rpm:9"
    )
    assert send(**bearer(token)) == Principal(
        "sub:ann", models=frozenset({"org/a:b", "c"}), max_priority=-5, requests_per_minute=9, concurrency=2
    )
    listed = issuer.token(key, scp=["chatplan:tpm:500", "chatplan:concurrency:1"])
    assert send(**bearer(listed)) == Principal(
        "sub:ann", max_priority=0, requests_per_minute=60, tokens_per_minute=500, concurrency=1
    )


def test_numbers_of_scopes(issuer: Issuer, identify: Identify) -> None:
    send = identify(issuer.settings())
    key = issuer.add_key()
    for scope, expected in (
        ("chatplan:priority:7", Principal("sub:ann", max_priority=7)),
        ("chatplan:priority:0", Principal("sub:ann", max_priority=0)),
        ("chatplan:rpm:007", Principal("sub:ann", requests_per_minute=7)),
        ("chatplan:tpm:999999999", Principal("sub:ann", tokens_per_minute=999_999_999)),
        ("chatplan:concurrency:10", Principal("sub:ann", concurrency=10)),
        ("other:rpm:x rpm:x", Principal("sub:ann")),
    ):
        assert send(**bearer(issuer.token(key, scope=scope))) == expected
    both = issuer.token(key, scope="chatplan:model:a", scp="chatplan:model:b chatplan:rpm:1")
    assert send(**bearer(both)) == Principal("sub:ann", models=frozenset("ab"), requests_per_minute=1)


def test_defaults_of_holders_of_tokens(issuer: Issuer, identify: Identify) -> None:
    key = issuer.add_key()
    send = identify(issuer.settings(requests_per_minute=1, tokens_per_minute=2, concurrency=3, max_priority=4))
    assert send(**bearer(issuer.token(key))) == Principal("sub:ann", None, 4, 1, 2, 3)


@pytest.mark.parametrize(
    "scope",
    ["chatplan:model:", "chatplan:rpm:-1", "chatplan:priority:", "chatplan:priority:1.5", "chatplan:rpm:1000000000",
     "chatplan:tpm:1 chatplan:tpm:1x", "chatplan:modell:x", "chatplan:rpm:many", "chatplan:rpm:0",
     "chatplan:rpm:1 chatplan:rpm:2", "chatplan:", 7, [7]],
)  # fmt: skip
def test_a_misspelt_restriction_is_not_none(issuer: Issuer, identify: Identify, scope: Any) -> None:
    refused(identify(issuer.settings()), **bearer(issuer.token(issuer.add_key(), scope=scope)))


def test_a_scope_that_everybody_needs(issuer: Issuer, identify: Identify) -> None:
    key = issuer.add_key()
    send = identify(issuer.settings(required_scope="chat"))
    assert send(**bearer(issuer.token(key, scope="chat email"))).name == "sub:ann"
    with pytest.raises(PermissionDeniedError, match="lacks the scope chat"):
        send(**bearer(issuer.token(key, scope="chatty")))


# --- claims -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "claims",
    [
        {"exp": After(-60)},
        {"exp": None},
        {"exp": "never"},
        {"exp": float("nan")},
        {"nbf": After(600)},
        {"iat": After(600)},
        {"iat": None},
        {"aud": "https://other.example"},
        {"aud": ["https://other.example"]},
        {"aud": None},
        {"aud": []},
        {"iss": "https://issuer.example"},
        {"iss": ["https://issuer.example"]},
        {"iss": None},
        {"sub": None},
        {"sub": ""},
        {"sub": 7},
        {"client_id": None},
        {"jti": None},
    ],
    ids=str,
)
def test_wrong_claims(issuer: Issuer, identify: Identify, claims: dict[str, Any]) -> None:
    refused(identify(issuer.settings()), **bearer(issuer.token(issuer.add_key(), **dated(claims))))


def test_leeway_and_several_audiences(issuer: Issuer, identify: Identify) -> None:
    key = issuer.add_key()
    late = issuer.token(key, exp=int(time.time()) - 5, aud=["https://other.example", issuer.audience])
    assert identify(issuer.settings(jwt_leeway_seconds=300))(**bearer(late)).name == "sub:ann"
    refused(identify(issuer.settings(jwt_leeway_seconds=0)), **bearer(late))
    early = issuer.token(key, nbf=int(time.time()) + 100)
    assert identify(issuer.settings(jwt_leeway_seconds=300))(**bearer(early)).name == "sub:ann"
    refused(identify(issuer.settings()), **bearer(early))


# --- attacks ----------------------------------------------------------------------------------------------------------


def unsigned(*parts: Any) -> str:
    encoded = (base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in parts)
    return ".".join(encoded) + "."


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "", None, ["ES256"], {}])
def test_no_signature(issuer: Issuer, identify: Identify, algorithm: Any) -> None:
    key = issuer.add_key()
    token = unsigned({"alg": algorithm, "typ": "at+jwt", "kid": key.kid}, issuer.claims())
    send = identify(issuer.settings())
    refused(send, **bearer(token))
    refused(send, token=token)


def test_a_public_key_is_no_shared_secret(issuer: Issuer, identify: Identify) -> None:
    key = issuer.add_key("RSA", 2048)
    send = identify(issuer.settings())
    signed = unsigned({"alg": "HS256", "typ": "at+jwt", "kid": key.kid}, issuer.claims()).removesuffix(".")
    published = json.dumps(key.as_dict(private=False)).encode()
    for secret in (key.as_pem(private=False), key.as_der(private=False), published):
        signature = hmac.digest(secret, signed.encode(), "sha256")
        forged = f"{signed}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"
        refused(send, **bearer(forged))
        refused(send, token=forged)


def test_a_published_secret_is_left_out(issuer: Issuer, identify: Identify) -> None:
    from joserfc.jwk import OctKey

    issuer.add_key()
    secret = OctKey.generate_key(256, {"kid": "shared"})
    issuer.keys.append(secret.as_dict(private=True))
    refused(identify(issuer.settings()), **bearer(issuer.token(secret, "HS256")))
    assert [key.key_type for key in read_keys(issuer.answer("/keys"))] == ["EC"]


def test_only_the_algorithms_of_the_settings(issuer: Issuer, identify: Identify) -> None:
    rsa, curve = issuer.add_key("RSA", 2048), issuer.add_key("EC", "P-384")
    send = identify(issuer.settings())
    assert send(**bearer(issuer.token(rsa, "RS256"))).name == "sub:ann"
    for token in (issuer.token(rsa, "RS512"), issuer.token(rsa, "PS384"), issuer.token(curve, "ES384")):
        refused(send, **bearer(token))
        refused(send, token=token)
    chosen = identify(issuer.settings(jwt_algorithms=("ES384",)))
    assert chosen(**bearer(issuer.token(curve, "ES384"))).name == "sub:ann"
    refused(chosen, **bearer(issuer.token(rsa, "RS256")))


def test_keys_and_addresses_in_a_token_are_not_looked_at(issuer: Issuer, identify: Identify) -> None:
    from joserfc.jwk import ECKey

    key = issuer.add_key()
    own = ECKey.generate_key("P-256", {"kid": "own"})
    send = identify(issuer.settings())
    for header in (
        {"jwk": own.as_dict(private=False)},
        {"jku": f"{issuer.url}/attacker"},
        {"x5u": f"{issuer.url}/attacker"},
        {"kid": key.kid, "jwk": own.as_dict(private=False)},
        {"kid": f"{issuer.url}/attacker"},
    ):
        refused(send, **bearer(issuer.token(own, header=header)))
    assert "/attacker" not in issuer.asked
    assert send(**bearer(issuer.token(key, header={"jku": f"{issuer.url}/attacker"}))).name == "sub:ann"


def test_extensions_of_the_header_are_refused(issuer: Issuer, identify: Identify) -> None:
    key = issuer.add_key()
    send = identify(issuer.settings())
    refused(send, **bearer(issuer.token(key, header={"crit": ["b64"], "b64": True})))
    signed = issuer.token(key, header={"note": "unknown names are ignored (RFC 7515)", "x5c": ["MII" * 1000]})
    assert send(**bearer(signed)).name == "sub:ann"


def test_the_key_fits_the_algorithm_and_the_use(issuer: Issuer, identify: Identify) -> None:
    from joserfc.jwk import JWKRegistry

    rsa = issuer.add_key("RSA", 2048, alg="RS256")
    for_encryption = issuer.add_key(use="enc", kid="enc")
    send = identify(issuer.settings())
    assert send(**bearer(issuer.token(rsa, "RS256"))).name == "sub:ann"
    free = JWKRegistry.import_key({k: v for k, v in rsa.as_dict(private=True).items() if k not in ("alg", "use")})
    refused(send, **bearer(issuer.token(free, "PS256", {"kid": rsa.kid})))  # the key says RS256
    signing = JWKRegistry.import_key({k: v for k, v in for_encryption.as_dict(private=True).items() if k != "use"})
    refused(send, **bearer(issuer.token(signing, header={"kid": "enc"})))


@pytest.mark.parametrize("token", ["", ".", "..", "a.b", "a.b.c", "a.b.c.d", "e30.e30.e30", "[" * 9000, "W10.e30.AA"])
def test_rubbish(issuer: Issuer, identify: Identify, token: str) -> None:
    issuer.add_key()
    send = identify(issuer.settings())
    refused(send, **bearer(token))
    refused(send, token=token)


def test_deep_json(issuer: Issuer, identify: Identify) -> None:
    deep = base64.urlsafe_b64encode(b'{"alg":"ES256","typ":"at+jwt","x":' + b"[" * 5000).rstrip(b"=").decode()
    refused(identify(issuer.settings()), token=f"{deep}.e30.AA")


# --- the issuer's keys ------------------------------------------------------------------------------------------------


def test_an_unknown_key_id_fetches_the_keys_again(issuer: Issuer, identify: Identify) -> None:
    first = issuer.add_key()
    send = identify(issuer.settings())
    send(**bearer(issuer.token(first)))
    send(**bearer(issuer.token(first)))
    assert issuer.asked.count("/keys") == 1
    second = issuer.add_key()
    assert send(**bearer(issuer.token(second))).name == "sub:ann"
    assert issuer.asked.count("/keys") == 2
    issuer.keys.remove(first)  # the old key goes with the next fetch
    refused(send, **bearer(issuer.token(issuer.add_key(kid="hidden"), header={"kid": "unknown"})))
    refused(send, **bearer(issuer.token(first)))


def test_unknown_key_ids_do_not_hammer_the_issuer(issuer: Issuer, identify: Identify) -> None:
    key = issuer.add_key()
    send = identify(issuer.settings(jwks_refetch_seconds=60))
    send(**bearer(issuer.token(key)))
    for number in range(20):
        refused(send, **bearer(issuer.token(key, header={"kid": f"unknown-{number}"})))
    assert issuer.asked.count("/keys") == 1


def test_a_token_without_a_key_id(issuer: Issuer, identify: Identify) -> None:
    issuer.add_key("RSA", 2048)
    issuer.add_key()
    second = issuer.add_key()
    assert identify(issuer.settings())(**bearer(issuer.token(second, header={"kid": None}))).name == "sub:ann"


def test_keys_that_are_not_understood_are_left_out(issuer: Issuer, identify: Identify) -> None:
    issuer.keys += [{"kty": "AKP", "kid": "post-quantum"}, {"kty": "EC", "kid": "broken"}, {}]
    key = issuer.add_key()
    assert identify(issuer.settings())(**bearer(issuer.token(key))).name == "sub:ann"


def test_the_issuer_is_down_and_nothing_is_known(issuer: Issuer, identify: Identify, ticks: Ahead) -> None:
    key = issuer.add_key()
    issuer.down = True
    send = identify(issuer.settings(jwks_refetch_seconds=100))
    for ticks.ahead in (0, 1, 50):
        with pytest.raises(OverloadedError) as caught:
            send(**bearer(issuer.token(key)))
        assert (caught.value.status, caught.value.code) == (503, "authentication_unavailable")
        assert caught.value.retry_after == 100
    assert len(issuer.asked) == 1
    issuer.down = False
    ticks.ahead = 101
    assert send(**bearer(issuer.token(key))).name == "sub:ann"


def test_a_failed_fetch_is_worth_another_try_after_a_second_at_least(issuer: Issuer, identify: Identify) -> None:
    issuer.down = True
    with pytest.raises(OverloadedError) as caught:
        identify(issuer.settings(jwks_refetch_seconds=0))(**bearer(issuer.token(issuer.add_key())))
    assert caught.value.retry_after == 1


def test_keys_are_kept_as_long_as_the_settings_say(issuer: Issuer, identify: Identify, ticks: Ahead) -> None:
    first = issuer.add_key()
    send = identify(issuer.settings(jwks_cache_seconds=100))
    token = issuer.token(first)
    send(**bearer(token))
    issuer.keys.clear()  # the key is withdrawn
    issuer.add_key()
    ticks.ahead = 99
    assert send(**bearer(token)).name == "sub:ann"
    assert issuer.asked.count("/keys") == 1
    ticks.ahead = 101
    refused(send, **bearer(token))
    assert issuer.asked.count("/keys") >= 2


def test_a_key_that_became_known_ends_the_failure(issuer: Issuer, identify: Identify) -> None:
    key = issuer.add_key()
    send = identify(issuer.settings())
    issuer.down = True
    with pytest.raises(OverloadedError):
        send(**bearer(issuer.token(key)))
    issuer.down = False
    send(**bearer(issuer.token(key)))
    refused(send, **bearer(issuer.token(key, header={"kid": "unknown"})))  # which is now known not to be


def test_the_issuer_is_down_and_its_keys_are_known(issuer: Issuer, identify: Identify) -> None:
    key = issuer.add_key()
    send = identify(issuer.settings(jwks_cache_seconds=0))
    send(**bearer(issuer.token(key)))
    issuer.down = True
    assert send(**bearer(issuer.token(key))).name == "sub:ann"
    refused(send, **bearer(issuer.token(key, sub="eve")[:-8] + "AAAAAAAA"))
    with pytest.raises(OverloadedError):  # it may be a new key
        send(**bearer(issuer.token(key, header={"kid": "unknown"})))


def test_old_keys_are_not_used_for_ever(issuer: Issuer, identify: Identify, ticks: Ahead) -> None:
    key = issuer.add_key()
    send = identify(issuer.settings(jwks_cache_seconds=100, jwks_stale_seconds=50))
    send(**bearer(issuer.token(key)))
    issuer.down = True
    for ticks.ahead in (50, 101, 149):
        assert send(**bearer(issuer.token(key))).name == "sub:ann"
    ticks.ahead = 151
    with pytest.raises(OverloadedError):
        send(**bearer(issuer.token(key)))


def test_nobody_listens(issuer: Issuer, identify: Identify) -> None:
    key = issuer.add_key()
    send = identify(issuer.settings())
    token = issuer.token(key)
    issuer.close()
    with pytest.raises(OverloadedError):
        send(**bearer(token))


def test_metadata_of_another_issuer(issuer: Issuer, identify: Identify) -> None:
    key = issuer.add_key()
    issuer.claims_to_be = "https://other.example"
    with pytest.raises(OverloadedError):
        identify(issuer.settings())(**bearer(issuer.token(key)))
    assert "/keys" not in issuer.asked


def test_many_threads_fetch_once(issuer: Issuer, identify: Identify) -> None:
    key = issuer.add_key()
    send = identify(issuer.settings(jwks_refetch_seconds=60))
    token, names = issuer.token(key), []
    threads = [threading.Thread(target=lambda: names.append(send(**bearer(token)).name)) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        join(thread)
    assert names == ["sub:ann"] * 16
    assert issuer.asked.count("/keys") == 1


# --- logs -------------------------------------------------------------------------------------------------------------


def test_nothing_secret_is_logged(issuer: Issuer, identify: Identify, caplog: pytest.LogCaptureFixture) -> None:
    key = issuer.add_key()
    send = identify(issuer.settings())
    with caplog.at_level(logging.DEBUG):
        tokens = [
            issuer.token(key),
            issuer.token(key, **dated({"exp": After(-60)})),
            issuer.token(key, sub="very-secret", aud="very-secret"),
            issuer.token(key, header={"kid": "very-secret"}),
            issuer.token(key, header={"typ": "very-secret"}),
            unsigned({"alg": "very-secret", "typ": "at+jwt"}, {}),
        ]
        send(**bearer(tokens[0]))
        for headers in (*map(bearer, tokens[1:]), *({"token": token} for token in tokens[1:])):
            assert "secret" not in repr(refused(send, **headers))
        refused(send, authorization=tokens[0])
    assert "credential refused: token: ExpiredTokenError exp" in caplog.text
    assert "very-secret" not in caplog.text
    assert not [part for token in tokens for part in token.split(".") if part and part in caplog.text]
