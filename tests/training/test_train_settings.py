"""The settings of a training run: files, flags, and what is refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from judge.cli.main import app
from judge.errors import JudgeError
from judge.training.settings import TrainSettings, parse_train_settings, read_config

NEEDED = {"model": "m", "data": ["t.csv"]}
CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"learning_rte": 1}, "unknown setting 'learning_rte' (did you mean 'learning_rate'?)"),
        ({"epochs": 0}, "epochs=0: input should be greater than 0"),
        ({"method": "lorra"}, "method=lorra: input should be 'lora', 'qlora' or 'full'"),
        ({"fold": "1/5", "holdout": 0.2}, "holdout has no effect: fold is given"),
        ({"eval_data": "e.csv", "fold": "1/5"}, "fold has no effect: eval_data is given"),
        ({"method": "full", "lora_rank": 8}, "lora_rank has no effect: method is full, which has no adapter"),
        ({"continue_from": "b", "dora": True}, "dora has no effect: continue_from takes the adapter as it is"),
        ({"soft_loss": "kl"}, "soft_loss has no effect: soft_weight is 0"),
        ({"max_steps": 5, "epochs": 2.0}, "epochs has no effect: max_steps is given"),
        ({"patience": 4}, "patience has no effect: there are no more evaluations than that"),
        ({"source_weights": {"a": -1.0}}, "weights must not be negative"),
        ({"learning_rate": float("inf")}, "learning_rate=inf: input should be a finite number"),
        ({"shares": (0.0, 0.4)}, "both must be positive"),
    ],
)
def test_a_mistake_in_the_settings_is_named(values: dict[str, object], message: str) -> None:
    with pytest.raises(JudgeError) as caught:
        parse_train_settings({**NEEDED, **values})
    assert message in str(caught.value)


def test_all_mistakes_are_told_at_once() -> None:
    with pytest.raises(JudgeError) as caught:
        parse_train_settings({"epochs": -1, "sed": 3}, "run.yaml")
    text = str(caught.value)
    assert text.startswith("run.yaml: ")
    for part in ("no 'model'", "no 'data'", "epochs=-1", "unknown setting 'sed' (did you mean 'seed'?)"):
        assert part in text


def test_a_flag_wins_over_what_it_makes_pointless_in_a_config() -> None:
    config = {**NEEDED, "holdout": 0.2, "lora_rank": 8, "epochs": 3.0}
    settings = parse_train_settings({**config, "fold": "1/5"}, given={"fold"})
    assert (settings.fold, settings.lora_rank) == ("1/5", 8)
    assert "holdout" not in settings.model_fields_set
    assert parse_train_settings({**config, "method": "full"}, given={"method"}).method == "full"
    with pytest.raises(JudgeError, match="holdout has no effect: fold is given"):
        parse_train_settings({**config, "fold": "1/5"}, given={"fold", "holdout"})


def test_one_table_may_stand_for_a_list_of_one() -> None:
    assert parse_train_settings({"model": "m", "data": "t.csv"}).data == ("t.csv",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1", "is not valid YAML"),
        ("- a", "expected a mapping"),
        ("", "expected a mapping"),
        ("seed: 1\nseed: 2", "'seed' is given twice"),
        ("!!python/object/apply:os.system ['true']", "is not valid YAML"),
    ],
)
def test_a_config_that_is_not_a_mapping_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(JudgeError, match=r"run\.yaml") as caught:
        read_config(path)
    assert message in str(caught.value)


def test_the_default_learning_rate_depends_on_the_method() -> None:
    assert parse_train_settings(NEEDED).rate == 2e-4
    assert parse_train_settings({**NEEDED, "method": "full"}).rate == 1e-5
    assert parse_train_settings({**NEEDED, "learning_rate": 3e-4}).rate == 3e-4


def test_the_shipped_configs_are_valid_and_begin_with_their_command() -> None:
    assert len(CONFIGS) == 6
    for path in CONFIGS:
        settings = parse_train_settings({**read_config(path), **NEEDED}, path.name)
        first = path.read_text(encoding="utf-8").splitlines()[0]
        assert first.startswith(f"# judge train --config configs/{path.name} ")
        if path.stem.endswith("t4"):
            assert (settings.dtype, settings.optimizer, settings.gradient_checkpointing) == (
                "float16",
                "paged_adamw_8bit",
                True,
            )


def test_every_setting_is_a_flag_with_its_meaning(capsys: pytest.CaptureFixture[str]) -> None:
    app(args=["train", "--help"], standalone_mode=False)
    shown = " ".join(capsys.readouterr().out.split())
    assert len(TrainSettings.model_fields) >= 40
    for name, field in TrainSettings.model_fields.items():
        assert f"--{name.replace('_', '-')} " in shown, name
        assert str(field.description)[:30] in shown, name


def test_flags_reach_the_settings_as_the_config_would(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import judge.cli.train

    seen: list[TrainSettings] = []
    monkeypatch.setattr(judge.cli.train, "train_judge", lambda settings, *_: seen.append(settings))
    config = tmp_path / "run.yaml"
    values = {"model": "m", "data": ["a.csv", "b.csv"], "seed": 4, "lora_rank": 8, "report_to": "tensorboard"}
    config.write_text(yaml.safe_dump(values), encoding="utf-8")
    flags = ["--seed", "5", "--rslora", "--no-gradient-checkpointing", "--shares", "0.3", "0.3", "--source-weights"]
    arguments = ["--config", str(config), "-o", "out", *flags, "a=0.5", "--source-weights", "b=2"]
    app(args=["train", *arguments], standalone_mode=False)
    (settings,) = seen
    assert (settings.seed, settings.lora_rank, settings.rslora, settings.data) == (5, 8, True, ("a.csv", "b.csv"))
    assert settings.gradient_checkpointing is False
    assert settings.shares == (0.3, 0.3)
    assert settings.source_weights == {"a": 0.5, "b": 2.0}
    assert settings.report_to == ("tensorboard",)


def test_a_source_weight_that_is_no_number_is_refused() -> None:
    with pytest.raises(JudgeError, match="--source-weights=web: expected NAME=NUMBER"):
        app(args=["train", "-o", "x", "--source-weights", "web"], standalone_mode=False)


def test_reading_settings_loads_neither_torch_nor_trl() -> None:
    program = (
        "import sys; from judge.training.settings import parse_train_settings; "
        "parse_train_settings({'model': 'm', 'data': 'd'}); "
        "print(*{m.split('.')[0] for m in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert {"torch", "trl", "transformers", "peft"}.isdisjoint(done.stdout.split())
