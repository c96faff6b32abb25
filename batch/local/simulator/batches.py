"""The simulated provider's Batch API: the batches made of uploaded files, and how each of them goes.

Shapes, states, limits and errors are OpenAI's (https://platform.openai.com/docs/guides/batch and the API reference of
batches). A line counts as asked and paid when its turn comes, exactly as an online request would; output
files have their lines in any order, and the answer to a line that failed stands in either of the two files.
"""

import asyncio
import contextlib
import hashlib
import itertools
import math
import random
import time
from collections import Counter
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
from aiohttp.web import BaseRequest

from batch.local.simulator.files import File, Files
from batch.local.simulator.options import ProviderOptions
from batch.local.simulator.refusals import Refused, invalid

MOST_REQUESTS = 50_000
ENDPOINT = "/v1/chat/completions"
MOST_ERRORS_SHOWN = 50
TICK = 0.05
KEPT = 10_000
"""Ended batches that are remembered."""
GOING = ("validating", "in_progress", "finalizing", "cancelling")

Answered = tuple[int, Any] | None
"""Status and body, or None for no answer at all."""


@dataclass
class _Batch:
    id: str
    input: File
    metadata: dict[str, str] | None
    by: str
    expire_share: float
    status: str = "validating"
    created_at: int = field(default_factory=lambda: int(time.time()))
    times: dict[str, int] = field(default_factory=dict)
    errors: list[dict[str, Any]] | None = None
    total: int = 0
    completed: int = 0
    failed: int = 0
    tokens: int = 0
    output: list[bytes] = field(default_factory=list)
    refused: list[bytes] = field(default_factory=list)
    output_file: str | None = None
    error_file: str | None = None
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)

    def becomes(self, status: str) -> None:
        self.status = status
        self.times[f"{status}_at"] = int(time.time())

    def shown(self) -> dict[str, Any]:
        stages = ("in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled")
        return {
            "id": self.id,
            "object": "batch",
            "endpoint": ENDPOINT,
            "errors": None if self.errors is None else {"object": "list", "data": self.errors},
            "input_file_id": self.input.id,
            "completion_window": "24h",
            "status": self.status,
            "output_file_id": self.output_file,
            "error_file_id": self.error_file,
            "created_at": self.created_at,
            "expires_at": self.created_at + 86_400,
            **{f"{stage}_at": self.times.get(f"{stage}_at") for stage in stages},
            "request_counts": {"total": self.total, "completed": self.completed, "failed": self.failed},
            "metadata": self.metadata,
        }


class Batches:
    """Files, batches, and a task for each batch that is under way.

    Args:
        behaviour: how batches go, asked at each step.
        answer: answers one line's body for whoever created its batch.
        prompt_tokens: of one line's body; raises `Refused` for one that is no request.
    """

    def __init__(
        self,
        behaviour: Callable[[], ProviderOptions],
        answer: Callable[[Any, str], Answered],
        prompt_tokens: Callable[[Any], int],
    ) -> None:
        self._behaviour, self._answer, self._prompt_tokens = behaviour, answer, prompt_tokens
        self._files = Files()
        self._batches: dict[str, _Batch] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._numbers = itertools.count(1)
        self._ends: Counter[str] = Counter()
        self._created = 0
        self._lines = 0

    def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        self._files.close()

    def stats(self) -> dict[str, Any]:
        """Batches created and their ends since the last reset; lines taken in; files that stand now."""
        going = sum(batch.status in GOING for batch in self._batches.values())
        return {
            "batches": self._created,
            "batch_lines": self._lines,
            "batches_going": going,
            "batch_ends": dict(self._ends),
            "files": len(self._files),
        }

    def reset_stats(self) -> None:
        self._created = self._lines = 0
        self._ends.clear()

    async def handle(self, request: BaseRequest, by: str) -> bytes:
        """Returns the body of the answer to a request below `/v1/files` or `/v1/batches`. Raises `Refused`."""
        what, *steps = request.path.removeprefix("/v1/").strip("/").split("/")
        route = (request.method, what, len(steps), steps[1] if len(steps) == 2 else "")
        if route == ("POST", "files", 0, ""):
            return orjson.dumps((await self._files.upload(request)).shown())
        if route == ("GET", "files", 0, ""):
            files = [file.shown() for file in self._files.newest_first(request.query.get("purpose"))]
            return _page(files, request, most=10_000, usual=10_000)
        if route == ("GET", "files", 1, ""):
            return orjson.dumps(self._files.find(steps[0]).shown())
        if route == ("GET", "files", 2, "content"):
            return self._files.find(steps[0]).path.read_bytes()
        if route == ("DELETE", "files", 1, ""):
            file = self._files.find(steps[0])
            self._files.delete(file, in_use={each.input.id for each in self._batches.values() if each.status in GOING})
            return orjson.dumps({"id": file.id, "object": "file", "deleted": True})
        if route == ("POST", "batches", 0, ""):
            return orjson.dumps(self._create(await request.content.read(), by).shown())
        if route == ("GET", "batches", 0, ""):
            shown = [batch.shown() for batch in reversed(self._batches.values())]
            return _page(shown, request, most=100, usual=20)
        if route == ("GET", "batches", 1, ""):
            return orjson.dumps(self._batch(steps[0]).shown())
        if route == ("POST", "batches", 2, "cancel"):
            return orjson.dumps(self._cancel(self._batch(steps[0])).shown())
        raise Refused("not_found", message=f"Invalid URL ({request.method} {request.path})")

    # -- batches

    def _batch(self, identifier: str) -> _Batch:
        try:
            return self._batches[identifier]
        except KeyError:
            raise Refused("not_found", message=f"No batch found with id '{identifier}'.") from None

    def _create(self, body: bytes, by: str) -> _Batch:
        try:
            asked = orjson.loads(body)
        except ValueError:
            asked = None
        if not isinstance(asked, dict):
            raise invalid("We could not parse the JSON body of your request.")
        for name in ("input_file_id", "endpoint", "completion_window"):
            if not isinstance(asked.get(name), str):
                raise invalid(f"Missing required parameter: '{name}'.", name, "missing_required_parameter")
        if asked["endpoint"] != ENDPOINT:
            raise invalid(f"Invalid value: '{asked['endpoint']}'.", "endpoint", "invalid_value")
        if asked["completion_window"] != "24h":
            raise invalid("Invalid value for 'completion_window': '24h' expected.", "completion_window")
        file = self._files.get(asked["input_file_id"])
        if file is None:
            raise invalid(f"No such File object: {asked['input_file_id']}", "input_file_id")
        if file.purpose != "batch":
            raise invalid(f"The purpose of the file is '{file.purpose}', not 'batch'.", "input_file_id")
        metadata = _metadata(asked.get("metadata"))
        batch = _Batch(f"batch_{self._identifier()}", file, metadata, by, self._behaviour().batch_expire_share)
        self._batches[batch.id] = batch
        self._created += 1
        for old in list(itertools.islice(self._batches, max(0, len(self._batches) - KEPT))):
            if self._batches[old].status not in GOING:
                del self._batches[old]
        task = asyncio.create_task(self._go(batch))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return batch

    def _cancel(self, batch: _Batch) -> _Batch:
        if batch.status in ("validating", "in_progress"):
            batch.becomes("cancelling")
            batch.cancelled.set()
        elif batch.status not in ("cancelling", "cancelled"):
            raise invalid(f"Cannot cancel a batch with status '{batch.status}'.")
        return batch

    async def _go(self, batch: _Batch) -> None:
        behaviour = self._behaviour()
        await _pause(batch, behaviour.batch_validation_seconds)
        if not batch.cancelled.is_set():
            batch.errors = await self._problems(batch)
        if batch.errors:
            batch.becomes("failed")
            self._ends["failed"] += 1
            return
        batch.errors = None
        if not batch.cancelled.is_set():
            batch.becomes("in_progress")
            expired = await self._work(batch, behaviour.batch_seconds)
            if not batch.cancelled.is_set():
                batch.becomes("finalizing")
                await asyncio.sleep(TICK)
                self._end(batch, "expired" if expired else "completed")
                return
        await asyncio.sleep(self._behaviour().batch_validation_seconds)
        self._end(batch, "cancelled")

    def _end(self, batch: _Batch, status: str) -> None:
        batch.output_file = self._write(batch, "output", batch.output)
        batch.error_file = self._write(batch, "error", batch.refused)
        batch.becomes(status)
        self._ends[status] += 1

    def _write(self, batch: _Batch, what: str, lines: list[bytes]) -> str | None:
        if not lines:
            return None
        random.Random(batch.id + what).shuffle(lines)
        content = b"".join(lines)
        lines.clear()
        return self._files.write(f"{batch.id}_{what}.jsonl", content)

    def _identifier(self) -> str:
        return hashlib.blake2b(b"%d/%d" % (id(self), next(self._numbers)), digest_size=12).hexdigest()

    async def _problems(self, batch: _Batch) -> list[dict[str, Any]]:
        """Returns what is wrong with the input, by line; a single such line fails the whole batch."""
        behaviour = self._behaviour()
        if (code := behaviour.batch_fail_code) is not None:
            lines = range(1, behaviour.batch_fail_lines + 1) or [None]
            return [_problem(code, f"The validation failed: {code}.", line) for line in lines]
        found: list[dict[str, Any]] = []
        seen: set[str] = set()
        models: set[str] = set()
        for number, line in enumerate(_lines(batch.input.path), 1):
            problem = self._problem_of(batch, line, seen, models)
            if problem is not None and len(found) < MOST_ERRORS_SHOWN:
                found.append(_problem(*problem[:2], number, problem[2]))
            batch.total += 1
            if number % 200 == 0:
                await asyncio.sleep(0)
        if not batch.total:
            return [_problem("empty_file", "The input file is empty.")]
        if batch.total > MOST_REQUESTS:
            return [_problem("too_many_tasks", f"A batch has at most {MOST_REQUESTS} requests.")]
        if not found:
            found = self._enqueue(batch, next(iter(models)))
        self._lines += 0 if found else batch.total
        return found

    def _problem_of(
        self, batch: _Batch, line: bytes, seen: set[str], models: set[str]
    ) -> tuple[str, str, str | None] | None:
        """Code, message and parameter of what is wrong with a line; counts its tokens."""
        try:
            request = orjson.loads(line)
        except ValueError:
            request = None
        if not isinstance(request, dict):
            return "invalid_json_line", "This line is not parseable as valid JSON.", None
        for name in ("custom_id", "method", "url", "body"):
            if name not in request:
                return "missing_required_parameter", f"Missing required parameter: '{name}'.", name
        if not isinstance(request["custom_id"], str) or not 1 <= len(request["custom_id"]) <= 64:
            return "invalid_custom_id", "A custom_id has 1 to 64 characters.", "custom_id"
        if request["custom_id"] in seen:
            message = "The custom_id for this request is a duplicate of another request in the batch."
            return "duplicate_custom_id", message, "custom_id"
        seen.add(request["custom_id"])
        if request["method"] != "POST":
            return "invalid_method", "The method must be POST.", "method"
        if request["url"] != ENDPOINT:
            return "url_mismatch", "The URL of the request does not match the endpoint of the batch.", "url"
        try:
            batch.tokens += self._prompt_tokens(request["body"])
        except Refused as refused:
            error = orjson.loads(refused.body)["error"]
            return error["code"] or "invalid_request", error["message"], f"body.{error['param']}"
        models.add(request["body"]["model"])
        if len(models) > 1:
            return "model_mismatch", "All requests of a batch must name the same model.", "body.model"
        return None

    def _enqueue(self, batch: _Batch, model: str) -> list[dict[str, Any]]:
        limit = self._behaviour().batch_enqueued_tokens
        enqueued = sum(each.tokens for each in self._batches.values() if each.status in GOING)
        if not limit or enqueued <= limit:
            return []
        batch.tokens = 0
        message = (
            f"Enqueued token limit reached for {model} in organization org-simulated. Limit: {limit:,.0f} enqueued "
            "tokens. Please try again once some in_progress batches have been completed."
        )
        return [_problem("token_limit_exceeded", message)]

    async def _work(self, batch: _Batch, seconds: float) -> bool:
        """Answers the lines, evenly over the time; tells whether the batch expired before the last one."""
        began = time.monotonic()
        last = batch.total
        if batch.expire_share:
            last = math.ceil(batch.total * batch.expire_share)
        with contextlib.closing(_lines(batch.input.path)) as lines:
            done = 0
            while done < last and not batch.cancelled.is_set():
                share = min(1.0, (time.monotonic() - began) / seconds) if seconds else 1.0
                due = min(last, math.ceil(batch.total * share), done + 200)
                for line in itertools.islice(lines, due - done):
                    self._take(batch, orjson.loads(line))
                done = due
                await asyncio.sleep(TICK if share < 1.0 else 0)
            code = "batch_cancelled" if batch.cancelled.is_set() else "batch_expired"
            window = "the batch was cancelled" if batch.cancelled.is_set() else "the completion window expired"
            error = {"code": code, "message": f"This request could not be executed before {window}."}
            for line in lines:
                batch.refused.append(self._line(orjson.loads(line)["custom_id"], None, error))
        return done < batch.total

    def _take(self, batch: _Batch, request: dict[str, Any]) -> None:
        answered = self._answer(request["body"], batch.by)
        if answered is None:
            error = {"code": "request_timeout", "message": "This request timed out."}
            batch.failed += 1
            batch.refused.append(self._line(request["custom_id"], None, error))
            return
        status, body = answered
        response = {"status_code": status, "request_id": self._identifier(), "body": body}
        line = self._line(request["custom_id"], response, None)
        ok = status == 200
        batch.completed += ok
        batch.failed += not ok
        (batch.output if ok or len(batch.output) % 2 else batch.refused).append(line)

    def _line(self, custom_id: str, response: Any, error: Any) -> bytes:
        line = {"id": f"batch_req_{self._identifier()}", "custom_id": custom_id, "response": response, "error": error}
        return orjson.dumps(line) + b"\n"


async def _pause(batch: _Batch, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(batch.cancelled.wait(), seconds)


def _lines(path: Path) -> Generator[bytes, None, None]:
    with path.open("rb") as file:
        for line in file:
            if line.strip():
                yield line


def _problem(code: str, message: str, line: int | None = None, param: str | None = None) -> dict[str, Any]:
    return {"code": code, "line": line, "message": message, "param": param}


def _metadata(given: Any) -> dict[str, str] | None:
    if given is None:
        return None
    if not isinstance(given, dict) or len(given) > 16:
        raise invalid("Invalid 'metadata': an object of at most 16 pairs expected.", "metadata")
    for key, value in given.items():
        if not isinstance(value, str) or not 1 <= len(key) <= 64 or len(value) > 512:
            message = f"Invalid 'metadata.{key[:64]}': keys of at most 64, texts of at most 512 characters expected."
            raise invalid(message, "metadata")
    return given


def _page(newest_first: list[dict[str, Any]], request: BaseRequest, *, most: int, usual: int) -> bytes:
    """Returns a list object of those after the id `after`."""
    try:
        limit = int(request.query.get("limit", usual))
    except ValueError:
        limit = 0
    if not 1 <= limit <= most:
        raise invalid(f"Invalid 'limit': integer from 1 to {most} expected.", "limit")
    after = request.query.get("after")
    if after is not None:
        places = [place for place, each in enumerate(newest_first) if each["id"] == after]
        newest_first = newest_first[places[0] + 1 :] if places else []
    page = newest_first[:limit]
    return orjson.dumps(
        {
            "object": "list",
            "data": page,
            "first_id": page[0]["id"] if page else None,
            "last_id": page[-1]["id"] if page else None,
            "has_more": len(newest_first) > limit,
        }
    )
