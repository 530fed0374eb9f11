"""The house: rooms in order, each entered through its doors only; nothing heavy comes with `import judge`."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import defaultdict
from graphlib import TopologicalSorter
from importlib import import_module
from pathlib import Path
from typing import TypeGuard

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "vllm", "transformers", "pandas", "pyarrow", "numpy", "pydantic", "yaml", "jinja2")

# From the ground up: a room imports from the rooms above its line only, and there from the doors that are named here.
ROOMS = {
    "errors": "", "version": "", "files": "", "deadline": "",
    "tables": "comparison table table_files table_writing parquet_folder language split overlap",
    "stats": "metrics resample words permutation softmax_fit",
    "prompting": "template template_check template_folders budget encoding builder verdict awkward_rows check diff",
    "models": "bundle load prompting judge_file adapter tensor_files packed trained_rows architecture arithmetic "
    "calibration",
    "hardware": "machine cards kernels memory",
    "engine": "protocol choose pool weights expand transformers",
    "runs": "folder prepared shards reading progress terminal",
    "predictions": "predictions file submission",
    "scoring": "score scorer settings reading",
    "api": "", "training": "settings train heldout model",
    "evaluation": "evaluate compare ensemble ensemble_files agreement bias bias_effects judged_rows members quality "
    "reliability row_facts self_preference settings shown_row slices",
    "calibration": "calibrate bundle",
    "experiment": "settings run result files arm_figures text",
    "planning": "plan layout lengths forecast rehearsal rehearsal_rows rehearse time_model",
    "report": "evaluation_page experiment_page model_sections",
    "data": "tables mix describe mock_table",
    "doctor": "doctor finding",
    "demo": "model",
    "quantize": "settings merge awq drift calibration_prompts drift_figures merge_plan merge_proof layers",
    "cli": "main", "__main__": "", "__init__": "",
}  # fmt: skip


def is_test(node: ast.AST) -> TypeGuard[ast.FunctionDef]:
    return isinstance(node, ast.FunctionDef) and node.name.startswith("test_")


def room_and_door(module: str) -> tuple[str, str]:
    first, _, rest = module.removeprefix("judge.").partition(".")
    return first, rest


def imports_of(path: Path) -> set[str]:
    """Modules of the house that a file imports: in functions and for typing too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inside = ROOT / node.module.replace(".", "/")
            modules = (f"{node.module}.{alias.name}" for alias in node.names)
            found |= {m if (inside / f"{m.rpartition('.')[2]}.py").is_file() else node.module for m in modules}
    return {module for module in found if re.match(r"(judge|quantize)\.|judge$", module)}


MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): imports_of(path)
    for package in ("judge", "quantize")
    for path in (ROOT / package).rglob("*.py")
}


def test_rooms_import_from_rooms_below_through_their_doors() -> None:
    order, wrong = list(ROOMS), []
    assert len(MODULES) > 150
    for module, imported in MODULES.items():
        room = room_and_door(module)[0]
        for other in imported:
            below, door = room_and_door("judge.__init__" if other == "judge" else other)
            if below != room and (order.index(below) > order.index(room) or door not in ROOMS[below].split(" ")):
                wrong.append(f"{module} imports {other}")
    assert wrong == []


def test_no_circles_inside_a_room() -> None:
    inside = defaultdict[str, dict[str, set[str]]](dict)
    for module, imported in MODULES.items():
        room = room_and_door(module)[0]
        inside[room][module] = {other for other in imported if room_and_door(other)[0] == room} - {module}
    for graph in inside.values():
        TopologicalSorter(graph).prepare()  # raises CycleError


def test_each_room_names_its_doors() -> None:
    for room, doors in ROOMS.items():
        if doors:
            said = import_module("quantize" if room == "quantize" else f"judge.{room}").__doc__ or ""
            assert [door for door in doors.split() if f"`{door}`" not in said] == [], room
    assert len(list((ROOT / "judge").glob("*.py"))) <= 8


def loaded_after(statement: str) -> set[str]:
    program = f"import sys; {statement}; print(*sorted({{m.split('.')[0] for m in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    return set(done.stdout.split())


def test_importing_judge_and_its_command_line_loads_nothing_heavy() -> None:
    for statement in ("import judge", "import judge.cli.main"):
        loaded = loaded_after(statement)
        assert "judge" in loaded
        assert loaded.isdisjoint(HEAVY), statement


def test_the_engine_interface_loads_neither_torch_nor_vllm() -> None:
    loaded = loaded_after("import judge.engine.pool, judge.scoring.scorer")
    assert "numpy" in loaded
    assert loaded.isdisjoint(("torch", "vllm"))


def test_test_names_are_short_claims_and_test_files_stay_readable() -> None:
    files = sorted((ROOT / "tests").rglob("*.py"))
    assert len(files) > 100
    assert [f"{path.name}: {lines}" for path in files if (lines := len(path.read_text().splitlines())) > 420] == []
    names = [node.name for path in files for node in ast.walk(ast.parse(path.read_text())) if is_test(node)]
    assert len(names) > 1000
    assert [name for name in names if len(name) > 70] == []


def test_functions_stay_short_and_take_few_parameters() -> None:
    wrong = []
    for module in MODULES:
        path = ROOT / (module.replace(".", "/") + ".py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                parameters = len(node.args.posonlyargs + node.args.args + node.args.kwonlyargs)
                lines = (node.end_lineno or 0) - node.lineno + 1
                if lines > 60 or parameters > 10:
                    wrong.append(f"{module}.{node.name}: {lines} lines, {parameters} parameters")
    assert wrong == []
