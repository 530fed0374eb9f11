"""The result of an experiment that no model read: arms whose log-odds are the truth's and noise."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from markupsafe import Markup

from judge.experiment.arm_figures import most_disputed
from judge.experiment.result import ArmScores, ExperimentResult, cost_of
from judge.experiment.settings import ArmSettings, parse_experiment
from judge.experiment.statistics import differences
from judge.prompting.template import Template, load_template, template_data
from judge.prompting.verdict import Float
from judge.report.experiment_page import experiment_sections
from judge.tables.comparison import Flag
from tests.kit.made_rows import rows_of, sampled

ROWS = 400
FOUR = [{"name": name, "template": name} for name in ("side-by-side", "rubric", "minimal", "interleaved")]
NOISE = {"side-by-side": 0.5, "rubric": 0.05, "minimal": 1.6, "interleaved": 0.52}


def made_experiment(
    arms: Sequence[Mapping[str, Any]],
    noise: Mapping[str, float],
    *,
    rows: int = ROWS,
    table: str = "rows.parquet",
    templates: Mapping[str, Template] | None = None,
    not_scored: Mapping[str, Sequence[int]] | None = None,
    **settings: Any,
) -> ExperimentResult:
    """Return the result of arms whose log-odds are the truth's and noise of a size.

    Args:
        noise: standard deviation of each arm's noise.
        templates: of arms that have another one than their settings name.
        not_scored: rows for which the engine gave an arm no number.
    """
    rng = np.random.default_rng(0)
    chosen = parse_experiment({"model": "m", "data": table, "arms": list(arms), "resamples": 200, **settings})
    odds = rng.normal(size=(rows, 3))
    labels = sampled(_softmax(odds), rng)
    groups = (np.arange(rows) // 2).astype(np.uint64)
    scores = []
    for arm in chosen.arms:
        for seed in chosen.train_seeds if arm.train else [None]:
            template = (templates or {}).get(arm.name) or load_template(arm.template or "minimal")
            missing = list((not_scored or {}).get(arm.name, ()))
            scores.append(_scores(arm, seed, template, odds + noise[arm.name] * rng.normal(size=(2, rows, 3)), missing))
    by_name = {arm.name: [one for one in scores if one.name == arm.name] for arm in chosen.arms}
    values = {
        name: np.stack([one.row_scores(labels, chosen.metric) for one in group]) for name, group in by_name.items()
    }
    base = by_name[chosen.baseline_name][0]
    joined = rows_of(
        base.p, labels, groups=groups, first=base.first, second=base.second, verdict_mass=base.verdict_mass,
        cut=base.cut, language=np.where(np.arange(rows) % 4 == 0, "de", "en").astype(object),
        turns=np.where(np.arange(rows) % 3 == 0, 2, 1), characters=rng.integers(50, 3000, (rows, 3)),
    )  # fmt: skip
    return ExperimentResult(
        settings=chosen,
        table=table,
        rows=joined,
        arms=scores,
        differences=differences(
            {name: v if by_name[name][0].seed is not None else v[0] for name, v in values.items()},
            chosen.baseline_name,
            groups,
            chosen.metric,
            margin=chosen.smallest_that_matters,
            resamples=200,
            permutations=500,
        ),
        planned_smallest=0.0567,
        warnings=["the rows have few prompts"],
        costs=[cost_of(group) for group in by_name.values()],
        record={"version": "1", "templates": {base.template.digest: template_data(base.template)}, "data": "/a/b.csv"},
        folder=Path("out"),
    )


def _softmax(odds: Float) -> Float:
    p: Float = np.exp(odds) / np.exp(odds).sum(axis=-1, keepdims=True)
    return p


def _scores(arm: ArmSettings, seed: int | None, template: Template, odds: Float, missing: list[int]) -> ArmScores:
    """Return the scores of an arm with these log-odds of both orders, shape (2, rows, 3)."""
    n, both = len(odds[0]), arm.swap == "all"
    first, second = _softmax(odds)
    if not both:
        second = np.full_like(first, np.nan)
    p = (first + second) / 2 if both else first.copy()
    p[missing] = 1 / 3
    flags = np.zeros(n, dtype=np.uint32)
    flags[missing] = int(Flag.NOT_SCORED)
    lengths = len(template.body) + np.random.default_rng(n).integers(0, 500, size=n)
    return ArmScores(
        name=arm.name,
        template=template,
        settings={
            "model": "/home/somebody/models/tiny",
            "template_digest": template.digest,
            "swap": "off",
            "max_tokens": arm.max_tokens or 2048,
            "train_rows": arm.train_rows,
        },
        p=p,
        first=first,
        second=second,
        verdict_mass=np.full(n, 0.75),
        tokens=lengths * (2 if both else 1),
        cut=lengths > 900,
        flags=flags,
        rows_read=n,
        tokens_read=int(lengths.sum()),
        seconds=12.0,
        seed=seed,
    )


def page(result: ExperimentResult, prompts: Mapping[str, str] | None = None) -> ElementTree.Element:
    """Return the report's sections as XML, after a check that nothing in them can run, load or be refused."""
    sections = experiment_sections(result, most_disputed(result), prompts or {}, "These rows.")
    assert all(re.fullmatch("[a-z]+", section.id) for section in sections)
    root = ElementTree.fromstring(f"<root>{Markup('').join(section.html for section in sections)}</root>")  # noqa: S314
    for element in root.iter():
        assert element.tag not in ("script", "style", "img", "iframe", "object", "a", "base", "meta", "math")
        assert [k for k in element.attrib if k.startswith("on") or k in ("style", "href", "src", "srcdoc")] == []
    return root


def words(element: ElementTree.Element) -> str:
    return " ".join(" ".join(element.itertext()).split())
