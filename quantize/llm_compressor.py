"""AWQ with llm-compressor: vLLM's own tool and AutoAWQ's maintained successor. It writes compressed-tensors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from judge.errors import printable
from judge.prompting.encoding import load_tokenizer
from judge.runs.progress import Progress
from quantize.back_end import BackEnd, Job, load_for_calibration, quiet, sixteen_bits
from quantize.layers import Layers
from quantize.settings import BackEndName


class LlmCompressor(BackEnd):
    """The default back end (`quantize.back_end.BackEnd`)."""

    name: BackEndName = "llm-compressor"
    packages: tuple[str, ...] = ("llmcompressor", "compressed-tensors", "loguru")
    layout = "pack-quantized"
    copies = 1
    padded = False

    def refusal(self, layers: Layers, model_type: str) -> str | None:
        """Return why llm-compressor cannot quantise a model, or None.

        For an unknown architecture the library takes Llama's names and skips the layers that they do not match.
        """
        with quiet("llmcompressor"):
            from llmcompressor.modifiers.transform.awq.dynamic_mappings import AWQ_DYNAMIC_MAPPING_REGISTRY
            from llmcompressor.modifiers.transform.awq.mappings import AWQ_MAPPING_REGISTRY
        del model_type  # the library goes by the class
        known = {*AWQ_MAPPING_REGISTRY, *AWQ_DYNAMIC_MAPPING_REGISTRY}
        if layers.architecture in known:
            return None
        return f"llm-compressor's AWQ does not know the architecture {printable(layers.architecture)}"

    def run(self, job: Job, progress: Progress) -> dict[str, Any]:
        """Quantise and write config and weights."""
        progress.step("loading the model")
        with quiet("llmcompressor"), _no_pinning():
            from llmcompressor import oneshot
            from llmcompressor.core import reset_session

            model = load_for_calibration(job)
            try:
                oneshot(
                    model=model,
                    processor=load_tokenizer(job.model.path),
                    dataset=_loader(job.ids),
                    recipe=_recipe(job, progress),
                    num_calibration_samples=len(job.ids),
                )
                progress.step("writing the 4-bit model")
                dtype = _save(model, job)
            finally:
                reset_session()  # holds the model otherwise
        return {"dtype": dtype}


def _loader(ids: list[list[int]]) -> Any:
    """Return the prompts one by one, as they are: the library's own loader would shuffle and cut them."""
    import torch
    from torch.utils.data import DataLoader

    tensors = [torch.tensor([row]) for row in ids]
    rows: Any = [{"input_ids": row, "attention_mask": torch.ones_like(row)} for row in tensors]
    return DataLoader(rows, batch_size=None, shuffle=False)


def _recipe(job: Job, progress: Progress) -> list[Any]:
    """Return the two steps: AWQ's scaling, and rounding, without which the weights would stay floats."""
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
    from llmcompressor.modifiers.quantization import QuantizationModifier
    from llmcompressor.modifiers.transform.awq import AWQModifier

    done = 0

    class Watched(AWQModifier):  # type: ignore[misc]
        def on_sequential_epoch_end(self, state: Any, event: Any, **kwargs: Any) -> None:
            nonlocal done
            has_layers = bool(self._smooth_activation_stats)  # the last part of the model, the head, has no layers
            super().on_sequential_epoch_end(state, event, **kwargs)
            if has_layers:
                done += 1
                job.tell(progress, done)

    weights = QuantizationArgs(num_bits=4, type="int", symmetric=False, strategy="group", group_size=job.group_size)
    scheme = QuantizationScheme(targets=["Linear"], weights=weights)
    return [
        # half of the grid with the weights' sizes in the scale, half without (the paper's form)
        Watched(duo_scaling="both", n_grid=job.settings.grid),
        QuantizationModifier(config_groups={"group_0": scheme}, ignore=[job.layers.head]),
    ]


@contextmanager
def _no_pinning() -> Iterator[None]:
    """Switch the pinning of cached activations off on a machine without an accelerator, where it raises."""
    import torch
    from llmcompressor.pipelines.cache import IntermediatesCache

    if torch.accelerator.is_available():
        yield
        return
    original = IntermediatesCache.pin_memory
    IntermediatesCache.pin_memory = lambda *_, **__: None
    try:
        yield
    finally:
        IntermediatesCache.pin_memory = original


def _save(model: Any, job: Job) -> str:
    """Round to codes and write; return the format of what stays in 16 bits.

    The scales are rounded to 16 bits, as they are stored, before the codes are chosen for them in float32. Rounded
    afterwards, they would move the weights of a group by up to 15 times the error of its scale.
    """
    import torch
    from compressed_tensors import ModelCompressor

    floats = [t for t in model.state_dict().values() if t.is_floating_point() and t.numel()]
    name = sixteen_bits(job.model.dtype)
    if name == "float16" and max(float(t.abs().max()) for t in floats) > torch.finfo(torch.float16).max:
        name = "bfloat16"
    dtype = getattr(torch, name)
    smallest = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
    for module in model.modules():
        if getattr(module, "quantization_scheme", None) is not None:
            module.weight.data = module.weight.data.float()
            scale = module.weight_scale.data.float().clamp(min=smallest)
            module.weight_scale.data = scale.to(dtype).float()
    ModelCompressor.from_pretrained_model(model).compress_model(model)
    model.to(dtype)
    model.config.dtype = dtype
    model.config.use_cache = job.model.config.get("use_cache", True)  # calibration has switched it off
    model.save_pretrained(str(job.target), safe_serialization=True)
    (job.target / "recipe.yaml").unlink(missing_ok=True)  # judge.json has the record
    return name
