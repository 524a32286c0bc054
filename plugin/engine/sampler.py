"""Runs the processors of many rows as few tensor operations."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import TYPE_CHECKING, Any

import torch
from transformers import LogitsProcessor

from chatplan.errors import PluginError, RequestError
from chatplan.plan import Stage
from chatplan.processor import BatchFunction, Processor

if TYPE_CHECKING:
    from chatplan.row import Row

__all__ = ["Sampler", "failing"]


@contextmanager
def failing(rows: Iterable[Row]) -> Iterator[None]:
    """What a plugin raises here ends these rows alone, and not their neighbours in the batch."""
    try:
        yield
    except Exception as error:
        for row in rows:
            row.fail(error)


class _RowByRow:
    """A plain ``transformers.LogitsProcessor`` sees its own row alone, as if there were no batch."""

    def __init__(self, processors: Sequence[LogitsProcessor], rows: Sequence[Row], device: torch.device) -> None:
        self.work = list(zip(processors, rows, strict=True))
        self.device = device

    def __call__(self, scores: torch.Tensor) -> torch.Tensor:
        for position, (processor, row) in enumerate(self.work):
            ids: Any = torch.tensor([[*row.prompt_ids, *row.output_ids]], device=self.device)
            own: Any = scores[position : position + 1]
            with failing([row]):
                scores[position] = processor(ids, own)[0]
        return scores


class _Operation:
    """One batch function and the rows it serves; ``index`` is ``None`` when it serves all."""

    def __init__(self, function: BatchFunction, rows: Sequence[Row], index: torch.Tensor | None) -> None:
        self.function = function
        self.rows = rows
        self.index = index
        self.advance = getattr(function, "advance", None)


class Sampler:
    """The logits work of a set of rows.

    Built anew when rows come or go; between that, each step is a handful of tensor operations, whatever the number of
    rows: rows with the same class of processor at the same stage share one. Rows without processors cost nothing.
    """

    def __init__(self, rows: Sequence[Row], device: torch.device, skip: frozenset[Stage] = frozenset()) -> None:
        """``rows[i]`` is row ``i`` of the scores; finished rows are left out. ``skip`` leaves out stages."""
        self.rows: list[Row] = list(rows)
        live = [(at, row) for at, row in enumerate(self.rows) if not row.finished]
        wishes: dict[tuple[int, int, type], list[tuple[int, Any]]] = {}
        for at, row in live:
            repeats: dict[type, int] = {}
            for stage, processor in row.plan.processors:
                if stage not in skip:
                    nth = repeats[type(processor)] = repeats.get(type(processor), 0) + 1
                    wishes.setdefault((stage, nth, type(processor)), []).append((at, processor))
        # One index tensor for each set of rows, so that neighbouring operations on the same set share a gather.
        self._indices: dict[tuple[int, ...], torch.Tensor | None] = {tuple(range(len(self.rows))): None}
        self._forbids = any(Stage.LOGPROBS != key[0] <= Stage.MIN_TOKENS for key in wishes)
        order = sorted(wishes, key=lambda key: key[:2])
        self.operations: list[_Operation] = []
        for key in order:
            with failing([self.rows[at] for at, _ in wishes[key]]):
                self.operations.append(self._operation(key[2], wishes[key], device))

    def _operation(self, kind: type, wishes: list[tuple[int, Any]], device: torch.device) -> _Operation:
        rows = [self.rows[at] for at, _ in wishes]
        processors = [processor for _, processor in wishes]
        function: BatchFunction
        if issubclass(kind, Processor):
            function = kind.for_rows(processors, rows, device)
        elif issubclass(kind, LogitsProcessor):
            function = _RowByRow(processors, rows, device)
        else:
            raise PluginError(f"{kind.__name__} is neither a chatplan.Processor nor a transformers.LogitsProcessor")
        members = tuple(at for at, _ in wishes)
        if members not in self._indices:
            self._indices[members] = torch.tensor(members, device=device)
        return _Operation(function, rows, self._indices[members])

    def __call__(self, scores: torch.Tensor) -> torch.Tensor:
        """Scores, float32 ``[rows, vocabulary]``, after every row's processors; changed in place where possible."""
        for _, run in groupby(self.operations, key=lambda operation: id(operation.index)):
            operations = list(run)
            index = operations[0].index
            part = scores if index is None else scores[index]
            for operation in operations:
                with failing(operation.rows):
                    part = operation.function(part)
            if index is None:
                scores = part
            else:
                scores[index] = part
        if self._forbids:
            self._fail_where_nothing_is_left(scores)
        return scores

    def _fail_where_nothing_is_left(self, scores: torch.Tensor) -> None:
        """Some plugins forbid tokens; a row where together they forbid all has no answer."""
        for at in scores.amax(dim=-1).isneginf().nonzero()[:, 0].tolist():
            self.rows[at].fail(RequestError("the fields that forbid tokens leave none to choose from"))

    def advance(self, tokens: torch.Tensor) -> None:
        """Tell the functions that keep count which token each row drew; int64 ``[rows]``."""
        for operation in self.operations:
            if operation.advance is not None:
                with failing(operation.rows):
                    operation.advance(tokens if operation.index is None else tokens[operation.index])
