"""Which models ``llm`` is told of: those in the hub's cache, and those that were added."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import llm
from huggingface_hub import CachedRevisionInfo, CacheNotFound, scan_cache_dir

__all__ = ["added_models", "cached_models", "known_models", "save_models"]


def known_models() -> list[str]:
    """Names on the hub, and absolute paths of folders."""
    return list(dict.fromkeys([*added_models(), *cached_models()]))


def added_models() -> list[str]:
    """What ``llm chatplan add`` has kept, oldest first."""
    file = _file()
    return list(json.loads(file.read_text("utf-8"))) if file.is_file() else []


def save_models(names: list[str]) -> None:
    """Keep these and no others."""
    _file().write_text(json.dumps(names, indent=2) + "\n", "utf-8")


def cached_models(cache: Path | None = None) -> Iterator[str]:
    """Causal language models with a chat template in the hub's cache, by their names on the hub."""
    try:
        repos = scan_cache_dir(cache).repos
    except CacheNotFound:
        return
    for repo in sorted(repos, key=lambda repo: repo.repo_id):
        if repo.repo_type == "model" and any(map(_can_chat, repo.revisions)):
            yield repo.repo_id


def _can_chat(revision: CachedRevisionInfo) -> bool:
    files = {file.file_name: file.file_path for file in revision.files}
    config = files.get("config.json")
    if config is None or "ForCausalLM" not in config.read_text("utf-8"):
        return False
    tokenizer = files.get("tokenizer_config.json")
    return "chat_template.jinja" in files or (
        tokenizer is not None and '"chat_template"' in tokenizer.read_text("utf-8")
    )


def _file() -> Path:
    folder: Path = llm.user_dir()  # type: ignore[no-untyped-call]
    return folder / "chatplan-models.json"
