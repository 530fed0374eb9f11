"""The report's file: one script and one style sheet under a policy, rows as data, written whole and in a stream."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
import zlib
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markupsafe import Markup

from judge.errors import JudgeError
from judge.predictions.file import StoredPredictions
from judge.report.page import Section, write_page
from judge.report.row_data import CHUNK_CHARACTERS, CHUNK_ROWS, UNDECIDED, Packing, ReportRow, preview, rows_of
from judge.stats.metrics import log_losses
from judge.tables.comparison import Flag
from judge.tables.table import Table
from tests.kit.report_rows import HOSTILE, report_row

SECTION = Section("headline", "Headline", Markup("<p>Fine.</p>"))


class Elements(HTMLParser):
    """All elements of a page with their attributes, and what stands in scripts and style sheets."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.raw: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        self.raw.append("")

    def handle_data(self, data: str) -> None:
        if self.raw and self.cdata_elem:
            self.raw[-1] += data

    def of(self, tag: str) -> list[tuple[dict[str, str | None], str]]:
        """Return attributes and raw content of the elements with a name."""
        return [(a, raw) for (name, a), raw in zip(self.found, self.raw, strict=True) if name == tag]


def written(path: Path, rows: list[ReportRow], title: str = "Report") -> Elements:
    write_page(path, title, [SECTION], rows)
    return Elements(path.read_text(encoding="utf-8"))


def stored_texts(page: Elements) -> tuple[dict[str, Any], list[list[dict[str, Any]]]]:
    """Return the index and the chunks of a page."""
    scripts = {str(a.get("id")): raw for a, raw in page.of("script")}
    chunks = [v for k, v in scripts.items() if k.startswith("chunk-")]
    return json.loads(scripts["index"]), [json.loads(zlib.decompress(base64.b64decode(chunk))) for chunk in chunks]


def test_only_the_one_script_and_style_sheet_have_their_hash_in_the_policy(tmp_path: Path) -> None:
    page = written(tmp_path / "r.html", [report_row()])
    policy = next(a["content"] for a, _ in page.of("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    rules = {rule.split()[0]: rule.split()[1:] for rule in policy.split(";")}
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == ["'none'"]
    assert rules["require-trusted-types-for"] == ["'script'"]
    running = [raw for a, raw in page.of("script") if "type" not in a]
    for name, texts in (("script-src", running), ("style-src", [raw for _, raw in page.of("style")])):
        assert len(texts) == 1
        digest = base64.b64encode(hashlib.sha256(texts[0].encode()).digest()).decode()
        assert rules[name] == [f"'sha256-{digest}'"]
    before = [name for name, _ in page.found].index("meta")
    assert page.found[before + 1][1].get("http-equiv") == "Content-Security-Policy"  # right after the charset


def test_nothing_is_fetched_and_no_attribute_runs_or_styles(tmp_path: Path) -> None:
    page = written(tmp_path / "r.html", [report_row(id=text) for text in HOSTILE], title=HOSTILE[1])
    names = {name for _, attributes in page.found for name in attributes}
    assert {"id", "class", "href"} <= names
    assert not {name for name in names if name.startswith("on")}
    assert not names & {"src", "style", "srcdoc", "action", "srcset", "data"}
    assert all(str(a["href"]).startswith("#") for _, a in page.found if "href" in a)
    assert {name for name, _ in page.found}.isdisjoint({"link", "img", "iframe", "object", "embed", "base", "b"})


def test_a_hostile_title_is_text(tmp_path: Path) -> None:
    path = tmp_path / "r.html"
    plain = written(path, [report_row()])
    for title in HOSTILE:
        page = written(path, [report_row()], title)
        assert [name for name, _ in page.found] == [name for name, _ in plain.found]


@settings(deadline=None, max_examples=40)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])) | st.sampled_from(HOSTILE), min_size=1, max_size=5))
def test_any_text_comes_back_from_the_page_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str]
) -> None:
    rows = [
        report_row(id=f"{i}{text}", prompt=(text, None), response_a=(text,), response_b=(), models=(text, text),
                   language=text, source=text)
        for i, text in enumerate(texts)
    ]  # fmt: skip
    path = tmp_path_factory.getbasetemp() / "any.html"
    page = written(path, rows)
    assert len(page.of("script")) == 3  # the chunk, the index, the script
    index, (chunk,) = stored_texts(page)
    assert index["columns"]["id"] == [row.id for row in rows]
    for name in ("language", "source"):
        assert [index["names"][name][code] for code in index["columns"][name]] == texts
    for text, row in zip(texts, chunk, strict=True):
        assert (row["prompt"], row["a"], row["b"], row["models"]) == ([text, None], [text], [], [text, text])


def test_a_model_name_with_half_a_surrogate_is_written(tmp_path: Path) -> None:
    _, ((row,),) = stored_texts(written(tmp_path / "r.html", [report_row(models=("x\ud800", ""))]))
    assert row["models"] == ["x?", ""]


def test_same_rows_same_bytes(tmp_path: Path) -> None:
    rows = [report_row(id=str(i), language=name) for i, name in enumerate(("fr", "en", "de"))]
    for name in ("one.html", "two.html"):
        write_page(tmp_path / name, "Report", [SECTION], rows)
    assert (tmp_path / "one.html").read_bytes() == (tmp_path / "two.html").read_bytes()


def test_chunks_end_after_so_many_rows_or_characters() -> None:
    rows = [report_row(id=str(i)) for i in range(2 * CHUNK_ROWS + 1)]
    rows[1] = report_row(id="1", prompt=("x" * CHUNK_CHARACTERS,))
    packing = Packing()
    sizes = [len(json.loads(zlib.decompress(base64.b64decode(chunk)))) for chunk in packing.chunks(rows)]
    assert sizes == [2, CHUNK_ROWS, CHUNK_ROWS - 1]
    assert packing.starts == [0, 2, CHUNK_ROWS + 2]
    assert json.loads(packing.index())["rows"] == len(rows)


def test_rows_are_written_while_they_are_read(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(33, 127, (10, 50_000), dtype=np.uint8)
    sizes: list[int] = []

    def rows() -> Iterator[ReportRow]:
        for i in range(100):
            yield report_row(id=str(i), prompt=(noise[i % 10].tobytes().decode(),))
            sizes.append(sum(path.stat().st_size for path in tmp_path.glob(".r.html.*.tmp")))

    write_page(tmp_path / "r.html", "Report", [SECTION], rows())
    assert sizes[70] > 1_000_000  # three chunks of twenty rows are in the file


def test_a_report_that_cannot_be_finished_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "r.html"
    path.write_text("old", encoding="utf-8")

    def rows() -> Iterator[ReportRow]:
        yield from (report_row(id=str(i)) for i in range(CHUNK_ROWS + 1))
        raise JudgeError("table.csv: row 202 is not readable")

    with pytest.raises(JudgeError, match="row 202"):
        write_page(path, "Report", [SECTION], rows())
    assert [p.name for p in tmp_path.iterdir()] == ["r.html"]
    assert path.read_text(encoding="utf-8") == "old"


def test_the_page_has_what_its_script_needs() -> None:
    folder = Path(write_page.__code__.co_filename).parent
    script = (folder / "page.js").read_text(encoding="utf-8")
    template = (folder / "page.html.j2").read_text(encoding="utf-8")
    wanted = set(re.findall(r"\$\(\"([\w-]+)\"\)", script))
    assert len(wanted) > 15
    assert wanted <= set(re.findall(r"id=\"([\w-]+)\"", template))
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\b|Function\(", script)


TABLE = (
    "id,model_a,model_b,prompt,response_a,response_b,winner,language,source\n"
    '7,m,n,"[""Hi"", null]","[""x"", ""yy""]","[""z"", ""zz""]",model_b,de,arena\n'
    "3,,,Tell me a story about two cats,same,same,,,\n"
    "5,,,q,a,b,tie,,\n"
)


def stored(**values: Any) -> StoredPredictions:
    p = np.array([[0.2, 0.7, 0.1], [0.4, 0.4, 0.2], [1.0, 0.0, 0.0]])  # in the order of ids, not of the table
    return StoredPredictions("p.parquet", "predictions", ["7", "5", "3"], p, None, None, **values)


def test_rows_come_in_the_tables_order_with_their_predictions(make_table: Callable[[str], Path]) -> None:
    rows = list(rows_of(stored(), Table.open(make_table(TABLE))))
    assert [row.id for row in rows] == ["7", "3", "5"]
    assert [row.label for row in rows] == [1, -1, 2]
    assert [row.p for row in rows] == [(0.2, 0.7, 0.1), (1.0, 0.0, 0.0), (0.4, 0.4, 0.2)]
    assert [row.verdict for row in rows] == [1, 0, UNDECIDED]
    assert [row.turn_count for row in rows] == [2, 1, 1]
    assert rows[0].prompt == ("Hi", None)
    assert rows[0].characters == (2, 3, 3)
    assert (rows[0].models, rows[0].language, rows[0].source) == (("m", "n"), "de", "arena")
    assert rows[1].language == "en"  # a guess
    assert rows[1].flags == Flag.IDENTICAL
    assert [row.flips for row in rows] == [None] * 3
    assert not any(row.cut for row in rows)
    assert [row.verdict_mass for row in rows] == [None] * 3


def test_both_orders_flags_and_cuts_are_taken_from_the_predictions(make_table: Callable[[str], Path]) -> None:
    first = np.log([[0.2, 0.7, 0.1], [0.5, 0.3, 0.2], [0.5, 0.3, 0.2]])
    second = np.log([[0.1, 0.8, 0.1], [0.3, 0.5, 0.2], [0.1, 0.1, 0.8]])
    second[2] = math.nan
    both = stored(first=first, second=second, cut=np.array([True, False, False]))
    both = StoredPredictions(**{**vars(both), "flags": np.array([256, 0, 128], dtype=np.uint32)})
    rows = list(rows_of(both, Table.open(make_table(TABLE))))
    assert [row.flips for row in rows] == [False, None, True]
    assert rows[2].second == pytest.approx((0.3, 0.5, 0.2))
    assert rows[1].second is None
    assert [row.cut for row in rows] == [True, False, False]
    assert [row.flags for row in rows] == [
        Flag.TRAINED_ON | Flag.NULL_TURN, Flag.IDENTICAL | Flag.NOT_SCORED, Flag(0),
    ]  # fmt: skip


@given(st.lists(st.floats(0, 1), min_size=3, max_size=3).filter(lambda v: sum(v) > 0.1), st.integers(0, 2))
def test_a_rows_loss_is_the_evaluations(values: list[float], label: int) -> None:
    p = np.array(values) / sum(values)
    row = report_row(p=tuple(p.tolist()), label=label)
    assert row.loss == pytest.approx(log_losses(p[np.newaxis], np.array([label]))[0])
    assert row.loss is not None
    assert row.loss >= 0


def test_a_preview_is_one_short_line() -> None:
    assert preview((None, "  ", " a\n\n b\tc ")) == "a b c"
    assert preview((None,)) == ""
    assert len(preview(("word " * 1000,))) <= 80
