"""A token issuer on the loopback interface: metadata, keys that rotate, introspection. Its keys are real."""

from __future__ import annotations

import importlib.util
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

import pytest
from waiting import join

if TYPE_CHECKING:
    from chatplan.adapters.auth.settings import AuthSettings

# Without the libraries of the extra `serve` there is nothing to test.
collect_ignore_glob = [] if importlib.util.find_spec("joserfc") else ["test_*.py"]


class Issuer:
    """Issues tokens. ``asked`` lists the paths of requests; ``down`` makes every answer 500."""

    audience = "https://chat.example"
    client = ("chat server", "s3cret:/+")

    def __init__(self) -> None:
        self.keys: list[Any] = []
        self.opaque: dict[str, dict[str, Any]] = {}
        self.asked: list[str] = []
        self.authorization: str | None = None
        self.form: Mapping[str, list[str]] = {}
        self.down = False
        self.metadata = "/.well-known/openid-configuration"
        self.claims_to_be: str | None = None
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        join(self._thread)

    def settings(self, **others: Any) -> AuthSettings:
        """Settings for tokens of this issuer; a fetch may follow another at once."""
        from chatplan.adapters.auth.settings import AuthSettings

        given = {"jwt_issuer": self.url, "jwt_audience": self.audience, "jwks_refetch_seconds": 0, **others}
        return AuthSettings(**given)

    def introspection(self, **others: Any) -> AuthSettings:
        """Settings for opaque tokens of this issuer."""
        from chatplan.adapters.auth.settings import AuthSettings

        given = {
            "introspection_url": f"{self.url}/introspect",
            "introspection_client_id": self.client[0],
            "introspection_client_secret": self.client[1],
        }
        return AuthSettings.model_validate({**given, **others})

    def add_key(self, kind: str = "EC", size: Any = "P-256", **parameters: Any) -> Any:
        """Publish a new key."""
        from joserfc.jwk import JWKRegistry

        about: Any = {"kid": f"{kind}-{len(self.keys)}", "use": "sig", **parameters}
        key = JWKRegistry.generate_key(kind, size, about)
        self.keys.append(key)
        return key

    def claims(self, **others: Any) -> dict[str, Any]:
        """Claims that are valid for ten minutes; ``None`` leaves one out."""
        now = int(time.time())
        claims = {
            "iss": self.url,
            "aud": self.audience,
            "sub": "ann",
            "client_id": "app",
            "iat": now,
            "exp": now + 600,
            "jti": "1",
            **others,
        }
        return {name: value for name, value in claims.items() if value is not None}

    def token(self, key: Any, algorithm: str = "ES256", header: Mapping[str, Any] | None = None, **claims: Any) -> str:
        """A signed token; ``claims`` are changes to the valid ones, and ``header`` to its header."""
        from joserfc import jws

        head = {"alg": algorithm, "typ": "at+jwt", "kid": getattr(key, "kid", None), **(header or {})}
        head = {name: value for name, value in head.items() if value is not None}
        registry = jws.JWSRegistry(algorithms=list(jws.JWSRegistry.algorithms), strict_check_header=False)
        registry.max_header_length = 10_000
        payload = json.dumps(self.claims(**claims))
        return jws.serialize_compact(head, payload, key, registry=registry)

    def answer(self, path: str) -> Any:
        if path == self.metadata:
            return {"issuer": self.claims_to_be or self.url, "jwks_uri": f"{self.url}/keys"}
        if path == "/keys":
            return {"keys": [key if isinstance(key, dict) else key.as_dict(private=False) for key in self.keys]}
        return None

    def introspect(self, form: Mapping[str, list[str]], authorization: str | None) -> Any:
        self.authorization, self.form = authorization, form
        (token,) = form["token"]
        return self.opaque.get(token, {"active": False})

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                issuer.asked.append(self.path)
                self._send(issuer.answer(self.path))

            def do_POST(self) -> None:
                issuer.asked.append(self.path)
                body = self.rfile.read(int(self.headers["content-length"])).decode()
                self._send(issuer.introspect(parse_qs(body), self.headers["authorization"]))

            def _send(self, answer: Any) -> None:
                status = 500 if issuer.down else 404 if answer is None else 200
                body = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *arguments: Any) -> None:
                pass

        return Handler


class Ahead:
    """What stands for a clock: it goes on, ``ahead`` seconds before the real one."""

    def __init__(self, real: Callable[[], float]) -> None:
        self.real, self.ahead = real, 0.0

    def __call__(self) -> float:
        return self.real() + self.ahead


@pytest.fixture
def day(monkeypatch: pytest.MonkeyPatch) -> Ahead:
    """The time of day, which a test may turn."""
    clock = Ahead(time.time)
    monkeypatch.setattr("time.time", clock)
    return clock


@pytest.fixture
def ticks(monkeypatch: pytest.MonkeyPatch) -> Ahead:
    """The clock by which an issuer's keys age, which a test may turn."""
    clock = Ahead(time.monotonic)
    stand_in = SimpleNamespace(monotonic=clock)
    monkeypatch.setattr("chatplan.adapters.auth.jwks.time", stand_in)
    return clock


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    """An issuer that publishes no key yet."""
    running = Issuer()
    yield running
    running.close()


Identify = Callable[..., Any]


@pytest.fixture
def identify() -> Identify:
    """Makes a door of settings and further plugins: a function of headers, given as keywords, to a principal."""
    from chatplan.adapters.auth import authenticators
    from chatplan.adapters.auth import identify as ask
    from chatplan.manager import Plugins

    def door(settings: AuthSettings, *plugins: Any) -> Callable[..., Any]:
        known = Plugins([*plugins, *authenticators(settings)], installed=False)

        def send(**headers: str) -> Any:
            return ask(known, {name.replace("_", "-"): value for name, value in headers.items()})

        return send

    return door
