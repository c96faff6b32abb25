"""A pydantic model as the job's schema: its shapes become columns, its mistakes messages."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, date, datetime
from enum import Enum
from typing import Any, Literal

import pyarrow as pa
import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from batch import Job, JobError, Model, Output, Prompt, Source
from batch.schema.answer_reader import AnswerReader, InvalidAnswer
from batch.schema.arrow import arrow_type
from workers.llm.response_format import is_strict


class Tone(Enum):
    CALM = "calm"
    ANGRY = "angry"


class Item(BaseModel):
    """A thing that was bought."""

    name: str
    price: float | None = None


class Order(BaseModel):
    """Nested models, optional ones, enums, dates: what models of such answers are made of."""

    label: Literal["bug", "question"]
    items: list[Item]
    best: Item | None = None
    worst: Item = Field(description="The cheapest.")
    tone: Tone
    fallback: Tone = Tone.CALM
    at: datetime | None = None
    day: date
    count: int = Field(ge=0, alias="n")
    tags: dict[str, int] = {}
    pair: tuple[int, str] = (1, "a")


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")

    label: Literal["bug", "question"]
    items: list[Tone]
    count: int | None


def job(schema: Any, **output: Any) -> Job:
    return Job(
        name="t",
        source=Source(uri="s3://corpus/t/"),
        prompt=Prompt(user="{{ text }}"),
        model=Model(name="simulated-small"),
        output=Output(uri="s3://results/", schema=schema, **output),
    )


def test_a_model_stands_for_its_json_schema() -> None:
    by_model = job(Order)
    by_schema = job(Order.model_json_schema())
    assert by_model == by_schema and by_model.fingerprint == by_schema.fingerprint
    assert Job.parse(json.loads(by_model.to_json())) == by_model
    assert job(Strict).fingerprint != by_model.fingerprint
    plain = json.loads(by_model.to_json())
    assert Job.parse({**plain, "output": {**plain["output"], "schema": Order}}) == by_model


def test_its_shapes_become_columns() -> None:
    schema = job(Order).output.json_schema
    assert schema is not None
    item = pa.struct([("name", pa.string()), ("price", pa.float64())])
    types: Any = {field.name: field.type for field in arrow_type(schema)}
    assert (types["best"], types["worst"], types["items"].value_type) == (item, item, item)
    assert (types["tone"], types["fallback"], types["day"]) == (pa.string(), pa.string(), pa.date32())
    assert (types["at"], types["n"]) == (pa.timestamp("us", tz="UTC"), pa.int64())
    answer = {"label": "bug", "items": [{"name": "pen"}], "worst": {"name": "ink", "price": 1}, "tone": "calm"}
    answer |= {"day": "2026-01-31", "n": 2, "at": "2026-01-31T12:00:00Z", "best": None}
    value = AnswerReader(schema).read(json.dumps(answer))
    assert (value["items"], value["worst"]) == ([{"name": "pen", "price": None}], {"name": "ink", "price": 1.0})
    assert (value["day"], value["at"]) == (date(2026, 1, 31), datetime(2026, 1, 31, 12, tzinfo=UTC))
    Order.model_validate(answer)
    with pytest.raises(InvalidAnswer, match="n: -1 is less than the minimum of 0"):
        AnswerReader(schema).read(json.dumps(answer | {"n": -1}))


@pytest.mark.parametrize(("model", "strict"), [(Strict, True), (Order, False)])
def test_a_model_without_extras_and_defaults_keeps_the_rules_of_strict_mode(
    model: type[BaseModel], strict: bool
) -> None:
    assert is_strict(job(model).output.json_schema or {}) is strict


class Recursive(BaseModel):
    children: list[Recursive]


class Function(BaseModel):
    call: Callable[[int], int]


class Either(BaseModel):
    value: int | str


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        (Recursive, "the schema refers to itself"),
        (Function, "output.schema: the pydantic model Function has no JSON schema: Cannot generate a JsonSchema"),
        (Either, "output.schema#/properties/value/anyOf: both an integer and a string are allowed"),
        (BaseModel, "output.schema: input should be a valid dictionary"),
        (int, "output.schema: input should be a valid dictionary"),
    ],
)
def test_a_model_that_cannot_become_columns_is_refused_in_words(schema: Any, message: str) -> None:
    data = {**json.loads(job(Strict).to_json()), "output": {"uri": "s3://results/", "schema": schema}}
    with pytest.raises(JobError, match=r"^job: ") as raised:
        Job.parse(data)
    assert message in str(raised.value)
    with pytest.raises(ValidationError):
        job(schema)


def test_an_unknown_keyword_is_refused_as_before() -> None:
    with pytest.raises(ValidationError):
        job(Strict, shema=1)
