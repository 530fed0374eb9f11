"""AWQ with AutoAWQ 0.2.9: the classic GEMM layout that every engine reads. Its authors have retired it.

Judge replaces three of its steps, which go wrong on a judge's prompts or on a CPU:

* AutoAWQ's search for scales keeps the original weights with `.cpu()`, which copies nothing on a CPU: every scale that
  it tries stays multiplied into the weights. Judge's search restores a real copy.
* AutoAWQ joins all calibration rows and cuts the whole at one length, through prompts and verdicts. Judge pads the
  rows at their end to one length, so that the cuts fall between prompts. Attention is causal, so the padding changes
  nothing before it; statistics and loss leave the padding out.
* AutoAWQ rounds a group to the range of its weights alone. If all weights have one sign, the zero point does not fit
  4 bits and codes are clipped. Judge keeps zero in the range, as llm-compressor does.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from judge.errors import JudgeError, printable
from judge.runs.progress import Progress
from quantize.back_end import BackEnd, Job, load_for_calibration, quiet
from quantize.layers import Layers
from quantize.settings import BackEndName

_BITS = 4
# Prompts that run through a layer at once.
_AT_ONCE = 8
# AutoAWQ's search for clipping takes so many outputs of a layer at once; their number must be a multiple of it.
_CLIP_ROWS = 64


class AutoAwq(BackEnd):
    """The back end for the classic layout (`quantize.back_end.BackEnd`)."""

    name: BackEndName = "autoawq"
    packages: tuple[str, ...] = ("autoawq", "zstandard")
    layout = "awq-gemm"
    copies = 2  # the inputs, and all of them joined
    padded = True
    note = "AutoAWQ has been retired by its authors; use it only for engines that read nothing but its layout"

    def refusal(self, layers: Layers, model_type: str) -> str | None:
        """Return why AutoAWQ cannot quantise a model that is newer than the library, or None."""
        del layers  # the library goes by the model type
        with quiet("awq"):
            from awq.models.auto import AWQ_CAUSAL_LM_MODEL_MAP
        if model_type in AWQ_CAUSAL_LM_MODEL_MAP:
            return None
        return (
            f"AutoAWQ, retired in 2025, does not know the model type {printable(model_type)}; "
            "use --backend=llm-compressor"
        )

    def run(self, job: Job, progress: Progress) -> dict[str, Any]:
        """Quantise and write config and weights."""
        progress.step("loading the model")
        with quiet("awq"):
            import torch
            from awq.models._config import AwqConfig
            from awq.models.auto import AWQ_CAUSAL_LM_MODEL_MAP

            model = load_for_calibration(job)
            kind = model.config.model_type
            config = AwqConfig(w_bit=_BITS, q_group_size=job.group_size, zero_point=True, version="gemm")
            awq = AWQ_CAUSAL_LM_MODEL_MAP[kind](model, kind, False, model.config, config, None)
            config.modules_to_not_convert = getattr(awq, "modules_to_not_convert", None)
            if job.settings.clip:
                _check_clipping(model, job)
            with torch.no_grad():
                _quantizer(awq, model, job, progress).quantize()
            progress.step("writing the 4-bit model")
            _save(model, config.to_transformers_dict(), job)
        return {"dtype": "float16", "clip": job.settings.clip}


def _check_clipping(model: Any, job: Job) -> None:
    import torch

    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and name != job.layers.head and module.out_features % _CLIP_ROWS:
            raise JudgeError(
                f"AutoAWQ cannot search clipping for layer {name} with {module.out_features} outputs (it takes "
                f"{_CLIP_ROWS} at once); leave --clip away"
            )


def _quantizer(awq: Any, model: Any, job: Job, progress: Progress) -> Any:
    """Return AutoAWQ's quantizer with judge's steps and the calibration rows in it."""
    import torch
    from awq.quantize.quantizer import AwqQuantizer

    longest = max(map(len, job.ids))
    padded = [[*row, *[row[-1]] * (longest - len(row))] for row in job.ids]
    # shape (prompts, longest): true for the tokens of a prompt, false for padding
    real = torch.arange(longest)[None, :] < torch.tensor([len(row) for row in job.ids])[:, None]

    class Quantizer(AwqQuantizer):  # type: ignore[misc]
        blocks_begun = 0

        def _get_input_feat(self, layer: Any, named_linears: Any) -> Any:
            job.tell(progress, self.blocks_begun)
            self.blocks_begun += 1
            found = super()._get_input_feat(layer, named_linears)
            for values in found.values():  # (prompts, longest, inputs)
                values[~real] = 0  # so the search for clipping sees no difference in the padding
            return found

        def pseudo_quantize_tensor(self, w: torch.Tensor) -> Any:
            return round_in_groups(w, self.group_size)

        def _search_best_scale(
            self, module: Any, prev_op: Any, layers: Any, inp: Any, module2inspect: Any = None, kwargs: Any = None
        ) -> Any:
            from awq.utils.module import get_op_name

            inspected = layers[0] if module2inspect is None else module2inspect
            given = self._sanitize_kwargs({k: v for k, v in (kwargs or {}).items() if k != "use_cache"}, inspected)
            inp = inp.to(next(inspected.parameters()).device)
            scales = best_scales(
                [layer.weight for layer in layers],
                inp[real.to(inp.device)],
                lambda: self._module_forward(inp, inspected, given)[real],
                self.group_size,
                job.settings.grid,
            )
            return get_op_name(module, prev_op), tuple(get_op_name(module, layer) for layer in layers), scales.cpu()

    return Quantizer(
        awq, model, None, _BITS, job.group_size, True, "gemm", padded, None, None, True,
        modules_to_not_convert=awq.quant_config.modules_to_not_convert,
        apply_clip=job.settings.clip,
        n_parallel_calib_samples=_AT_ONCE,
        max_calib_samples=len(padded),
        max_calib_seq_len=longest,
    )  # fmt: skip


def round_in_groups(weight: Any, group_size: int) -> tuple[Any, Any, Any]:
    """Round a weight to 4 bits and back, asymmetrically, with zero in the range of every group.

    Args:
        weight: (outputs, inputs).

    Returns:
        The rounded weight, the scales and the zero points (whole numbers as floats), both (outputs, groups).
    """
    groups = weight.reshape(-1, group_size)
    most = 2**_BITS - 1
    high = groups.amax(dim=1, keepdim=True).clamp(min=0)
    low = groups.amin(dim=1, keepdim=True).clamp(max=0)
    scales = (high - low).clamp(min=1e-5) / most
    zeros = (-(low / scales).round()).clamp(0, most)
    codes = ((groups / scales).round() + zeros).clamp(0, most)
    shape = (weight.shape[0], -1)
    return ((codes - zeros) * scales).view(weight.shape), scales.view(shape), zeros.view(shape)


def best_scales(weights: Sequence[Any], inputs: Any, forward: Any, group_size: int, grid: int) -> Any:
    """Search the input scales with which 4-bit weights change a module's output least (AWQ, equation 5).

    Args:
        weights: the parameters (outputs, inputs) of layers that read the same input; they change during the search
            and are restored at its end.
        inputs: what these layers read, shape (tokens, inputs).
        forward: returns the output of the module around them, (tokens, …).
        grid: how many exponents of the activations' size are tried, from 0 on.

    Returns:
        One scale an input channel.
    """
    import torch

    originals = [weight.data.clone() for weight in weights]
    together = torch.cat(originals)
    in_groups = together.view(-1, group_size).abs()
    # mean size of each channel's weights, relative to the largest weight of their group
    size = (in_groups / (in_groups.amax(dim=1, keepdim=True) + 1e-6)).view(together.shape).mean(0)
    activity = inputs.abs().float().mean(0).to(size)
    wanted = forward()
    best, best_error = torch.ones_like(size), float("inf")
    for step in range(grid):
        ratio = step / grid
        scales = (activity.pow(ratio) / (size.pow(1 - ratio) + 1e-4)).clamp(min=1e-4)
        scales = (scales / (scales.max() * scales.min()).sqrt()).nan_to_num(1.0, 1.0, 1.0)
        for weight, original in zip(weights, originals, strict=True):
            weight.data = round_in_groups(original * scales, group_size)[0] / scales
        error = float((forward() - wanted).float().pow(2).mean())
        if error < best_error:
            best, best_error = scales.clone(), error
    for weight, original in zip(weights, originals, strict=True):
        weight.data = original
    if best_error == float("inf"):
        raise JudgeError("the model computes no finite numbers on the calibration prompts; nothing is kept")
    return best.detach()


def _save(model: Any, quantization: dict[str, Any], job: Job) -> None:
    """Write weights in float16, and the source's config with their format and their quantisation."""
    import torch
    from huggingface_hub import save_torch_state_dict

    tensors = model.half().state_dict()
    if model.config.get_text_config().tie_word_embeddings:
        tensors.pop(f"{job.layers.head}.weight", None)
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise JudgeError(
                f"{job.model.path}: {printable(name)} holds values beyond float16, which AutoAWQ's layout needs; use "
                "--backend=llm-compressor"
            )
    save_torch_state_dict(tensors, job.target, max_shard_size="5GB", safe_serialization=True)
    config = json.loads((job.model.path / "config.json").read_text(encoding="utf-8"))
    for part in (config, config.get("text_config") or {}):
        for key in ("dtype", "torch_dtype"):
            if key in part:
                part[key] = "float16"
    config.setdefault("dtype", "float16")
    config["quantization_config"] = quantization
    (job.target / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
