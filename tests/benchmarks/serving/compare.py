"""Servers side by side: tokens a second, time to the first token, and memory, of one run and as ratios.

    python tests/benchmarks/serving/compare.py --servers chatplan,transformers-cb,vllm --dtype bfloat16 \\
        --concurrency 1,8,32 --prompts unique,shared --rounds 1

One server runs at a time, on the same cores, and answers the same requests. ``CHATPLAN_MODEL`` names the checkpoint,
``CHATPLAN_PEERS`` the folder of the peers' environments (see README.md). ``--quick`` compares the two engines of
``chatplan serve`` on a tiny model.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from limit import bandwidth, weight_bytes
from ratios import print_limits, print_ratios
from servers import SERVERS, Running, cores, on_cores, quick, start

Record = dict[str, Any]
COLUMNS = ("tokens/s", "TTFT p50", "p99", "between p50", "p99", "step p50", "PSS MB", "peak MB", "tokens", "errors")


def measure(options: argparse.Namespace, running: Running, prompts: str, concurrency: int, name: str) -> Record:
    """The figures of one level of load, from clients in a process of their own."""
    values = {
        "url": running.url,
        "model": running.model,
        "concurrency": concurrency,
        "requests": options.requests or max(options.per_client * concurrency, options.least),
        "tokens": options.tokens,
        "prompts": prompts,
        "name": name,
        "extra": json.dumps(dict(running.server.extra)),
    }
    # Where there are cores that the server does not use, the clients get those.
    spare = cores()[options.threads :] or cores()
    program = [str(Path(__file__).with_name("load.py")), *(f"--{key}={value}" for key, value in values.items())]
    if quick.forks():
        done = quick.run(program, check=True, stdout=subprocess.PIPE)
    else:
        done = subprocess.run([*on_cores(spare), sys.executable, *program], check=True, stdout=subprocess.PIPE)
    found: Record = json.loads(done.stdout)
    return found | {f"{key}_mb": round(value, 1) for key, value in running.memory().items()}


def measure_server(options: argparse.Namespace, server: str, dtype: str, turn: int) -> list[Record]:
    """Start a server, put it under each load, and stop it."""
    log = options.logs / f"{server}-{dtype}-{turn}.log"
    about = {"server": server, "dtype": dtype, "round": turn}
    records: list[Record] = []
    rounds = 1 if options.quick else 8
    before = bandwidth(options.threads, rounds)
    with start(server, options.model, dtype, options.threads, log, options.flags) as running:
        about["ready_s"] = round(running.ready_seconds, 1)
        for prompts in options.prompts:
            for concurrency in options.concurrency:
                load = {"prompts": prompts, "concurrency": concurrency}
                record = about | load | measure(options, running, prompts, concurrency, str(turn))
                print_record(record)
                records.append(record)
    fastest = max(before, bandwidth(options.threads, rounds))
    return [record | {"bandwidth": fastest} for record in records]


def print_heading() -> None:
    print(f"{'server':20}{'dtype':10}{'prompts':9}{'conc.':>5}" + "".join(f"{column:>12}" for column in COLUMNS))


def print_record(record: Record) -> None:
    """One line of the table; times are in milliseconds."""
    times = [record[group][cut] for group in ("ttft_ms", "between_ms") for cut in ("p50", "p99")]
    numbers = [record["tokens_per_s"], *times, record["step_ms"]["p50"], record["pss_mb"], record["peak_rss_mb"]]
    line = f"{record['server']:20}{record['dtype']:10}{record['prompts']:9}{record['concurrency']:5}"
    counts = f"{record['output_tokens']:12}{record['errors']:12}"
    print(line + "".join(f"{number:12.1f}" for number in numbers) + counts, flush=True)
    for error in record["first_errors"]:
        print(f"    error: {error}")


def run(options: argparse.Namespace) -> tuple[list[Record], bool]:
    """All records, and whether every server ran and answered without an error."""
    records: list[Record] = []
    complete = True
    print_heading()
    for dtype in options.dtype:
        for turn in range(options.rounds):
            # The order changes from round to round, since a machine may become slower or faster meanwhile.
            for server in options.servers[:: -1 if turn % 2 else 1]:
                try:
                    records += measure_server(options, server, dtype, turn)
                except (RuntimeError, OSError, subprocess.CalledProcessError) as error:
                    print(f"{server:20}{dtype:10}did not run: {error}", flush=True)
                    complete = False
    return records, complete and not any(record["errors"] for record in records)


def words(text: str) -> list[str]:
    return text.split(",")


def numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def arguments() -> argparse.Namespace:
    parser = quick.arguments(__doc__)
    parser.add_argument(
        "--servers", type=words, default=["chatplan", "transformers-cb", "vllm"], help=", ".join(SERVERS)
    )
    parser.add_argument("--model", type=Path, default=os.environ.get("CHATPLAN_MODEL"), help="folder of the checkpoint")
    parser.add_argument("--dtype", type=words, default=["bfloat16"])
    parser.add_argument("--concurrency", type=numbers, default=[1, 8, 32])
    parser.add_argument("--prompts", type=words, default=["unique", "shared"])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=64, help="new tokens of each answer")
    parser.add_argument("--per-client", type=int, default=3, help="requests of each client")
    parser.add_argument("--least", type=int, default=8, help="the fewest requests of a level of load")
    parser.add_argument("--requests", type=int, default=0, help="of each level of load, in place of the two above")
    parser.add_argument("--threads", type=int, default=len(cores()), help="cores of the server")
    parser.add_argument("--flags", type=shlex.split, default=[], help='of `chatplan serve`: --flags="--batch-size 32"')
    parser.add_argument("--logs", type=Path, help="folder for the servers' logs; default a new temporary one")
    parser.add_argument("--json", type=Path, help="file to write every figure to")
    few = {"concurrency": [1, 2], "prompts": ["unique"], "requests": 3, "tokens": 4}
    options = quick.parsed(parser, **few, servers=["chatplan", "chatplan-generate"], threads=1)
    if options.quick:
        options.model = Path(quick.checkpoint())
    if options.model is None:
        parser.error("--model, or CHATPLAN_MODEL: no checkpoint is named")
    for server in {*options.servers} - {*SERVERS}:
        parser.error(f"--servers: {server!r} is none of {', '.join(SERVERS)}")
    options.logs = options.logs or Path(tempfile.mkdtemp(prefix="chatplan-serving-"))
    options.logs.mkdir(parents=True, exist_ok=True)
    return options


def main() -> None:
    options = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that no server is left behind
    print(f"{options.threads} threads, checkpoint {options.model}, logs in {options.logs}")
    records, good = run(options)
    weights = {dtype: weight_bytes(options.model, dtype) for dtype in options.dtype}
    print_ratios(records, options.servers[0])
    print_limits(records, weights)
    if options.json:
        packages = {name: version(name) for name in ("chatplan", "torch", "transformers")}
        about = {"packages": packages, "threads": options.threads, "weight_bytes": weights}
        options.json.write_text(json.dumps(about | {"records": records}, indent=1), "utf-8")
    sys.exit(not good)


if __name__ == "__main__":
    main()
