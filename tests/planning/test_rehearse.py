"""A rehearsal reads the right rows with the real engine, and its prediction and its range can be trusted."""

from __future__ import annotations

import json
import math
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from judge.cli.rehearse import rehearse as rehearse_command
from judge.data.mock_table import DEMO_TABLE, mock_table
from judge.errors import JudgeError
from judge.models.bundle import open_model
from judge.planning.rehearsal import Costs, Rehearsal, decide, drift_of, lines, reading_time, too_long_line, total_time
from judge.planning.rehearsal_rows import Chosen, Rows, WatchedTable, choose_rows
from judge.planning.rehearse import dealt, rehearse
from judge.planning.time_model import Point, TimeRange, fit
from judge.runs.prepared import Prepared
from judge.runs.progress import Silent
from judge.scoring.scorer import Scorer
from judge.scoring.settings import ScoreSettings
from judge.tables.comparison import Flag
from tests.kit.workers import worker

PER_FLOP, PER_TOKEN, PER_PROMPT = 2e-11, 2e-4, 5e-3


def flops(lengths: Rows) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    tokens = np.asarray(lengths, dtype=np.float64)
    return 2.7e8 * tokens + 9e4 * tokens**2


def truth(lengths: Rows) -> float:
    """Seconds that reading prompts takes on the simulated machine."""
    return float((PER_FLOP * flops(lengths) + PER_TOKEN * lengths + PER_PROMPT).sum())


def prepared_with(lengths: Rows, folder: Path, flags: dict[int, Flag] | None = None) -> Prepared:
    rows = np.zeros(len(lengths), dtype=[("length", np.int32), ("flags", np.uint32)])
    rows["length"] = lengths
    for row, flag in (flags or {}).items():
        rows["flags"][row] = int(flag)
    return Prepared(folder, rows, False, {}, np.zeros(len(rows), dtype=np.int64))


def simulated(seed: int, noise: float, drift: float, folder: Path) -> tuple[Rehearsal, Costs, float]:
    """Return a rehearsal of a simulated machine, and the seconds that reading its whole table then takes.

    Every part's time is off by `noise`; the machine's speed wanders by `drift` between the first part and the last,
    and as much again between the rehearsal and the run.
    """
    rng = np.random.default_rng(seed)
    lengths = np.clip(rng.lognormal(6.3, 0.7, 3000), 30, 2048).astype(np.int64)
    chosen = choose_rows(prepared_with(lengths, folder), {}, 64, seed, 4096, 1)
    speed = np.cumsum(rng.normal(0, drift / math.sqrt(len(chosen.sample)), len(chosen.sample) + 1))
    points = []
    for part, slow in zip([*chosen.sample, chosen.sample[0]], speed, strict=True):
        seconds = truth(lengths[part]) * math.exp(slow + rng.normal(0, noise))
        points.append(Point(float(flops(lengths[part]).sum()), len(part), int(lengths[part].sum()), seconds))
    found = Rehearsal(len(lengths), float(lengths.mean()), int(lengths.max()), chosen, points=points, model=fit(points))
    return found, Costs(lengths, flops, 0.0), truth(lengths) * math.exp(speed[-1] + rng.normal(0, drift))


@pytest.mark.parametrize(("noise", "drift"), [(0.01, 0.0), (0.05, 0.0), (0.03, 0.02), (0.15, 0.0)])
def test_the_range_is_narrow_and_holds_the_truth_in_nine_of_ten_runs(
    tmp_path: Path, noise: float, drift: float
) -> None:
    hits, widths = [], []
    for seed in range(150):
        found, costs, seconds = simulated(seed, noise, drift, tmp_path)
        assert found.model is not None
        estimate = reading_time(found.model, drift_of(found.points), costs)
        hits.append(estimate.low <= seconds <= estimate.high)
        widths.append(estimate.high / estimate.value)
    assert np.mean(hits) >= 0.9
    assert np.median(widths) < 1.08 + 4 * noise + 4 * drift


def test_without_noise_the_prediction_is_the_closed_form(tmp_path: Path) -> None:
    found, costs, seconds = simulated(1, 0.0, 0.0, tmp_path)
    assert found.model is not None
    assert reading_time(found.model, 0.0, costs).value == pytest.approx(seconds, rel=1e-6)
    found.setup_seconds, found.write_seconds = 40.0, 2.0
    assert total_time(found, costs).value == pytest.approx(seconds + 42, rel=1e-6)
    # every row in both orders is twice the work; `auto` lies between a tenth more and twice
    both, auto = (reading_time(found.model, 0.0, Costs(costs.lengths, flops, share)) for share in (1.0, None))
    assert both.value == pytest.approx(2 * seconds, rel=1e-6)
    assert auto.value == pytest.approx(1.5 * seconds, rel=1e-6)
    assert auto.low < 1.1 * seconds < 2 * seconds < auto.high


def test_drift_between_two_readings_of_the_same_rows_widens_the_range(tmp_path: Path) -> None:
    found, costs, _ = simulated(1, 0.0, 0.0, tmp_path)
    first = found.points[0]
    found.points[-1] = Point(first.flops, first.prompts, first.tokens, first.seconds * 1.3)
    assert drift_of(found.points) == pytest.approx(math.log(1.3))
    found.model = fit(found.points)
    steady, moved = (reading_time(found.model, drift, costs) for drift in (0.0, drift_of(found.points)))
    assert moved.high >= steady.value * 1.3 > steady.high


def test_the_rows_that_are_read(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for engines, sample in ((1, 40), (2, 40), (3, 7), (2, 1), (1, 500)):
        lengths = rng.integers(20, 2000, 300).astype(np.int64)
        flags = {3: Flag.NULL_TURN | Flag.RAGGED, 9: Flag.NULL_TURN, 11: Flag.NULL_TURN, 20: Flag.TRAINED_ON}
        chosen = choose_rows(prepared_with(lengths, tmp_path, flags), {"han": [5, 9]}, sample, 1, 4096, engines)
        assert chosen.awkward == {"null turn": [3, 9], "ragged": [3], "han script": [5, 9]}
        assert chosen.awkward_rows.tolist() == [3, 5, 9]
        fill = lengths[chosen.longest]
        assert fill.min() >= np.sort(lengths)[-len(fill)]
        assert fill[:-1].sum() < 4096 * engines <= fill.sum()
        drawn = np.concatenate(chosen.sample)
        assert len(drawn) == len(set(drawn)) == min(sample, 300)
        assert chosen.whole == (sample >= 300)
        assert all(len(part) >= engines for part in chosen.sample) or sample < engines
        shortest = [lengths[part].min() for part in chosen.sample]
        longest = [lengths[part].max() for part in chosen.sample]
        assert all(above >= below for above, below in zip(shortest, longest[1:], strict=False))
        if sample == 500:
            tokens = [lengths[part].sum() for part in chosen.sample]
            assert max(tokens) - min(tokens) <= 2 * 2000


def test_prompts_are_dealt_out_evenly() -> None:
    assert dealt([5, 9, 1, 7], 2) == [[1, 2], [3, 0]]
    assert dealt([3], 4) == [[0]]
    rng = np.random.default_rng(0)
    for engines in (1, 2, 5):
        lengths = rng.integers(1, 1000, 200).tolist()
        parts = dealt(lengths, engines)
        assert sorted(i for part in parts for i in part) == list(range(200))
        tokens = [sum(lengths[i] for i in part) for part in parts]
        assert max(tokens) - min(tokens) <= max(lengths)


def verdict_of(folder: Path, deadline: float | None, share: float | None = 0.0, failed: int = 0) -> tuple[bool, str]:
    found, costs, _ = simulated(1, 0.0, 0.0, folder)
    found.failed = list(range(failed))
    return decide(found, Costs(costs.lengths, flops, share), 2048, deadline)


def test_the_verdict_is_one_clear_line(tmp_path: Path) -> None:
    found, costs, _ = simulated(1, 0.0, 0.0, tmp_path)
    total = total_time(found, costs)
    fits, line = verdict_of(tmp_path, total.high + 3600)
    assert fits
    assert line.startswith("fits in ")
    assert "with at least 1 h 00 min to spare" in line
    fits, line = verdict_of(tmp_path, (total.value + total.high) / 2)
    assert not fits
    assert line.startswith("may not fit in ")
    fits, line = verdict_of(tmp_path, total.value * 0.7)
    assert not fits
    assert line.startswith("does not fit in ")
    budget = int(line.split("--max-tokens=")[1].split()[0])
    smaller = total_time(found, Costs(np.minimum(costs.lengths, budget), flops, 0.0))
    assert smaller.high <= total.value * 0.7
    larger = {512: 768, 768: 1024, 1024: 1536, 1536: 2048}[budget]
    assert total_time(found, Costs(np.minimum(costs.lengths, larger), flops, 0.0)).high > total.value * 0.7
    fits, line = verdict_of(tmp_path, total.high * 1.01, share=1.0)
    assert not fits
    assert "--swap=off takes" in line
    fits, line = verdict_of(tmp_path, 2.0)
    assert not fits
    assert "no smaller budget of 512 tokens or more fits either: take a smaller model or more cards" in line
    assert "smaller budget" not in too_long_line(total, 2.0, None, smaller_budgets=False)
    fits, line = verdict_of(tmp_path, None)
    assert fits
    assert line.startswith("takes about ")
    assert verdict_of(tmp_path, None, failed=100)[0] is False


def test_figures_name_what_failed_and_print_hostile_ids_safely(tmp_path: Path) -> None:
    found, _, _ = simulated(1, 0.0, 0.0, tmp_path)
    found.failed, found.batch_tokens, found.model = [0, 2], (8192, 2048), fit(found.points)
    found.memory = {0: {"host": 3 << 30, "device": 5 << 30, "used": 6 << 30, "total": 15 << 30}}
    estimate = TimeRange(1, 2, 3)
    figures = lines(found, estimate, estimate, ["\x1b[31m", "b", "c\n"], ["Tesla T4"])
    text = "\n".join(text for _, text in figures)
    assert "\\x1b[31m, c\\n" in text
    assert "2 rows came out as NaN" in text
    assert "8,192 tokens were too many for the memory; 2,048 worked: --batch-tokens=2048" in text
    assert "5.0 GiB held on the card, 6.0 of 15.0 GiB of it taken (Tesla T4)" in text


def awkward_table(path: Path) -> Path:
    """Write 60 rows with texts of the tiny tokenizer's words; one cell that cannot be read."""
    mock_table(DEMO_TABLE, 60, path, seed=2, awkward=0.3)
    frame = pd.read_csv(path, keep_default_na=False)
    frame.loc[7, "prompt"] = '["broken'
    frame.to_csv(path, index=False)
    return path


@pytest.mark.engine
def test_a_rehearsal_reads_every_kind_of_row_and_leaves_nothing_behind(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    table = awkward_table(tmp_path / "table.csv")
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    before = sorted(tiny_model.rglob("*"))
    settings = ScoreSettings(readout="transformers", max_tokens=512, device="cpu", swap="all")
    options = {"cells": "auto", "sample": 10, "seed": 0, "as_json": True}
    rehearse_command(tiny_model, table, settings, on_bad_row="placeholder", deadline="9h", **options)  # type: ignore[arg-type]
    figures = json.loads(capsys.readouterr().out)
    assert figures["fits"] is True
    assert figures["verdict"].startswith("fits in 9 h 00 min")
    kinds = ("null turn", "empty list", "empty text", "ragged", "surrogate", "bad cell", "identical")
    assert set(kinds) <= set(figures["awkward_rows"])
    assert any(name.endswith(" script") for name in figures["awkward_rows"])
    assert figures["awkward_rows"]["bad cell"] == [8]
    assert figures["failed_ids"] == []
    assert figures["memory"][0]["host"] > 100 << 20
    assert figures["tokens_per_second"] > 0
    points = figures["points"]
    assert sum(point["prompts"] for point in points[:-1]) == 20  # ten rows in both orders, then a part once more
    assert points[-1]["tokens"] == points[0]["tokens"]
    assert list(temporary.iterdir()) == []
    assert sorted(tiny_model.rglob("*")) == before
    with pytest.raises(JudgeError, match="row 8"):
        rehearse_command(tiny_model, table, settings, on_bad_row="error", deadline=None, **options)  # type: ignore[arg-type]
    assert list(temporary.iterdir()) == []


@pytest.mark.engine
def test_rows_too_large_for_memory_are_named_with_the_batch_that_worked(tiny_model: Path, tmp_path: Path) -> None:
    rows = [{"id": i, "prompt": "A " * (5 + i % 9), "response_a": "B", "response_b": "A"} for i in range(30)]
    rows[12]["prompt"] = "A B " * 60
    pd.DataFrame(rows).to_csv(tmp_path / "table.csv", index=False)
    settings = ScoreSettings(readout="transformers", max_tokens=512, device="cpu", batch_tokens=1024)
    model, table = open_model(tiny_model), WatchedTable.open(tmp_path / "table.csv")
    assert isinstance(table, WatchedTable)
    with Scorer(model, settings, tmp_path) as scorer:
        comparisons = [row for chunk in table.chunks() for row in chunk]
        longest = max(len(prompt.ids) for prompt in scorer.builder.build(comparisons))
        scorer.pool.command = worker("broken", longest, "memory", "")  # type: ignore[attr-defined]
        found, costs = rehearse(scorer, table, tmp_path, 6, 3, Silent())
    assert 12 not in np.concatenate(found.chosen.sample)
    assert found.failed == [12]
    assert found.batch_tokens[0] == 1024
    assert found.batch_tokens[1] < 1024
    assert found.engine_failures >= 2
    assert found.notes
    assert decide(found, costs, 512, 3600.0)[0]


def test_a_chosen_row_counts_once() -> None:
    chosen = Chosen(np.array([4, 2]), {"ragged": [2, 7], "null turn": [7]}, [np.array([4, 1]), np.array([0])], False)
    assert Rehearsal(9, 5.0, 9, chosen).read_rows == 5
