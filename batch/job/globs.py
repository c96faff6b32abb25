"""Globs of a job's source as regular expressions: `**`, braces, names that begin with a dot, endings in any case."""

from __future__ import annotations

import re

import bracex
from wcmatch import glob
from wcmatch._wcparse import PatternLimitException

MOST_ALTERNATIVES = 1000
_FLAGS = glob.GLOBSTAR | glob.DOTGLOB


_ENDING = re.compile(r"(?:\.[A-Za-z0-9]{1,16})+$")


def compile_globs(patterns: list[str]) -> list[re.Pattern[str]]:
    """Returns an expression for each alternative of each pattern. Raises `ValueError`, which names the pattern.

    What ends a pattern from its last dots on (`.txt`, `.tar.gz`) matches in any case: scanners write `.PDF`.
    """
    compiled = []
    for pattern in patterns:
        try:
            alternatives = bracex.expand(pattern, limit=MOST_ALTERNATIVES, keep_escapes=True)
            compiled += [
                re.compile(regex)
                for alternative in alternatives
                for regex in glob.translate(_ENDING.sub(_in_any_case, alternative), flags=_FLAGS)[0]
            ]
        except (PatternLimitException, bracex.ExpansionLimitException):
            raise ValueError(f"{pattern!r} stands for more than {MOST_ALTERNATIVES} patterns") from None
        except (re.error, RecursionError, OverflowError) as error:
            raise ValueError(f"{pattern!r} is no usable glob: {error}") from None
    return compiled


def _in_any_case(ending: re.Match[str]) -> str:
    return "".join(
        f"[{letter.lower()}{letter.upper()}]" if letter.isalpha() and letter.isascii() else letter
        for letter in ending[0]
    )
