"""Documents that are too long for one question: what the job may say, what is shown, what one answer is made of."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import pytest

from batch.corpus.planning import PlannedDocument
from batch.files.run_file import RunFile
from batch.job import strict_yaml
from batch.job.job import Job
from batch.job.logical_date import Nominal
from batch.job.part import JobError
from batch.schema.row_schema import row_schema
from batch.storage.layout import RunLayout
from tests.memory_storage import MemoryStorage
from tests.unit.workers.llm.limits.lanes import open_lane
from tests.unit.workers.partition.ledgers import NAME, row
from workers.documents.long_documents import (
    AT_ONCE,
    ChunkedQuestion,
    Combined,
    LongDocuments,
    chunk_answer,
    chunk_fields,
    chunk_key,
)
from workers.documents.prompt import CompiledPrompt
from workers.documents.rows import RowMaker
from workers.documents.token_estimate import UNIT, measure_for
from workers.extract import Unreadable
from workers.finish.finisher import Settler
from workers.llm.answer import Answer
from workers.llm.chat import Chat
from workers.llm.limits.stop import Brakes
from workers.llm.prices import pricer
from workers.llm.transport.transport import Reply
from workers.observe.metrics import Metrics
from workers.partition.ledger import Ledger, read_ledger

SCHEMA = {
    "type": "object",
    "properties": {"label": {"type": "string"}, "count": {"type": "integer", "maximum": 100}},
    "required": ["label", "count"],
    "additionalProperties": False,
}
RULES = {"label": "majority", "count": "sum"}
BY_RULES = {"on_too_long": "chunk", "max_tokens": 100, "overlap_tokens": 0, "combine": {"rules": RULES}}
BY_PROMPT = {**BY_RULES, "combine": {"user": "Combine for {{ document_id }}:\n{{ answers | join('\n') }}"}}


def job(long_documents: dict[str, Any] | None, schema: dict[str, Any] | None = SCHEMA, **model: Any) -> Job:
    data: dict[str, Any] = {
        "name": "t",
        "source": {"uri": "s3://corpus/t/"},
        "prompt": {"user": "{{ text }}"},
        "model": {"name": "simulated-small", "prices": {"input": 1, "output": 2}, **model},
        "output": {"uri": "s3://results/", **({"schema": schema} if schema else {})},
    }
    return Job.parse(data | ({"long_documents": long_documents} if long_documents else {}))


# -- the job --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"on_too_long": "send"}, ".on_too_long: input should be 'error', 'truncate' or 'chunk', not 'send'"),
        ({"max_tokens": 99}, ".max_tokens: input should be greater than or equal to 100, not 99"),
        ({"max_token": 99}, ".max_token: unknown key, did you mean 'max_tokens'?"),
        ({"max_tokens": None}, ".max_tokens: input should be a valid integer"),
        ({"overlap_tokens": 51}, ": overlap_tokens is 51; it may be at most half of max_tokens, 100"),
        ({"on_too_long": "error"}, ": overlap_tokens is for on_too_long: chunk; leave it out"),
        ({"on_too_long": "error", "overlap_tokens": 200}, ": combine is for on_too_long: chunk; leave it out"),
        ({"combine": None}, ": combine is required for on_too_long: chunk"),
        ({"most_chunks": 1001}, ".most_chunks: input should be less than or equal to 1000"),
        ({"combine": {}}, ".combine: give either a second prompt (user, perhaps system) or rules"),
        ({"combine": {"user": "{{ answers }}", "rules": RULES}}, ".combine: give either a second prompt"),
        ({"combine": {"system": "x", "rules": RULES}}, ".combine: system goes with user; leave it out"),
        ({"combine": {"rule": RULES}}, ".combine.rule: unknown key, did you mean 'rules'?"),
        ({"combine": {"user": "{{ text }}"}}, ".combine.user: unknown variable 'text'"),
        ({"combine": {"user": "{{ answers"}}, ".combine.user, line 1: the template does not compile"),
        ({"combine": {"user": "Combine them."}}, ".combine.user does not name the answers to be combined: write"),
        ({"combine": {"rules": {**RULES, "count": "mean"}}}, ".combine.rules.count: input should be 'first'"),
        ({"combine": {"rules": {**RULES, "coun": "sum"}}}, ".combine.rules: there is no column 'coun'; output.schema"),
        ({"combine": {"rules": {"label": "first"}}}, ".combine.rules: there is no rule for 'count'"),
        ({"combine": {"rules": {**RULES, "label": "any"}}}, ".combine.rules.label: any cannot be for a column of kind"),
    ],
)
def test_bad_input_is_refused_in_clear_words(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(JobError) as error:
        job(BY_RULES | changes)
    assert str(error.value).startswith(f"job: long_documents{message}")


def test_chunks_are_refused_in_batch_mode_the_others_are_not() -> None:
    with pytest.raises(JobError, match=r"on_too_long: chunk is not supported in model.mode: batch"):
        job(BY_RULES, mode="batch")
    for way in ("truncate", "error"):
        job({"on_too_long": way, "max_tokens": 100}, mode="batch")


def test_rules_without_a_schema_are_for_the_text() -> None:
    job({**BY_RULES, "combine": {"rules": {"output_text": "concat"}}}, None)
    with pytest.raises(JobError, match=r"no column 'label'; without output.schema there is output_text"):
        job({**BY_RULES, "combine": {"rules": {"label": "concat"}}}, None)


def test_the_fingerprint_knows_of_it_only_where_it_is_set() -> None:
    ways: list[dict[str, Any] | None] = [
        None,
        {"on_too_long": "error", "max_tokens": 100},
        {"on_too_long": "truncate", "max_tokens": 100},
        {"on_too_long": "truncate", "max_tokens": 101},
        BY_RULES,
        BY_PROMPT,
        {**BY_RULES, "most_chunks": 7},
        {**BY_RULES, "overlap_tokens": 7},
    ]
    parsed = [job(way) for way in ways]
    assert len({each.fingerprint for each in parsed}) == len(ways)
    assert all(Job.parse(json.loads(each.to_json())) == each for each in parsed)
    assert job(None).fingerprint == "54ae775092a524f4"


def test_the_schema_has_a_column_where_the_job_needs_it() -> None:
    plain = row_schema(SCHEMA).names
    assert row_schema(SCHEMA, on_too_long="error").names == plain
    assert row_schema(SCHEMA, on_too_long="truncate").names == [*plain, "truncated"]
    assert row_schema(SCHEMA, on_too_long="chunk").names == [*plain, "chunks"]


def test_the_jobs_of_the_documentation_are_jobs() -> None:
    page = (Path(__file__).parents[4] / "docs" / "long-documents.md").read_text()
    whole, part = (strict_yaml.load(block) for block in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL))
    for data in (whole, whole | part):
        assert Job.parse(data).long_documents is not None


# -- what is shown --------------------------------------------------------------------------------------------------

TEXT = " ".join(f"This is sentence {number}." for number in range(200))  # 100 tokens are 400 of its 4,289 characters


async def test_what_fits_is_whole() -> None:
    for way, truncated in (("error", None), ("truncate", False), ("chunk", None)):
        settings = BY_RULES if way == "chunk" else {"on_too_long": way, "max_tokens": 100}
        for text in ("short", TEXT[:400]):
            shown = await LongDocuments(job(settings)).shown(text)
            assert (shown.text, shown.chunks, shown.truncated) == (text, (), truncated)
    shown = await LongDocuments(job(None)).shown(TEXT * 100)
    assert (shown.text, shown.chunks, shown.truncated) == (TEXT * 100, (), None)


async def test_error_truncate_and_chunk() -> None:
    with pytest.raises(
        Unreadable, match=r"about 1,0\d\d tokens; long_documents.max_tokens is 100; .* is error"
    ) as error:
        await LongDocuments(job({"on_too_long": "error", "max_tokens": 100})).shown(TEXT)
    assert error.value.error_type == "too_long"

    shown = await LongDocuments(job({"on_too_long": "truncate", "max_tokens": 100})).shown(f"\n\n{TEXT}")
    assert shown.truncated and TEXT.startswith(shown.text) and 300 < len(shown.text) <= 400
    assert shown.text.endswith(". ")

    shown = await LongDocuments(job(BY_RULES)).shown(TEXT)
    assert "".join(shown.chunks) == TEXT and 10 < len(shown.chunks) < 17
    measure = measure_for("simulated-small")
    assert all(measure(chunk) <= 100 * UNIT for chunk in shown.chunks)


async def test_more_than_the_most_chunks_is_an_error_and_blank_ones_are_no_chunks() -> None:
    long = LongDocuments(job({**BY_RULES, "most_chunks": 5}))
    with pytest.raises(Unreadable, match=r"more than long_documents.most_chunks \(5\) chunks") as error:
        await long.shown(TEXT)
    assert error.value.error_type == "too_long"
    shown = await long.shown("begin " + " " * 10_000 + "end")
    assert [chunk.strip() for chunk in shown.chunks] == ["begin", "end"]


# -- the answer -----------------------------------------------------------------------------------------------------


class Model:
    """A transport that answers each question by what it asks; notes who was asked, and how many at once."""

    base_url = "http://simulated/v1/"

    def __init__(self, answer: Callable[[str], Any]) -> None:
        self._answer = answer
        self.asked: list[str] = []
        self.at_once = self._now = 0

    async def post(self, path: str, payload: bytes, *, timeout: float) -> Reply:
        text = orjson.loads(payload)["messages"][0]["content"]
        self.asked.append(text)
        self._now += 1
        self.at_once = max(self.at_once, self._now)
        await asyncio.sleep(0.001)
        self._now -= 1
        answer = self._answer(text)
        if isinstance(answer, Reply):
            return answer
        choice = {"message": {"content": answer}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 1000, "completion_tokens": 10, "prompt_tokens_details": {"cached_tokens": 100}}
        return Reply(200, {}, {"choices": [choice], "usage": usage, "model": "simulated-small-1"})


LABEL = '{"label":"a","count":3}'


async def ask(
    model: Model,
    settings: dict[str, Any] = BY_RULES,
    *,
    known: dict[str, Answer] | None = None,
    stopped: Callable[[], bool] = lambda: False,
    schema: dict[str, Any] | None = SCHEMA,
) -> tuple[Combined | None, dict[str, Answer], tuple[str, ...]]:
    """What it came to, the answers noted, and the chunks."""
    parsed = job(settings, schema)
    brakes = Brakes(max_error_rate=1.0, drain=asyncio.Event())
    chat = Chat(parsed, model, brakes, Metrics(), open_lane())  # type: ignore[arg-type]
    long = LongDocuments(parsed)
    chunks = (await long.shown(TEXT)).chunks
    noted: dict[str, Answer] = {}
    question = ChunkedQuestion(
        PlannedDocument("t/d.txt", "s3://corpus/t/d.txt", "e", len(TEXT)),
        chunks,
        long,
        CompiledPrompt(parsed.prompt),
        {},
        chat,
        pricer(parsed.model),
        partial(chat.ask, stopped=stopped),
        known=known or {},
        note=noted.__setitem__,
    )
    return await asyncio.wait_for(question.answer(), 10), noted, chunks


async def test_rules_make_one_answer_and_all_calls_count() -> None:
    model = Model(lambda text: LABEL)
    found, noted, chunks = await ask(model)
    assert found is not None and found.answer.error is None
    assert sorted(model.asked) == sorted(chunks) and 1 < model.at_once <= AT_ONCE
    assert (found.answer.result, found.chunks) == ({"label": "a", "count": 3 * len(chunks)}, len(chunks))
    assert found.answer.text == json.dumps(found.answer.result, separators=(",", ":"))
    answer = found.answer
    count = len(chunks)
    assert (answer.prompt_tokens, answer.cached_tokens, answer.completion_tokens, answer.attempts) == (
        *(1000 * count, 100 * count, 10 * count),
        count,
    )
    assert answer.latency_seconds >= 0.001 * count
    assert (answer.model, answer.finish_reason) == ("simulated-small-1", "stop")
    assert found.cost_usd == pytest.approx(count * 1020e-6)
    assert set(noted) == {chunk_key(place, chunk) for place, chunk in enumerate(chunks)}


async def test_a_second_prompt_makes_one_answer_in_the_order_of_the_chunks() -> None:
    numbers = re.compile(r"sentence (\d+)")

    def answer(text: str) -> str:
        if text.startswith("Combine"):
            return '{"label":"all","count":1}'
        found = numbers.search(text)
        assert found is not None
        return json.dumps({"label": found[1], "count": 0}, separators=(",", ":"))

    model = Model(answer)
    found, noted, chunks = await ask(model, BY_PROMPT)
    assert found is not None and found.answer.result == {"label": "all", "count": 1}
    assert (found.answer.attempts, found.answer.prompt_tokens) == (len(chunks) + 1, 1000 * (len(chunks) + 1))
    assert found.cost_usd == pytest.approx((len(chunks) + 1) * 1020e-6)
    first, *lines = model.asked[-1].split("\n")
    assert first == "Combine for t/d.txt:"
    shown = [int(json.loads(line)["label"]) for line in lines]
    assert len(shown) == len(chunks) == len(noted) and shown == sorted(shown)


async def test_an_error_of_a_chunk_is_the_documents_and_what_was_paid_counts() -> None:
    refused = Reply(400, {}, {"error": {"code": "content_filter", "message": "no"}})
    model = Model(lambda text: refused if "sentence 100." in text else LABEL)
    found, noted, chunks = await ask(model)
    assert found is not None and found.answer.error is not None
    place = next(place for place, chunk in enumerate(chunks, 1) if "sentence 100." in chunk)
    assert found.answer.error.error_type == "content_filter"
    assert found.answer.error.message.startswith(f"chunk {place} of {len(chunks)}: ")
    assert place <= len(model.asked) < len(chunks) or place > len(chunks) - AT_ONCE
    assert found.answer.attempts == len(model.asked) == len(noted) + 1
    assert found.answer.prompt_tokens == 1000 * len(noted) and found.cost_usd == pytest.approx(len(noted) * 1020e-6)


async def test_a_rule_that_breaks_the_schema_is_an_invalid_answer_that_is_paid() -> None:
    found, _, chunks = await ask(Model(lambda text: '{"label":"a","count":100}'))
    assert found is not None and found.answer.error is not None
    assert (found.answer.error.error_type, found.answer.error.retryable) == ("invalid_answer", False)
    assert found.answer.error.message.startswith(f"combining the answers to {len(chunks)} chunks: combined by long_")
    assert found.answer.prompt_tokens == 1000 * len(chunks)


async def test_what_was_paid_before_is_not_asked_again_and_counts() -> None:
    first = Model(lambda text: LABEL)
    _, noted, chunks = await ask(first)
    known = dict(list(noted.items())[:7]) | {"0-elsewhere": Answer("x", None)}
    second = Model(lambda text: LABEL)
    found, fresh, _ = await ask(second, known=known)
    assert len(second.asked) == len(fresh) == len(chunks) - 7 and not set(fresh) & set(known)
    assert found is not None and found.answer.prompt_tokens == 1000 * len(chunks)
    assert found.answer.attempts == len(chunks)


async def test_one_that_is_stopped_has_no_answer_and_keeps_what_came() -> None:
    model = Model(lambda text: LABEL)
    found, noted, chunks = await ask(model, stopped=lambda: len(model.asked) >= 5)
    assert found is None and 1 <= len(noted) == len(model.asked) < len(chunks)


async def test_plain_texts_are_joined() -> None:
    settings = {**BY_RULES, "combine": {"rules": {"output_text": "concat"}}}
    found, _, chunks = await ask(Model(str.strip), settings, schema=None)
    assert found is not None and found.answer.result is None
    assert found.answer.text == "\n".join(chunk.strip() for chunk in chunks)


# -- the ledger -----------------------------------------------------------------------------------------------------


async def test_answers_to_chunks_lie_in_the_ledger_beside_the_rows() -> None:
    storage, layout = MemoryStorage(), RunLayout.of("s3://results/x/", "run-1")
    ledger = Ledger(storage, layout, NAME, Metrics())  # type: ignore[arg-type]
    ledger.start()
    ledger.add_chunk("d1", "0-aa", {"text": "one"})
    ledger.add(row(2))
    ledger.add_chunk("d1", "1-bb", {"text": "two"})
    await ledger.close()
    found = await read_ledger(storage, layout, NAME)  # type: ignore[arg-type]
    assert list(found.rows) == ["d2"] and found.last_attempt == 1
    assert {key: each["text"] for key, each in found.chunks["d1"].items()} == {"0-aa": "one", "1-bb": "two"}


async def test_a_document_given_up_counts_the_chunks_that_were_paid() -> None:
    _, noted, chunks = await ask(Model(lambda text: LABEL))
    storage, layout = MemoryStorage(), RunLayout.of("s3://results/x/", "run-1")
    ledger = Ledger(storage, layout, NAME, Metrics())  # type: ignore[arg-type]
    ledger.start()
    for key, answer in [*noted.items(), *noted.items()]:  # by two attempts at once, say
        ledger.add_chunk("t/d.txt", key, chunk_fields(answer))
    await ledger.close()
    found = await read_ledger(storage, layout, NAME)  # type: ignore[arg-type]
    assert {key: chunk_answer(fields) for key, fields in found.chunks["t/d.txt"].items()} == {
        key: replace(answer, result=None) for key, answer in noted.items()
    }
    run = RunFile.of("run-1", job(BY_RULES), "e", "2026-01-01T00:00:00+00:00", Nominal.now())
    settler = Settler(storage, layout, run, 1, Metrics())  # type: ignore[arg-type]
    maker = RowMaker("run-1", "f00d", 1, 0, 7)
    paid, other = (
        settler._given_up(PlannedDocument(name, "s3://corpus/x", "e", 1), maker, found)
        for name in ("t/d.txt", "t/e.txt")
    )
    assert paid["error_type"] == other["error_type"] == "partition_failed" and paid["output_text"] is None
    assert (paid["attempts"], paid["prompt_tokens"]) == (len(chunks), 1000 * len(chunks))
    assert paid["cost_usd"] == pytest.approx(len(chunks) * 1020e-6)
    assert (other["attempts"], other["cost_usd"]) == (0, 0.0)
