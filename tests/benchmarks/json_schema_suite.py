"""The official JSON Schema test suite, draft 2020-12, judged by the tokens that a backend lets through.

An instance is accepted when each token of its JSON text is in the mask, and end of sequence after the last, with its
properties in one order or another. Beside the backend runs bare llguidance in its strict mode. The suite comes with
the sources of ``jsonschema``, which are fetched once if no folder or archive is named. ``CHATPLAN_MODEL`` names the
checkpoint whose tokenizer is used.

    python tests/benchmarks/json_schema_suite.py [--backend NAME] [--optional] [--typed] [-v] [suite]

``--quick`` takes a suite of two schemas of its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.parse
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from importlib import import_module
from itertools import islice, permutations, product
from pathlib import Path
from typing import Any, NamedTuple

import torch
from quick import arguments, model

from chatplan.errors import RequestError
from chatplan.guided.backend import CannotEnforce, Grammar
from chatplan.guided.constraint import Constraint
from chatplan.manager import Plugins
from chatplan.model import ModelInfo

VERSION = "4.26.0"
INDEX = "https://pypi.org/simple/jsonschema/"
CACHE = Path.home() / ".cache" / "chatplan"
ORDERS = 120
FOLDER = "/tests/draft2020-12"

Compile = Callable[[Any], Grammar]


class Case(NamedTuple):
    """A schema of the suite and its instances, each with whether it is valid."""

    name: str
    schema: Any
    instances: list[tuple[Any, bool]]


def archive() -> Path:
    """The sources of ``jsonschema``, fetched into the cache folder the first time."""
    path = CACHE / f"jsonschema-{VERSION}.tar.gz"
    if not path.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"]
        if subprocess.run([*pip, "--dest", str(CACHE), f"jsonschema=={VERSION}"], capture_output=True).returncode:
            fetch(path)
    return path


def fetch(path: Path) -> None:
    """Download it as it is: pip builds the metadata of sources first, for which it may lack the tools."""
    accept = {"Accept": "application/vnd.pypi.simple.v1+json"}
    with urllib.request.urlopen(urllib.request.Request(INDEX, headers=accept), timeout=60) as reply:
        url = next(file["url"] for file in json.load(reply)["files"] if file["filename"] == path.name)
    with urllib.request.urlopen(urllib.parse.urljoin(INDEX, url), timeout=60) as reply:
        path.write_bytes(reply.read())


def own_suite(folder: str) -> Path:
    """One like the official one: a schema that is kept to, and one that no grammar keeps to."""
    form = {"type": "object", "properties": {"a": {"type": "integer"}, "b": {}}, "required": ["a"]}
    data = [({"a": 1}, True), ({"b": [None], "a": 1}, True), ({"a": "1"}, False)]
    tests = [{"description": "", "data": each, "valid": valid} for each, valid in data]
    groups = [{"description": "object", "schema": form, "tests": tests},
              {"description": "refused", "schema": {"uniqueItems": True}, "tests": tests[:1]}]  # fmt: skip
    path = Path(folder + FOLDER, "own.json")
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(groups), "utf-8")
    return Path(folder)


def texts(source: Path) -> Iterator[tuple[str, bytes]]:
    """The files of the suite by name, out of a folder or an archive."""
    if source.is_dir():
        for path in sorted(source.rglob("*.json")):
            yield str(path), path.read_bytes()
        return
    with tarfile.open(source) as tar:
        for member in sorted(tar.getmembers(), key=lambda item: item.name):
            if member.isfile() and member.name.endswith(".json"):
                yield member.name, tar.extractfile(member).read()  # type: ignore[union-attr]


def cases(source: Path, optional: bool, typed: bool) -> Iterator[Case]:
    """The schemas of the suite; ``typed`` puts "type": "string" beside a format."""
    for name, text in texts(source):
        if FOLDER in name and (f"{FOLDER}/optional/" in name) == optional:
            for group in json.loads(text):
                schema = group["schema"]
                if typed and isinstance(schema, dict) and "format" in schema:
                    schema = {"type": "string", **schema}
                instances = [(test["data"], test["valid"]) for test in group["tests"]]
                kept = [(data, valid) for data, valid in instances if not typed or isinstance(data, str)]
                yield Case(f"{name.split(FOLDER)[1][1:]}: {group['description']}", schema, kept)


class Judge:
    """Feeds texts to grammars, token by token."""

    def __init__(self, model: ModelInfo) -> None:
        self._model = model
        self._mask = torch.zeros((model.logits_width + 31) // 32, dtype=torch.int32)

    def accepts(self, grammar: Grammar, text: str) -> bool:
        """Whether each token is allowed, and the end after the last."""
        matcher = grammar.start()
        for token in self._model.tokenizer.encode(text, add_special_tokens=False):
            matcher.fill(self._mask)
            if not self._allowed(token):
                return False
            matcher.accept(token)
        matcher.fill(self._mask)
        return any(self._allowed(token) for token in self._model.eos_token_ids)

    def _allowed(self, token: int) -> bool:
        return bool(int(self._mask[token // 32]) >> (token % 32) & 1)


def bare(model: ModelInfo) -> Compile:
    """llguidance as it comes, in its strict mode."""
    from llguidance import LLMatcher

    from chatplan.hooks.guidance import GuidanceGrammar, make_tokenizer, new_matcher

    tokenizer = make_tokenizer(model)

    def compile_schema(schema: Any) -> Grammar:
        options = {"whitespace_pattern": "[ ]?"}
        text = LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides=options)  # type: ignore[arg-type]
        matcher = new_matcher(tokenizer, text)
        if matcher.is_error():
            raise CannotEnforce(matcher.get_error())
        return GuidanceGrammar(matcher, 0)

    return compile_schema


def ours(model: ModelInfo, backend: str) -> Compile:
    """The package's backend of this name, or ``auto``."""
    if backend == "auto":
        enforcer = Plugins().enforcer(model)
        return lambda schema: enforcer.compile(Constraint.of("json", schema))[1]
    library = import_module(f"chatplan.hooks.{backend.replace('-', '_')}").grammar_backend(model)
    return lambda schema: library.compile(Constraint.of("json", schema))


def measured(compile_schema: Compile, judge: Judge, suite: list[Case], verbose: bool) -> Counter[str]:
    """How many schemas and instances were judged right, wrong, or not at all."""
    count: Counter[str] = Counter()
    start = time.perf_counter()
    for case in suite:
        try:
            grammar = compile_schema(case.schema)
        except (CannotEnforce, RequestError, ValueError) as error:
            count.update({"schemas refused": 1, "no verdict": len(case.instances)})
            if verbose:
                print(f"  refused       {case.name}: {error}")
            continue
        wrong = [(data, valid) for data, valid in case.instances if verdict(judge, grammar, data) is not valid]
        for data, valid in case.instances:
            right = (data, valid) not in wrong
            count["valid ok" if valid and right else "invalid ok" if right else "wrong"] += 1
        for data, valid in wrong:
            count["wrong rejects" if valid else "wrong accepts"] += 1
            if verbose:
                print(f"  wrong {'reject' if valid else 'accept'}  {case.name}: {json.dumps(data)[:80]}")
        count["schemas all right"] += not wrong
    count["ms"] = int((time.perf_counter() - start) * 1000)
    return count


def verdict(judge: Judge, grammar: Grammar, data: Any) -> bool:
    """Whether the grammar accepts an instance as Python writes it, in one order of the properties or another."""
    return any(judge.accepts(grammar, json.dumps(item, ensure_ascii=False)) for item in islice(orders(data), ORDERS))


def orders(data: Any) -> Iterator[Any]:
    """An instance with its properties in all orders: it is for the schema to say in which one they are written."""
    if isinstance(data, list):
        yield from map(list, product(*(list(islice(orders(item), ORDERS)) for item in data)))
    elif isinstance(data, dict):
        for names in permutations(data):
            for values in product(*(list(islice(orders(data[name]), ORDERS)) for name in names)):
                yield dict(zip(names, values, strict=True))
    else:
        yield data


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("suite", nargs="?", type=Path, help="folder or archive of the suite")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--optional", action="store_true", help="the suite's optional part")
    parser.add_argument("--typed", action="store_true", help='add "type": "string" beside a format')
    parser.add_argument("-v", "--verbose", action="store_true", help="name what is refused or wrong")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        source = options.suite or (own_suite(folder) if options.quick else archive())
        suite = list(cases(source, options.optional, options.typed))
    info = ModelInfo.without_weights(model(options.quick))
    judge = Judge(info)
    rows = [
        "schemas all right",
        "schemas refused",
        "valid ok",
        "wrong rejects",
        "invalid ok",
        "wrong accepts",
        "no verdict",
    ]
    peer = measured(bare(info), judge, suite, verbose=False)
    found = measured(ours(info, options.backend), judge, suite, options.verbose)
    print(f"{len(suite)} schemas, {sum(len(case.instances) for case in suite)} instances")
    print(f"{'':20}{options.backend:>12}{'llguidance':>12}")
    for row in [*rows, "ms"]:
        print(f"{row:20}{found[row]:12}{peer[row]:12}")


if __name__ == "__main__":
    main()
