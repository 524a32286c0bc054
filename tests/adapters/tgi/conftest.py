"""A stand-in for a TGI server: its rules are TGI's, its tokens those of a tiny model."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from copy import deepcopy
from typing import Any

import numpy
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from transformers import LlamaForCausalLM
from waiting import join, wait_until

from chatplan import Chat, ChatCompletionRequest, ModelInfo, Prompt, Settings, hookimpl
from chatplan.standin import stand_in

MAX_INPUT, MAX_TOTAL, MAX_STOPS, MAX_BEST_OF, MAX_TOP = 256, 512, 4, 2, 5
HELD_SECONDS = 60.0
PARAMETERS = {
    "adapter_id": str, "best_of": int, "decoder_input_details": bool, "details": bool, "do_sample": bool,
    "frequency_penalty": float, "grammar": dict, "max_new_tokens": int, "repetition_penalty": float,
    "return_full_text": bool, "seed": int, "stop": list, "temperature": float, "top_k": int, "top_n_tokens": int,
    "top_p": float, "truncate": int, "typical_p": float, "watermark": bool,
}  # fmt: skip
INFO = {
    "model_id": "tests/tiny", "max_best_of": MAX_BEST_OF, "max_stop_sequences": MAX_STOPS, "version": "3.3.6",
    "max_input_tokens": MAX_INPUT, "max_total_tokens": MAX_TOTAL,
}  # fmt: skip


class Raw:
    """The prompt is the text of the message, with the special tokens that the tokenizer adds, as TGI reads it."""

    @hookimpl(tryfirst=True)
    def render_prompt(self, request: ChatCompletionRequest, model: ModelInfo) -> Prompt:
        text = str(request.messages[0].content)
        ids = model.tokenizer.encode(text)
        return Prompt(tuple(ids[-request.truncate_prompt_tokens :] if request.truncate_prompt_tokens else ids), text)


class Invalid(Exception):
    """A value that TGI's router refuses."""


class StandIn:
    """What was sent, what is wrong with it, and what to answer instead of tokens.

    Attributes:
        sent: the bodies, in order; ``broken`` the rules that a client broke without TGI noticing.
        answers: answers to give first, instead of generating.
        says: the token ids of streams; absent, those of the model.
        held_after: so many tokens of a stream are sent, and further ones once ``go`` is set.
        open: streams that run.
    """

    def __init__(self, chat: Chat) -> None:
        self.chat = chat
        self.sent: list[dict[str, Any]] = []
        self.headers: list[Mapping[str, str]] = []
        self.broken: list[str] = []
        self.answers: list[Callable[[], Response]] = []
        self.says: list[int] = []
        self.held_after: int | None = None
        self.go = threading.Event()
        self.open = 0
        self.break_after: int | None = None
        self.breaks_with: dict[str, str] = {}
        self.info: dict[str, Any] = dict(INFO)
        self.url = self.secret = ""

    def app(self) -> Starlette:
        routes = [Route("/info", self._info), Route("/health", lambda request: Response())]
        routes += [Route(path, self._generate, methods=["POST"]) for path in ("/", "/generate", "/generate_stream")]
        return Starlette(routes=routes)

    def _info(self, request: Request) -> Response:
        if self.secret and request.headers.get("authorization") != f"Bearer {self.secret}":
            return Response(status_code=401)
        return JSONResponse(self.info) if self.info else PlainTextResponse("not found", 404)

    async def _generate(self, request: Request) -> Response:
        body = await request.json()
        self.sent.append(body)
        self.headers.append(dict(request.headers))
        if self.answers:
            return self.answers.pop(0)()
        stream = request.url.path == "/generate_stream" or bool(body.get("stream"))
        try:
            given = self._checked(body, stream, request.url.path)
        except Invalid as error:
            return JSONResponse({"error": f"Input validation error: {error}", "error_type": "validation"}, 422)
        if stream:
            return StreamingResponse(self._events(body["inputs"], given), media_type="text/event-stream")
        answer = await asyncio.to_thread(self._whole, body["inputs"], given)
        return JSONResponse([answer] if request.url.path == "/" else answer)

    # --- the rules ---------------------------------------------------------------------------------------------------

    def _checked(self, body: dict[str, Any], stream: bool, path: str) -> dict[str, Any]:
        """The parameters that are set. What TGI would silently ignore is noted as broken."""
        known = {"inputs", "parameters", "stream"} if path == "/" else {"inputs", "parameters"}
        self.broken += [f"body.{name} is unknown" for name in body.keys() - known]
        given = {name: value for name, value in (body.get("parameters") or {}).items() if value is not None}
        for name, value in given.items():
            kind = PARAMETERS.get(name)
            if kind is None:
                self.broken.append(f"{name} is unknown")
            elif not isinstance(value, (float, int) if kind is float else kind) or (kind is int and value is True):
                raise Invalid(f"invalid type for `{name}`")
        self._check_prompt(body["inputs"], given)
        self._check_values(given, stream)
        return given

    def _check_prompt(self, inputs: str, given: Mapping[str, Any]) -> None:
        if not inputs:
            raise Invalid("`inputs` cannot be empty")
        ids = self.chat.model.tokenizer.encode(inputs)
        kept = ids[-given.get("truncate", len(ids)) :]
        if kept[:2] == [self.chat.model.tokenizer.bos_token_id] * 2:
            self.broken.append("the prompt begins with two BOS tokens")
        length, new = min(len(ids), given.get("truncate", len(ids))), given.get("max_new_tokens", 100)
        if length > MAX_INPUT:
            raise Invalid(f"`inputs` must have less than {MAX_INPUT} tokens. Given: {length}")
        if length + new > MAX_TOTAL:
            text = f"`inputs` tokens + `max_new_tokens` must be <= {MAX_TOTAL}. Given: {length} and {new}"
            raise Invalid(text)

    def _check_values(self, given: Mapping[str, Any], stream: bool) -> None:
        rules: dict[str, Callable[[Any], bool]] = {
            "temperature": lambda value: value > 0,
            "top_p": lambda value: bool(0 < numpy.float32(value) < 1),
            "typical_p": lambda value: 0 < value < 1,
            "top_k": lambda value: 0 < value < 2**31,
            "repetition_penalty": lambda value: value > 0,
            "frequency_penalty": lambda value: -2 <= value <= 2,
            "max_new_tokens": lambda value: value > 0,
            "seed": lambda value: 0 <= value < 2**64,
            "stop": lambda value: len(value) <= MAX_STOPS,
            "truncate": lambda value: 0 < value <= MAX_INPUT,
            "top_n_tokens": lambda value: 0 < value <= MAX_TOP,
            "best_of": lambda value: 0 < value <= MAX_BEST_OF,
            "decoder_input_details": lambda value: not (value and stream),
        }
        for name, holds in rules.items():
            if name in given and not holds(given[name]):
                raise Invalid(f"`{name}` is out of range, got {given[name]}")
        if given.get("best_of", 1) > 1:
            sampled = given.get("do_sample") or {"temperature", "top_k", "top_p", "typical_p"} & given.keys()
            if stream or "seed" in given or not sampled:
                raise Invalid("`best_of` needs sampling, and neither `stream` nor `seed`")
        if "grammar" in given:
            check_grammar(given["grammar"])

    # --- the tokens --------------------------------------------------------------------------------------------------

    def _fields(self, inputs: str, given: Mapping[str, Any]) -> dict[str, Any]:
        """What TGI's parameters are in fields of ours."""
        same = ("top_p", "top_k", "repetition_penalty", "frequency_penalty", "seed")
        fields: dict[str, Any] = {name: given[name] for name in same if name in given}
        sampled = given.get("do_sample") or fields.keys() & {"top_p", "top_k"} or given.get("temperature", 1) != 1
        fields["temperature"] = given.get("temperature", 1.0) if sampled else 0
        fields["max_tokens"] = given.get("max_new_tokens", 100)
        grammar = given.get("grammar")
        if grammar:
            fields["guided_json" if grammar["type"] == "json" else "guided_regex"] = grammar["value"]
        if "truncate" in given:
            fields["truncate_prompt_tokens"] = given["truncate"]
        more = {"stop": given.get("stop", []), "include_stop_str_in_output": True, "n": given.get("best_of", 1)}
        fixed = {"logprobs": True, "top_logprobs": 5, "return_tokens_as_token_ids": True, "return_token_ids": True}
        return {"messages": [{"role": "user", "content": inputs}], **fields, **more, **fixed}

    def _whole(self, inputs: str, given: Mapping[str, Any]) -> dict[str, Any]:
        fields = self._fields(inputs, given)
        prompt = self.chat.complete({**fields, "prompt_logprobs": 0}) if given.get("decoder_input_details") else None
        answer = prompt or self.chat.complete(fields)
        samples = [self._sample(choice, given) for choice in answer.choices]
        best = {**samples[0], "prefill": self._prefill(answer)}
        text = best.pop("generated_text")
        if given.get("best_of", 1) > 1:
            best["best_of_sequences"] = [{**sample, "prefill": []} for sample in samples[1:]]
        return {"generated_text": text, "details": best} if given.get("details") else {"generated_text": text}

    def _sample(self, choice: Any, given: Mapping[str, Any]) -> dict[str, Any]:
        ids = choice.token_ids
        tokens = [self._token(i, entry.logprob) for i, entry in zip(ids, choice.logprobs.content, strict=True)]
        tops = [self._tops(entry, given) for entry in choice.logprobs.content]
        found = {"tokens": tokens, "generated_text": choice.message.content, "generated_tokens": len(ids)}
        return {**found, "finish_reason": self._reason(choice, ids), "seed": given.get("seed"), "top_tokens": tops}

    def _prefill(self, answer: Any) -> list[dict[str, Any]]:
        ids = answer.prompt_token_ids or []
        reports = answer.prompt_logprobs or []
        values = [None, *(next(iter(report.values())).logprob for report in reports[1:])]
        return [{"id": i, "text": "?", "logprob": value} for i, value in zip(ids, values)]  # noqa: B905

    def _token(self, token_id: int, logprob: float) -> dict[str, Any]:
        tokenizer = self.chat.model.tokenizer
        special = token_id in tokenizer.all_special_ids
        return {"id": token_id, "text": tokenizer.decode([token_id]), "logprob": logprob, "special": special}

    def _tops(self, entry: Any, given: Mapping[str, Any]) -> list[dict[str, Any]]:
        count = given.get("top_n_tokens", 0)
        likely = sorted(entry.top_logprobs, key=lambda top: -top.logprob)[:count]
        return [self._token(int(top.token.removeprefix("token_id:")), top.logprob) for top in likely]

    def _reason(self, choice: Any, ids: list[int]) -> str:
        if choice.finish_reason == "length":
            return "length"
        return "eos_token" if ids[-1] in self.chat.model.eos_token_ids else "stop_sequence"

    async def _events(self, inputs: str, given: Mapping[str, Any]) -> AsyncIterator[str]:
        """One event for each token; they are drawn before the first is sent."""
        answer = await asyncio.to_thread(self._whole, inputs, {**given, "details": True})
        details = answer["details"]
        if self.says:
            details["tokens"] = [self._token(token_id, -1.0) for token_id in self.says]
            details["top_tokens"] = [[] for _ in self.says]
        self.open += 1
        try:
            for at, token in enumerate(details["tokens"]):
                if at == self.break_after:
                    yield "data:" + json.dumps(self.breaks_with) + "\n\n"
                    return
                if at == self.held_after:
                    await self._held()
                last = at == len(details["tokens"]) - 1
                end = {name: details[name] for name in ("finish_reason", "generated_tokens", "seed")} if last else None
                event = {"index": at + 1, "token": token, "top_tokens": details["top_tokens"][at], "details": end}
                text = answer["generated_text"] if last else None
                yield "data:" + json.dumps({**event, "generated_text": text}, ensure_ascii=False)
                yield "\n\n"
        finally:
            self.open -= 1

    async def _held(self) -> None:
        until = asyncio.get_running_loop().time() + HELD_SECONDS
        while not self.go.is_set() and asyncio.get_running_loop().time() < until:
            await asyncio.sleep(0.005)


def check_grammar(grammar: dict[str, Any]) -> None:
    """TGI's own checks."""
    if grammar.keys() != {"type", "value"} or grammar["type"] not in ("json", "regex"):
        raise Invalid("`grammar` has a type json or regex, and a value")
    value = json.loads(grammar["value"]) if isinstance(grammar["value"], str) and grammar["type"] == "json" else None
    schema = grammar["value"] if value is None else value
    if grammar["type"] == "json" and "properties" not in schema:
        raise Invalid("Grammar must have a 'properties' field")
    if grammar["type"] == "regex" and not isinstance(schema, str):
        raise Invalid("`grammar` of the type regex is a text")


@pytest.fixture(scope="session")
def checkpoint(readable_model: LlamaForCausalLM, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of its tokenizer and configuration; there are no weights."""
    folder = str(tmp_path_factory.mktemp("checkpoint"))
    tokenizer = deepcopy(stand_in().tokenizer)
    tokenizer.bos_token = "<|im_start|>"
    tokenizer.save_pretrained(folder)
    readable_model.config.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def here(readable_model: LlamaForCausalLM) -> Chat:
    """The same model in this process."""
    return Chat(ModelInfo.of(readable_model, stand_in().tokenizer, name="tests/tiny"))


@pytest.fixture(scope="session")
def server(readable_model: LlamaForCausalLM, checkpoint: str) -> Iterator[StandIn]:
    """The stand-in on a free port."""
    about = ModelInfo.without_weights(checkpoint, Settings(), "")
    settings = Settings(logprobs_mode="processed")
    tgi = StandIn(Chat(ModelInfo.of(readable_model, about.tokenizer, settings, "tests/tiny"), plugins=[Raw()]))
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    tgi.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    running = uvicorn.Server(uvicorn.Config(tgi.app(), log_level="warning", lifespan="off"))
    thread = threading.Thread(target=running.run, args=([listener],), daemon=True)
    thread.start()
    wait_until(lambda: running.started or not thread.is_alive(), what="the stand-in starts")
    yield tgi
    running.handle_exit(signal.SIGTERM, None)
    join(thread)


@pytest.fixture
def tgi(server: StandIn) -> Iterator[StandIn]:
    """The stand-in, as new; a test that breaks a rule of TGI's fails."""
    wait_until(lambda: not server.open, what="streams of the test before end")
    server.sent.clear()
    server.headers.clear()
    server.broken.clear()
    server.answers.clear()
    server.go.clear()
    server.says, server.held_after, server.break_after = [], None, None
    server.breaks_with = {"error": "Request failed", "error_type": "generation"}
    server.info, server.secret = dict(INFO), ""
    yield server
    server.go.set()
    assert not server.broken
