"""Asks vLLM's own code what it would choose on cards that are not here; prints the answers as JSON.

Run in a process of its own: it puts a CUDA platform of any capability in the place of the one that vLLM found. No
kernel is run. Humming counts as installed, as it is with vLLM's CUDA wheel.
"""

from __future__ import annotations

import inspect
import itertools
import json
import sys
import types

CAPABILITIES = ((7, 5), (8, 0), (8, 9), (9, 0))
GROUPS = (-1, 16, 32, 64, 128, 256)
HEADS = (64, 96, 128, 256, 512)


def main() -> None:
    """Print {question: answer}."""
    sys.modules["vllm._C_stable_libtorch"] = types.ModuleType("vllm._C_stable_libtorch")  # a library of the CUDA wheel
    import torch
    import vllm.platforms as platforms
    from vllm.platforms import cuda
    from vllm.platforms.interface import DeviceCapability

    class Injected(cuda.CudaPlatformBase):  # type: ignore[misc]
        capability = (7, 5)
        imported = False  # while modules are imported, vLLM asks CUDA libraries

        @classmethod
        def get_device_capability(cls, device_id: int = 0) -> DeviceCapability:  # noqa: ARG003 - vLLM's signature
            return DeviceCapability(*cls.capability)

        def is_cuda(self) -> bool:
            return self.imported

        def is_cuda_alike(self) -> bool:
            return self.imported

    platforms._current_platform = Injected()
    from vllm.config.model import _FLOAT16_NOT_SUPPORTED_MODELS
    from vllm.distributed.device_communicators.custom_all_reduce import CustomAllreduce
    from vllm.model_executor.kernels.linear import MPLinearLayerConfig, choose_mp_linear_kernel
    from vllm.model_executor.kernels.linear.mixed_precision import humming
    from vllm.model_executor.layers.quantization import QUANTIZATION_METHODS, get_quantization_config
    from vllm.scalar_type import scalar_types
    from vllm.v1.attention.selector import AttentionSelectorConfig

    humming.has_humming = lambda: True
    methods = ("awq", "gptq", "compressed-tensors", "fp8", "mxfp4")
    answers: dict[str, object] = {
        "no float16": sorted(_FLOAT16_NOT_SUPPORTED_MODELS),
        "methods": QUANTIZATION_METHODS,
        "begin": {name: get_quantization_config(name).get_min_capability() for name in methods},
        "all-reduce": inspect.signature(CustomAllreduce.__init__).parameters["max_size"].default,
        "dtypes": {},
        "kernels": {},
        "attention": {},
    }
    dtypes = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}
    for capability in CAPABILITIES:
        for dtype, head in itertools.product(dtypes, HEADS):
            config = AttentionSelectorConfig(head, dtypes[dtype], "auto", None)
            valid, _ = cuda.CudaPlatformBase.get_valid_backends(DeviceCapability(*capability), config, 32)
            answers["attention"][str((capability, dtype, head))] = valid[0].backend.name  # type: ignore[index]
    Injected.imported = True
    types_of = {
        (4, True): scalar_types.uint4,
        (4, False): scalar_types.uint4b8,
        (8, True): scalar_types.uint8,
        (8, False): scalar_types.uint8b128,
    }
    for capability in CAPABILITIES:
        Injected.capability = capability
        answers["dtypes"][str(capability)] = [str(t).removeprefix("torch.") for t in Injected().supported_dtypes]  # type: ignore[index]
        for (key, kind), group, dtype in itertools.product(types_of.items(), GROUPS, ("float16", "bfloat16")):
            layer = MPLinearLayerConfig((4096, 4096), (4096, 4096), kind, dtypes[dtype], group, key[1])
            chosen = choose_mp_linear_kernel(layer, capability[0] * 10 + capability[1])
            answers["kernels"][str((capability, *key, group, dtype))] = chosen.__name__  # type: ignore[index]
    Injected.imported = False
    from judge.engine.protocol import EngineConfig
    from judge.engine.vllm import engine_arguments

    configs = [EngineConfig(model="m", verdict_ids=(1, 2, 3), max_prompt_tokens=9, tensor_parallel=n) for n in (1, 2)]
    answers["all-reduce off"] = {c.tensor_parallel: engine_arguments(c)["disable_custom_all_reduce"] for c in configs}
    print("\n" + json.dumps(answers))


if __name__ == "__main__":
    main()
