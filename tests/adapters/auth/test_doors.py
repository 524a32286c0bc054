"""Which header decides, what a refusal says, and plugins of one's own beside the built-in ones."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import SecretStr, ValidationError

from chatplan import Principal, hookimpl
from chatplan.adapters.auth import authenticators, challenge
from chatplan.adapters.auth.keys import KeyStore, Limits
from chatplan.adapters.auth.settings import AuthSettings, secure_url
from chatplan.errors import AuthenticationError, PermissionDeniedError, PluginError

if TYPE_CHECKING:
    from tests.adapters.auth.conftest import Identify, Issuer


class Password:
    """A plugin: the header ``x-password``, and Basic credentials."""

    name = "password"

    @hookimpl
    def authenticate(self, headers: Mapping[str, str]) -> Principal | None:
        if headers.get("x-password") == "wrong":
            raise AuthenticationError("the credential is not valid")
        known = "x-password" in headers or headers.get("authorization") == "Basic YTpi"
        return Principal("by password") if known else None


class Careless:
    """A plugin that answers with something else than a principal."""

    name = "careless"

    @hookimpl
    def authenticate(self, headers: Mapping[str, str]) -> Any:
        return "ann"


@pytest.fixture
def keys_file(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


@pytest.fixture
def key(keys_file: Path) -> str:
    return KeyStore(keys_file).create("ann", Limits())[1]


def error(send: Any, **headers: str) -> AuthenticationError:
    with pytest.raises(AuthenticationError) as caught:
        send(**headers)
    return caught.value


# --- headers ----------------------------------------------------------------------------------------------------------


def test_any_one_header_suffices(issuer: Issuer, identify: Identify, keys_file: Path, key: str) -> None:
    token = issuer.token(issuer.add_key())
    send = identify(issuer.settings(keys_file=keys_file))
    by_key = send(authorization=f"Bearer {key}")
    assert by_key.name.startswith("key:")
    assert send(x_api_key=key) == by_key
    assert send(authorization=f"Bearer {token}") == send(token=token) == Principal("sub:ann")


def test_the_first_header_decides(issuer: Issuer, identify: Identify, keys_file: Path, key: str) -> None:
    token = issuer.token(issuer.add_key())
    send = identify(issuer.settings(keys_file=keys_file))
    assert send(authorization=f"Bearer {token}", x_api_key=key).name == "sub:ann"
    assert send(authorization=f"Bearer {token}", x_api_key="wrong", token="wrong").name == "sub:ann"
    assert send(x_api_key=key, token=token).name.startswith("key:")
    for headers in (
        {"authorization": "Bearer wrong", "x_api_key": key, "token": token},
        {"authorization": "", "x_api_key": key},
        {"x_api_key": "wrong", "token": token},
        {"x_api_key": "", "token": token},
    ):
        assert error(send, **headers).message == "the credential is not valid"


def test_a_key_without_bearer_is_refused(identify: Identify, keys_file: Path, key: str) -> None:
    send = identify(AuthSettings(keys_file=keys_file))
    for value in (key, f"Basic {key}", f"Bearer{key}", f"Bearer {key} {key}", "Bearer", "Bearer ", f"Token {key}"):
        assert error(send, authorization=value).message == "the credential is not valid"
    assert error(send, token=key).message == "the credential is not valid"


@pytest.mark.parametrize("value", ["", "x" * 100_000, "cp-é", "cp-\x00", "cp-\n"])
def test_odd_characters_and_lengths(issuer: Issuer, identify: Identify, keys_file: Path, key: str, value: str) -> None:
    send = identify(issuer.settings(keys_file=keys_file))
    for headers in ({"authorization": f"Bearer {value}"}, {"x_api_key": value}, {"token": value}):
        assert error(send, **headers).code == "invalid_credentials"


# --- plugins ----------------------------------------------------------------------------------------------------------


def test_plugins_of_ones_own(identify: Identify, keys_file: Path, key: str) -> None:
    send = identify(AuthSettings(keys_file=keys_file), Password())
    assert send(x_password="right").name == "by password"
    assert send(authorization="Basic YTpi").name == "by password"
    assert send(x_api_key=key).name.startswith("key:")
    assert error(send, x_password="wrong").message == "the credential is not valid"
    alone = identify(AuthSettings(), Password())
    assert alone(x_password="right").name == "by password"
    assert error(alone, x_api_key=key).message == "no credential"


def test_what_is_not_a_principal(identify: Identify) -> None:
    with pytest.raises(PluginError, match="plugin 'careless': authenticate returned str, not a Principal"):
        identify(AuthSettings(), Careless())()


def test_plugins_are_named_after_what_is_set_up(issuer: Issuer, keys_file: Path, key: str) -> None:
    def names(settings: AuthSettings) -> list[str]:
        return [plugin.name for plugin in authenticators(settings)]  # type: ignore[attr-defined]

    assert names(AuthSettings()) == []
    assert names(AuthSettings(keys_file=keys_file)) == ["api_keys", "unclaimed_credentials"]
    everything = issuer.introspection(jwt_issuer=issuer.url, jwt_audience="x", keys_file=keys_file)
    assert names(everything) == [*("api_keys", "access_tokens", "introspection", "unclaimed_credentials")]


# --- WWW-Authenticate -------------------------------------------------------------------------------------------------


def test_challenges(identify: Identify, keys_file: Path, key: str) -> None:
    send = identify(AuthSettings(keys_file=keys_file))
    assert challenge(error(send)) == 'Bearer realm="chatplan"'
    invalid = 'Bearer realm="chatplan", error="invalid_token", error_description="the credential is not valid"'
    assert challenge(error(send, x_api_key="cp-1")) == invalid
    denied = PermissionDeniedError('no "model"\r\nx: \\é', param="model")
    assert challenge(denied) == (
        'Bearer realm="chatplan", error="insufficient_scope", error_description="model: no ?model? x: ??"'
    )


# --- settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("url", ["https://a.example/x", "http://127.0.0.1:1", "http://[::1]/x", "http://localhost/x"])
def test_addresses_that_nobody_on_the_way_can_change(url: str) -> None:
    assert secure_url(url) == url
    if url.startswith("http:"):
        for host in ("10.0.0.1", "localhost.example", "[2001:db8::1]"):
            with pytest.raises(ValueError, match="https URL"):
                secure_url(f"http://{host}/x")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"jwt_issuer": "https:///x", "jwt_audience": "x"}, "should be an https URL"),
        ({"jwt_issuer": "https://a.example", "jwt_audience": ""}, "jwt_audience"),
        ({"introspection_client_id": "x"}, "go together"),
        ({"jwt_issuer": "https://a.example"}, "jwt_issuer needs jwt_audience"),
        ({"jwks_url": "https://a.example/keys"}, "jwks_url needs jwt_issuer"),
        ({"jwt_issuer": "http://a.example", "jwt_audience": "x"}, "should be an https URL"),
        ({"jwt_issuer": "a.example", "jwt_audience": "x"}, "should be an https URL"),
        ({"introspection_url": "ftp://127.0.0.1/x"}, "should be an https URL"),
        ({"introspection_url": "https://a.example"}, "go together"),
        ({"introspection_client_secret": "x"}, "go together"),
        ({"jwt_algorithms": ["RS256", "none"]}, "got none"),
        ({"jwt_algorithms": ["HS256"]}, "got HS256"),
        ({"jwt_algorithms": []}, "should be some of RS256"),
        ({"concurrency": 0}, "greater than or equal to 1"),
        ({"jwt_secret": "x"}, "Extra inputs"),
    ],
)
def test_settings_that_are_wrong(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        AuthSettings(**given)


def test_the_defaults_are_those_of_the_documentation() -> None:
    found = AuthSettings()
    unset = [name for name, value in found.model_dump().items() if value is None]
    assert unset == ["keys_file", "jwt_issuer", "jwt_audience", "jwks_url", "introspection_url",
                     "introspection_client_id", "introspection_client_secret", "required_scope", "max_priority",
                     "requests_per_minute", "tokens_per_minute", "concurrency"]  # fmt: skip
    assert found.model_dump(exclude=set(unset)) == {
        "jwt_algorithms": ("RS256", "ES256", "PS256", "EdDSA"), "jwt_leeway_seconds": 30, "jwks_cache_seconds": 300,
        "jwks_stale_seconds": 3600, "jwks_refetch_seconds": 10, "introspection_cache_seconds": 30,
        "timeout_seconds": 5}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "least", "below"),
    [
        *((name, 0, -1) for name in ("jwt_leeway_seconds", "jwks_cache_seconds", "jwks_stale_seconds")),
        *((name, 0, -1) for name in ("jwks_refetch_seconds", "introspection_cache_seconds")),
        *((name, 1, 0) for name in ("requests_per_minute", "tokens_per_minute", "concurrency")),
        ("timeout_seconds", 0.001, 0),
        ("jwt_leeway_seconds", 300, 301),
    ],
)
def test_how_far_a_setting_may_go(name: str, least: float, below: float) -> None:
    given: Any = {name: least}
    assert getattr(AuthSettings(**given), name) == least
    given = {name: below}
    with pytest.raises(ValidationError, match=name):
        AuthSettings(**given)


def test_no_issuer_is_waited_for_longer_than_the_settings_say(
    monkeypatch: pytest.MonkeyPatch, keys_file: Path, key: str
) -> None:
    asked: dict[str, Any] = {}
    monkeypatch.setattr("httpx.Client", lambda **given: asked.update(given))
    authenticators(AuthSettings(keys_file=keys_file, timeout_seconds=7))
    assert asked == {"timeout": 7}


def test_the_longest_credential(identify: Identify) -> None:
    from chatplan.adapters.auth.credentials import read_credential

    for header, before in (("authorization", "Bearer "), ("x-api-key", ""), ("token", "")):
        longest = read_credential({header: before + "x" * 16 * 1024})
        assert longest == (header, "x" * 16 * 1024)
        assert read_credential({header: before + "x" * (16 * 1024 + 1)}) == (header, "")
        assert "x" not in repr(longest).replace("x-api-key", "")
    assert read_credential({"x-password": "a"}) is None
    assert read_credential({"x-api-key": " \tkey\t "}) == ("x-api-key", "key")


def test_what_is_set_up() -> None:
    assert not AuthSettings().configured
    assert AuthSettings(keys_file=Path("keys.json")).configured
    assert AuthSettings(jwt_issuer="https://a.example", jwt_audience="x").configured
    secret = AuthSettings(
        introspection_url="http://[::1]:80/x",
        introspection_client_id="a",
        introspection_client_secret=SecretStr("very-secret"),
    )
    assert secret.configured
    assert "very-secret" not in repr(secret)
    assert all(field.description for field in AuthSettings.model_fields.values())


def test_a_keys_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="keys.json cannot be read: No such file"):
        authenticators(AuthSettings(keys_file=tmp_path / "keys.json"))
