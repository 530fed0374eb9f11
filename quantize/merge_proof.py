"""The proof of a merge: the verdicts of base, base with adapter, and merged model on a few built-in comparisons.

All in float32 on the CPU, with transformers and PEFT, over the full vocabulary. One model is in memory at a time.
"""

from __future__ import annotations

import gc
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from judge.engine.protocol import EngineConfig
from judge.errors import JudgeError
from judge.hardware.machine import available_memory
from judge.models.load import load_weights
from judge.models.prompting import choose_budget, choose_template, differs_from_training
from judge.prompting.builder import PromptBuilder
from judge.prompting.encoding import TextEncoder, load_tokenizer
from judge.runs.progress import Progress
from judge.scoring.settings import ScoreSettings
from judge.tables.comparison import Comparison
from quantize.merge_plan import MergePlan

# Changes of a verdict's log-probability. An adapter that changes less changes nothing; a merge may not change more.
LEAST_EFFECT = 1e-3
MOST_ERROR = 1e-3
_MEMORY_MARGIN = 2**30  # bytes for activations and the libraries

# Made-up comparisons of different lengths and kinds.
COMPARISONS = (
    Comparison(1, ("What is 7 times 8?",), ("56.",), ("It is 54.",)),
    Comparison(
        2,
        ("Write a function in Python that returns the larger of two numbers.",),
        ("def larger(a, b):\n    return a if a > b else b",),
        ("You can use the built-in function max for this, for example max(3, 5), which returns 5.",),
    ),
    Comparison(
        3,
        ("Name a river in France.", "And a longer one?"),
        ("The Seine.", "The Loire, with about 1,000 km, is the longest."),
        ("The Rhine.", "I am sorry, I do not know."),
    ),
    Comparison(
        4,
        ("Explain in a few sentences why the sky is blue.",),
        (
            "Sunlight holds all colours. On its way through the air, it meets molecules that are far smaller than its "
            "wavelength, and these scatter short waves much more than long ones. Blue light therefore reaches our eyes "
            "from all directions, while red light goes straight on. At sunset the way through the air is longer, most "
            "of the blue is gone, and what is left looks red.",
        ),
        (
            "Because it mirrors the sea, which is blue. In the evening, the sun is lower, and so it mirrors the land "
            "instead, and then the sky looks red or orange.",
        ),
    ),
)


def refused_proof(plan: MergePlan) -> str | None:
    """Return why the proof cannot be made on this machine, or None."""
    free = available_memory()
    largest = max(written.entry.values for written in plan.tensors)
    need = 4 * (plan.parameters + 2 * largest) + _MEMORY_MARGIN
    if free is None or need <= free:
        return None
    return f"the model in float32 needs {need / 1e9:,.1f} GB of memory, {free / 1e9:,.1f} GB are free"


class Proof:
    """Compares the verdicts of one merge's stages.

    Raises:
        JudgeError: the prompts cannot be built as the judge was trained.
    """

    def __init__(self, plan: MergePlan, progress: Progress) -> None:
        self._plan, self._progress = plan, progress
        model, settings = plan.model, ScoreSettings()
        encoder = TextEncoder(load_tokenizer(model.path))
        builder = PromptBuilder(encoder, choose_template(model, settings), choose_budget(model, settings))
        differs_from_training(model, settings, builder)
        self._prompts = [prompt.ids.tolist() for prompt in builder.build(COMPARISONS)]
        self._verdict_ids = builder.verdict_ids
        self._done = 0
        self._adapted = np.zeros(0)
        self.figures: dict[str, Any] = {"comparisons": len(self._prompts), "tokens": sum(map(len, self._prompts))}

    def prove_adapter(self) -> None:
        """Compare base, base with adapter, and the merged matrices before they are rounded.

        Raises:
            JudgeError: the adapter changes no verdict, or merging it does what the adapter does not.
        """
        model = load_weights(self._plan.model.path, dtype="float32").eval()
        base = self._read(model)
        model = self._with_adapter(model)
        self._adapted = self._read(model)
        effect = self._largest(self._adapted - base)
        if not effect > LEAST_EFFECT:
            raise JudgeError(
                f"{self._plan.adapter.path}: the adapter changes nothing: no verdict's log-probability moves by more "
                f"than {effect:.0e} on {len(self._prompts)} comparisons; train it longer, or take the bundle you meant"
            )
        model = model.unload()
        self._exchange(model)
        error = self._largest(self._read(model) - self._adapted)
        if not error <= MOST_ERROR:
            raise JudgeError(
                f"{self._plan.adapter.path}: merging changes the verdicts: a log-probability moves by {error:.1e} in "
                f"float32 (at most {MOST_ERROR:g} is rounding); nothing is written"
            )
        self.figures |= {"adapter_effect": effect, "merge_error": error}

    def prove_written(self, folder: Path) -> dict[str, Any]:
        """Compare what was written with base and adapter, and return the figures.

        Raises:
            JudgeError: the folder does not load as a whole model.
        """
        gc.collect()  # the model of before
        model = load_weights(folder, dtype="float32").eval()
        self.figures["rounding"] = self._largest(self._read(model) - self._adapted)
        return self.figures

    def _with_adapter(self, model: Any) -> Any:
        from judge.engine.transformers import with_adapter

        config = EngineConfig(
            model=str(self._plan.model.path),
            readout="transformers",
            verdict_ids=self._verdict_ids,
            max_prompt_tokens=max(map(len, self._prompts)),
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of tied embeddings, which the plan parts where an adapter does
            return with_adapter(model, config, str(self._plan.adapter.path)).eval()

    def _exchange(self, model: Any) -> None:
        """Put the merged matrices into a model; a layer that shared its matrix with another gets a separate one."""
        import torch

        for written in self._plan.adapted:
            assert written.adapted is not None
            merged, _ = self._plan.merged(written)
            layer = model.get_submodule(written.adapted.layer)
            layer.weight = torch.nn.Parameter(merged, requires_grad=False)

    def _read(self, model: Any) -> NDArray[np.float64]:
        """Return the verdicts' log-probabilities over the full vocabulary, shape (prompts, 3)."""
        import torch

        rows, ids = [], list(self._verdict_ids)
        with torch.inference_mode():
            for prompt in self._prompts:
                logits = model(torch.tensor([prompt]), use_cache=False, logits_to_keep=1).logits[0, -1]
                rows.append(torch.log_softmax(logits.double(), dim=-1)[ids].numpy())
                self._done += 1
                total = 4 * len(self._prompts)
                self._progress.step("comparing verdicts", self._done, total, f"{self._done / total:.0%}")
        return np.stack(rows)

    def _largest(self, difference: NDArray[np.float64]) -> float:
        largest = float(np.abs(difference).max())
        if not np.isfinite(largest):
            raise JudgeError(
                f"{self._plan.adapter.path}: the verdicts come out as NaN in float32: the weights of the base model or "
                "of the adapter are damaged"
            )
        return largest
