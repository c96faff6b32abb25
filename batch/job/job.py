"""What to do: source, prompt, model, output, limits. YAML in, a checked `Job` out, with the fingerprint of its answers.

A job is checked whole before anything runs: a mistake here costs a message, later it would cost money. Keys that a
later version will carry out are refused by name, never silently ignored.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, field_validator, model_validator

from batch.job import strict_yaml
from batch.job.limits import BATCH_DOCUMENTS, Limits, Partitions
from batch.job.logical_date import DATE_VARIABLES, Nominal
from batch.job.long_documents import LongDocuments, check_rules
from batch.job.model import Model
from batch.job.output import Output, State
from batch.job.parameters import check_yaml
from batch.job.part import JobError, Part, explain
from batch.job.prefixes import Prefixes
from batch.job.source import Source
from batch.job.templates import (
    ANY_DAY,
    COMBINE_VARIABLES,
    TEMPLATE_VARIABLES,
    Prompt,
    check_template,
    fields_of_row,
    is_template,
    rendered,
    variables,
)
from batch.storage.layout import PreviewLayout, RunLayout, S3Uri, StateLayout, parse_object_uri

MAX_JOB_BYTES = 60 * 1024
"""Largest job as the JSON text within Temporal's JSON, escapes included: it travels in the coordinator's input, beside
a few hundred bytes of other things, and no payload may pass 64 KiB."""
_OF_ONE_DOCUMENT = frozenset({"document_id", "uri"})
"""Those that differ between documents of the same content."""
EXTRACTION = "text-3"
"""Names the way from bytes to text; part of the fingerprint, so it changes whenever that way changes an answer."""
MAIN_TEXT = "trafilatura-1"
"""Names the way from an HTML page to its main text; part of the fingerprint of jobs that ask for that."""


class Job(Part):
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
            check_template("source.uri", uri, DATE_VARIABLES)
        _prefixes(source)
        if source.manifest is not None:
            where = "source.manifest"
            check_template(where, source.manifest, DATE_VARIABLES)
            parse_object_uri(rendered(where, source.manifest, ANY_DAY), where=where)
        return source

    @field_validator("output")
    @classmethod
    def _check_output(cls, output: Output) -> Output:
        check_template("output.uri", output.uri, DATE_VARIABLES)
        S3Uri.parse(rendered("output.uri", output.uri, ANY_DAY), where="output.uri")
        if output.json_schema is not None:
            from batch.schema.arrow import check_schema

            check_schema(output.json_schema)
        return output

    @field_validator("prompt")
    @classmethod
    def _check_prompt(cls, prompt: Prompt) -> Prompt:
        for where, template in (("prompt.system", prompt.system), ("prompt.user", prompt.user)):
            check_template(where, template, TEMPLATE_VARIABLES)
        return prompt

    @field_validator("long_documents")
    @classmethod
    def _check_combine(cls, long_documents: LongDocuments | None) -> LongDocuments | None:
        combine = long_documents.combine if long_documents is not None else None
        if combine is None or combine.user is None:
            return long_documents
        where = "long_documents.combine"
        for key, template in (("system", combine.system), ("user", combine.user)):
            check_template(f"{where}.{key}", template, COMBINE_VARIABLES)
        if "answers" not in variables(combine.user) | variables(combine.system or ""):
            raise ValueError(f"{where}.user does not name the answers to be combined: write {{{{ answers }}}} into it")
        return long_documents

    @model_validator(mode="after")
    def _check_whole(self) -> Job:
        source = _prefixes(self.source)
        output = S3Uri.parse(rendered("output.uri", self.output.uri, ANY_DAY))
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
        """Returns a prefix of the source as the job writes it, if there is but one."""
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
        """Tells whether documents of the same bytes are asked about once: not where the prompt tells them apart."""
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
        """Tells where incremental runs of this job keep their state."""
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
        return {name for template in templates if template for name in variables(template)}

    @property
    def prompt_fields(self) -> list[str]:
        """Fields of a row, beside its text, that the prompt shows; sorted."""
        return sorted(fields_of_row(self.prompt.user) | fields_of_row(self.prompt.system or ""))

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
        """Tells whether the source is another one for each run: what is not there today may be there tomorrow."""
        return any(map(is_template, [*self.source.uris, self.source.manifest or ""]))

    def resolved(self, nominal: Nominal) -> Job:
        """Returns the job of one run: the URIs of source and output with their dates filled in. Raises `JobError`.

        The prompt stays a template; it is rendered for each document, with the same dates.
        """
        data = json.loads(self.to_json())
        try:
            data["output"]["uri"] = rendered("output.uri", self.output.uri, nominal)
            uris = [rendered("source.uri", uri, nominal) for uri in self.source.uris]
            data["source"]["uri"] = uris[0] if isinstance(self.source.uri, str) else uris
            if self.source.manifest is not None:
                data["source"]["manifest"] = rendered("source.manifest", self.source.manifest, nominal)
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
        """Returns a job from plain data. `where` names its origin in messages, for example the file."""
        if not isinstance(data, dict):
            raise JobError(f"{where}: a job is a mapping of keys such as name, source, prompt; this is {_kind(data)}")
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise JobError("\n".join(f"{where}: {line}" for line in explain(error, cls))) from None

    @classmethod
    def from_yaml(cls, path: str | Path) -> Job:
        """Returns the job of a YAML file."""
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


def _prefixes(source: Source) -> Prefixes:
    """Reads the source's prefixes as they are on some day. Raises `ValueError`."""
    return Prefixes.parse([rendered("source.uri", uri, ANY_DAY) for uri in source.uris])


def _kind(value: object) -> str:
    return {type(None): "empty", list: "a list", str: "text"}.get(type(value), type(value).__name__)
