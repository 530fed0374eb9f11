"""HTML elements of the report, and how it writes figures.

All markup goes through `tag`, which escapes text and attributes: hostile text cannot become an element.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from markupsafe import Markup, escape

from judge.stats import words
from judge.stats.resample import Estimate, Undefined

_NEVER = ("style", "href", "src", "srcdoc")


def tag(name: str, *children: object, css: str | None = None, **attributes: object) -> Markup:
    """Return an element with escaped children and attributes.

    Args:
        children: text, numbers or Markup; None is left out.
        css: the `class` attribute.
        attributes: `_` stands for `-` in their names; numbers are shortened; None is left out.

    Raises:
        ValueError: an attribute that could run or load something.
    """
    given = {"class": css, **{key.rstrip("_").replace("_", "-"): value for key, value in attributes.items()}}
    if bad := [key for key in given if key in _NEVER or key.startswith("on")]:
        raise ValueError(f"attributes that the report never has: {bad}")
    shown = Markup("").join(
        Markup(' {}="{}"').format(key, safe_text(value)) for key, value in given.items() if value is not None
    )
    inside = Markup("").join(escape(safe_text(child)) for child in children if child is not None)
    return Markup("<{0}{1}>{2}</{0}>").format(name, shown, inside)


def safe_text(value: object) -> str:
    """Return text without control characters and half surrogates, which HTML and XML cannot hold; Markup stays."""
    if isinstance(value, Markup):
        return value
    if isinstance(value, float):
        return number(value)
    return "".join(c if _is_allowed(ord(c)) else "\N{REPLACEMENT CHARACTER}" for c in str(value))


def _is_allowed(code: int) -> bool:
    return (code >= 32 or code in (9, 10)) and not (
        0x7F <= code <= 0x9F or 0xD800 <= code <= 0xDFFF or code & 0xFFFE == 0xFFFE
    )


def number(value: float) -> str:
    """Return a coordinate with at most two decimals.

    Raises:
        ValueError: NaN or infinite.
    """
    if not math.isfinite(value):
        raise ValueError(f"a coordinate is {value}")
    shown = f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if shown == "-0" else shown


def paragraph(*content: object, css: str | None = None) -> Markup:
    """Return a paragraph."""
    return tag("p", *content, css=css)


def capitalised(words: str) -> str:
    """Return words with a capital letter at the beginning."""
    return words[:1].upper() + words[1:]


def warning_list(warnings: Sequence[str]) -> Markup | None:
    """Return warnings as a list of sentences, or None if there are none."""
    return tag("ul", *(tag("li", f"{capitalised(one)}.") for one in warnings), css="warnings") if warnings else None


def estimate(figure: Estimate | Undefined | None, form: str = ".4f") -> Markup:
    """Return a figure with its interval, or why there is none."""
    if figure is None:
        return tag("span", "no rows", css="undefined")
    if isinstance(figure, Undefined):
        return tag("span", figure.reason, css="undefined")
    return tag("span", tag("b", signed(figure.value, form)), " ", interval(figure, form), css="estimate")


def interval(figure: Estimate, form: str = ".4f") -> Markup:
    """Return the interval of a figure alone."""
    return tag("small", words.interval(figure, form, none="no interval", write=signed))


def signed(value: float, form: str) -> str:
    """Return a number with a true minus sign, and without a minus sign if it rounds to 0."""
    shown = f"{value:{form}}"
    if shown.startswith("-") and not shown.strip("-0.%"):
        shown = f"{0.0:{form}}"
    return shown.replace("-", "\N{MINUS SIGN}")


def table(head: Sequence[object], rows: Sequence[Sequence[object]], css: str = "figures") -> Markup:
    """Return a table whose first column names the rows; it scrolls by itself where it is too wide."""
    titles = tag("tr", *(tag("th", title, scope="col") for title in head))
    body = [tag("tr", tag("th", row[0], scope="row"), *(tag("td", cell) for cell in row[1:])) for row in rows]
    whole = tag("table", tag("thead", titles), tag("tbody", *body), css=css)
    return tag("div", whole, css="scroll", tabindex="0", role="region", aria_label=str(head[0]) or "figures")


def facts(pairs: Mapping[str, object]) -> Markup:
    """Return names and values as a list."""
    return tag("dl", *(tag("div", tag("dt", name), tag("dd", value)) for name, value in pairs.items()), css="pairs")


def details(summary: str, *content: object, is_open: bool = False) -> Markup:
    """Return content that the page hides until the user opens it, or that the user can hide."""
    return tag("details", tag("summary", summary), *content, open="" if is_open else None)
