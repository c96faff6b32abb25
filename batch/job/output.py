"""Where a job's rows go, by which schema, and where its incremental runs keep what they know."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, Field, PydanticUserError, field_validator

from batch.job.part import Part
from batch.storage.layout import S3Uri


class Output(Part):
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


class State(Part):
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
