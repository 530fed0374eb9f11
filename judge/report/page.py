"""The report's page: sections and the browser of rows, written as one file that opens from disk.

The page fetches nothing and runs nothing but its one script: its Content-Security-Policy names that script and the one
style sheet by hash. Texts of rows are data; the script shows them as text.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from judge.files import whole_file
from judge.report.row_data import Packing, ReportRow

if TYPE_CHECKING:
    from markupsafe import Markup

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Section:
    """A part of the report.

    Attributes:
        id: of its element and in its address, such as `reliability`; letters, digits and hyphens.
        title: shown as its heading and in the contents.
        html: safe HTML, in which all foreign text is escaped. It has no style attributes: the policy refuses them.
    """

    id: str
    title: str
    html: Markup


def write_page(path: Path, title: str, sections: Sequence[Section], rows: Iterable[ReportRow]) -> None:
    """Write the report, whole or not at all.

    Args:
        path: the file, .html.
        title: of the page, any text.
        sections: in order; the browser of rows follows them.
        rows: in the order of the list; read once, with only a chunk of them in memory.

    Raises:
        JudgeError: what reading `rows` raises.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(loader=FileSystemLoader(FOLDER), autoescape=True, undefined=StrictUndefined)
    style, script = (Markup((FOLDER / name).read_text(encoding="utf-8")) for name in ("page.css", "page.js"))  # noqa: S704
    packing = Packing()

    def chunks() -> Iterator[Markup]:
        return (Markup(chunk) for chunk in packing.chunks(rows))  # noqa: S704 - base64

    parts = environment.get_template("page.html.j2").generate(
        title=title,
        sections=sections,
        policy=policy(style, script),
        style=style,
        script=script,
        chunks=chunks(),
        index=lambda: Markup(packing.index()),  # noqa: S704 - escaped there; whole once the chunks are written
    )
    with whole_file(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        for part in parts:
            file.write(part)


def policy(style: str, script: str) -> str:
    """Return the Content-Security-Policy under which only this style sheet and this script count."""
    return "; ".join(
        (
            "default-src 'none'",
            f"script-src {_hash(script)}",
            f"style-src {_hash(style)}",
            "base-uri 'none'",
            "form-action 'none'",
            "require-trusted-types-for 'script'",
            "trusted-types 'none'",
        )
    )


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}'"
