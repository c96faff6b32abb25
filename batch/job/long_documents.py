"""What a job says of documents that are too long for one question: its keys, and what may not go together."""

from __future__ import annotations

from typing import Any, Literal, Self, get_args

from pydantic import Field, model_validator

from batch.job.part import Part

OVERLAP_TOKENS, MOST_CHUNKS = 200, 100
FEWEST_TOKENS = 100
"""The smallest `max_tokens`: a sentence or two."""

WAY = "long-1"
"""Names the way from a long text to its pieces and from their answers to one; part of the fingerprint of those jobs
alone that set `long_documents`, so it changes whenever that way changes an answer."""

TEXT_COLUMN = "output_text"
"""The column that a rule is for where the job has no schema."""

Rule = Literal["first", "last", "majority", "any", "all", "sum", "max", "min", "concat", "union"]
_ORDERED = ("integer", "number", "date", "timestamp")
KINDS: dict[str, tuple[str, ...]] = {
    "any": ("boolean",),
    "all": ("boolean",),
    "sum": ("integer", "number"),
    "max": _ORDERED,
    "min": _ORDERED,
    "concat": ("string", "array"),
    "union": ("array",),
}
"""Kinds of columns (`batch.schema.columns.Node`) that a rule can be for; those not named here are for every kind."""


class Combine(Part):
    """How the answers to a document's chunks become one: by a second prompt, or by a rule for each column."""

    system: str | None = None
    user: str | None = Field(default=None, min_length=1)
    rules: dict[str, Rule] | None = Field(default=None, min_length=1)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.user is None) == (self.rules is None):
            raise ValueError("give either a second prompt (user, perhaps system) or rules, one for each column")
        if self.system is not None and self.user is None:
            raise ValueError("system goes with user; leave it out")
        return self


class LongDocuments(Part):
    """`max_tokens`: of the document's text, by the estimate of `workers.documents.token_estimate`. Its default is no
    limit: without this part a document is sent as it is, and the provider says whether it is too long."""

    on_too_long: Literal["error", "truncate", "chunk"]
    max_tokens: int = Field(ge=FEWEST_TOKENS, le=100_000_000, strict=True)
    overlap_tokens: int = Field(default=OVERLAP_TOKENS, ge=0, strict=True)
    most_chunks: int = Field(default=MOST_CHUNKS, ge=2, le=1000, strict=True)
    combine: Combine | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.on_too_long != "chunk":
            of_chunks = {
                "overlap_tokens": self.overlap_tokens != OVERLAP_TOKENS,
                "most_chunks": self.most_chunks != MOST_CHUNKS,
                "combine": self.combine is not None,
            }
            for key, used in of_chunks.items():
                if used:
                    raise ValueError(f"{key} is for on_too_long: chunk; leave it out")
            return self
        if self.overlap_tokens > self.max_tokens // 2:
            raise ValueError(
                f"overlap_tokens is {self.overlap_tokens:,}; it may be at most half of max_tokens, {self.max_tokens:,}"
            )
        if self.combine is None:
            raise ValueError(
                "combine is required for on_too_long: chunk: a second prompt (combine.user), or combine.rules"
            )
        return self

    def fingerprint_part(self) -> list[Any]:
        """All of it: also what only decides whether there is an answer, since its error rows are not retryable."""
        return [WAY, self.model_dump(mode="json", exclude_defaults=True)]


def check_rules(rules: dict[str, Rule], schema: dict[str, Any] | None) -> None:
    """Raises `ValueError` unless there is one rule for each column, which can be for its kind."""
    kinds = _kinds(schema)
    where = "long_documents.combine.rules"
    for name, rule in rules.items():
        if name not in kinds:
            listed = ", ".join(kinds)
            what = f"output.schema has {listed}" if schema is not None else f"without output.schema there is {listed}"
            raise ValueError(f"{where}: there is no column {name!r}; {what}")
        if kinds[name] not in KINDS.get(rule, (kinds[name],)):
            possible = ", ".join(each for each in get_args(Rule) if kinds[name] in KINDS.get(each, (kinds[name],)))
            raise ValueError(f"{where}.{name}: {rule} cannot be for a column of kind {kinds[name]}; use {possible}")
    for name in kinds:
        if name not in rules:
            raise ValueError(f"{where}: there is no rule for {name!r}; each column has one, for example first")


def _kinds(schema: dict[str, Any] | None) -> dict[str, str]:
    if schema is None:
        return {TEXT_COLUMN: "string"}
    from batch.schema.columns import Columns

    return {name: node.kind for name, node in Columns(schema).root.fields.items()}
