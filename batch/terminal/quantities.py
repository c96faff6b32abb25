"""Numbers and states as a person reads them: tokens, money, durations, how much of a run is done."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from batch.job.model import SIMULATED_PREFIX
from batch.terminal.printable import printable
from batch.workflows.states import State

if TYPE_CHECKING:
    from batch.client.status import RunResult

COLOURS: dict[str, str] = {
    State.COMPLETED: "green",
    State.COMPLETED_WITH_FAILURES: "yellow",
    State.PAUSED: "yellow",
    State.CANCELLED: "red",
    State.FAILED: "red",
}
"""Of the states of a run; any other is cyan."""
ERROR_TYPES_SHOWN = 6


def tokens(count: int) -> str:
    """`987`, `12.3k`, `4.56M`, `7.89G`."""
    for factor, unit, digits in ((10**9, "G", 2), (10**6, "M", 2), (10**3, "k", 1)):
        if count >= factor:
            return f"{count / factor:.{digits}f}{unit}"
    return str(count)


def money(usd: float, *, simulated: bool = False, unpriced: int = 0) -> str:
    """US dollars: cents, or two significant digits below one cent; says where answers have no known price."""
    text = f"${usd:,.2f}" if usd >= 0.01 or usd == 0 else f"${usd:.2g}"
    if unpriced:
        text = f"{text} and {unpriced:,} answers of unknown price" if usd else "unknown: the model has no known price"
    return f"{text} (simulated)" if simulated else text


def budget(status: RunResult) -> str:
    """`$1.20 of $5.00 (24 %)`: what counts against the run's maximum cost; empty for a run without one."""
    if not status.max_cost_usd or status.charged_usd is None:
        return ""
    share = 100 * status.charged_usd / status.max_cost_usd
    return f"{money(status.charged_usd)} of {money(status.max_cost_usd)} ({share:.0f} %)"


def duration(seconds: float) -> str:
    """`0:00:07`, `26:03:00`."""
    whole = round(max(0.0, seconds))
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def is_simulated(model: str) -> bool:
    return model.startswith(SIMULATED_PREFIX)


def total(status: RunResult) -> str:
    """`5,000`, or `5,000+` while the plan still grows; `?` before there is one."""
    if not status.planned and not status.plan_done:
        return "?"
    return f"{status.planned:,}{'' if status.plan_done else '+'}"


def why(status: RunResult) -> str:
    """Reason and message of a state that needs one, `by_user: maintenance`; empty when there is none."""
    return printable(": ".join(part for part in (status.reason, status.message) if part))


def by_type(errors: Mapping[str, int]) -> str:
    """`timeout 1,200, refusal 14`, the most frequent first; of many types the rest in one number."""
    ordered = sorted(errors.items(), key=lambda item: -item[1])
    shown = [f"{printable(kind)} {count:,}" for kind, count in ordered[:ERROR_TYPES_SHOWN]]
    rest = sum(count for _, count in ordered[ERROR_TYPES_SHOWN:])
    return ", ".join([*shown, f"others {rest:,}"] if rest else shown)


def partitions_and_shards(status: RunResult) -> str:
    """`partitions 12 of 50+, 1 failed   shards 1 done, 2 open`."""
    partitions, shards = status.partitions, status.shards
    text = f"partitions {partitions.get('committed', 0):,} of {partitions.get('planned', 0):,}"
    text += "" if status.plan_done else "+"
    if partitions.get("failed"):
        text += f", {partitions['failed']:,} failed"
    return f"{text}   shards {shards.get('finished', 0):,} done, {shards.get('open', 0):,} open"
