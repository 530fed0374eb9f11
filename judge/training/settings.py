"""The settings of a training run: one flat model, read from a YAML file and from flags."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from judge.errors import JudgeError, parse_settings, printable
from judge.prompting.budget import Policy
from judge.tables.comparison import Cells

Method = Literal["lora", "qlora", "full"]
Swap = Literal["off", "random", "both"]
Loss = Literal["verdicts", "vocabulary"]

# LoRA wants a rate ten to a hundred times that of full fine-tuning (Hu et al. 2021, tables 9 to 12).
DEFAULT_LEARNING_RATE = {"lora": 2e-4, "qlora": 2e-4, "full": 1e-5}


def _field(default: Any, text: str, **limits: Any) -> Any:
    return Field(default=default, description=text, **limits)


class TrainSettings(BaseModel):
    """How a judge is trained; every field is a key of the config file and a flag of `judge train`."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    # what is trained
    model: str = _field(..., "Folder of the base model (safetensors).")
    method: Method = _field("lora", "What is trained: an adapter, an adapter on a 4-bit base (NF4), or all weights.")
    continue_from: str | None = _field(None, "Start a new run from this bundle's adapter or weights.")
    lora_rank: int = _field(16, "Rank of the adapter.", ge=1)
    lora_alpha: float = _field(32.0, "Scale of the adapter; it is multiplied by alpha/rank.", gt=0)
    lora_dropout: float = _field(0.0, "Dropout before the adapter.", ge=0, lt=1)
    target_modules: str = _field("all-linear", "Layers that get an adapter: all-linear, or names joined by commas.")
    freeze_layers: int = _field(0, "Layers, from the input on, that get no adapter.", ge=0)
    rslora: bool = _field(False, "Scale by alpha/sqrt(rank) instead (rsLoRA).")
    dora: bool = _field(False, "Also train the weights' magnitudes (DoRA; vLLM reads it only after merging).")
    trust_remote_code: bool = _field(False, "Run the Python code that the model's folder brings along.")
    # data
    data: tuple[str, ...] = _field(..., "Table of labelled comparisons; may be given more than once.", min_length=1)
    eval_data: str | None = _field(None, "Table to evaluate on; without it, part of the data is held out.")
    holdout: float = _field(0.1, "Share of the rows to hold out, by whole prompts.", gt=0, lt=1)
    fold: str | None = _field(None, "Hold out fold K of N (such as 2/5) instead, for out-of-fold predictions.")
    cells: Cells = _field("auto", "Cells are JSON lists (json), plain text (plain), or either (auto).")
    source_weights: dict[str, float] = _field({}, "Weight of each source (column source, or the file's name).")
    soft_weight: float = _field(0.0, "Share of the loss that soft labels (columns p_a, p_b, p_tie) get.", ge=0, le=1)
    soft_loss: Literal["ce", "kl"] = _field("ce", "How soft labels are compared; the gradients are the same.")
    allow_missing_class: bool = _field(False, "Train although a class never occurs (a table without ties).")
    # prompt
    template: str = _field("side-by-side", "Prompt template: a shipped name or a .yaml file.")
    max_tokens: int | None = _field(None, "Longest prompt in tokens. [default: 2048, or what the model takes]", gt=0)
    truncation: Policy = _field("middle", "Where over-long texts are cut.")
    shares: tuple[float, float] = _field((0.2, 0.4), "Weights of the prompt and of each response in the budget.")
    swap: Swap = _field("random", "Show A and B exchanged: never, at random each epoch, or both orders.")
    # loss
    loss: Loss = _field("vocabulary", "Cross-entropy over the whole vocabulary, or over the three verdicts.")
    label_smoothing: float = _field(0.0, "Share of each hard label spread evenly over the three.", ge=0, lt=1)
    # optimisation
    epochs: float = _field(1.0, "How often each row is shown.", gt=0)
    max_steps: int | None = _field(None, "End after this many optimizer steps.", ge=1)
    batch_size: int = _field(8, "Rows a device takes at once.", ge=1)
    accumulation: int = _field(1, "Batches that make up one optimizer step.", ge=1)
    learning_rate: float | None = _field(None, "Peak learning rate. [default: 2e-4, full: 1e-5]", gt=0)
    schedule: Literal["cosine", "linear", "constant"] = _field("cosine", "How the learning rate falls.")
    warmup: float = _field(0.05, "Share of the steps in which the learning rate rises.", ge=0, lt=1)
    weight_decay: float = _field(0.0, "Weight decay of AdamW.", ge=0)
    max_grad_norm: float = _field(1.0, "Gradients are clipped to this norm.", gt=0)
    optimizer: Literal["adamw_torch", "adamw_torch_fused", "adamw_8bit", "paged_adamw_8bit"] = _field(
        "adamw_torch", "Optimizer; the 8-bit ones need bitsandbytes and a GPU."
    )
    seed: int = _field(0, "Seed of the split, the order of the rows and the adapter's first values.", ge=0)
    # machine
    device: Literal["auto", "cpu", "cuda"] = _field("auto", "Where to train.")
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = _field("auto", "Arithmetic of the forward pass.")
    gradient_checkpointing: bool | None = _field(None, "Compute activations twice to save memory. [default: on a GPU]")
    # evaluation and logs
    evaluations: int = _field(4, "Evaluations on the held-out rows, evenly over the run.", ge=1)
    eval_batch_size: int | None = _field(None, "Rows a device takes at once to evaluate. [default: batch size]", ge=1)
    patience: int | None = _field(None, "End after this many evaluations without a better log loss.", ge=1)
    log_every: int = _field(10, "Steps between two lines of the metrics file.", ge=1)
    report_to: tuple[str, ...] = _field((), "Also log to tensorboard, wandb, mlflow and others; once for each.")

    @field_validator("shares")
    @classmethod
    def _positive(cls, shares: tuple[float, float]) -> tuple[float, float]:
        if min(shares) <= 0:
            raise ValueError("both must be positive")
        return shares

    @field_validator("source_weights")
    @classmethod
    def _not_negative(cls, weights: dict[str, float]) -> dict[str, float]:
        if any(weight < 0 for weight in weights.values()):
            raise ValueError("weights must not be negative")
        return weights

    @property
    def rate(self) -> float:
        """The peak learning rate."""
        return self.learning_rate or DEFAULT_LEARNING_RATE[self.method]


def read_config(path: Path) -> dict[str, Any]:
    """Return the keys and values of a YAML config file.

    Raises:
        JudgeError: no such file, not YAML, not a mapping, or a key given twice.
    """
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise JudgeError(f"{path}: the config cannot be read ({reason})") from None
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        values = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise JudgeError(f"{path}: is not valid YAML ({printable(' '.join(str(error).split()), 160)})") from None
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise JudgeError(f"{path}: expected a mapping such as `model: FOLDER`")
    keys = [key.value for key, _ in node.value] if node is not None else []
    repeated = sorted({key for key in keys if keys.count(key) > 1})
    if repeated:
        raise JudgeError(f"{path}: {repeated[0]!r} is given twice")
    return values


def parse_train_settings(
    values: dict[str, Any], source: str = "judge train", given: Collection[str] | None = None
) -> TrainSettings:
    """Return the settings from plain values; a single table or name may stand for a list of one.

    Args:
        given: the names of those that flags gave; they win over what the others, of a config file, say.

    Raises:
        JudgeError: every unknown key, impossible value and setting that would have no effect, in one line.
    """
    values = {
        key: [value] if key in ("data", "report_to") and isinstance(value, str) else value
        for key, value in values.items()
    }
    settings = parse_settings(TrainSettings, values, source)
    unused = unused_settings(settings)
    # what a flag makes pointless in a config file is left out; what was asked for in one place is a mistake
    pointless = [name for name in unused if given is not None and name not in given]
    if pointless:
        return parse_train_settings({k: v for k, v in values.items() if k not in pointless}, source, given)
    if unused:
        raise JudgeError(f"{source}: " + "; ".join(f"{name} has no effect: {why}" for name, why in unused.items()))
    return settings


def unused_settings(settings: TrainSettings) -> dict[str, str]:
    """Return what is set and would have no effect, with the reason: a setting that nobody reads is a mistake."""
    full = settings.method == "full"
    lora = ("lora_rank", "lora_alpha", "lora_dropout", "target_modules", "freeze_layers", "rslora", "dora")
    rules: list[tuple[bool, Sequence[str], str]] = [
        (full, lora, "method is full, which has no adapter"),
        (settings.continue_from is not None and not full, lora, "continue_from takes the adapter as it is"),
        (settings.eval_data is not None, ["holdout", "fold"], "eval_data is given"),
        (settings.fold is not None, ["holdout"], "fold is given"),
        (settings.soft_weight == 0, ["soft_loss"], "soft_weight is 0"),
        (settings.max_steps is not None, ["epochs"], "max_steps is given"),
        ((settings.patience or 0) >= settings.evaluations, ["patience"], "there are no more evaluations than that"),
    ]
    given = settings.model_fields_set
    return {name: why for active, names, why in rules if active for name in names if name in given}
