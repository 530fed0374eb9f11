"""The report's page: sections and the browser of rows, written as one file that opens from disk.

The page fetches nothing and runs nothing but its one script: its Content-Security-Policy names that script and the one
style sheet by hash. Texts of rows are data; the script shows them as text.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from judge.files import whole_file
from judge.report.row_data import Packing, ReportRow

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


def section(name: str, title: str, *parts: Markup | None) -> Section:
    """Return the section that consists of these parts; None is left out."""
    return Section(name, title, Markup("").join(part for part in parts if part is not None))


def write_page(path: Path, title: str, sections: Sequence[Section], rows: Iterable[ReportRow]) -> None:
    """Write the report, whole or not at all.

    Args:
        path: the file, .html.
        title: of the page, any text.
        sections: in order; the browser of rows follows them.
        rows: in the order of the list; read once, with only a chunk of them in memory.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(loader=FileSystemLoader(FOLDER), autoescape=True, undefined=StrictUndefined)
    style, script = (Markup((FOLDER / name).read_text(encoding="utf-8")) for name in ("page.css", "page.js"))  # noqa: S704
    packing = Packing()
    parts = environment.get_template("page.html.j2").generate(
        title=title,
        sections=sections,
        policy=policy(style, script),
        style=style,
        script=script,
        chunks=(Markup(chunk) for chunk in packing.chunks(rows)),  # noqa: S704 - base64
        index=lambda: Markup(packing.index()),  # noqa: S704 - escaped there; whole once the chunks are written
    )
    with whole_file(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(parts)


def policy(style: str, script: str) -> str:
    """Return the Content-Security-Policy under which only this style sheet and this script count."""
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii") for text in (script, style)]
    return (
        f"default-src 'none'; script-src 'sha256-{hashes[0]}'; style-src 'sha256-{hashes[1]}'; base-uri 'none'; "
        "form-action 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
    )
