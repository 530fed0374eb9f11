"""A rehearsal's figures as lines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from judge.errors import counted, printable
from judge.hardware.machine import GIB
from judge.planning.time_model import Estimate
from judge.runs.terminal import duration
from judge.tables.comparison import RowId

if TYPE_CHECKING:
    from judge.planning.rehearsal import Rehearsal

_SHOWN_ROWS = 5


def fitting_line(total: Estimate, deadline: float | None) -> str:
    """Return the verdict of a run that ends in time, or that need not."""
    expected = f"{duration(total.value)} expected, {duration(total.low)} to {duration(total.high)}"
    if deadline is None:
        return f"takes about {expected.replace(' expected,', ' (', 1).replace('( ', '(')})"
    spare = duration(deadline - total.high)
    return f"fits in {duration(deadline)} with at least {spare} to spare ({expected})"


def too_long_line(
    total: Estimate, deadline: float, fitting: tuple[str, Estimate] | None, smaller_budgets: bool = True
) -> str:
    """Return the verdict of a run that may not end in time.

    Args:
        fitting: options with which it would, and the time then.
        smaller_budgets: smaller budgets were tried.
    """
    word = "may not fit" if total.value <= deadline else "does not fit"
    expected = f"{duration(total.value)} expected, {duration(total.low)} to {duration(total.high)}"
    if fitting:
        advice = f"{fitting[0]} takes {duration(fitting[1].value)}, at most {duration(fitting[1].high)}"
    else:
        tried = "no smaller budget of 512 tokens or more fits either: " if smaller_budgets else ""
        advice = f"{tried}take a smaller model or more cards"
    end = f"; or score with --deadline={_short(deadline)}, which gives up what there is no time for"
    return f"{word} in {duration(deadline)} ({expected}): {advice}{end}"


def _short(seconds: float) -> str:
    minutes = int(seconds / 60 + 0.01)
    if minutes < 1:
        return f"{seconds:.0f}s"
    hours, rest = divmod(minutes, 60)
    return (f"{hours}h" if hours else "") + (f"{rest}m" if rest or not hours else "")


def lines(
    found: Rehearsal, total: Estimate, reading: Estimate, ids: Sequence[RowId], gpus: Sequence[str]
) -> Iterator[str]:
    """Yield the figures of a rehearsal, a label and a value a line.

    Args:
        total, reading: predicted seconds of the whole run, and of the reading of all prompts.
        ids: of the table's rows, in order.
        gpus: names of the cards, empty on a CPU.
    """
    chosen = found.chosen
    sample = sum(map(len, chosen.sample))
    whole = "all rows" if chosen.whole else f"{sample:,} random rows"
    kinds = ", ".join(f"{len(rows)} {kind}" for kind, rows in chosen.awkward.items())
    yield _line(
        "table",
        f"{counted(found.rows, 'row')}, {found.mean_tokens:,.0f} tokens on average, longest {found.longest_tokens:,}",
    )
    yield _line("read", f"the {len(chosen.longest):,} longest, {whole}" + (f"; {kinds}" if kinds else ""))
    yield from (_line("memory", text) for text in memory_lines(found, gpus))
    started, ended = found.batch_tokens
    if ended < started:
        yield _line(
            "batch", f"{started:,} tokens were too many for the memory; {ended:,} worked: --batch-tokens={ended}"
        )
    if found.failed:
        shown = ", ".join(printable(str(ids[row]), 40) for row in found.failed[:_SHOWN_ROWS])
        more = f" and {len(found.failed) - _SHOWN_ROWS:,} more" if len(found.failed) > _SHOWN_ROWS else ""
        yield _line(
            "failed",
            f"{counted(len(found.failed), 'row')} came out as NaN; they would get 1/3 and a flag (id {shown}{more})",
        )
    else:
        yield _line("failed", "none")
    yield _line("speed", f"{found.tokens_per_second:,.0f} tokens/s")
    model, table = duration(found.load_seconds), duration(found.prepare_seconds)
    yield _line("loading", f"{model} the model, {table} the table, together {duration(found.setup_seconds)}")
    yield _line("reading", f"{duration(reading.value)} ({duration(reading.low)} to {duration(reading.high)})")
    yield _line("writing", duration(found.write_seconds))
    yield _line("total", f"{duration(total.value)} ({duration(total.low)} to {duration(total.high)})")


def _line(label: str, text: str) -> str:
    return f"{label:14}{text}"


def memory_lines(found: Rehearsal, gpus: Sequence[str]) -> Iterator[str]:
    """Yield the peak memory of each engine process, and of the card that it is on."""
    for number, memory in sorted(found.memory.items()):
        name = f"engine {number + 1}: " if len(found.memory) > 1 else ""
        parts = []
        if "total" in memory:
            card = f" ({gpus[number]})" if number < len(gpus) else ""
            parts.append(
                f"{memory['device'] / GIB:.1f} GiB held on the card, "
                f"{memory['used'] / GIB:.1f} of {memory['total'] / GIB:.1f} GiB of it taken{card}"
            )
        if "host" in memory:
            free = f" ({found.free_before / GIB:.1f} GiB were free)" if found.free_before and not parts else ""
            parts.append(f"{memory['host'] / GIB:.1f} GiB of the machine's memory at most{free}")
        yield name + "; ".join(parts)
