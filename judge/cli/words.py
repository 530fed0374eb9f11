"""Cells of text as aligned columns for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence


def aligned(rows: Sequence[Sequence[str]], least: Sequence[int]) -> Iterator[str]:
    """Yield rows as lines of columns with two blanks between them.

    Args:
        rows: cells that are safe to print; the last one of a row may be of any length, and rows may differ in cells.
        least: width of each column where no cell is wider, in columns of a terminal.
    """
    from rich.cells import cell_len  # some characters are two columns wide

    widths = list(least)
    for row in rows:
        for k, cell in enumerate(row[:-1]):
            widths[k] = max(widths[k], cell_len(cell))
    for row in rows:
        padded = [cell + " " * (widths[k] - cell_len(cell)) for k, cell in enumerate(row[:-1])]
        yield "  ".join([*padded, *row[-1:]]).rstrip()
