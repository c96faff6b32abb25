"""What a run will take, from a listing of its corpus, a sample of its documents, and perhaps a few answers. Pure.

Documents and bytes are counted, all else is estimated, with a range:

- Tokens of the prompts: those of the sample by a rule (BYTES_PER_TOKEN), carried over to the corpus by a regression on
  the objects' sizes, which are known for all of them. Where the model was asked, its provider's counts mend the rule.
- Tokens of the answers: of those asked for, else a guess by the schema (`batch.previews.answer_size`).
- Cost: by price functions of the model. Nothing is taken for cached.
- Time: the slowest of what limits a run.

A range is meant to hold nine times of ten as far as chance of the sample goes; what no sample shows is not in it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from batch.job.job import Job
from batch.previews.answer_size import BYTES_PER_TOKEN, answer_tokens

Price = Callable[[int, int, int], float | None]
"""(prompt tokens, cached among them, completion tokens) -> US dollars, None where the price is not known."""

TOKENS_PER_MESSAGE = 4
"""What providers count for a message beside its text."""
FEWEST_BYTES, MOST_BYTES = 3, 5
"""Bytes a token where the rule is not mended by counts: code and other languages than English, plain English."""
PROCESS_DOCUMENTS_PER_SECOND = 700
"""What one worker process' core does: docs/operations.md, "How many workers for a night"."""
NINE_OF_TEN = 1.645
"""Standard errors to each side."""

CONCURRENCY, REQUESTS, TOKENS, CPU = (
    *("limits.concurrency", "limits.requests_per_minute", "limits.tokens_per_minute", "CPU of the workers"),
)


@dataclass(frozen=True)
class Range:
    """An estimate, and what it may well be instead."""

    low: float
    value: float
    high: float

    def times(self, factor: float) -> Range:
        return Range(self.low * factor, self.value * factor, self.high * factor)

    def __add__(self, other: Range) -> Range:
        return Range(self.low + other.low, self.value + other.value, self.high + other.high)


@dataclass(frozen=True)
class Measured:
    """A document of the sample. `weight`: how many it stands for. Bytes of the prompt are those of all messages."""

    size: int
    weight: int
    prompt_bytes: int = 0
    messages: int = 0
    questions: int = 1
    """As many as it has chunks, where it is asked in chunks; bytes and messages are those of all of them."""
    error_type: str = ""
    """Why it cannot be asked about; empty for one that can."""


@dataclass(frozen=True)
class Asked:
    """An answer that was asked for: `by_rule` are the prompt tokens that the rule gives, the others are the provider's.

    Counts are over all calls for it, seconds of the calls that it takes.
    """

    by_rule: float
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    seconds: float
    cost_usd: float | None


@dataclass(frozen=True)
class Estimate:
    """What a run will take. `documents`, `bytes` and `too_large` are counted, ranges are estimated; see the module."""

    job_name: str
    model: str
    documents: int
    """All that a run would plan and send, but for those of the sample's kind that cannot be read."""
    bytes: int
    too_large: int
    """Documents past `source.max_document_bytes`: error rows, in no other number here."""
    sampled: int
    unreadable: dict[str, int]
    """Documents of the sample that will be error rows, by type."""
    answerable: Range
    """Documents that the model will be asked about."""
    prompt_tokens: Range
    completion_tokens: Range
    cost_usd: Range | None
    batch_cost_usd: Range | None
    """By the provider's Batch API, which answers within a day."""
    seconds: Range | None
    bound_by: str
    """Which limit makes it as long as that."""
    seconds_by_limit: dict[str, float]
    processes: int
    """Worker processes that poll for partitions now."""
    asked: int = 0
    answered: int = 0
    asked_prompt_tokens: int = 0
    asked_completion_tokens: int = 0
    asked_cost_usd: float = 0.0
    notes: list[str] = field(default_factory=list)
    """What was not known, and what is no more than a rule."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def rule(one: Measured, schema_bytes: int) -> float:
    """Prompt tokens of a document's questions; a schema that goes along with each counts too."""
    size = one.prompt_bytes + schema_bytes * one.questions
    return size / BYTES_PER_TOKEN + TOKENS_PER_MESSAGE * one.messages


def estimate(
    job: Job,
    *,
    documents: int,
    size: int,
    too_large: int,
    sample: Sequence[Measured],
    schema_bytes: int,
    asks: int,
    asked: Sequence[Asked],
    online: Price,
    batch: Price,
    processes: int,
) -> Estimate:
    """Returns the estimate for a corpus of `documents` of `size` bytes together.

    Args:
        asks: documents that the model was asked about; `asked` are those that it answered.
        online, batch: what an answer costs.
        processes: worker processes that poll for partitions.
    """
    notes: list[str] = []
    readable = [one for one in sample if not one.error_type]
    answerable = _count(documents, sample)
    rules = [0.0 if one.error_type else rule(one, schema_bytes) for one in sample]
    each_asked = _questions(readable, notes)
    by_rule, error = total(rules, sample, documents, size)
    in_schema = schema_bytes / BYTES_PER_TOKEN * answerable.value * each_asked
    prompt_tokens = _mended(by_rule, error, in_schema, asked, notes)
    each = _completion(job, asked, notes)
    completion_tokens = each.times(answerable.value * (1 if asked else each_asked))
    factor = prompt_tokens.value / by_rule if by_rule else 1.0
    weighed = [
        (one.weight, round(tokens * factor)) for one, tokens in zip(sample, rules, strict=True) if not one.error_type
    ]
    costs = [
        _cost(price, weighed, round(each.value) or 1, prompt_tokens, completion_tokens) for price in (online, batch)
    ]
    if online(1, 0, 1) is None:
        notes.append(f"cost: {job.model.name} has no known price; model.prices says it")
    if not sample:
        notes.append("no document was sampled: the corpus holds none that can be read")
    elif not readable:
        notes.append("no document of the sample can be read: tokens, cost and time are unknown, not 0")
    if asked and any(one.cached_tokens for one in asked):
        share = sum(one.cached_tokens for one in asked) / max(1, sum(one.prompt_tokens for one in asked))
        notes.append(f"{share:.0%} of the prompt tokens asked with were cached; the cost takes none for cached")
    seconds = _seconds(
        job,
        answerable,
        answerable.times(each_asked),
        prompt_tokens + completion_tokens,
        asked,
        processes=processes,
        notes=notes,
    )
    bound_by = max(seconds, key=lambda name: seconds[name].value) if seconds else ""
    return Estimate(
        job_name=job.name,
        model=job.model.name,
        documents=documents,
        bytes=size,
        too_large=too_large,
        sampled=len(sample),
        unreadable=dict(Counter(one.error_type for one in sample if one.error_type)),
        answerable=answerable,
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        cost_usd=costs[0],
        batch_cost_usd=costs[1],
        seconds=seconds[bound_by] if seconds else None,
        bound_by=bound_by,
        seconds_by_limit={name: found.value for name, found in seconds.items()},
        processes=processes,
        asked=asks,
        answered=len(asked),
        asked_prompt_tokens=sum(one.prompt_tokens for one in asked),
        asked_completion_tokens=sum(one.completion_tokens for one in asked),
        asked_cost_usd=sum(one.cost_usd or 0.0 for one in asked),
        notes=notes,
    )


def total(values: Sequence[float], sample: Sequence[Measured], documents: int, size: int) -> tuple[float, float]:
    """Returns the sum over the corpus of what the sample has, and how far off it may be, by a regression on the sizes.

    Exact where the sample is the whole corpus, and where the value depends on the size alone.
    """
    if not sample or not documents:
        return 0.0, 0.0
    weights = [one.weight for one in sample]
    all_weights = sum(weights)
    mean = sum(w * value for w, value in zip(weights, values, strict=True)) / all_weights
    mean_size = sum(one.weight * one.size for one in sample) / all_weights
    spread = sum(one.weight * (one.size - mean_size) ** 2 for one in sample)
    slope = 0.0
    if spread and len(sample) > 2:
        together = sum(one.weight * (one.size - mean_size) * (y - mean) for one, y in zip(sample, values, strict=True))
        slope = together / spread
    found = max(0.0, documents * (mean + slope * (size / documents - mean_size)))
    if len(sample) >= documents:
        return found, 0.0
    if len(sample) == 1:
        return found, found
    freedom = max(1, len(sample) - (2 if slope else 1))
    off = sum(
        one.weight * (y - mean - slope * (one.size - mean_size)) ** 2 for one, y in zip(sample, values, strict=True)
    )
    variance = off / all_weights * len(sample) / freedom
    unseen = 1 - len(sample) / documents
    return found, NINE_OF_TEN * documents * math.sqrt(variance / len(sample) * unseen)


def _count(documents: int, sample: Sequence[Measured]) -> Range:
    """Returns documents that can be asked about."""
    weights = sum(one.weight for one in sample)
    if not weights:
        return Range(0, 0, 0)
    share = sum(one.weight for one in sample if not one.error_type) / weights
    off = NINE_OF_TEN * math.sqrt(share * (1 - share) / len(sample) * (1 - min(1.0, len(sample) / documents)))
    return Range(documents * max(0.0, share - off), documents * share, documents * min(1.0, share + off))


def _questions(readable: Sequence[Measured], notes: list[str]) -> float:
    """Questions for a document, on the mean: more than one where some are asked in chunks."""
    chunked = sum(one.questions > 1 for one in readable)
    if not chunked:
        return 1.0
    mean = sum(one.weight * one.questions for one in readable) / sum(one.weight for one in readable)
    notes.append(
        f"long_documents: {chunked:,} of the {len(readable):,} documents that could be read are asked in chunks, "
        f"{mean:.3g} questions a document on the mean, which all numbers count; calls that combine the answers are "
        "in none but those of --ask N"
    )
    return mean


def _mended(by_rule: float, error: float, in_schema: float, asked: Sequence[Asked], notes: list[str]) -> Range:
    """Prompt tokens of the corpus: by the rule, or by what the provider counted where the rule gave so many.

    `in_schema` of them are of the schema, which not every provider counts.
    """
    low, high = max(0.0, by_rule - error), by_rule + error
    expected = sum(one.by_rule for one in asked)
    if not expected or not any(one.prompt_tokens for one in asked):
        notes.append(
            f"prompt tokens: 1 for {BYTES_PER_TOKEN} bytes of UTF-8 ({FEWEST_BYTES} to {MOST_BYTES} in the range), and "
            f"{TOKENS_PER_MESSAGE} a message; a schema counts, but for the low end. --ask N takes the provider's counts"
        )
        low = max(0.0, low - in_schema)
        return Range(low * BYTES_PER_TOKEN / MOST_BYTES, by_rule, high * BYTES_PER_TOKEN / FEWEST_BYTES)
    factor = sum(one.prompt_tokens for one in asked) / expected
    off = _relative_error([one.prompt_tokens / one.by_rule for one in asked], at_least=0.02, alone=0.15)
    return Range(low * factor * (1 - off), by_rule * factor, high * factor * (1 + off))


def _completion(job: Job, asked: Sequence[Asked], notes: list[str]) -> Range:
    """Returns tokens of one answer."""
    if asked:
        mean = sum(one.completion_tokens for one in asked) / len(asked)
        off = _relative_error([one.completion_tokens for one in asked], at_least=0.05, alone=0.5)
        return Range(mean * (1 - off), mean, mean * (1 + off))
    notes.append(
        "completion tokens: a guess by "
        + ("output.schema" if job.output.json_schema is not None else "nothing but model.max_output_tokens")
        + "; --ask N measures some answers. A reasoning model's hidden tokens are in no guess"
    )
    return Range(*answer_tokens(job))


def _relative_error(values: Sequence[float], *, at_least: float, alone: float) -> float:
    """Tells how far the mean may be off, as a share of it; `alone` where there is but one value."""
    mean = sum(values) / len(values)
    if len(values) == 1 or not mean:
        return alone
    variance = sum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return min(1.0, max(at_least, NINE_OF_TEN * math.sqrt(variance / len(values)) / mean))


def _cost(
    price: Price, weighed: Sequence[tuple[int, int]], answer: int, prompt: Range, completion: Range
) -> Range | None:
    """By the mean price of a token over the sample (weights and prompt tokens): some prices depend on the prompt's
    length."""
    paid_in = paid_out = tokens_in = tokens_out = 0.0
    for weight, tokens in weighed:
        both, only = price(tokens, 0, answer), price(tokens, 0, 0)
        if both is None or only is None:
            return None
        paid_in += weight * only
        paid_out += weight * (both - only)
        tokens_in += weight * tokens
        tokens_out += weight * answer
    if not tokens_in:
        return None
    return prompt.times(paid_in / tokens_in) + completion.times(paid_out / tokens_out)


def _seconds(
    job: Job,
    answerable: Range,
    questions: Range,
    tokens: Range,
    asked: Sequence[Asked],
    *,
    processes: int,
    notes: list[str],
) -> dict[str, Range]:
    """Tells how long each limit alone would make the run; empty where none is known that tells anything."""
    limits, found = job.limits, dict[str, Range]()
    if not answerable.value:
        return found
    count = max(1, processes)
    if not processes:
        notes.append("time: no worker polls for partitions now; one process is assumed")
    if limits.requests_per_minute is not None:
        found[REQUESTS] = questions.times(60 / limits.requests_per_minute)
    if limits.tokens_per_minute is not None:
        found[TOKENS] = tokens.times(60 / limits.tokens_per_minute)
    if asked:
        latency = sum(one.seconds for one in asked) / len(asked)
        off = _relative_error([one.seconds for one in asked], at_least=0.1, alone=0.5)
        alone = answerable.times(latency / (count * limits.concurrency))
        found[CONCURRENCY] = Range(alone.low * (1 - off), alone.value, alone.high * (1 + off))
    elif found:
        notes.append("time: how long an answer takes is not known, it may be longer; --ask N measures it")
    else:
        notes.append("time: not known without limits of the provider in the job, or --ask N, which measures latency")
        return found
    found[CPU] = questions.times(1 / (count * PROCESS_DOCUMENTS_PER_SECOND))
    return found
