"""Which documents a job is about."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from batch.job.globs import compile_globs
from batch.job.part import MAX_SIZE, Part, size
from batch.job.prefixes import Prefixes


class Source(Part):
    """Which documents: every object under `uri` that matches an `include` glob and no `exclude` glob, or its rows.

    `uri` may be several prefixes of one bucket, or objects. `manifest` is a Parquet file that names keys under them:
    then those are the objects, and nothing is listed. Rows are those of JSONL and Parquet objects: `text_field` holds
    the text, `id_field` what tells a row from others (by default its text), and the fields of `keep` go into the
    results.
    """

    uri: str | list[str]
    manifest: str | None = None
    include: list[str] = Field(default_factory=lambda: ["**"], min_length=1)
    exclude: list[str] = Field(default_factory=list)
    format: Literal["auto", "object", "jsonl", "parquet"] = "auto"
    text_field: str = "text"
    id_field: str | None = None
    keep: list[str] = Field(default_factory=list, max_length=100)
    hidden: bool = Field(default=False, strict=True)
    """Whether what others' rules call no document (`_SUCCESS`; see `batch.corpus.hidden`) is one here."""
    max_document_bytes: int = Field(default=20_000_000, gt=0, le=MAX_SIZE, strict=True)
    duplicates: Literal["share", "text", "ask"] | None = None
    """Whether a run asks about documents of the same bytes once. Unless said: if no prompt tells them apart. `text`:
    about those of the same text too, whatever their bytes."""
    requester_pays: bool = Field(default=False, strict=True)
    """Whether requests for the source say that we pay for them, as its bucket may want."""
    min_text_pages: float = Field(default=0.5, ge=0, le=1, strict=True, allow_inf_nan=False)
    """Share of a PDF's pages that must have text, where they show anything at all, lest the document be an error. Not
    part of the fingerprint: it decides whether a document is asked about, as `max_document_bytes` does."""
    html: Literal["all", "main"] = "all"
    """What is taken of HTML pages: all that they show, or their main text, without navigation, banners and footers."""

    _parse_size = field_validator("max_document_bytes", mode="before")(size)

    @field_validator("uri", mode="before")
    @classmethod
    def _take_uris(cls, uri: object) -> object:
        if isinstance(uri, (list, tuple)) and all(isinstance(each, str) for each in uri):
            return list(uri)
        if not isinstance(uri, str):
            raise ValueError(f"source.uri is s3://BUCKET/PREFIX/, or a list of such prefixes, not {str(uri)[:60]!r}")
        return uri

    @property
    def uris(self) -> list[str]:
        """Returns `uri` as a list, of one or several."""
        return [self.uri] if isinstance(self.uri, str) else self.uri

    @property
    def prefixes(self) -> Prefixes:
        """Says where the objects lie, for a run's job, whose dates are filled in. Raises `ValueError`."""
        return Prefixes.parse(self.uris)

    @property
    def place(self) -> str:
        """Says in a few words where the documents come from."""
        if self.manifest is not None:
            return f"the keys of {self.manifest}"
        first, *others = self.uris
        return first + (f" and {len(others)} more" if others else "")

    @model_validator(mode="after")
    def _check_rows(self) -> Source:
        if self.format == "object":
            given = {"text_field": self.text_field != "text", "id_field": self.id_field is not None, "keep": self.keep}
            for key, used in given.items():
                if used:
                    raise ValueError(
                        f"source.{key} is for rows of JSONL and Parquet; with source.format: object leave it out"
                    )
        if self.format in ("jsonl", "parquet") and self.html != "all":
            raise ValueError(
                f"source.html is for objects that are pages; with source.format: {self.format} leave it out: the text "
                "of a row goes into the prompt as it is"
            )
        for name in (self.text_field, self.id_field, *self.keep):
            if name is not None and not name.strip():
                raise ValueError(
                    "source.text_field, source.id_field and source.keep name fields of a row; one is empty"
                )
        return self

    @field_validator("include", "exclude")
    @classmethod
    def _check_globs(cls, patterns: list[str]) -> list[str]:
        compile_globs(patterns)
        return patterns
