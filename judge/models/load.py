"""Models of transformers from a folder: with their weights, or as layers alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from judge.errors import JudgeError, printable


def load_weights(folder: Path, **options: Any) -> Any:
    """Return the causal language model of a folder with its weights, a `PreTrainedModel`.

    Args:
        options: for `from_pretrained`, such as `dtype`.

    Raises:
        JudgeError: tensors of the model are not in its files; transformers would fill them with random numbers.
    """
    from transformers import AutoModelForCausalLM

    settings = {"local_files_only": True, "trust_remote_code": False, "use_safetensors": True, **options}
    model, info = AutoModelForCausalLM.from_pretrained(str(folder), output_loading_info=True, **settings)
    missing = sorted(info["missing_keys"])
    if missing:
        raise JudgeError(
            f"{folder}: {len(missing)} tensors of the model are not in its files, first {printable(missing[0], 120)}; "
            "they would be random"
        )
    return model


def load_layers(folder: Path) -> Any:
    """Return the causal language model of a folder with its layers, but without memory for its weights.

    Raises:
        JudgeError: transformers does not know the architecture.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except Exception as error:  # transformers raises many kinds; all mean the same here
        reason = printable(" ".join(str(error).split()), 200)
        raise JudgeError(f"{folder}: transformers cannot build this model ({reason})") from None
