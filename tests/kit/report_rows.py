"""Rows for the report's tests: one with every field open, and texts that try to run."""

from __future__ import annotations

from typing import Any

from judge.report.row_data import ReportRow
from judge.tables.comparison import Flag

# Each sets `window.pwned`, fetches something or breaks the page if a browser takes it for more than text.
HOSTILE = (
    "<script>window.pwned = 1</script>",
    "</script><script>window.pwned = 2</script>",
    "<!--<script>window.pwned = 3",
    "--></script><script>window.pwned = 4</script>",
    "<img src=x onerror='window.pwned = 5'>",
    "<img src='https://evil.example/pixel.png'>",
    "<svg/onload=window.pwned=6>",
    "<svg><script>window.pwned = 7</script></svg>",
    "<iframe srcdoc='<script>parent.pwned = 8</script>'></iframe>",
    "<a href='javascript:window.pwned = 9'>press</a>",
    "javascript:window.pwned=10",
    "'\"><b onmouseover=window.pwned=11>",
    "${window.pwned = 12}`",
    "{{ cycler.__init__.__globals__ }}{% if x %}",
    "\u2028window.pwned = 13\u2029//",
    "<style>* { display: none }</style>",
    "<base href='https://evil.example/'><meta http-equiv=refresh content='0;url=https://evil.example/'>",
    "<div style='background: url(https://evil.example/x)' onclick=alert(14)>",
    "</title></style></textarea></svg><script>alert(15)</script>",
    "\\u003cscript>alert(16)\\u003c/script>",
    "&lt;script&gt;alert(17)&lt;/script&gt; &amp;",
    "]]><![CDATA[<script>alert(18)</script>",
    "<math><mtext><table><mglyph><style><img src=x onerror=alert(19)>",
    "%3Cscript%3Ealert(20)%3C/script%3E #row=1&x",
    "__proto__",
)


def report_row(**values: Any) -> ReportRow:
    """Return a row with plain values for the fields that are not given."""
    row: dict[str, Any] = {
        "id": "1", "prompt": ("Who?",), "response_a": ("Me.",), "response_b": ("You there.",), "label": 0,
        "p": (0.5, 0.3, 0.2), "first": None, "second": None, "flags": Flag(0), "cut": False, "verdict_mass": None,
        "language": "en", "source": "", "models": ("", ""),
    } | values  # fmt: skip
    return ReportRow(**row)
