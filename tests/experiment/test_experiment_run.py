"""Experiments on a tiny model: the numbers are those of `judge score`, and nothing is read twice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from judge.errors import JudgeError, RunInterrupted
from judge.experiment.arms import refuse_identical, resolve_arms
from judge.experiment.cache import ReadingCache, context_key, reading_key
from judge.experiment.result import ExperimentResult
from judge.experiment.run import run_experiment
from judge.experiment.settings import ExperimentSettings, parse_experiment
from judge.experiment.train_arms import check_training, train_arms
from judge.models.bundle import open_model
from judge.predictions.predictions import Predictions
from judge.prompting.verdict import probabilities, verdict_mass
from judge.runs.folder import RunFolder
from judge.runs.progress import Silent
from judge.scoring.scorer import Scorer
from judge.scoring.settings import ScoreSettings
from judge.tables.table import Table
from tests.kit.labelled_tables import labelled_rows, write_table

ROWS = 36
BUDGET = 100  # cuts some of the rows
ARMS: list[dict[str, Any]] = [
    {"name": "minimal", "template": "minimal", "max_tokens": 300},
    {"name": "rubric", "template": "rubric", "max_tokens": 700, "swap": "all"},
    {"name": "auto", "template": "minimal", "max_tokens": BUDGET, "swap": "auto"},
    {"name": "part", "template": "minimal", "max_tokens": BUDGET, "swap": "25%"},
]


class Watching(Silent):
    """Keeps the notes, and presses Ctrl-C after so many prompts."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.notes: list[str] = []
        self.stop_after = stop_after
        self.loads = 0
        self.last: tuple[float, ...] = (0, 0, 0, 0)

    def note(self, text: str) -> None:
        self.notes.append(text)

    warn = note

    def step(
        self, what: str, done: float | None = None, total: float | None = None, text: str = "", rate: str = ""
    ) -> None:
        del rate
        self.loads += what == "loading the model"
        if what == "scoring":
            prompts, all_prompts = (int(word) for word in text.split() if word.isdecimal())
            self.last = (prompts, all_prompts, done or 0, total or 0)
            if self.stop_after is not None and prompts >= self.stop_after:
                raise KeyboardInterrupt


def settings_of(model: Path, table: Path, arms: list[dict[str, Any]], **others: Any) -> ExperimentSettings:
    shared = {"model": str(model), "data": str(table), "readout": "transformers", "resamples": 100}
    return parse_experiment({**shared, "arms": arms, **others})


def different_rows(count: int) -> list[dict[str, Any]]:
    """Rows that are all different, some of them long, in 30 prompt groups."""
    rows = labelled_rows(count, prompts=30)
    return [
        row | {"response_a": f"{row['response_a']} {i}" + " Or so." * (20 * (i % 4 == 0))} for i, row in enumerate(rows)
    ]


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows with ids whose order as text is not the table's; rows 5 and 6 are the same comparison."""
    rows = different_rows(ROWS)
    rows[5] = {**rows[4], "id": 6}
    return write_table(tmp_path_factory.mktemp("data") / "many.csv", rows)


@pytest.fixture(scope="module")
def done(base: Path, many: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[ExperimentResult, Watching, Path]:
    folder, events = tmp_path_factory.mktemp("experiment") / "out", Watching()
    return run_experiment(settings_of(base, many, ARMS), folder, events), events, folder


@pytest.fixture(scope="module")
def alone(base: Path, many: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Predictions]:
    """What `judge.scoring.scorer` makes of the same table, arm by arm; one engine for all, to save its starts."""
    folder, found = tmp_path_factory.mktemp("alone"), {}
    arms = [ScoreSettings(readout="transformers", **{k: v for k, v in arm.items() if k != "name"}) for arm in ARMS]
    scorers = [Scorer(open_model(base), values, folder) for values in arms]
    widest = scorers[1]
    with widest:
        for arm, scorer in zip(ARMS, scorers, strict=True):
            scorer.pool = widest.pool
            with RunFolder(folder / arm["name"]) as run:
                found[arm["name"]] = scorer.score(Table.open(many), run, Silent())
    return found


@pytest.mark.engine
@pytest.mark.parametrize("number", range(4))
def test_an_arm_has_the_numbers_of_judge_score(
    done: tuple[ExperimentResult, Watching, Path], alone: dict[str, Predictions], number: int
) -> None:
    result, arm, other = done[0], done[0].arms[number], alone[ARMS[number]["name"]]
    ids = [str(i) for i in other.prepared.ids().to_pylist()]
    order = [ids.index(row_id) for row_id in result.rows.ids]
    assert list(result.rows.ids) == sorted(ids)
    np.testing.assert_allclose(arm.p, other.p[order], atol=1e-6)
    np.testing.assert_allclose(arm.second, probabilities(other.second)[order], atol=1e-6)
    np.testing.assert_allclose(arm.verdict_mass, verdict_mass(other.first)[order], atol=1e-6)
    assert arm.tokens.sum() == other.tokens
    assert (arm.cut == (other.prepared.rows["cut"].sum(axis=1) > 0)[order]).all()
    assert arm.cut.any() == (number >= 2)
    assert (result.rows.labels == other.prepared.rows["label"][order]).all()


@pytest.mark.engine
def test_arms_with_one_model_share_one_start_and_all_is_said_before_it(
    done: tuple[ExperimentResult, Watching, Path],
) -> None:
    result, events, folder = done
    assert events.loads == 1
    assert any("36 rows in 30 prompt groups, the same for every arm" in note for note in events.notes)
    assert events.last[0] == events.last[1]
    assert events.last[2] == events.last[3]
    record = json.loads((folder / "experiment.json").read_text())
    assert record == json.loads(json.dumps(result.record))
    assert record["state"] == "complete"
    assert record["arms"]["rubric"][0]["model_digest"] == open_model(record["settings"]["model"]).digest()
    assert set(record["templates"]) == {arm.settings["template_digest"] for arm in result.arms}
    assert not (folder / "prepared").exists()
    assert [d.arm for d in result.differences] == ["rubric", "auto", "part"]


@pytest.mark.engine
def test_equal_prompts_of_rows_and_arms_are_read_once(done: tuple[ExperimentResult, Watching, Path]) -> None:
    minimal, _, auto, part = done[0].arms
    # rows 5 and 6 are one comparison: both know its numbers, one prompt was read
    assert minimal.rows_read == ROWS
    assert minimal.tokens_read < minimal.tokens.sum()
    assert auto.rows_read > 0
    # what "25%" reads of the same budget, "auto" has read before
    assert part.rows_read == 0
    assert (part.seconds, part.tokens_read) == (0, 0)
    assert not np.isnan(part.p).any()


@pytest.mark.engine
def test_costs_say_what_an_arm_took(done: tuple[ExperimentResult, Watching, Path]) -> None:
    result = done[0]
    minimal, rubric, auto, part = result.costs
    assert rubric.tokens_per_row > 2 * minimal.tokens_per_row
    assert minimal.rows_per_second is not None
    assert rubric.rows_per_second is not None
    assert minimal.rows_per_second > rubric.rows_per_second
    assert part.rows_per_second is None
    assert (minimal.both_share, rubric.both_share, part.both_share) == (0, 1, 0.25)
    assert minimal.consistency is None
    both = result.arms[1]
    assert rubric.consistency == np.mean(both.first.argmax(axis=1) == both.second.argmax(axis=1))
    assert auto.cut_share == result.arms[2].cut.mean()
    assert minimal.median_verdict_mass == pytest.approx(np.median(result.arms[0].verdict_mass))


@pytest.mark.engine
def test_what_is_known_is_not_read_again_and_what_is_new_is(
    done: tuple[ExperimentResult, Watching, Path], base: Path, many: Path, tmp_path: Path
) -> None:
    before, _, folder = done
    cache, events = folder / "cache", Watching()
    again = run_experiment(settings_of(base, many, ARMS), folder, events)
    assert [arm.rows_read for arm in again.arms] == [0] * 4
    assert events.loads == 0
    for one, other in zip(before.arms, again.arms, strict=True):
        assert np.array_equal(one.p, other.p)
    assert again.differences == before.differences
    # more rows, another name for an arm, and another arm: only what is new is read
    table = write_table(tmp_path / "more.csv", different_rows(ROWS + 4))
    arms: list[dict[str, Any]] = [{**ARMS[0], "name": "same"}, {"name": "new", "template": "interleaved"}]
    arms.append({"name": "wide", "template": "minimal", "max_tokens": 500})
    more = run_experiment(settings_of(base, table, arms), tmp_path / "more", Watching(), cache)
    assert more.arms[2].rows_read == 0
    assert more.warnings == [
        "the rows have only 30 prompt groups: intervals and tests say little",
        "arms 'same' and 'wide' read the same prompts: no row is longer than their budgets",
    ]
    assert more.arms[0].rows_read == 4 + 1  # row 6 was a copy of row 5 before
    assert more.arms[1].rows_read == ROWS + 4
    assert more.arms[1].tokens_read == more.arms[1].tokens.sum()
    known = np.isin(more.rows.ids, before.rows.ids[before.rows.ids != "6"])
    kept = np.isin(before.rows.ids, more.rows.ids[known])
    assert np.array_equal(more.arms[0].p[known], before.arms[0].p[kept])


@pytest.mark.engine
def test_an_interrupted_experiment_goes_on_where_it_was(base: Path, many: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    settings = settings_of(base, many, ARMS[:2], shard_tokens=200)
    with pytest.raises(RunInterrupted, match=r"stopped; what is finished is kept in .*out: give the same command"):
        run_experiment(settings, folder, Watching(stop_after=20))
    assert json.loads((folder / "experiment.json").read_text())["state"] == "unfinished"
    cache = folder / "cache"
    kept = len(ReadingCache(cache, print))
    damaged, *whole = sorted(cache.iterdir())
    damaged.write_bytes(damaged.read_bytes()[:-8])
    lost = kept - len(ReadingCache(cache, lambda _: None))
    assert 0 < lost < kept
    events = Watching()
    result = run_experiment(settings, folder, events)
    assert any("1 file of the cache cannot be read" in note for note in events.notes)
    new = sum(len(np.load(path)) for path in cache.iterdir() if path not in whole and is_readable(path))
    # 35 different prompts, and as many in both orders; the damaged file's are read again, the others are not
    assert new == 3 * 35 - kept + lost
    assert not np.isnan(result.arms[1].p).any()
    assert result.record["state"] == "complete"


def is_readable(path: Path) -> bool:
    try:
        return len(np.load(path)) > 0
    except ValueError:
        return False


def test_a_cache_keeps_numbers_exactly_and_ignores_what_is_damaged(tmp_path: Path) -> None:
    context = context_key(model="m", dtype="float32")
    prompts = [np.arange(n, dtype=np.int32) for n in (3, 4, 5)]
    keys = [reading_key(context, prompt) for prompt in prompts]
    assert len(set(keys) | {reading_key(context_key(model="n", dtype="float32"), prompts[0])}) == 4
    logprobs = np.log([[0.1, 0.2, 0.3], [np.nan] * 3, [1 / 3, 1e-300, 0.5]])
    warnings: list[str] = []
    cache = ReadingCache(tmp_path / "cache", warnings.append)
    cache.add(keys, logprobs)
    cache.add(keys[1:2], logprobs[1:2])  # no number: tried again next time
    again = ReadingCache(tmp_path / "cache", warnings.append)
    assert (len(again), again.get(keys[1]), warnings) == (2, None, [])
    assert again.get(keys[2]) == tuple(logprobs[2])
    (file,) = (tmp_path / "cache").iterdir()
    content = bytearray(file.read_bytes())
    content[-1] ^= 1  # still a readable array, with another number in it
    file.write_bytes(content)
    assert len(ReadingCache(tmp_path / "cache", warnings.append)) == 0
    assert len(warnings) == 1
    assert "1 file of the cache cannot be read" in warnings[0]


def test_a_cache_that_cannot_be_made_is_a_clear_mistake(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(JudgeError, match="the cache cannot be made there"):
        ReadingCache(tmp_path / "file" / "cache", print)


@pytest.mark.parametrize("place", ["file", "file/cache"])
def test_a_cache_that_cannot_be_kept_is_refused_before_anything_is_written(
    base: Path, many: Path, tmp_path: Path, place: str
) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(JudgeError, match=r"file: is a file; a cache is kept in a folder"):
        run_experiment(settings_of(base, many, ARMS[:2]), tmp_path / "out", Silent(), tmp_path / place)
    assert not (tmp_path / "out").exists()


def test_a_mistake_is_found_before_anything_is_said(base: Path, many: Path, tmp_path: Path) -> None:
    events = Watching()
    with pytest.raises(JudgeError, match="no template 'rubrik'"):
        run_experiment(settings_of(base, many, [*ARMS[:1], {"template": "rubrik"}]), tmp_path / "out", events)
    assert events.notes == []


@pytest.mark.engine
def test_a_finished_experiment_keeps_its_record_until_the_next_is_finished(
    base: Path, many: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    result = run_experiment(settings_of(base, many, ARMS[:2]), folder)
    other = settings_of(base, many, [ARMS[0], {"template": "side-by-side"}], shard_tokens=200)
    with pytest.raises(RunInterrupted):
        run_experiment(other, folder, Watching(stop_after=40))
    assert json.loads((folder / "experiment.json").read_text()) == json.loads(json.dumps(result.record))


@pytest.mark.training
def test_judges_are_trained_with_every_seed_once_on_the_same_rows(base: Path, tmp_path: Path, one_thread: None) -> None:
    del one_thread
    train = write_table(tmp_path / "train.csv", different_rows(40))
    held_out = write_table(tmp_path / "held_out.csv", labelled_rows(12, seed=1))
    config = tmp_path / "c.yaml"
    config.write_text(
        f"model: {base}\ndata: {train}\neval_data: {held_out}\nmax_steps: 2\nevaluations: 1\nbatch_size: 2\n"
        "learning_rate: 0.01\nmax_tokens: 400\n"
    )
    arms: list[dict[str, Any]] = [
        {"name": "base", "model": str(base), "template": "minimal"},
        {"name": "Judge: 10", "train": str(config), "train_rows": 10, "template": "minimal"},
    ]
    settings, events = settings_of(base, held_out, arms, train_seeds=[3, 4]), Watching()
    check_training(settings)
    found = train_arms(settings, tmp_path / "out", events)
    assert set(found) == {"Judge: 10"}
    assert [path.name[:16] for path in found["Judge: 10"].values()] == ["judge-10-seed-3-", "judge-10-seed-4-"]
    assert any("training Judge: 10, seed 4: step 2: held-out log loss" in note for note in events.notes)
    resolved = resolve_arms(settings, tmp_path, found)
    assert [arm.seed for arm in resolved] == [None, 3, 4]
    refuse_identical(resolved)
    rows = [arm.scorer.trained_rows for arm in resolved[1:]]
    assert rows[0] is not None
    assert rows[1] is not None
    assert np.array_equal(rows[0].rows, rows[1].rows)
    assert 8 <= len(rows[0].rows) <= 10
    assert {arm.scorer.template.name for arm in resolved} == {"minimal"}
    assert resolved[1].record()["train_rows"] == len(rows[0].rows)
    again = Watching()
    assert train_arms(settings, tmp_path / "out", again) == found
    assert again.notes == []
