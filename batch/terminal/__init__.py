"""What a person sees of a run: live progress on a terminal, plain lines elsewhere, the account at its end, its rows.

Everything is readable in 80 columns.
"""

from batch.terminal.ending import account, equation, next_steps, plain, print_account
from batch.terminal.progress import Display, LiveDisplay, PlainDisplay, display, follow
from batch.terminal.quantities import by_type, duration, is_simulated, money, tokens, total, why
from batch.terminal.row_tables import cell, field_types, rows_table
from batch.terminal.speed import Speed

__all__ = [
    "Display",
    "LiveDisplay",
    "PlainDisplay",
    "Speed",
    "account",
    "by_type",
    "cell",
    "display",
    "duration",
    "equation",
    "field_types",
    "follow",
    "is_simulated",
    "money",
    "next_steps",
    "plain",
    "print_account",
    "rows_table",
    "tokens",
    "total",
    "why",
]
