"""The Python interface: `Judge` scores DataFrames."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from judge.deadline import parse_deadline
from judge.errors import parse_settings
from judge.models.bundle import open_model
from judge.scoring.settings import ScoreSettings
from judge.tables.comparison import Cells
from judge.tables.table import OnBadRow, Table

if TYPE_CHECKING:
    import pandas as pd

    from judge.runs.progress import Progress
    from judge.scoring.scorer import Scorer


class Judge:
    """A pairwise judge: a causal language model with a prompt template.

    The first call of `score` starts the engine, in other processes; it stays until `close`. Nothing else is kept
    between calls.

    Args:
        model: folder of the model, or judge bundle.
        base: the base model of an adapter, where it is not in the folder that the adapter names.
        settings: every field of `judge.scoring.settings.ScoreSettings`, such as `template="rubric"`, `swap="all"`,
            `max_tokens=1024`.

    Raises:
        JudgeError: an unknown or impossible setting, or a folder that cannot be used as a model.

    Example:
        >>> import pandas as pd
        >>> from judge import Judge
        >>> frame = pd.DataFrame(
        ...     {
        ...         "id": [1],
        ...         "prompt": ["What is 2 + 2?"],
        ...         "response_a": ["4"],
        ...         "response_b": ["Fish."],
        ...     }
        ... )
        >>> with Judge("path/to/model", swap="all") as judge:  # doctest: +SKIP
        ...     print(judge.score(frame)[["id", "p_a", "p_b", "p_tie"]])
    """

    def __init__(self, model: str | Path, *, base: str | Path | None = None, **settings: Any) -> None:
        self._settings = parse_settings(ScoreSettings, settings)
        self._model = open_model(model, base, weights_needed=self._settings.server is None)
        self._scorer: Scorer | None = None
        self._logs: Path | None = None

    def score(
        self,
        frame: pd.DataFrame,
        *,
        cells: Cells = "auto",
        on_bad_row: OnBadRow = "error",
        progress: Progress | None = None,
        deadline: str | None = None,
    ) -> pd.DataFrame:
        """Score the comparisons of a DataFrame.

        Args:
            frame: columns `id, prompt, response_a, response_b`; each text is plain, a JSON list with one
                string a turn, or a list of strings.
            cells: how texts are read (see `judge.tables.comparison.parse_cell`).
            on_bad_row: `error`, or `placeholder` to score and flag rows whose cells cannot be read.
            progress: takes notes, warnings and how far the scoring is.
            deadline: `8h30m` from this call on, or a clock time such as `2026-11-22T07:30`: what cannot be read by then
                is given up in a stated order, and flagged (docs/deadline.md).

        Returns:
            One row for each of the frame's, in its order and with its index; the columns are those of
            `judge.predictions.predictions.predictions_table`. Where the judge has a calibration, `p_*` are calibrated
            (`calibration="off"` leaves them as read).

        Raises:
            JudgeError: the frame cannot be read, or the engine does not work.
        """
        from judge.predictions.predictions import predictions_table
        from judge.runs.folder import RunFolder
        from judge.runs.progress import Silent
        from judge.scoring.scorer import Scorer

        until = parse_deadline(deadline) if deadline is not None else None
        if self._scorer is None:
            self._logs = Path(tempfile.mkdtemp(prefix="judge-"))
            self._scorer = Scorer(self._model, self._settings, self._logs)
        table = Table("DataFrame", cells, on_bad_row, frame=frame)
        with tempfile.TemporaryDirectory(prefix="judge-") as folder, RunFolder(Path(folder)) as run:
            predictions = self._scorer.score(table, run, progress or Silent(), until)
            result: pd.DataFrame = predictions_table(predictions).to_pandas()
        result.index = frame.index
        return result

    def close(self) -> None:
        """Stop the engine and free its memory; the next `score` starts it again."""
        if self._scorer is not None:
            self._scorer.close()
            if self._logs is not None and not self._scorer.pool.failures:  # a failure's text names its log
                shutil.rmtree(self._logs, ignore_errors=True)
            self._scorer = self._logs = None

    def __enter__(self) -> Judge:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_scorer", None) is not None:
            self.close()
