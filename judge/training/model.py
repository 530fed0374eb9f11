"""The model to train: where and in which number format, its weights, and a new adapter or one to go on with."""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

from judge.errors import JudgeError, printable, suggestion
from judge.models.bundle import ModelFolder, open_model
from judge.models.load import load_weights
from judge.training.settings import TrainSettings

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

Dtype = Literal["float32", "float16", "bfloat16"]


@dataclass(frozen=True)
class TrainingMachine:
    """Where a run trains: this process's place among those that train together (`accelerate launch`), and its card.

    `dtype` is the arithmetic of the forward pass; adapters and the optimizer keep float32 in any case.
    """

    device: Literal["cpu", "cuda"]
    dtype: Dtype
    processes: int = 1
    index: int = 0
    local_index: int = 0


def require_libraries(settings: TrainSettings) -> None:
    """Check that what the run needs is installed.

    Raises:
        JudgeError: a library is missing; the text says how to install it.
    """
    needed = ["trl", "accelerate", "datasets"]
    if settings.method != "full":
        needed.append("peft")
    if settings.method == "qlora" or "8bit" in settings.optimizer:
        needed.append("bitsandbytes")
    missing = [name for name in needed if find_spec(name) is None]
    if missing:
        raise JudgeError(f"training needs {', '.join(missing)}, not installed here: pip install {' '.join(missing)}")
    if not settings.report_to:
        return
    from transformers.integrations import get_available_reporting_integrations
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

    for name in settings.report_to:
        if name not in INTEGRATION_TO_CALLBACK:
            hint, known = suggestion(name, INTEGRATION_TO_CALLBACK), ", ".join(INTEGRATION_TO_CALLBACK)
            raise JudgeError(f"report_to={printable(name)}: unknown{hint}; known: {known}")
        if name not in get_available_reporting_integrations():
            raise JudgeError(f"report_to={name}: the package is not installed: pip install {name}")


def choose_machine(settings: TrainSettings) -> TrainingMachine:
    """Return where and in which number format to train.

    A GPU before compute capability 8.0, such as the T4, gets float16: it has no bfloat16, and PyTorch emulates it
    slowly.

    Raises:
        JudgeError: the device is not there, does not have the format, or the method needs a GPU.
    """
    import torch
    from accelerate import PartialState

    for name in ("FSDP", "DEEPSPEED"):
        if os.environ.get(f"ACCELERATE_USE_{name}", "false").lower() == "true":
            raise JudgeError(f"judge train does not shard weights ({name}); use a launcher config without it, or qlora")
    found = torch.cuda.is_available()
    if settings.device == "cuda" and not found:
        raise JudgeError("--device=cuda, but no GPU is visible to PyTorch (or this is its CPU build); see nvidia-smi")
    device: Literal["cpu", "cuda"] = "cuda" if found and settings.device != "cpu" else "cpu"
    if device == "cpu" and settings.optimizer == "paged_adamw_8bit":
        raise JudgeError("optimizer=paged_adamw_8bit needs a GPU; on a CPU use adamw_torch")
    state = PartialState(cpu=device == "cpu")
    native = device == "cuda" and torch.cuda.get_device_capability() >= (8, 0)
    dtype = choose_training_dtype(settings.dtype, device, native)
    return TrainingMachine(device, dtype, state.num_processes, state.process_index, state.local_process_index)


def choose_training_dtype(wanted: str, device: str, native_bfloat16: bool) -> Dtype:
    """Return the arithmetic of the forward pass (see `choose_machine`)."""
    if device == "cpu":
        if wanted == "float16":
            raise JudgeError("dtype=float16 trains on a GPU only; on a CPU use float32")
        return "bfloat16" if wanted == "bfloat16" else "float32"
    if wanted == "bfloat16" and not native_bfloat16:
        raise JudgeError("dtype=bfloat16, but this GPU (before compute capability 8.0) has none; use float16")
    if wanted == "auto":
        return "bfloat16" if native_bfloat16 else "float16"
    return {"float32": "float32", "float16": "float16", "bfloat16": "bfloat16"}[wanted]  # type: ignore[return-value]


def open_base(settings: TrainSettings) -> tuple[ModelFolder, ModelFolder | None]:
    """Return the base model and, with `continue_from`, the bundle to go on from.

    Raises:
        JudgeError: one of them cannot be used, or they do not belong together.
    """
    base = open_model(settings.model)
    if base.adapter is not None:
        raise JudgeError(
            f"{settings.model}: is an adapter, not a base model; give the base as model, and the adapter as "
            "continue_from to train it further"
        )
    method = base.quantization_method
    if method not in (None, "bitsandbytes", "unknown"):  # the first configs of bitsandbytes did not name it
        raise JudgeError(
            f"{settings.model}: its weights are quantised already ({printable(method)}), which cannot be trained on; "
            "give the 16-bit model (method=qlora quantises it while it trains)"
        )
    layers = int(base.text_config.get("num_hidden_layers", 0))
    if settings.freeze_layers and settings.freeze_layers >= layers:
        raise JudgeError(f"freeze_layers={settings.freeze_layers}: the model has {layers} layers; leave some to train")
    if settings.continue_from is None:
        return base, None
    full = settings.method == "full"
    bundle = open_model(settings.continue_from, base=None if full else base.path)
    if full and bundle.adapter is not None:
        raise JudgeError(f"{settings.continue_from}: is an adapter; method=full goes on from a whole model")
    if not full and bundle.adapter is None:
        raise JudgeError(f"{settings.continue_from}: holds no adapter; give it as model to train a new one on it")
    bundle.digest()  # refuses another base than the adapter's
    return base, bundle


def load_model(settings: TrainSettings, base: ModelFolder, bundle: ModelFolder | None, machine: TrainingMachine) -> Any:
    """Load the model and put an adapter on it, unless the method is `full`, which trains the model itself.

    Adapters are float32 in every number format: the gradient scaler of float16 needs float32, and bfloat16 would lose
    small updates. With method `full` the weights are float32, and autocast chooses the arithmetic.

    Raises:
        JudgeError: no layer has a name in `target_modules`.
    """
    import torch
    from transformers import BitsAndBytesConfig, set_seed

    set_seed(settings.seed)  # the first values of a new adapter
    full = settings.method == "full"
    stored = torch.float32 if full else getattr(torch, machine.dtype)
    options: dict[str, Any] = {}
    if settings.method == "qlora":
        options = {
            # NF4 with quantised constants, as in the QLoRA paper (Dettmers et al. 2023)
            "quantization_config": BitsAndBytesConfig(
                load_in_4bit=True,
                bnb_4bit_quant_type="nf4",
                bnb_4bit_use_double_quant=True,
                bnb_4bit_compute_dtype=stored,
            ),
            "device_map": {"": machine.local_index if machine.device == "cuda" else "cpu"},
        }
    folder = bundle if bundle is not None and full else base
    model = load_weights(folder.path, dtype=stored, trust_remote_code=settings.trust_remote_code, **options)
    model.config.use_cache = False
    if full:
        return model
    from peft import PeftModel, get_peft_model

    # peft's prepare_model_for_kbit_training would cast embeddings and head to float32: 4 GB for Llama-3-8B.
    if bundle is not None and bundle.adapter is not None:
        return PeftModel.from_pretrained(model, bundle.adapter.path, is_trainable=True)
    try:
        return get_peft_model(model, adapter_config(settings, model))
    except ValueError as error:
        if "target" not in str(error).lower():
            raise
        raise JudgeError(
            f"target_modules={settings.target_modules}: no layer of the model has such a name; "
            f"it has {', '.join(_linear_names(model))}"
        ) from None


def adapter_config(settings: TrainSettings, model: PreTrainedModel) -> Any:
    """Return PEFT's description of an adapter on this model."""
    from peft import LoraConfig

    names = [name.strip() for name in settings.target_modules.split(",")]
    layers = model.config.get_text_config().num_hidden_layers
    if settings.freeze_layers and names == ["all-linear"]:  # PEFT takes chosen layers with names only
        names = [name for name in _linear_names(model) if name != "lm_head"]
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=settings.lora_rank,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        target_modules="all-linear" if names == ["all-linear"] else names,
        layers_to_transform=list(range(settings.freeze_layers, layers)) if settings.freeze_layers else None,
        use_rslora=settings.rslora,
        use_dora=settings.dora,
        bias="none",
    )


def _linear_names(model: Any) -> list[str]:
    import torch

    return sorted({name.split(".")[-1] for name, m in model.named_modules() if isinstance(m, torch.nn.Linear)})


def trained_values(model: Any) -> dict[str, torch.Tensor]:
    """Return a float32 copy of the adapter on a 4-bit base, which TRL rounds; nothing for other models."""
    if not getattr(model, "is_loaded_in_4bit", False):
        return {}
    return {name: p.detach().float().clone() for name, p in model.named_parameters() if p.requires_grad}


def restore_trained(model: Any, values: dict[str, torch.Tensor]) -> None:
    """Put the float32 values back: TRL rounds adapters on a 4-bit base to bfloat16, which no gradient scaler takes."""
    for name, parameter in model.named_parameters():
        if name in values:
            parameter.data = values[name]
