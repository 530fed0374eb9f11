"""`judge score` as a user runs it, with the real vLLM on a tiny model: output, resuming, refusals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from judge.engine.pool import WorkerPool
from judge.models.bundle import open_model
from judge.prompting.verdict import entropy
from judge.runs.folder import RunFolder
from judge.runs.progress import Silent
from judge.scoring.scorer import Scorer
from judge.scoring.settings import ScoreSettings
from judge.tables.table import Table

JUDGE = str(Path(sys.executable).parent / "judge")
DEMO_TABLE = Path(str(resources.files("judge.demo"))) / "comparisons.csv"
SMALL = ("--max-tokens", "700", "--shard-tokens", "250")

pytestmark = pytest.mark.engine


def command(*arguments: object) -> list[str]:
    return [JUDGE, *map(str, arguments)]


def judge(*arguments: object, status: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        command(*arguments), capture_output=True, text=True, check=False, env={**os.environ, **environment}
    )
    assert done.returncode == status, done.stderr + done.stdout
    return done


def interruptible(*arguments: object) -> subprocess.Popen[str]:
    """Start a command that Ctrl-C reaches: a shell that runs the tests in the background lets it be ignored."""
    return subprocess.Popen(
        command(*arguments),
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL) and None,
    )


def result_of(folder: Path) -> dict[str, Any]:
    """The figures that the record of a run's `p.parquet` keeps."""
    record: dict[str, Any] = json.loads((folder / "p.parquet.run.json").read_text())["result"]
    return record


def wait_for(path: Path, pattern: str, process: subprocess.Popen[str]) -> list[Path]:
    """Wait until files appear in a running command's folder."""
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        found = sorted(path.glob(pattern))
        if found:
            return found
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.005)
    raise AssertionError(f"no {pattern} in {path}")


@pytest.fixture(scope="module")
def finished(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of an undisturbed run with one worker, in a folder with its record and submission."""
    folder = tmp_path_factory.mktemp("finished")
    done = judge(
        "score", tiny_model, DEMO_TABLE, "-o", folder / "p.parquet", *SMALL,
        "--submission", folder / "s.csv", OMP_NUM_THREADS="1",
    )  # fmt: skip
    (folder / "stdout.txt").write_text(done.stdout)
    return folder


@pytest.fixture(scope="module")
def long_table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table that takes a tiny model long enough to be interrupted in the middle."""
    path = tmp_path_factory.mktemp("long") / "table.parquet"
    frame = pd.concat([pd.read_csv(DEMO_TABLE)] * 6, ignore_index=True)
    frame.assign(id=range(len(frame))).to_parquet(path)
    return path


def test_the_output_has_every_row_in_order_with_its_probabilities(finished: Path) -> None:
    table, predictions = pd.read_csv(DEMO_TABLE), pd.read_parquet(finished / "p.parquet")
    assert predictions["id"].tolist() == table["id"].tolist()
    assert predictions["id"].dtype == np.int64
    p = predictions[["p_a", "p_b", "p_tie"]].to_numpy()
    logprobs = predictions[["logprob_a", "logprob_b", "logprob_tie"]].to_numpy()
    np.testing.assert_allclose(p.sum(axis=1), 1, atol=1e-12)
    np.testing.assert_allclose(p, np.exp(logprobs) / np.exp(logprobs).sum(axis=1, keepdims=True), atol=1e-12)
    np.testing.assert_allclose(predictions["verdict_mass"], np.exp(logprobs).sum(axis=1), atol=1e-12)
    assert len(np.unique(p[:, 0])) > 20
    assert predictions["swap_logprob_a"].isna().all()
    assert (predictions["prompt_tokens"] <= 700).all()
    assert result_of(finished)["tokens"] == predictions["prompt_tokens"].sum()
    assert predictions.loc[predictions["id"] == 1740, "flags"].tolist() == ["identical"]
    assert sorted(p.name for p in finished.iterdir()) == ["p.parquet", "p.parquet.run.json", "s.csv", "stdout.txt"]


def test_the_submission_is_accepted_by_the_check(finished: Path) -> None:
    done = judge("check", finished / "s.csv", DEMO_TABLE)
    assert done.stdout == f"{finished / 's.csv'}: valid, 24 rows\n"


def test_the_terminal_shows_what_a_user_wants_to_see(finished: Path) -> None:
    shown = (finished / "stdout.txt").read_text()
    for text in (
        "rows          24 (",
        "3 multi turn",
        "mean p        A 0.",
        "log loss",
        "saying nothing: 1.0986",
        "tokens/s",
    ):
        assert text in shown
    assert f"wrote {finished / 'p.parquet'} and {finished / 's.csv'}" in shown


def test_two_engines_that_both_read_shards_give_the_same_bytes_as_one(
    finished: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # the real worker with the real vLLM; each engine's first shard is held back, so that the other gets some
    program = """
import sys, time
from multiprocessing.connection import Connection
from judge.engine.worker import serve

class Held:
    def __init__(self, engine):
        self.engine, self.first = engine, True

    def read(self, prompts, progress):
        time.sleep(10 if self.first else 0)
        self.first = False
        return self.engine.read(prompts, progress)

serve(Connection(int(sys.argv[1])), Held)
"""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    settings = ScoreSettings(max_tokens=700, shard_tokens=250, workers=2)
    scorer = Scorer(open_model(tiny_model), settings, tmp_path, (sys.executable, "-c", program))
    with RunFolder(tmp_path / "run") as run, scorer:
        predictions = scorer.score(Table.open(DEMO_TABLE), run, Silent())
    assert isinstance(scorer.pool, WorkerPool)
    assert min(scorer.pool.last_jobs_done) >= 1
    expected = pd.read_parquet(finished / "p.parquet")[["logprob_a", "logprob_b", "logprob_tie"]].to_numpy()
    assert predictions.first.tobytes() == expected.tobytes()


def test_a_restarted_run_that_was_interrupted_goes_on_too(tiny_model: Path, long_table: Path, tmp_path: Path) -> None:
    arguments = ("score", tiny_model, long_table, "-o", tmp_path / "p.parquet", *SMALL, "--readout", "transformers")
    judge(*arguments)
    process = interruptible(*arguments, "--restart")
    wait_for(tmp_path / "p.parquet.parts", "shard-first-00002.npy", process)
    process.send_signal(signal.SIGINT)
    assert "give the same command without --restart to go on" in process.communicate()[1]
    again = judge(*arguments)
    assert "going on with the unfinished run" in again.stderr
    assert result_of(tmp_path)["tokens"] < pd.read_parquet(tmp_path / "p.parquet")["prompt_tokens"].sum()


def test_a_killed_run_goes_on_without_reading_finished_shards_again(tiny_model: Path, tmp_path: Path) -> None:
    # tests/whole/test_faults.py compares the bytes
    arguments = ("score", tiny_model, DEMO_TABLE, "-o", tmp_path / "p.parquet", *SMALL, "--readout", "transformers")
    parts = tmp_path / "p.parquet.parts"
    for pattern in ("manifest.json", "shard-first-00003.npy"):  # while the table is prepared, and some shards later
        process = subprocess.Popen(command(*arguments), stderr=subprocess.PIPE, text=True)
        wait_for(parts, pattern, process)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert not (tmp_path / "p.parquet").exists()
    kept = np.concatenate([np.load(path) for path in parts.glob("shard-first-*.npy")])["row"]
    judge(*arguments)
    lengths = pd.read_parquet(tmp_path / "p.parquet")["prompt_tokens"]
    assert 4 <= len(set(kept.tolist())) == len(kept) < 24
    assert result_of(tmp_path)["tokens"] == lengths.drop(kept).sum()  # only the unfinished shards were read
    assert sorted(p.name for p in tmp_path.iterdir()) == ["p.parquet", "p.parquet.run.json"]


def test_ctrl_c_says_how_to_go_on_and_a_changed_run_is_refused(
    tiny_model: Path, long_table: Path, tmp_path: Path
) -> None:
    # none of this depends on the engine, and this one starts faster
    arguments = ("score", tiny_model, long_table, "-o", tmp_path / "p.parquet", *SMALL, "--readout", "transformers")
    parts = tmp_path / "p.parquet.parts"
    process = interruptible(*arguments)
    wait_for(parts, "shard-first-00001.npy", process)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"stopped; what is finished is kept in {parts}: give the same command again to go on" in stderr
    assert "Traceback" not in stderr
    changes: list[tuple[tuple[object, ...], str]] = [
        (("--max-tokens", 600), "max-tokens (700 before, 600 now)"),
        (("--template", "minimal"), "template"),
        (("--swap", "all"), "swap (off before, all now)"),
        (("--cells", "plain"), "table"),
    ]
    for change, words in changes:
        refused = judge(*arguments, *change, status=2)
        assert refused.stderr.startswith(f"judge: {parts}: holds an unfinished run with another "), refused.stderr
        assert words in refused.stderr
        assert refused.stderr.count("\n") == 1
    assert list(parts.glob("shard-*.npy"))


def test_a_finished_run_is_not_repeated_and_not_overwritten(finished: Path, tiny_model: Path) -> None:
    before = (finished / "p.parquet").stat().st_mtime_ns
    arguments = ("score", tiny_model, DEMO_TABLE, "-o", finished / "p.parquet", *SMALL)
    again = judge(*arguments, "--submission", finished / "again.csv", OMP_NUM_THREADS="1")
    assert "is complete already; pass --restart to score again" in again.stderr
    assert (finished / "again.csv").read_bytes() == (finished / "s.csv").read_bytes()
    (finished / "again.csv").unlink()
    other = judge(*arguments, "--template", "minimal", status=2)
    assert "holds the result of another template" in other.stderr
    assert (finished / "p.parquet").stat().st_mtime_ns == before


def test_swap_policies_read_the_second_order_where_they_say(finished: Path, tiny_model: Path, tmp_path: Path) -> None:
    frames = {}
    # which rows are read again does not depend on the engine; the second one starts faster
    for swap, readout in (("all", "vllm"), ("25%", "transformers"), ("auto", "transformers")):
        output = tmp_path / f"{swap.strip('%')}.csv"
        judge("score", tiny_model, DEMO_TABLE, "-o", output, *SMALL, "--swap", swap, "--readout", readout)
        frames[swap] = pd.read_csv(output)
    first = pd.read_parquet(finished / "p.parquet")
    alone = first[["p_a", "p_b", "p_tie"]].to_numpy()
    both = frames["all"]
    second = np.exp(both[["swap_logprob_a", "swap_logprob_b", "swap_logprob_tie"]].to_numpy())
    mean = (alone + second / second.sum(axis=1, keepdims=True)) / 2
    np.testing.assert_allclose(both[["p_a", "p_b", "p_tie"]], mean, atol=1e-5)
    some = frames["25%"]
    read = some["swap_logprob_a"].notna().to_numpy()
    assert read.sum() == 6
    assert entropy(alone)[read].min() >= entropy(alone)[~read].max()
    np.testing.assert_allclose(some[["p_a", "p_b", "p_tie"]][read], mean[read], atol=1e-5)
    np.testing.assert_allclose(some[["p_a", "p_b", "p_tie"]][~read], alone[~read], atol=1e-5)
    automatic = frames["auto"]["swap_logprob_a"].notna().to_numpy()
    assert entropy(alone)[automatic].min() >= entropy(alone)[~automatic].max(initial=0)
    assert automatic.sum() >= 3  # the first tenth at least


def test_swapping_an_identical_pair_gives_equal_chances_to_both(tiny_model: Path, tmp_path: Path) -> None:
    frame = pd.DataFrame({"id": ["x"], "prompt": ["Hi"], "response_a": ["Yes."], "response_b": ["Yes."]})
    frame.to_parquet(tmp_path / "t.parquet")
    options = ("--readout", "transformers", "--swap", "all")
    judge("score", tiny_model, tmp_path / "t.parquet", "-o", tmp_path / "p.csv", *options)
    scored = pd.read_csv(tmp_path / "p.csv").iloc[0]
    assert scored["p_a"] == pytest.approx(scored["p_b"], abs=1e-7)


def test_rows_whose_numbers_are_not_finite_are_flagged_and_no_others(tmp_path: Path) -> None:
    from transformers import LlamaForCausalLM

    from judge.prompting.encoding import TextEncoder, load_tokenizer
    from tests.kit.tiny_models import save_llama

    folder = save_llama(tmp_path / "model")
    network = LlamaForCausalLM.from_pretrained(folder)
    poison = "Ψ"
    ids = TextEncoder(load_tokenizer(folder)).user_text([poison])[0]
    network.model.embed_tokens.weight.data[ids[-1]] = float("nan")
    network.save_pretrained(folder)
    frame = pd.DataFrame(
        {"id": [1, 2, 3], "prompt": ["Hi", f"Hi {poison}", "Yo"], "response_a": ["a", "b", "c"], "response_b": "d"}
    )
    frame.to_json(tmp_path / "t.jsonl", orient="records", lines=True)
    judge("score", folder, tmp_path / "t.jsonl", "-o", tmp_path / "p.parquet", "--max-tokens", 700)
    scored = pd.read_parquet(tmp_path / "p.parquet").set_index("id")
    assert scored["flags"].to_dict() == {1: "", 2: "not_scored", 3: ""}
    np.testing.assert_array_equal(scored[["p_a", "p_b", "p_tie"]].to_numpy()[1], [1 / 3] * 3)
    assert scored["logprob_a"].notna().tolist() == [True, False, True]
    assert result_of(tmp_path)["not_scored_rows"] == 1


def test_the_python_interface_gives_what_the_command_gives(finished: Path, tiny_model: Path) -> None:
    from judge import Judge

    frame = pd.read_csv(DEMO_TABLE).set_index(np.arange(24) * 10)
    with Judge(tiny_model, max_tokens=700, shard_tokens=250) as scorer:
        result = scorer.score(frame)
        again = scorer.score(frame.iloc[::-1])
    expected = pd.read_parquet(finished / "p.parquet")
    assert result.index.tolist() == frame.index.tolist()
    pd.testing.assert_frame_equal(result.reset_index(drop=True), expected, atol=1e-5, rtol=1e-5)
    pd.testing.assert_frame_equal(again.iloc[::-1], result, atol=1e-5, rtol=1e-5)
