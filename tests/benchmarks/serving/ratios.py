"""What the figures of one run say about each other."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping
from typing import Any

__all__ = ["print_limits", "print_ratios"]

Record = dict[str, Any]
FIGURES: dict[str, Callable[[Record], float]] = {
    "tokens/s": lambda record: record["tokens_per_s"],
    "TTFT p50": lambda record: record["ttft_ms"]["p50"],
    "memory": lambda record: record["pss_mb"],
}
LEAST_OF_LIMIT = 0.8


def bound(figure: str, peer: str, concurrency: int) -> tuple[str, float] | None:
    """What chatplan's continuous engine has to reach in bfloat16, as a ratio to a peer."""
    if figure == "tokens/s" and concurrency > 1:
        least = {"vllm": 1.5, "transformers-cb": 4.0}.get(peer)
        return None if least is None else ("at least", least)
    if peer != "vllm" or figure == "tokens/s":
        return None
    return "at most", 0.5 if figure == "TTFT p50" and concurrency > 1 else 1.0


def verdict(ratio: float, wanted: tuple[str, float] | None) -> str:
    if wanted is None:
        return ""
    side, value = wanted
    met = ratio >= value if side == "at least" else ratio <= value
    return f"{'met' if met else 'MISSED'} ({side} {value:g})"


def print_ratios(records: list[Record], first: str) -> None:
    """The first server's figures over each other's: the median of the rounds."""
    levels = unique((r["dtype"], r["prompts"], r["concurrency"]) for r in records)
    peers = unique(r["server"] for r in records if r["server"] != first)
    if not peers:
        return
    heading = "".join(f"{figure:>10}{'':18}" for figure in FIGURES)
    print(f"\n{first} ÷ peer\n{'peer':20}{'dtype':10}{'prompts':9}{'conc.':>5}{heading}")
    for peer in peers:
        for level in levels:
            cells = [cell(records, first, peer, level, figure) for figure in FIGURES]
            dtype, prompts, concurrency = level
            print(f"{peer:20}{dtype:10}{prompts:9}{concurrency:5}" + "".join(cells))


def cell(records: list[Record], first: str, peer: str, level: tuple[str, str, int], figure: str) -> str:
    """A ratio and whether it is what it should be; a dash where one of the two has no figure."""
    dtype, _, concurrency = level
    ours, theirs = (values(records, server, level, FIGURES[figure]) for server in (first, peer))
    ratios = [ours[turn] / theirs[turn] for turn in ours.keys() & theirs.keys() if theirs[turn]]
    if not ratios:
        return f"{'-':>10}{'':18}"
    ratio = statistics.median(ratios)
    wanted = bound(figure, peer, concurrency) if first == "chatplan" and dtype == "bfloat16" else None
    return f"{ratio:10.2f} {verdict(ratio, wanted):17}"


def values(
    records: list[Record], server: str, level: tuple[str, str, int], figure: Callable[[Record], float]
) -> dict[int, float]:
    """A figure of each round."""
    found = [r for r in records if r["server"] == server and (r["dtype"], r["prompts"], r["concurrency"]) == level]
    return {record["round"]: figure(record) for record in found}


def print_limits(records: list[Record], weights: Mapping[str, int]) -> None:
    """At concurrency 1: how near a decode step comes to reading the weights once, at the bandwidth of its round."""
    alone = [record for record in records if record["concurrency"] == 1 and record["step_ms"]["p50"] > 0]
    if alone:
        heading = "".join(f"{column:>10}" for column in ("GB/s", "limit ms", "step ms", "reached"))
        print(f"\n{'one at a time':20}{'dtype':10}{'prompts':9}{heading}")
    for record in alone:
        limit = weights[record["dtype"]] / record["bandwidth"] * 1000
        reached = limit / record["step_ms"]["p50"]
        ours = record["server"] == "chatplan" and record["dtype"] == "bfloat16"
        line = f"{record['server']:20}{record['dtype']:10}{record['prompts']:9}{record['bandwidth'] / 1e9:10.1f}"
        wanted = verdict(reached, ("at least", LEAST_OF_LIMIT) if ours else None)
        print(f"{line}{limit:10.1f}{record['step_ms']['p50']:10.1f}{reached:10.2f} {wanted}")


def unique(items: Iterable[Any]) -> list[Any]:
    """Each item once, in the order of their first appearance."""
    return list(dict.fromkeys(items))
