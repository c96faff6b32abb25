"""What to do: source, prompt, model, output, limits. YAML in, a checked `Job` out, with the fingerprint of its answers.

A job is checked whole before anything runs: a mistake here costs a message, later it would cost money. Keys that a
later version will carry out are refused by name, never silently ignored.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from jinja2 import ChainableUndefined, StrictUndefined, TemplateError, TemplateSyntaxError, UndefinedError, meta
from jinja2.sandbox import SandboxedEnvironment
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PydanticUserError,
    ValidationError,
    field_validator,
    model_validator,
)

from batch.job import strict_yaml
from batch.job.globs import compile_globs
from batch.job.logical_date import DATE_VARIABLES, Nominal
from batch.job.long_documents import LongDocuments, check_rules
from batch.job.parameters import check_parameters, check_yaml
from batch.job.prefixes import Prefixes
from batch.job.row_fields import ROW, row_fields
from batch.storage.layout import PreviewLayout, RunLayout, S3Uri, StateLayout, parse_object_uri

SIMULATED_PREFIX = "simulated-"
"""Every model name of the simulated provider begins so; it must never be mistaken for a model."""
MAX_JOB_BYTES = 60 * 1024
"""Largest job as the JSON text within Temporal's JSON, escapes included: it travels in the coordinator's input, beside
a few hundred bytes of other things, and no payload may pass 64 KiB."""

MAX_SIZE = 2**50
"""Largest size that a job may name, in bytes."""

TEMPLATE_VARIABLES = frozenset({"text", "document_id", "uri", ROW}) | DATE_VARIABLES
"""What a prompt template may name: the document's text, its id, the URI of its object, the other fields of its row, and
when the run is for."""

_OF_ONE_DOCUMENT = frozenset({"document_id", "uri"})
"""Those that differ between documents of the same content."""

_ANY_DAY = Nominal(datetime(2026, 1, 31, 12, 30, 15, tzinfo=UTC))
"""Stands in for the nominal start while a job is only checked."""

COMBINE_VARIABLES = frozenset({"answers", "document_id", "uri"}) | DATE_VARIABLES
"""What the templates of `long_documents.combine` may name; `answers` are those to the chunks, a list of texts."""

EXTRACTION = "text-3"
"""Names the way from bytes to text; part of the fingerprint, so it changes whenever that way changes an answer."""


MAIN_TEXT = "trafilatura-1"
"""Names the way from an HTML page to its main text; part of the fingerprint of jobs that ask for that."""


class JobError(ValueError):
    """The job cannot run as it is written. The message says what, where in the job, and what to do."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=False)


def _size(value: object) -> object:
    """Bytes from `64MiB`, `20MB`, `1000`."""
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMG]i?)?B?\s*", value, re.IGNORECASE)
    if not match:
        raise ValueError(f"{value!r} is no size; write for example 64MiB, 20MB or a number of bytes")
    if len(match[1]) > 20:
        raise ValueError(f"a size of {len(match[1])} digits is too large")
    factors = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "ki": 2**10, "mi": 2**20, "gi": 2**30}
    return int(float(match[1]) * factors[(match[2] or "").lower()])


def _duration(value: object) -> object:
    """Seconds from `6h`, `90m`, `30s`, `1.5`."""
    if not isinstance(value, str):
        return float(value) if isinstance(value, int) and not isinstance(value, bool) else value
    match = re.fullmatch(r"\s*(\d{1,9}(?:\.\d{1,9})?)\s*([smhd]?)\s*", value)
    if not match:
        raise ValueError(f"{value!r} is no duration; write for example 6h, 90m or a number of seconds")
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}[match[2]]


class Source(_Part):
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

    _parse_size = field_validator("max_document_bytes", mode="before")(_size)

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
        """`uri`, one or several."""
        return [self.uri] if isinstance(self.uri, str) else self.uri

    @property
    def prefixes(self) -> Prefixes:
        """Where its objects lie. Of a run's job, whose dates are filled in; raises `ValueError`."""
        return Prefixes.parse(self.uris)

    @property
    def place(self) -> str:
        """Where the documents come from, in a few words."""
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


class Prompt(_Part):
    """Jinja2 templates, rendered once per document; the variables are those of `TEMPLATE_VARIABLES`."""

    system: str | None = None
    user: str = Field(min_length=1)


class Prices(_Part):
    """US dollars a million tokens, in place of the published ones; `cached_input` is `input` unless said."""

    input: float = Field(ge=0, le=1e6, strict=True, allow_inf_nan=False)
    output: float = Field(ge=0, le=1e6, strict=True, allow_inf_nan=False)
    cached_input: float | None = Field(default=None, ge=0, le=1e6, strict=True, allow_inf_nan=False)


class Model(_Part):
    """The model and how it is asked. The endpoint and the key come from the worker's environment alone."""

    name: str = Field(min_length=1)
    mode: Literal["online", "batch"] = "online"
    batch_deadline: float | None = Field(default=None, gt=0, le=30 * 86_400, strict=True)
    """Seconds, `90m`, `6h`: so long after a partition's first batch, what is not answered yet is asked online."""
    temperature: float | None = Field(default=None, ge=0, le=2, strict=True)
    max_output_tokens: int | None = Field(default=None, gt=0, le=2**31, strict=True)
    timeout_seconds: float = Field(default=120, gt=0, le=3600, strict=True)
    reasks: int = Field(default=2, ge=0, le=2, strict=True)
    """Times at most that an answer which does not fit the schema is asked for again. Not part of the fingerprint: it
    decides whether there is an answer, as `timeout_seconds` does, and makes no valid answer another one."""
    prices: Prices | None = None
    parameters: dict[str, Any] = Field(default_factory=dict)
    """Further fields of each request, which go out as they stand; none of those that docbatch sets itself."""

    @field_validator("parameters", mode="before")
    @classmethod
    def _take_parameters(cls, parameters: object) -> object:
        return {} if parameters is None else parameters

    @model_validator(mode="after")
    def _check_parameters(self) -> Model:
        said = {name for name in ("temperature", "max_output_tokens") if getattr(self, name) is not None}
        check_parameters(self.parameters, said)
        return self

    @property
    def most_output_tokens(self) -> int | None:
        """How long an answer may be at most, by whichever key says it."""
        found = self.max_output_tokens or self.parameters.get("max_tokens")
        return found if isinstance(found, int) and found > 0 else None

    _parse_deadline = field_validator("batch_deadline", mode="before")(_duration)


class Output(_Part):
    """Where the rows go, and the JSON schema that they obey; without one the answer is plain text.

    In Python, `schema` may be a pydantic model: the class, whose JSON schema is taken.
    """

    uri: str
    json_schema: dict[str, Any] | None = Field(default=None, alias="schema")
    keep_text: bool = Field(default=False, strict=True)
    """Whether each row has the document's text, in a column `text`. It makes no answer another one: no fingerprint."""

    if TYPE_CHECKING:

        def __init__(
            self, *, uri: str, schema: dict[str, Any] | type[BaseModel] | None = None, keep_text: bool = False
        ) -> None: ...

    @field_validator("json_schema", mode="before")
    @classmethod
    def _take_model(cls, schema: object) -> object:
        if not (isinstance(schema, type) and issubclass(schema, BaseModel) and schema is not BaseModel):
            return schema
        try:
            return schema.model_json_schema()
        except PydanticUserError as error:
            raise ValueError(f"the pydantic model {schema.__name__} has no JSON schema: {error.message}") from None


class Limits(_Part):
    """What a run may use at most. `concurrency` counts requests in flight, per run within a worker process; the limits
    a minute are those of the provider's whole quota, whichever jobs and workers use it."""

    concurrency: int = Field(default=256, ge=1, le=10_000, strict=True)
    quota: str | None = Field(default=None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")
    requests_per_minute: int | None = Field(default=None, gt=0, strict=True)
    tokens_per_minute: int | None = Field(default=None, gt=0, strict=True)
    max_cost_usd: float | None = Field(default=None, gt=0, strict=True, allow_inf_nan=False)
    max_error_rate: float = Field(default=0.5, gt=0, le=1, strict=True)


BATCH_DOCUMENTS = 10_000
"""Documents of a partition in batch mode, unless the job says: a partition waits for hours in a worker's slot whatever
its size, and fewer batches are fewer uploads, polls and files."""


class Partitions(_Part):
    """How the corpus is cut: at most `documents` and about `bytes` a partition, `in_flight` partitions at once.

    `documents` is `BATCH_DOCUMENTS` for a job in batch mode that does not say.
    """

    documents: int = Field(default=500, ge=1, le=10_000, strict=True)
    bytes: Annotated[int, Field(gt=0, le=MAX_SIZE, strict=True)] = 64 * 2**20
    in_flight: int = Field(default=1000, ge=1, le=20_000, strict=True)

    _parse_size = field_validator("bytes", mode="before")(_size)


class State(_Part):
    """Where incremental runs keep what they know: by default `output.uri` up to its first template.

    `dated_prompt` allows a prompt that names the date: each new date then asks about all documents again.
    """

    uri: str | None = None
    dated_prompt: bool = Field(default=False, strict=True)

    @field_validator("uri")
    @classmethod
    def _check_uri(cls, uri: str | None) -> str | None:
        if uri is not None:
            S3Uri.parse(uri, where="state.uri")
        return uri


class Job(_Part):
    """What to run over which documents. Build it in Python, or read it with `Job.from_yaml`.

    `from_yaml` and `parse` raise `JobError`; a job built directly raises pydantic's own `ValidationError`.
    """

    name: str
    source: Source
    prompt: Prompt
    model: Model
    output: Output
    long_documents: LongDocuments | None = None
    limits: Limits = Field(default_factory=Limits)
    priority: int = Field(default=3, ge=1, le=5, strict=True)
    weight: float = Field(default=1.0, ge=0.001, le=1000, strict=True, allow_inf_nan=False)
    partitions: Partitions = Field(default_factory=Partitions)
    incremental: bool = Field(default=False, strict=True)
    state: State = Field(default_factory=State)

    @field_validator("name")
    @classmethod
    def _check_name(cls, name: str) -> str:
        if not re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,62}", name):
            raise ValueError("a name has 1 to 63 of the characters a-z 0-9 . _ - and starts with a letter or digit")
        return name

    @field_validator("source")
    @classmethod
    def _check_source(cls, source: Source) -> Source:
        for uri in source.uris:
            _check_template("source.uri", uri, DATE_VARIABLES)
        _prefixes(source)
        if source.manifest is not None:
            where = "source.manifest"
            _check_template(where, source.manifest, DATE_VARIABLES)
            parse_object_uri(_rendered(where, source.manifest, _ANY_DAY), where=where)
        return source

    @field_validator("output")
    @classmethod
    def _check_output(cls, output: Output) -> Output:
        _check_template("output.uri", output.uri, DATE_VARIABLES)
        S3Uri.parse(_rendered("output.uri", output.uri, _ANY_DAY), where="output.uri")
        if output.json_schema is not None:
            from batch.schema.arrow import check_schema

            check_schema(output.json_schema)
        return output

    @field_validator("prompt")
    @classmethod
    def _check_prompt(cls, prompt: Prompt) -> Prompt:
        for where, template in (("prompt.system", prompt.system), ("prompt.user", prompt.user)):
            _check_template(where, template, TEMPLATE_VARIABLES)
        return prompt

    @field_validator("long_documents")
    @classmethod
    def _check_combine(cls, long_documents: LongDocuments | None) -> LongDocuments | None:
        combine = long_documents.combine if long_documents is not None else None
        if combine is None or combine.user is None:
            return long_documents
        where = "long_documents.combine"
        for key, template in (("system", combine.system), ("user", combine.user)):
            _check_template(f"{where}.{key}", template, COMBINE_VARIABLES)
        if "answers" not in _variables(combine.user) | _variables(combine.system or ""):
            raise ValueError(f"{where}.user does not name the answers to be combined: write {{{{ answers }}}} into it")
        return long_documents

    @model_validator(mode="after")
    def _check_whole(self) -> Job:
        source = _prefixes(self.source)
        output = S3Uri.parse(_rendered("output.uri", self.output.uri, _ANY_DAY))
        if (place := source.containing(output)) is not None:
            raise ValueError(
                f"output.uri {self.output.uri} lies inside source.uri {self._named(place)}: the next run would read "
                "its own results. Choose an output outside the source prefix"
            )
        for folder, what in ((RunLayout(output, "").runs, "runs"), (PreviewLayout(output).folder, "previews")):
            if (place := source.containing(folder)) is not None:
                raise ValueError(
                    f"source.uri {self._named(place)} is where output.uri {self.output.uri} puts its {what}: the next "
                    "run would read its own results. Choose another output"
                )
        refused = {
            "limits.max_cost_usd in model.mode: batch": self.model.mode == "batch"
            and self.limits.max_cost_usd is not None,
            "output.keep_text in model.mode: batch": self.model.mode == "batch" and self.output.keep_text,
        }
        for key, used in refused.items():
            if used:
                raise ValueError(f"{key} is not supported yet; leave it out")
        self._check_state(source)
        self._check_duplicates()
        if self.source.format == "object" and self.prompt_fields:
            raise ValueError(
                f"prompt: row.{self.prompt_fields[0]} is a field of a row; with source.format: object there are no rows"
            )
        if self.model.mode == "batch" and "documents" not in self.partitions.model_fields_set:
            sized = self.partitions.model_copy(update={"documents": BATCH_DOCUMENTS})
            object.__setattr__(self, "partitions", sized)  # the job is frozen from here on
        if self.model.mode != "batch" and self.model.batch_deadline is not None:
            raise ValueError("model.batch_deadline is for model.mode: batch; leave it out")
        if self.long_documents is not None and self.long_documents.on_too_long == "chunk":
            if self.model.mode == "batch":
                raise ValueError(
                    "long_documents.on_too_long: chunk is not supported in model.mode: batch, where chunks and their "
                    "combination would take two batches, a day each; use truncate or error, or model.mode: online"
                )
            if self.long_documents.combine is not None and self.long_documents.combine.rules is not None:
                check_rules(self.long_documents.combine.rules, self.output.json_schema)
        if len(json.dumps(self.to_json())) > MAX_JOB_BYTES:
            raise ValueError(
                f"the job is larger than {MAX_JOB_BYTES // 1024} KiB as JSON (a letter beyond ASCII takes 6 bytes and "
                "more); shorten prompt or schema (documents belong in source.uri)"
            )
        return self

    def _named(self, place: S3Uri) -> S3Uri | str:
        """A prefix of the source as the job writes it, if there is but one."""
        return self.source.uri if isinstance(self.source.uri, str) else place

    def _check_duplicates(self) -> None:
        wanted = self.source.duplicates
        if wanted not in ("share", "text"):
            return
        named = sorted(self._prompt_variables() & _OF_ONE_DOCUMENT)
        if wanted == "text":
            named += [f"row.{field}" for field in self.prompt_fields]
        if named:
            raise ValueError(
                f"source.duplicates: {wanted}, but the prompt names {', '.join(named)}, which differ between documents "
                "of the same content; leave out one or the other"
            )
        if self.model.mode == "batch":
            raise ValueError(f"source.duplicates: {wanted} is not supported yet in model.mode: batch; leave it out")

    @property
    def shares_answers(self) -> bool:
        """Whether documents of the same bytes are asked about once: not where the prompt tells them apart."""
        if self.source.duplicates == "ask" or self.model.mode == "batch":
            return False
        return not self._prompt_variables() & _OF_ONE_DOCUMENT

    def _check_state(self, source: Prefixes) -> None:
        if not self.incremental:
            if self.state != State():
                raise ValueError("state is for incremental: true; leave it out, or set that")
            return
        if source.containing(self.state_layout.uri) is not None:
            raise ValueError(
                f"the state of incremental runs would lie inside source.uri, at {self.state_layout.uri}: the next run "
                "would read it as documents. Set state.uri to another place"
            )
        dates = self._prompt_variables() & DATE_VARIABLES
        if dates and not self.state.dated_prompt:
            raise ValueError(
                f"the prompt names {', '.join(sorted(dates))}, so every night would ask about all documents again, and "
                "nothing be incremental. Take it out of the prompt, or set state.dated_prompt: true if that is meant"
            )

    @property
    def state_layout(self) -> StateLayout:
        """Where incremental runs of this job keep their state."""
        uri = self.state.uri
        if uri is None:
            plain = re.split(r"\{\{|\{%|\{#", self.output.uri, maxsplit=1)
            uri = plain[0] if len(plain) == 1 else plain[0].rpartition("/")[0]
        return StateLayout(S3Uri.parse(uri, where="state.uri"), self.name)

    @property
    def fingerprint(self) -> str:
        """16 hex digits that change whenever an answer could: templates, schema, model, sampling, extraction."""
        return self._fingerprint({})

    def fingerprint_at(self, nominal: Nominal) -> str:
        """The fingerprint of one run. Differs from the job's only where the prompt names the date: answers then do."""
        return self._fingerprint({name: nominal.values[name] for name in self._prompt_variables() & DATE_VARIABLES})

    def _prompt_variables(self) -> set[str]:
        templates = [self.prompt.user, self.prompt.system]
        if self.long_documents is not None and self.long_documents.combine is not None:
            templates += [self.long_documents.combine.user, self.long_documents.combine.system]
        return {name for template in templates if template for name in _variables(template)}

    @property
    def prompt_fields(self) -> list[str]:
        """Fields of a row, beside its text, that the prompt shows; sorted."""
        return sorted(_row_fields(self.prompt.user) | _row_fields(self.prompt.system or ""))

    def _fingerprint(self, dates: dict[str, str]) -> str:
        parts: dict[str, Any] = {
            "prompt": [self.prompt.system, self.prompt.user, sorted(self._prompt_variables())],
            "schema": self.output.json_schema,
            "model": [self.model.name, self.model.temperature, self.model.max_output_tokens],
            "extraction": EXTRACTION,
        }
        if self.model.parameters:
            parts["parameters"] = self.model.parameters
        if dates:
            parts["dates"] = dates
        if self.long_documents is not None:
            parts["long_documents"] = self.long_documents.fingerprint_part()
        if self.source.text_field != "text":
            parts["text_field"] = self.source.text_field
        if self.source.html != "all":
            parts["html"] = [self.source.html, MAIN_TEXT]
        # Not sorted: in a schema the order of properties is the order in which a model writes them.
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]

    @property
    def source_is_dated(self) -> bool:
        """Whether the source is another one for each run: what is not there today may be there tomorrow."""
        return any(map(_is_template, [*self.source.uris, self.source.manifest or ""]))

    def resolved(self, nominal: Nominal) -> Job:
        """The job of one run: the URIs of source and output with their dates filled in. Raises `JobError`.

        The prompt stays a template; it is rendered for each document, with the same dates.
        """
        data = json.loads(self.to_json())
        try:
            data["output"]["uri"] = _rendered("output.uri", self.output.uri, nominal)
            uris = [_rendered("source.uri", uri, nominal) for uri in self.source.uris]
            data["source"]["uri"] = uris[0] if isinstance(self.source.uri, str) else uris
            if self.source.manifest is not None:
                data["source"]["manifest"] = _rendered("source.manifest", self.source.manifest, nominal)
            if self.incremental:  # said now: it goes by the template, which is gone from here on
                data["state"]["uri"] = str(self.state_layout.uri)
        except ValueError as error:
            raise JobError(f"job {self.name!r} for {nominal}: {error}") from None
        return Job.parse(data, where=f"job {self.name!r} for {nominal}")

    def to_json(self) -> str:
        """Compact JSON that `Job.parse(json.loads(...))` reads back; defaults are written out, so the job is frozen."""
        return self.model_dump_json(by_alias=True)

    @classmethod
    def parse(cls, data: object, *, where: str = "job") -> Job:
        """A job from plain data. `where` names its origin in messages, for example the file."""
        if not isinstance(data, dict):
            raise JobError(f"{where}: a job is a mapping of keys such as name, source, prompt; this is {_kind(data)}")
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise JobError("\n".join(f"{where}: {line}" for line in _explain(error))) from None

    @classmethod
    def from_yaml(cls, path: str | Path) -> Job:
        """The job of a YAML file."""
        path = Path(path)
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise JobError(f"{path}: no such file") from None
        except (OSError, UnicodeDecodeError) as error:
            raise JobError(f"{path}: cannot be read: {error}") from None
        try:
            data = strict_yaml.load(text, check_yaml)
        except strict_yaml.YamlError as error:
            raise JobError(f"{path}: not valid YAML: {error}") from None
        return cls.parse(data, where=str(path))


def template_environment() -> SandboxedEnvironment:
    """The one Jinja2 environment of prompts and URIs: sandboxed, strict about unknown names, nothing escaped."""
    return SandboxedEnvironment(undefined=StrictUndefined, autoescape=False, keep_trailing_newline=True)


def _variables(template: str) -> set[str]:
    return set(meta.find_undeclared_variables(template_environment().parse(template)))


def _row_fields(template: str) -> set[str]:
    return row_fields(template_environment().parse(template)) if ROW in _variables(template) else set()


def _prefixes(source: Source) -> Prefixes:
    """Those of some day. Raises `ValueError`."""
    return Prefixes.parse([_rendered("source.uri", uri, _ANY_DAY) for uri in source.uris])


def _is_template(text: str) -> bool:
    return "{{" in text or "{%" in text


def _rendered(where: str, uri: str, nominal: Nominal) -> str:
    """A URI for one nominal start. Raises `ValueError`."""
    if not _is_template(uri):
        return uri
    try:
        return template_environment().from_string(uri).render(nominal.values)
    except (TemplateError, ArithmeticError, TypeError, ValueError, LookupError) as error:
        raise ValueError(f"{where}: the template does not render: {error}") from None


def _check_template(where: str, template: str | None, known: frozenset[str]) -> None:
    if template is None:
        return
    try:
        compiled = template_environment().from_string(template)  # compiling also finds unknown filters and tests
        names = _variables(template)
    except TemplateSyntaxError as error:
        raise ValueError(f"{where}, line {error.lineno}: the template does not compile: {error.message}") from None
    except (RecursionError, MemoryError):
        raise ValueError(f"{where}: the template does not compile: it nests too deeply") from None
    for name in sorted(names - known):
        listed = ", ".join(sorted(known))
        raise ValueError(f"{where}: unknown variable {name!r}{_nearest(name, known)}; known are {listed}")
    try:
        _row_fields(template)
    except ValueError as error:
        raise ValueError(f"{where}, {error}") from None
    try:
        compiled.render({**_SAMPLE, **_ANY_DAY.values})
    except (TemplateError, TypeError) as error:
        if _depends_on_the_document(error) or (ROW in names and "no loader" not in str(error)):
            return
        reason = _NO_OTHERS if "no loader" in str(error) else str(error)
        raise ValueError(f"{where}: the template does not render: {reason}") from None
    except (ArithmeticError, ValueError, LookupError):
        return  # may well be this text's fault: then it is an error row of those documents where it happens


_SAMPLE = {
    "text": "\n".join(f"Line {n}: a few words, and 12.5 of something; more: words" for n in range(100)),
    "document_id": "corpus/folder/document-1.txt",
    "uri": "s3://bucket/corpus/folder/document-1.txt",
    "answers": ['{"label": "one"}', '{"label": "two"}'],
    ROW: ChainableUndefined(),
}
_NO_OTHERS = "there are no other templates that it could include, import or extend"


def _depends_on_the_document(error: Exception) -> bool:
    """Such as the tenth line of a text: missing in the sample, there in the corpus."""
    return isinstance(error, UndefinedError) and "has no element" in str(error)


def _nearest(name: str, known: frozenset[str] | list[str]) -> str:
    close = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.5)
    return f", did you mean {close[0]!r}?" if close else ""


def _kind(value: object) -> str:
    return {type(None): "empty", list: "a list", str: "text"}.get(type(value), type(value).__name__)


def _explain(error: ValidationError) -> list[str]:
    """One line a mistake: the key's path, what is wrong, the nearest known key."""
    lines = []
    for item in error.errors(include_url=False):
        path = ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            known = _known_keys(item["loc"][:-1])
            lines.append(f"{path}: unknown key{_nearest(str(item['loc'][-1]), known)}; known are {', '.join(known)}")
        elif item["type"] == "missing":
            lines.append(f"{path}: this key is required")
        elif item["type"] == "value_error":
            message = str(item["ctx"]["error"])
            root = path.split(".", maxsplit=1)[0]
            lines.append(message if not path or message.startswith(root) else f"{path}: {message}")
        else:
            given = repr(item["input"])
            given = given if len(given) <= 60 else given[:57] + "..."
            lines.append(f"{path}: {item['msg'][0].lower()}{item['msg'][1:]}, not {given}")
    return lines


def _known_keys(path: tuple[int | str, ...]) -> list[str]:
    model: type[BaseModel] = Job
    for part in path:
        annotation = model.model_fields[str(part)].annotation
        parts = [kind for kind in (annotation, *get_args(annotation)) if isinstance(kind, type)]
        found = next((kind for kind in parts if issubclass(kind, BaseModel)), None)
        if found is None:
            return []
        model = found
    return [field.alias or name for name, field in model.model_fields.items()]
