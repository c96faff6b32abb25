"""Globs of a job's source as regular expressions: `**`, braces, names that begin with a dot."""

from __future__ import annotations

import re

from wcmatch import glob
from wcmatch._wcparse import PatternLimitException

MOST_ALTERNATIVES = 1000
_FLAGS = glob.GLOBSTAR | glob.DOTGLOB | glob.BRACE


def compile_globs(patterns: list[str]) -> list[re.Pattern[str]]:
    """An expression for each alternative of each pattern. Raises `ValueError`, which names the pattern."""
    compiled = []
    for pattern in patterns:
        try:
            compiled += [
                re.compile(regex) for regex in glob.translate(pattern, flags=_FLAGS, limit=MOST_ALTERNATIVES)[0]
            ]
        except PatternLimitException:
            raise ValueError(f"{pattern!r} stands for more than {MOST_ALTERNATIVES} patterns") from None
        except (re.error, RecursionError, OverflowError) as error:
            raise ValueError(f"{pattern!r} is no usable glob: {error}") from None
    return compiled
