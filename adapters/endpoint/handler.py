"""The handler: a body comes in, and what the container can serialise goes out."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from chatplan.adapters.endpoint.bodies import Question, read_body
from chatplan.adapters.endpoint.details import generated
from chatplan.adapters.endpoint.generation import FIELD_NAMES, read_parameters
from chatplan.adapters.endpoint.loading import load
from chatplan.adapters.endpoint.prompts import prompt_chat
from chatplan.adapters.endpoint.settings import read_settings
from chatplan.chat import Chat
from chatplan.errors import ChatplanError, EngineError, RequestError
from chatplan.response import ChatCompletion

__all__ = ["EndpointHandler"]

_PLACE = re.compile(r"\[(\d+)\]\.?(.*)", re.DOTALL)


class EndpointHandler:
    """Answers the bodies that an endpoint gets.

    Args:
        model_dir: the model's repository, with its weights and tokenizer.
        settings: settings by name; they win over the environment and the repository's file.

    Attributes:
        chat: answers conversations.
        prompts: answers raw prompts, on the same model and engine.

    Raises:
        RequestError: a setting is not valid.
        OSError: there is no checkpoint in ``model_dir``.
    """

    def __init__(self, model_dir: str | os.PathLike[str], **settings: Any) -> None:
        read = read_settings(model_dir, settings)
        self.chat: Chat = load(str(model_dir), read)
        self.prompts: Chat = prompt_chat(self.chat, read.plugins, read.disable)

    def __call__(self, data: Mapping[str, Any]) -> Any:
        """Answer a body of one of the forms that docs/endpoints.md lists, with plain dicts, lists, text and numbers.

        Raises:
            ChatplanError: its text is one line, ``param: reason``, as nothing but that reaches who asked.
        """
        try:
            body = read_body(data)
            return body.answer(self._answers(body.questions))
        except ChatplanError as error:
            error.param = error.param or ("body" if isinstance(error, RequestError) else "model")
            raise
        except Exception as error:
            raise EngineError(f"{type(error).__name__}: {error}", param="model") from error

    def _answers(self, questions: Sequence[Question]) -> list[Any]:
        """Conversations are generated together, and so are prompts; answers are in the order of the questions."""
        jobs = [self._job(question) for question in questions]
        for chat in (self.chat, self.prompts):
            mine = [job for job in jobs if job.chat is chat]
            for job, answer in zip(mine, _complete(chat, mine), strict=True):
                job.answer = job.shape(answer)
        return [job.answer for job in jobs]

    def _job(self, question: Question) -> _Job:
        if question.prompt is None:
            return _Job(question, self.chat, question.fields, ChatCompletion.to_dict)
        prompt, seed = question.prompt, None
        with _placed(question):
            if not prompt:
                raise RequestError("should not be empty", param="inputs")
            parameters = read_parameters(question.fields, self.chat.model.settings.max_logprobs)
        if parameters.sampling:
            seed = secrets.randbits(32) if parameters.seed is None else parameters.seed
        shape = partial(generated, prompt=prompt, parameters=parameters, seed=seed, tokens=self.prompts.model.tokens)
        return _Job(question, self.prompts, parameters.fields(prompt, seed), lambda answer: [shape(answer)])


@dataclass
class _Job:
    question: Question
    chat: Chat
    request: Mapping[str, Any]
    shape: Callable[[ChatCompletion], Any]
    answer: Any = None


def _complete(chat: Chat, jobs: Sequence[_Job]) -> list[ChatCompletion]:
    try:
        return chat.complete_batch([job.request for job in jobs])
    except RequestError as error:
        place, param = _split(error.param or "", len(jobs))
        if place is None:
            raise
        question = jobs[place].question
        error.param = param if question.prompt is None else FIELD_NAMES.get(param, param)
        with _placed(question):
            raise


def _split(param: str, count: int) -> tuple[int | None, str]:
    """Which of ``count`` requests an error is about, if it says so, and which of its fields."""
    if count == 1:
        return 0, param
    found = _PLACE.fullmatch(param)
    return (int(found[1]), found[2]) if found else (None, param)


@contextmanager
def _placed(question: Question) -> Iterator[None]:
    """Errors say which request of a batch they are about."""
    try:
        yield
    except RequestError as error:
        if question.place:  # for a prompt, that is where the text itself is
            more = "" if error.param in (None, "", "inputs") else f".{error.param}"
            error.param = question.place + more
        raise
