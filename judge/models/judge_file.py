"""`judge.json` makes a model folder a judge: template, verdicts, budget, base model, and how it was trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from judge.errors import JudgeError, printable
from judge.files import whole_file
from judge.models.calibration import Calibration
from judge.prompting.budget import Policy
from judge.prompting.template import Template, make_template

FILE = "judge.json"


class Base(BaseModel):
    """The model that an adapter belongs to, or that full fine-tuning began with.

    Attributes:
        path: its folder when the judge was trained.
        digest: `judge.models.bundle.ModelFolder.digest` of it.
        revision: the commit of the model hub, if the folder's path names one.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str
    digest: str
    revision: str | None = None


class JudgeFile(BaseModel):
    """The content of `judge.json`.

    Attributes:
        template: the whole prompt template, so that the bundle needs no other file.
        verdict_ids: token ids of A, B and tie after the cue.
        max_tokens, truncation, shares: the budget that prompts were built with.
        prompt_fingerprint: `judge.prompting.builder.PromptBuilder.fingerprint` at training.
        training: settings, data, seed, steps and versions of the run.
        metrics: held-out figures before and after, and the baselines.
        stages: what was done to the trained weights since, in order: each has a `stage` (`merged`, `quantized`) and its
            figures.
        calibration: what `judge calibrate` stored; `judge.models.bundle.ModelFolder.digest` leaves it out.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: int = 1
    template: dict[str, Any]
    template_digest: str
    verdict_ids: tuple[int, int, int]
    max_tokens: int
    truncation: Policy
    shares: tuple[float, float]
    prompt_fingerprint: str
    method: str
    base: Base
    training: dict[str, Any] = {}
    metrics: dict[str, Any] = {}
    stages: tuple[dict[str, Any], ...] = ()
    calibration: Calibration | None = None

    def setting(self, name: str, default: Any = None) -> Any:
        """Return a setting of the run that trained the judge."""
        settings = self.training.get("settings")
        return settings.get(name, default) if isinstance(settings, dict) else default

    def with_stage(self, stage: str, **figures: Any) -> JudgeFile:
        """Return the content with one more stage at the end."""
        return self.model_copy(update={"stages": (*self.stages, {"stage": stage, **figures})})

    def uncalibrated(self) -> JudgeFile:
        """Return the content without its calibration, for weights that it was not fitted to."""
        return self.model_copy(update={"calibration": None})

    def stored_template(self) -> Template:
        """Return the prompt template that the judge was trained with.

        Raises:
            JudgeError: it is not a valid template.
        """
        return make_template(self.template, FILE)


def write_judge_file(folder: Path, content: JudgeFile) -> None:
    """Write `judge.json` into a folder that is not yet under its final name."""
    text = json.dumps(content.model_dump(mode="json"))
    text = with_calibration(text, content.calibration)  # without one, it has no such key
    (folder / FILE).write_text(text, encoding="utf-8")


def with_calibration(text: str, calibration: Calibration | None) -> str:
    """Return the text of a `judge.json` with this calibration, or with none, and all else as it was.

    Stored and removed again, a calibration leaves byte for byte what `write_judge_file` wrote.

    Raises:
        ValueError: not a JSON object.
    """
    values = json.loads(text)
    if not isinstance(values, dict):
        raise ValueError("expected a JSON object")
    values.pop("calibration", None)
    if calibration is not None:
        values["calibration"] = calibration.model_dump(mode="json")
    return json.dumps(values, indent=1) + "\n"


def store_calibration(folder: Path, calibration: Calibration | None) -> None:
    """Put a calibration into a bundle's `judge.json`, or take it out (None); the rest of the file stays as it is.

    Raises:
        JudgeError: the file cannot be read or written.
    """
    path = folder / FILE
    try:
        text = with_calibration(path.read_text(encoding="utf-8"), calibration)
        with whole_file(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    except (OSError, ValueError) as error:
        raise JudgeError(f"{path}: the calibration cannot be stored ({printable(str(error), 160)})") from None


def read_judge_file(folder: Path) -> JudgeFile | None:
    """Return the folder's `judge.json`, or None if it has no such file.

    Raises:
        JudgeError: it is not JSON or not of this layout, or its template does not have the hash that it states.
    """
    path = folder / FILE
    if not path.exists():
        return None
    try:
        content = JudgeFile.model_validate(json.loads(path.read_text(encoding="utf-8")))
        digest = content.stored_template().digest
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise JudgeError(f"{path}: is not a judge's file ({printable(place)}: {first['msg']})") from None
    except JudgeError as error:
        raise JudgeError(f"{path.parent / str(error)}") from None
    except (ValueError, OSError, RecursionError) as error:
        raise JudgeError(f"{path}: cannot be read ({printable(str(error), 160)})") from None
    if digest != content.template_digest:
        raise JudgeError(f"{path}: its template is not the one that the judge was trained with (the hash differs)")
    return content
