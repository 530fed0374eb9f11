"""No module of judge turns data into code."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def evaluations(tree: ast.AST) -> list[str]:
    """What in a module turns data into code: calls, imports, and `allow_pickle=True`."""
    found: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            last = name.rpartition(".")[2]
            # `model.eval()` of torch takes no arguments and evaluates nothing
            if (
                name in ("eval", "exec", "compile", "builtins.eval", "builtins.exec")
                or last == "literal_eval"
                or (last == "eval" and (node.args or node.keywords))
                or last in ("read_pickle", "to_pickle", "unsafe_load")
            ):
                found.append(name)
            if any(k.arg == "allow_pickle" and ast.unparse(k.value) != "False" for k in node.keywords):
                found.append(f"{name}(allow_pickle)")
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            modules = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            names = {m.partition(".")[0] for m in modules} | {a.name for a in node.names}
            found += sorted(names & {"pickle", "cloudpickle", "dill", "marshal", "shelve", "joblib", "literal_eval"})
    return found


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ("eval('1')", 1),
        ("exec(x)", 1),
        ("import ast\nast.literal_eval(x)", 1),
        ("from ast import literal_eval as read", 1),
        ("import pickle", 1),
        ("from pickle import loads", 1),
        ("frame.eval('a + b')", 1),
        ("np.load(p, allow_pickle=True)", 1),
        ("np.load(p, allow_pickle=False)", 0),
        ("model.eval()", 0),
        ("re.compile('x')", 0),
        ("json.loads(x)", 0),
    ],
)
def test_the_search_for_evaluation_finds_it(source: str, count: int) -> None:
    assert len(evaluations(ast.parse(source))) == count


def test_no_module_of_judge_evaluates_or_unpickles_anything() -> None:
    files = sorted(path for package in ("judge", "quantize") for path in (ROOT / package).rglob("*.py"))
    assert len(files) >= 150
    assert {"comparison.py", "table.py", "submission.py", "main.py", "score.py"} <= {f.name for f in files}
    found = {str(f): evaluations(ast.parse(f.read_text(encoding="utf-8"))) for f in files}
    assert {name: what for name, what in found.items() if what} == {}
