"""`judge plan`: its lines, its JSON, its exit status, and the one line that an error is."""

from __future__ import annotations

import json
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer

from judge.cli.plan import plan
from judge.errors import JudgeError
from judge.models.arithmetic import ModelShape
from judge.planning.plan import find_machine, make_plan, open_plan_model
from judge.scoring.settings import ScoreSettings
from judge.tables.table import Table
from tests.models.test_plan_arithmetic import LLAMA_8B, YI_34B, config

GIB = 1 << 30
AWQ = YI_34B["quantization_config"]
QWEN_14B = config("qwen2", 152064, 48, 5120, 13824, 40, 8, dtype="bfloat16", max_position_embeddings=32768)
GLM_9B = config("glm4", 151552, 40, 4096, 13696, 32, 2, head_dim=128, dtype="bfloat16")
MISTRAL_24B = config("mistral", 131072, 40, 5120, 32768, 32, 8, head_dim=128, dtype="bfloat16")


def run(model: Path, table: Path, **options: Any) -> tuple[int, str]:
    settings = ScoreSettings(**options.pop("settings", {}))
    with redirect_stdout(StringIO()) as output:
        try:
            plan(model, table, settings, **options)
        except typer.Exit as end:
            return end.exit_code, output.getvalue().rstrip()
    return 0, output.getvalue().rstrip()


def test_the_command_ends_with_a_verdict_and_its_status(tmp_path: Path, rows: Path, small_cpu: None) -> None:
    del small_cpu
    (tmp_path / "config.json").write_text(json.dumps({**LLAMA_8B, "dtype": "bfloat16"}))
    status, text = run(tmp_path, rows, gpu="2xT4", deadline="9h")
    assert status == 0
    assert text.splitlines()[-1].startswith("fits: ")
    assert text.splitlines()[-1].endswith(" of 9.0 h")
    assert run(tmp_path, rows, gpu="2xT4", deadline="1h")[1].endswith(" min of 1.0 h")
    assert run(tmp_path, rows, gpu="2xT4", deadline="90m")[1].endswith(" min of 90.0 min")
    assert "8.03 billion parameters" in text
    assert "fitted to 4 published runs" in text
    late, text = run(tmp_path, rows, gpu="2xT4", deadline="20s")
    assert late == 1
    assert "\ndoes not fit: " in text
    assert run(tmp_path, rows, gpu="2xT4")[0] == 0
    assert "no measured point for this card" in run(tmp_path, rows, gpu="L4")[1]
    assert "judge rehearse --json measures it" in run(tmp_path / "config.json", rows, gpu="cpu", deadline="1s")[1]
    assert run(tmp_path, rows, gpu="P100", deadline="9h")[0] == 1


def test_json_holds_the_same_figures(tmp_path: Path, rows: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(YI_34B))
    status, text = run(tmp_path, rows, gpu="2xT4", deadline="1m", as_json=True)
    found = json.loads(text)
    assert status == 1
    assert found["verdict"] == "does not fit"
    assert found["deadline_seconds"] == 60
    assert found["model"]["parameters"] == 34_388_917_248
    assert found["machine"]["cards_each"] == 2
    memory = found["memory_bytes"]
    parts = memory["weights"] + memory["activations"] + memory["other"] + memory["cache"]
    assert parts == pytest.approx(memory["usable"])
    total = found["loading_seconds"]["high"] + found["reading_seconds"]["high"]
    assert found["seconds"]["high"] == pytest.approx(total)
    assert {s["verdict"] for s in found["suggestions"]} <= {"fits", "may not fit", "does not fit"}
    impossible = json.loads(run(tmp_path, rows, gpu="T4", as_json=True)[1])
    assert impossible["verdict"] == "cannot work"
    assert impossible["seconds"] is None


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"gpu": "2xT5"}, "did you mean T4?"),
        ({"gpu": "T4", "deadline": "-3h"}, "is no duration"),
        ({"gpu": "T4", "deadline": "0"}, "is no time at all"),
        ({"gpu": "T4", "rehearsal": Path("nowhere.json")}, "nowhere.json: cannot be read (No such file"),
        ({"gpu": "T4", "tokenizer": Path("nowhere")}, "nowhere: no tokenizer in it"),
        ({"gpu": "T4", "settings": {"swap": "some"}}, "--swap=some"),
        ({"gpu": "T4", "settings": {"max_tokens": 9000}}, "--max-tokens=9000 is more than the model takes"),
        ({"gpu": "T4", "settings": {"template": "no-such"}}, "no-such"),
    ],
)
def test_bad_options_are_one_clear_line(tmp_path: Path, rows: Path, options: dict[str, Any], expected: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**LLAMA_8B, "max_position_embeddings": 8192}))
    with pytest.raises(JudgeError) as error:
        run(tmp_path, rows, **options)
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("[1]", "expected a JSON object"),
        ("version https://git-lfs", "is not valid JSON"),
        ("[" * 100_000, "is not valid JSON"),
        (json.dumps({"model_type": "llama"}), "the config of llama lacks num_hidden_layers"),
        (json.dumps({"model_type": "t5", "is_encoder_decoder": True}), "is not a causal language model"),
    ],
)
def test_what_is_no_config_is_refused_by_name(tmp_path: Path, rows: Path, content: str, expected: str) -> None:
    file = tmp_path / "config.json"
    file.write_text(content)
    with pytest.raises(JudgeError) as error:
        run(file, rows, gpu="T4")
    assert expected in str(error.value)
    assert "config.json" in str(error.value)


def test_no_config_and_a_table_of_another_schema_are_refused(tmp_path: Path, rows: Path) -> None:
    with pytest.raises(JudgeError, match=r"no config\.json"):
        run(tmp_path, rows, gpu="T4")
    (tmp_path / "config.json").write_text(json.dumps(LLAMA_8B))
    other = tmp_path / "other.csv"
    other.write_text("id,text\n1,x\n")
    with pytest.raises(JudgeError, match="prompt"):
        run(tmp_path, other, gpu="T4")


def test_a_judge_bundles_adapter_is_planned_on_its_base(trained: dict[str, Path]) -> None:
    opened = open_plan_model(trained["bundle"])
    assert opened.shape == ModelShape.from_config(json.loads((trained["base"] / "config.json").read_text()))
    judge = opened.folder.judge
    assert judge is not None
    found = make_plan(opened, Table.open(trained["table.csv"]), find_machine("T4"), ScoreSettings())
    assert found.case.lengths.budget == judge.max_tokens
    assert found.template == judge.stored_template().name
    assert np.all(found.case.lengths.tokens <= judge.max_tokens)
