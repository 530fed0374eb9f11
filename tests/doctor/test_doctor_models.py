"""What `judge doctor` finds in model folders: really damaged ones, and models that cards or memory do not fit."""

from __future__ import annotations

import copy
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from judge.doctor import engine_fit, model_fit
from judge.doctor.cards import Driver
from judge.doctor.doctor import Examination, examine
from judge.doctor.finding import Finding, run_checks
from judge.doctor.model_files import Subject, examine_files
from judge.hardware.machine import GIB, Gpu
from judge.models.bundle import open_model
from judge.models.judge_file import FILE as JUDGE_FILE
from tests.kit.doctor_findings import P100, POINTER, T4, notes, problems
from tests.kit.judge_bundles import save_judge
from tests.kit.tiny_models import edit_config, save_adapter, save_llama
from tests.kit.tiny_tokenizers import STYLES


@pytest.fixture
def folder(tiny_model: Path, tmp_path: Path) -> Path:
    """A copy of a model to be damaged."""
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


@pytest.fixture(scope="module")
def sharded(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model in several weight files."""
    from transformers import AutoModelForCausalLM

    target = Path(shutil.copytree(tiny_model, tmp_path_factory.mktemp("sharded") / "model"))
    (target / "model.safetensors").unlink()
    AutoModelForCausalLM.from_pretrained(tiny_model).save_pretrained(target, max_shard_size="200KB")
    assert len(list(target.glob("*.safetensors"))) >= 3
    return target


def model_lines(folder: Path, **options: Any) -> tuple[list[str], list[str]]:
    """Return the problems and the notes about a model on a machine without a card and with enough memory."""
    wanted = Examination(folder, quick=True, **options)
    found = [finding for group, finding in examine(wanted, Driver(), 100 * GIB) if group == "model"]
    return problems(found), notes(found)


def test_a_sound_model_has_no_problems(tiny_model: Path, sharded: Path) -> None:
    for folder in (tiny_model, sharded):
        subject = Subject(folder)
        assert problems(examine_files(subject, None)) == []
        assert subject.opened is not None
    assert model_lines(tiny_model)[0] == []


def test_all_damage_is_told_at_once(sharded: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(sharded, tmp_path / "model"))
    first, second, third, *_ = sorted(folder.glob("*.safetensors"))
    first.write_text(POINTER)
    second.write_bytes(second.read_bytes()[:-1000])
    third.unlink()
    (folder / "tokenizer.json").write_text(POINTER)
    (folder / "config.json").write_text("{")
    lines = problems(examine_files(Subject(folder), None))
    assert any(f"2 of {len(list(folder.iterdir()))} files hold a Git LFS pointer" in line for line in lines)
    assert any(f"{second}: is not a safetensors file" in line for line in lines)
    assert any(f"1 weight file missing ({third.name})" in line for line in lines)
    assert any("config.json: is not a JSON object" in line for line in lines)
    assert len(lines) == 4


def test_a_missing_shard_shows_without_the_index(sharded: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(sharded, tmp_path / "model"))
    (folder / "model.safetensors.index.json").unlink()
    gone = sorted(folder.glob("*.safetensors"))[1]
    gone.unlink()
    assert f"1 weight file missing ({gone.name})" in problems(examine_files(Subject(folder), None))[0]


def damage_links(folder: Path) -> None:
    (folder / "config.json").rename(folder / "old.json")
    (folder / "config.json").symlink_to(folder / "blobs" / "abc")


def damage_pickle(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def damage_head(folder: Path) -> None:
    from safetensors.numpy import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    del tensors["lm_head.weight"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda folder: (folder / "config.json").unlink(), "no config.json"),
        (damage_links, "1 link to files that are not there (config.json); copy the folder with its contents (cp -rL)"),
        (lambda folder: (folder / "config.json").write_text("[" * 100_000), "config.json: is not a JSON object"),
        (
            lambda folder: (folder / JUDGE_FILE).write_text("[" * 100_000),
            "judge.json: cannot be read (maximum recursion",
        ),
        (damage_pickle, "only pickle files (pytorch_model.bin)"),
        (lambda folder: (folder / "model.safetensors").unlink(), "no weights"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "no usable tokenizer"),
        (lambda folder: (folder / JUDGE_FILE).write_text("{}"), "is not a judge's file"),
        (damage_head, "no output head among the weights"),
        (
            lambda folder: edit_config(folder, "config.json", num_hidden_layers=4),
            "2 of 4 layers have no weights (first 2)",
        ),
        (lambda folder: edit_config(folder, "config.json", model_type="llama9"), "does not know model_type 'llama9'"),
        (
            lambda folder: edit_config(folder, "config.json", model_type="own", auto_map={"AutoModel": "x.Y"}),
            "runs only with Python code of the folder's own (auto_map)",
        ),
        (
            lambda folder: edit_config(folder, "config.json", architectures=["LlamaForSequenceClassification"]),
            "is no causal language model",
        ),
    ],
)
def test_damage_is_named_with_what_to_do(folder: Path, damage: Callable[[Path], None], expected: str) -> None:
    damage(folder)
    found, _ = model_lines(folder)
    assert any(expected in line for line in found), found


def test_code_of_a_known_model_is_only_noted(folder: Path) -> None:
    edit_config(folder, "config.json", auto_map={"AutoModelForCausalLM": "someone/else--x.Y"})
    found, noted = model_lines(folder)
    assert found == []
    assert any("auto_map" in line for line in noted)
    assert "code in another repository" in notes(model_fit.local_findings(folder, open_model(folder)))[0]


def test_a_folder_that_is_not_there_is_one_problem(tmp_path: Path) -> None:
    found, _ = model_lines(tmp_path / "Qwen")
    assert len(found) == 1
    assert "no such model folder" in found[0]


def test_a_token_beyond_the_embedding_is_a_problem_unless_it_was_added(folder: Path) -> None:
    from safetensors.numpy import load_file, save_file

    tokenizer = copy.deepcopy(STYLES["qwen"]())
    tokenizer.add_tokens(["<image_soft_token>"])
    tokenizer.save_pretrained(folder)
    (line,) = notes(model_fit.tokenizer_findings(open_model(folder)))
    assert "<image_soft_token> has none" in line
    tensors = load_file(folder / "model.safetensors")
    tensors["model.embed_tokens.weight"] = tensors["model.embed_tokens.weight"][:100]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    (line,) = problems(model_fit.tokenizer_findings(open_model(folder)))
    assert "the embedding only 100 rows" in line


def write_template(path: Path, verdicts: str) -> Path:
    source = Path(__file__).parents[2] / "prompts" / "minimal.yaml"
    text = re.sub(r"^verdicts:.*$", f"verdicts: {verdicts}", source.read_text(), flags=re.MULTILINE)
    path.write_text(text)
    return path


def test_a_verdict_of_two_tokens_is_a_problem(tiny_model: Path, tmp_path: Path) -> None:
    template = write_template(tmp_path / "mine.yaml", '{a: " A", b: " B", tie: " Neitherofthem"}')
    found, _ = model_lines(tiny_model, template=str(template))
    assert any("Neitherofthem" in line for line in found), found


def test_a_budget_beyond_the_model_does_not_hide_the_template(tiny_model: Path, tmp_path: Path) -> None:
    template = write_template(tmp_path / "mine.yaml", '{a: " A", b: " B", tie: " Neitherofthem"}')
    found, _ = model_lines(tiny_model, template=str(template), max_tokens=5000)
    assert any("--max-tokens=5000 is more than the model takes" in line for line in found)
    assert any("Neitherofthem" in line for line in found)


def test_a_missing_chat_template_is_noted(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()
    assert any("the tokenizer has no chat template" in line for line in model_lines(folder)[1])


def test_a_judge_whose_tokenizer_was_exchanged_is_a_problem(tiny_model: Path, tmp_path: Path) -> None:
    bundle = save_judge(tiny_model, tmp_path / "judge")
    assert model_lines(bundle)[0] == []
    tokenizer = copy.deepcopy(STYLES["qwen"]())
    tokenizer.add_tokens(["Bette"])
    tokenizer.save_pretrained(bundle)
    assert any("builds other prompts" in line for line in model_lines(bundle)[0])


@pytest.fixture(scope="module")
def adapter(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_adapter(tmp_path_factory.mktemp("adapter") / "adapter", tiny_model)


def test_a_sound_adapter_has_no_problems(adapter: Path) -> None:
    assert model_lines(adapter)[0] == []


def test_an_adapter_whose_base_is_gone_or_damaged_says_so(adapter: Path, folder: Path, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(adapter, tmp_path / "adapter"))
    edit_config(moved, base_model_name_or_path=str(tmp_path / "gone"))
    assert "give the base model's folder with --base" in model_lines(moved)[0][0]
    (folder / "model.safetensors").write_text(POINTER)
    (moved / "adapter_model.safetensors").write_bytes((moved / "adapter_model.safetensors").read_bytes()[:-10])
    found = problems(examine_files(Subject(moved), folder))
    assert any(f"{moved / 'adapter_model.safetensors'}: is not a safetensors file" in line for line in found)
    assert any(f"{folder}: 1 of" in line for line in found)


def test_an_adapter_on_another_base_is_found_by_the_hash(adapter: Path, tiny_model: Path, tmp_path: Path) -> None:
    judged = Path(shutil.copytree(adapter, tmp_path / "adapter"))
    shutil.copy(save_judge(tiny_model, tmp_path / "judge") / JUDGE_FILE, judged)  # its base's hash is all zeros
    found = list(run_checks([("base", lambda: model_fit.base_findings(open_model(judged)))]))
    assert "is not the base model that adapter was trained on" in problems(found)[0]
    assert "no judge.json" in notes(model_fit.base_findings(open_model(adapter)))[0]


def test_an_adapter_of_another_model_does_not_fit(adapter: Path, tmp_path: Path) -> None:
    other = save_llama(tmp_path / "other", hidden_size=32)
    assert any("does not fit" in line for line in model_lines(adapter, base=other)[0])


def test_an_adapter_with_another_tokenizer_is_a_problem(adapter: Path, tmp_path: Path) -> None:
    own = Path(shutil.copytree(adapter, tmp_path / "adapter"))
    tokenizer = copy.deepcopy(STYLES["qwen"]())
    tokenizer.save_pretrained(own)
    assert not any("tokenizer" in line for line in model_lines(own)[0])
    tokenizer.add_tokens(["zebra"])
    tokenizer.save_pretrained(own)
    assert any("the adapter's tokenizer has" in line for line in model_lines(own)[0])


def test_an_adapter_that_was_never_trained_is_a_problem(tiny_model: Path, tmp_path: Path) -> None:
    untrained = save_adapter(tmp_path / "adapter", tiny_model, size=0.0)
    assert any("was never trained" in line for line in model_lines(untrained)[0])


def engine(folder: Path, gpus: list[Gpu], memory: int | None = 100 * GIB) -> list[Finding]:
    return list(run_checks([("engine", lambda: engine_fit.engine_findings(open_model(folder), gpus, memory))]))


def test_a_model_that_a_card_cannot_run_is_a_problem(folder: Path) -> None:
    assert problems(engine(folder, [T4, T4])) == []
    assert any("float16 on Tesla T4, a copy on each of 2 cards" in finding.line for finding in engine(folder, [T4, T4]))
    assert "do not fit" in problems(engine(folder, [Gpu("0", "small", GIB // 8, (8, 0))]))[0]
    edit_config(folder, "config.json", model_type="gemma2")
    assert (
        "vLLM does not run gemma2 in float16, and Tesla T4 (compute capability 7.5) has no bfloat16"
        in problems(engine(folder, [T4]))[0]
    )
    assert problems(engine(folder, [Gpu("0", "A10", 22 * GIB, (8, 6))])) == []


def test_packed_weights_without_a_kernel_are_a_problem(folder: Path) -> None:
    awq = {"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True, "version": "gemm"}
    edit_config(folder, "config.json", quantization_config=awq)
    assert "vLLM's wheel holds code for 7.5 and up" in problems(engine(folder, [P100]))[0]
    assert problems(engine(folder, [T4])) == []


def test_too_little_memory_for_a_cpu_engine_is_a_problem(tiny_model: Path) -> None:
    assert "and 1.0 GiB are free" in problems(engine(tiny_model, [], GIB))[0]
    assert problems(engine(tiny_model, [], None)) == []


def test_links_into_a_cache_are_noted(folder: Path, tmp_path: Path) -> None:
    blob = tmp_path / "blobs"
    blob.mkdir()
    (folder / "config.json").rename(blob / "abc")
    (folder / "config.json").symlink_to(blob / "abc")
    (line,) = notes(model_fit.local_findings(folder, open_model(folder)))
    assert f"1 file of model are links into {blob}" in line
