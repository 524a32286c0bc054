"""The figures as a table, as JSON and as a plot."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

    from chatplan.adapters.bench.load import Level

__all__ = ["as_json", "as_table", "errors_of", "write_plot"]

_TIMES = (
    ("first token", "ttft_ms", ("p50", "p90", "p99")),
    ("between", "inter_token_ms", ("p50", "p99")),
    ("whole answer", "latency_ms", ("p50", "p90", "p99")),
)


def as_table(about: Mapping[str, str], levels: Sequence[Level]) -> Table:
    """A row for each level of load. Times are in milliseconds."""
    from rich.box import SIMPLE_HEAD
    from rich.markup import escape
    from rich.table import Table

    title = escape(", ".join(dict.fromkeys(about.values())))
    table = Table(title=title, box=SIMPLE_HEAD, caption="times in milliseconds", pad_edge=False)
    headings = [f"{heading}\n{'/'.join(cuts)}" for heading, _, cuts in _TIMES]
    for heading in ("clients", "requests", "errors", "tokens/s", "requests/s", *headings):
        table.add_column(heading, justify="right", vertical="bottom", no_wrap=True)
    for level in levels:
        table.add_row(*_cells(level.figures()))
    return table


def _cells(found: Mapping[str, Any]) -> list[str]:
    counts = [str(found[name]) for name in ("concurrency", "requests", "errors")]
    rates = [f"{found['tokens_per_s']:.1f}", f"{found['requests_per_s']:.2f}"]
    return [*counts, *rates, *("/".join(_time(found[key][cut]) for cut in cuts) for _, key, cuts in _TIMES)]


def _time(milliseconds: float | None) -> str:
    if milliseconds is None:
        return "-"
    return f"{milliseconds:.0f}" if milliseconds >= 100 else f"{milliseconds:.1f}"


def errors_of(levels: Sequence[Level], most: int = 3) -> list[str]:
    """The commonest errors, a line each."""
    found = Counter(sample.error for level in levels for sample in level.samples if sample.error is not None)
    return [f"{count} failed: {error}" for error, count in found.most_common(most)]


def as_json(about: Mapping[str, Any], levels: Sequence[Level]) -> str:
    """All figures and samples; milliseconds, tokens, and tokens a second."""
    return json.dumps({**about, "levels": [level.to_dict() for level in levels]}, ensure_ascii=False, indent=1)


def write_plot(file: Path, about: Mapping[str, str], levels: Sequence[Level]) -> None:
    """Throughput and latency over concurrency, side by side, as a PNG of 1200 by 450 pixels. Needs matplotlib."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    found = [level.figures() for level in levels]
    figure = Figure(figsize=(12, 4.5), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)  # no display, and no state of pyplot
    figure.suptitle(", ".join(dict.fromkeys(about.values())), parse_math=False)
    left, right = figure.subplots(1, 2)
    clients = [item["concurrency"] for item in found]
    left.plot(clients, [item["tokens_per_s"] for item in found], marker="o")
    left.set(title="throughput", xlabel="concurrent requests", ylabel="output tokens per second", ylim=(0, None))
    for label, key, cut in _curves():
        right.plot(clients, [_number(item[key][cut]) for item in found], marker="o", label=label)
    right.set(title="latency", xlabel="concurrent requests", ylabel="milliseconds", yscale="log")
    right.yaxis.set_major_formatter("{x:g}")
    right.yaxis.set_minor_formatter("{x:g}")
    figure.legend(loc="outside right center")
    for axes in (left, right):
        axes.set_xticks(clients)
        axes.grid(alpha=0.3)
    figure.savefig(file, format="png")


def _curves() -> list[tuple[str, str, str]]:
    return [
        ("first token, p50", "ttft_ms", "p50"),
        ("first token, p99", "ttft_ms", "p99"),
        ("between tokens, p50", "inter_token_ms", "p50"),
        ("between tokens, p99", "inter_token_ms", "p99"),
        ("whole answer, p50", "latency_ms", "p50"),
    ]


def _number(value: float | None) -> float:
    return float("nan") if value is None else value
