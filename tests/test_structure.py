"""The structure that the documents promise: imports go down only, and nothing heavy comes with `import judge`."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import judge
import quantize

PACKAGE = Path(judge.__file__).parent
HEAVY = ("torch", "vllm", "transformers", "pandas", "pyarrow", "numpy", "pydantic", "yaml", "jinja2")

# From the ground up: a module imports only from lines above its own (docs/architecture.md).
ORDER = [
    ["errors", "calibration.softmax_fit", "cli_options"],
    ["deadline", "speed"],
    ["template_values", "template_folders", "parquet_folder"],
    ["comparison", "template", "budget", "verdict", "resample", "hardware", "shards", "settings_flags"],
    ["metrics", "language", "labels", "table_files", "encoding", "engine", "split", "calibration.parameters"],
    ["checks.finding"],
    ["checks.machine", "checks.leftovers", "checks.packages", "checks.imports"],
    ["checks.offline"],
    ["judge_file", "awkward_rows", "template_check"],
    ["bundle", "table", "predictions_file", "prompt", "run_folder", "overlap", "progress", "pacing"],
    ["prompt_check", "prompt_diff", "mock.words"],
    ["mock.shapes"],
    ["mock.awkward"],
    ["planning.architecture", "planning.gpus", "planning.time_model"],
    ["planning.arithmetic", "planning.packing"],
    ["planning.kernels", "planning.memory", "planning.card_time", "planning.lengths"],
    ["planning.published", "checks.cards", "checks.model_files"],
    ["trained_rows", "engine.adapter", "engine.one_adapter", "engine.pool", "engine.server_requests", "data.survey"],
    ["demo.model", "demo.make_training", "engine.packed", "engine.tensor_files"],
    ["engine.ray_actor", "engine.ray_connection"],
    ["planning.measure", "planning.random_engine"],
    ["planning.probe", "rehearsal.text"],
    ["engine.expand", "engine.ray_stream", "engine.server_checks", "engine.server_loop"],
    ["engine.weights", "engine.server", "engine.ray"],
    ["engine.transformers", "engine.vllm", "prepared", "submission", "score_settings", "data.copy"],
    ["engine.worker", "reading", "predictions", "data.tables", "data.mix", "data.describe"],
    ["mock.table", "rehearsal.rows"],
    ["rehearsal.outcome"],
    ["paced_reading", "checks.engine_fit", "checks.model_fit"],
    ["doctor"],
    ["doctor_command"],
    ["score", "quick_submission", "recalibrate", "prompt_command", "data.cli"],
    ["rehearse"],
    ["rehearse_command"],
    # what predictions are worth
    ["evaluation.refusals", "evaluation.permutation", "evaluation.blend", "evaluation.columns"],
    ["evaluation.row_facts", "planning.layout"],
    ["planning.outcome"],
    ["planning.suggestions"],
    ["plan"],
    ["planning.plan_text"],
    ["plan_command"],
    ["evaluation.judged_rows"],
    ["evaluation.reliability", "evaluation.slices", "evaluation.agreement", "evaluation.length_baseline"],
    ["evaluation.bias_effects", "evaluation.members", "calibration.fit"],
    ["evaluation.quality", "evaluation.self_preference"],
    ["evaluation.bias"],
    ["evaluation.bias_lines", "evaluate", "calibrate", "compare", "ensemble"],
    ["evaluation.text"],
    ["evaluate_command", "compare_command", "show_command"],
    # the report
    ["report.html", "report.row_data"],
    ["report.svg", "report.page"],
    ["report.figures", "report.forest"],
    ["report.model_sections"],
    ["report.run_sections", "report.bias_section", "report.summary_section"],
    ["report.sections"],
    ["report_command"],
    # training
    ["training.events", "training.settings", "training.loss", "training.heldout"],
    ["training.rows", "training.model", "training.callbacks", "training.progress"],
    ["training.split_report", "training.cost", "training.trainer"],
    ["training.plan"],
    ["training.announce", "training.make_trainer", "training.bundle"],
    ["train"],
    ["api", "score_command", "train_command"],
    # experiments
    ["experiment.arm_names"],
    ["experiment.settings", "experiment.cache", "experiment.rows", "experiment.arm_scores"],
    ["experiment.power", "experiment.arms", "experiment.result"],
    ["experiment.sequential", "experiment.paired", "experiment.difference_text"],
    ["experiment.statistics", "experiment.reading", "experiment.costs"],
    ["experiment.racing", "experiment.record", "experiment.train_arms"],
    ["experiment.arm_figures", "experiment.results_file"],
    ["experiment.plan_text", "experiment.plots"],
    ["experiment.run", "experiment.text"],
    ["experiment.row_sections", "experiment.prompt_sections"],
    ["experiment.page_sections"],
    ["experiment_command"],
    ["calibrate_command", "ensemble_command"],
    ["planning.cli"],
    ["cli"],
    ["__main__"],
]

# Packages whose own file holds a docstring only.
WITHOUT_CODE = (
    "calibration",
    "checks",
    "data",
    "demo",
    "evaluation",
    "experiment",
    "mock",
    "planning",
    "rehearsal",
    "report",
    "training",
)

# The package that leads to 4 bits. It may import all of judge but the command line, which alone imports it.
QUANTIZE_ORDER = [
    ["events", "layers", "tensor_file", "quiet", "merge_weights", "unfinished", "calibration", "drift_figures"],
    ["back_end", "needs", "size_report", "skeleton", "drift"],
    ["weights", "merge_plan", "drift_command"],
    ["auto_awq", "llm_compressor", "merge_proof"],
    ["awq", "merge"],
    ["merge_command", "quantize_command"],
]


def module_name(path: Path, package: Path = PACKAGE) -> str:
    parts = path.relative_to(package).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path: Path, package: str = "judge") -> set[str]:
    """Names of a package's modules that a file imports at run time, inside functions too."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only = {
        child
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for child in ast.walk(node)
    }
    found = set()
    for node in ast.walk(tree):
        if node in typing_only:
            continue
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == package:
            if node.module == package:
                found |= {alias.name for alias in node.names if not alias.name.startswith("_")}
            else:
                found.add(node.module.removeprefix(f"{package}."))
    return found


def test_imports_go_down_only() -> None:
    level = {name: i for i, names in enumerate(ORDER) for name in names}
    files = [p for p in PACKAGE.rglob("*.py") if module_name(p) not in ("", *WITHOUT_CODE)]
    assert len(files) >= 110
    assert {module_name(p) for p in files} == set(level)
    wrong = [
        f"{module_name(path)} imports {name}"
        for path in files
        for name in imports_of(path)
        if level[name] >= level[module_name(path)]
    ]
    assert wrong == []


def test_imports_of_the_quantising_package_go_down_only() -> None:
    level = {name: i for i, names in enumerate(QUANTIZE_ORDER) for name in names}
    package = Path(quantize.__file__).parent
    files = {module_name(path, package): path for path in package.glob("*.py") if path.name != "__init__.py"}
    assert set(files) == set(level)
    wrong = [
        f"{name} imports {other}"
        for name, path in files.items()
        for other in imports_of(path, "quantize")
        if level[other] >= level[name]
    ]
    assert wrong == []
    assert [name for name, path in files.items() if imports_of(path) & {"cli", "__main__"}] == []
    assert {module_name(path) for path in PACKAGE.rglob("*.py") if imports_of(path, "quantize")} == {"cli"}


def loaded_after(statement: str) -> set[str]:
    program = f"import sys; {statement}; print(*sorted({{m.split('.')[0] for m in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    return set(done.stdout.split())


def test_importing_judge_and_its_command_line_loads_nothing_heavy() -> None:
    for statement in ("import judge", "import judge.cli"):
        loaded = loaded_after(statement)
        assert "judge" in loaded
        assert loaded.isdisjoint(HEAVY), statement


def test_the_engine_interface_loads_neither_torch_nor_vllm() -> None:
    loaded = loaded_after("import judge.engine.pool, judge.score")
    assert "numpy" in loaded
    assert loaded.isdisjoint(("torch", "vllm"))
