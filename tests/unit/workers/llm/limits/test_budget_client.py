"""A run's money in a process: nothing beyond the allowance, every call settled, given back when it is not needed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from temporalio.service import RPCError, RPCStatusCode

from batch.job.job import Job
from batch.workflows import contracts as c
from batch.workflows.budget import Budget, BudgetAnswer, BudgetRequest
from batch.workflows.states import Reason, State
from tests.unit.workers.llm.limits.lanes import open_lane
from workers.llm import chat as chat_module
from workers.llm.call_cost import CallBudget, CallCost, Expected
from workers.llm.chat import Chat
from workers.llm.limits import budget_client as purse_module
from workers.llm.limits.budget_client import Purse
from workers.llm.limits.stop import Brakes
from workers.llm.transport.transport import Reply, TransportError
from workers.observe.metrics import Metrics


class Coordinator:
    """A budget at the other end of a line that can be cut."""

    def __init__(self, max_usd: float) -> None:
        self.budget = Budget(max_usd)
        self.away = self.deaf = False
        self.requests: list[BudgetRequest] = []

    async def ask(self, request: BudgetRequest) -> BudgetAnswer:
        await asyncio.sleep(0.005)
        self.requests.append(request)
        if self.away:
            raise RPCError("away", RPCStatusCode.UNAVAILABLE, b"")
        answer = self.budget.ask(request, time.monotonic())
        if self.deaf:
            raise RPCError("the answer is lost", RPCStatusCode.UNAVAILABLE, b"")
        return answer


class Process:
    """A worker process: a purse, and calls that cost 1 and take 20 ms."""

    def __init__(self, coordinator: Coordinator, name: str = "run-1") -> None:
        self.brakes = Brakes(max_error_rate=1.0, drain=asyncio.Event())
        self.brakes.follow(c.Control(epoch=1))
        self.purse = Purse(coordinator.ask, self.brakes, name=name)
        self.paid = 0

    async def call(self) -> bool:
        reservation = await self.purse.reserve(lambda: self.purse.call_usd or 5.0, self.brakes.stopped)
        if reservation is None:
            return False
        await asyncio.sleep(0.02)
        self.paid += 1
        self.purse.settle(reservation, 1.0)
        return True

    async def work(self, calls: int = 10**6, at_once: int = 8) -> None:
        left = [calls]

        async def caller() -> None:
            while left[0] > 0:
                left[0] -= 1
                if not await self.call():
                    return

        await asyncio.gather(*(caller() for _ in range(at_once)))
        await self.purse.put_away()

    def reason(self) -> str:
        stop = self.brakes.stop()
        return stop.reason if stop else ""


@pytest.fixture(autouse=True)
async def quick(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    for name, seconds in (("LINGER", 0.1), ("LOOK_EVERY", 0.02), ("ASK_EVERY", 0.02), ("REPEAT_FIRST", 0.05)):
        monkeypatch.setattr(purse_module, name, seconds)
    yield
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()


async def test_processes_spend_all_there_is_and_no_more() -> None:
    coordinator = Coordinator(200.0)
    processes = [Process(coordinator) for _ in range(3)]
    await asyncio.wait_for(asyncio.gather(*(process.work() for process in processes)), 20)
    assert sum(process.paid for process in processes) == 200
    assert coordinator.budget.charged_usd == pytest.approx(200.0)
    assert coordinator.budget.accounts == {}, "each gave back what it had and closed its account"
    assert [process.reason() for process in processes] == [Reason.MAX_COST] * 3
    assert len(coordinator.requests) < 120


async def test_a_process_with_nothing_more_to_do_gives_back_what_it_has() -> None:
    coordinator = Coordinator(100.0)
    process = Process(coordinator)
    await process.work(calls=30)
    await asyncio.sleep(0.5)
    assert (coordinator.budget.charged_usd, coordinator.budget.accounts) == (pytest.approx(30.0), {})
    await process.work(calls=10)  # partitions come again: another account
    await asyncio.sleep(0.5)
    assert coordinator.budget.charged_usd == pytest.approx(40.0)


async def test_calls_wait_while_the_coordinator_is_not_reached_and_spend_nothing_beyond() -> None:
    coordinator = Coordinator(1000.0)
    process = Process(coordinator)
    work = asyncio.create_task(process.work(calls=300))
    while process.paid < 50:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    coordinator.away = True
    await asyncio.sleep(1.5)
    held = process.paid
    assert held + 8 >= coordinator.budget.charged_usd >= held, "all that was allowed, and nothing else"
    assert process.reason() == ""
    coordinator.away = False
    await asyncio.wait_for(work, 20)
    assert process.paid == 300


async def test_a_request_whose_answer_is_lost_counts_once() -> None:
    coordinator = Coordinator(1000.0)
    process = Process(coordinator)
    coordinator.deaf = True
    work = asyncio.create_task(process.work(calls=40))
    await asyncio.sleep(0.4)
    assert process.paid == 0
    coordinator.deaf = False
    await asyncio.wait_for(work, 20)
    await asyncio.sleep(0.5)
    assert coordinator.budget.charged_usd == pytest.approx(40.0)


async def test_a_pause_gives_money_back_and_a_resume_opens_another_account() -> None:
    coordinator = Coordinator(10_000.0)
    process = Process(coordinator)
    work = asyncio.create_task(process.work())
    while process.paid < 50:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    process.brakes.follow(c.Control(State.PAUSED, 1, Reason.BY_USER))
    await asyncio.wait_for(work, 10)
    assert (coordinator.budget.charged_usd, coordinator.budget.accounts) == (pytest.approx(process.paid), {})
    coordinator.budget.begin_epoch(2)
    process.brakes.follow(c.Control(epoch=2))
    before = process.paid
    await asyncio.wait_for(process.work(calls=30), 10)
    assert process.paid == before + 30


async def test_a_drain_still_pays_for_re_asks_and_then_closes_the_account() -> None:
    coordinator = Coordinator(100.0)
    drain = asyncio.Event()
    process = Process(coordinator)
    process.brakes._drain = drain
    await process.work(calls=8)
    drain.set()
    reservation = await asyncio.wait_for(process.purse.reserve(lambda: 1.0, lambda: False), 5)
    assert reservation is not None
    process.purse.settle(reservation, 1.0)
    await process.purse.put_away()
    assert (coordinator.budget.charged_usd, coordinator.budget.accounts) == (pytest.approx(9.0), {})


async def test_a_resume_that_the_process_has_not_heard_of_closes_its_account() -> None:
    """It goes on with the money that it has, and with another account once it is told."""
    coordinator = Coordinator(10_000.0)
    process = Process(coordinator)
    work = asyncio.create_task(process.work(calls=400))
    while process.paid < 50:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    coordinator.budget.begin_epoch(2)
    await asyncio.sleep(0.3)
    process.brakes.follow(c.Control(epoch=2))
    await asyncio.wait_for(work, 20)
    await asyncio.sleep(0.5)
    assert process.paid == 400
    assert coordinator.budget.charged_usd >= 400.0


async def test_a_mistake_of_ours_reaches_who_waits() -> None:
    async def broken(request: BudgetRequest) -> BudgetAnswer:
        raise ZeroDivisionError

    process = Process(Coordinator(1.0))
    process.purse = Purse(broken, process.brakes, name="run-1")
    with pytest.raises(ZeroDivisionError):
        await asyncio.wait_for(process.call(), 5)


# -- what a call is charged

JOB = Job.parse(
    {
        "name": "t",
        "source": {"uri": "s3://corpus/t/"},
        "prompt": {"user": "{{ text }}"},
        "model": {"name": "simulated-small", "prices": {"input": 1e6, "output": 1e6}},
        "output": {"uri": "s3://results/", "schema": {"type": "object", "properties": {"a": {"type": "integer"}}}},
        "limits": {"max_cost_usd": 1e9},
    }
)


def answer(content: str, prompt: int, completion: int) -> Reply:
    usage = {"prompt_tokens": prompt, "completion_tokens": completion}
    return Reply(200, {}, {"choices": [{"message": {"content": content}, "finish_reason": "stop"}], "usage": usage})


GUESS = 1000.0 + 1
"""About what a call is expected to cost before the first answer: its completion and a few tokens of prompt."""


@pytest.mark.parametrize(
    ("replies", "least", "most"),
    [
        ([answer('{"a": 1}', 30, 5)], 35, 35),
        ([answer('{"a": "x"}', 30, 5), answer('{"a": 1}', 50, 7)], 92, 92),  # a re-ask is a call of its own
        ([Reply(500, {}, None), Reply(429, {}, {"error": {"code": "slow_down"}}), answer('{"a": 1}', 30, 5)], 35, 35),
        ([TransportError("unreachable", "refused"), answer('{"a": 1}', 30, 5)], 35, 35),
        ([TransportError("timeout", "late"), answer('{"a": 1}', 30, 5)], GUESS + 35, 2 * GUESS),
        ([Reply(200, {}, None, "<html>"), answer('{"a": 1}', 30, 5)], 35, 35),  # what is no answer says no usage
        ([Reply(200, {}, None, '{"choices": [{"mess'), answer('{"a": 1}', 30, 5)], GUESS + 35, 2 * GUESS),  # it was cut
        ([Reply(200, {}, {"choices": [], "usage": {"prompt_tokens": 40}})], 40, 40),
        ([Reply(200, {}, {"choices": [{"message": {"content": '{"a": 1}'}}]})], GUESS, 2 * GUESS),  # nor does this one
        ([TransportError("answer_too_large", "16 MiB")], GUESS, 2 * GUESS),
        (
            [Reply(400, {}, {"error": {"message": "unknown parameter response_format"}}), answer('{"a": 1}', 9, 1)],
            10,
            10,
        ),
        ([Reply(400, {}, {"error": {"code": "context_length_exceeded"}})], 0, 0),
    ],
)
async def test_every_call_is_charged_by_what_became_of_it(
    replies: list[Any], least: float, most: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def at_once(stopped: Any, seconds: float) -> bool:
        return bool(stopped())

    class Scripted:
        base_url = "http://simulated/v1/"

        async def post(self, path: str, payload: bytes, *, timeout: float) -> Reply:
            reply = replies.pop(0)
            if isinstance(reply, Exception):
                raise reply
            assert isinstance(reply, Reply)
            return reply

    monkeypatch.setattr(chat_module, "sleep_unless", at_once)
    coordinator = Coordinator(1e9)
    process = Process(coordinator)

    def price(prompt: int, cached: int, completion: int, written: int = 0, /) -> float:
        return float(prompt + completion)

    expected = Expected(None)
    budget = CallBudget(process.purse, CallCost(price, expected))
    chat = Chat(JOB, Scripted(), process.brakes, Metrics(), open_lane(), expected=expected, budget=budget)  # type: ignore[arg-type]
    payload = chat.payload([{"role": "user", "content": "x"}])
    assert await asyncio.wait_for(chat.ask(payload, process.brakes.stopped), 10) is not None
    assert replies == []
    await process.purse.put_away()
    await asyncio.sleep(0.5)
    assert coordinator.budget.accounts == {}
    assert least <= coordinator.budget.charged_usd <= most


async def test_a_call_that_is_cut_is_charged_what_was_expected() -> None:
    class Silent:
        async def post(self, path: str, payload: bytes, *, timeout: float) -> Reply:
            await asyncio.sleep(60)
            raise AssertionError

    coordinator = Coordinator(1e9)
    process = Process(coordinator)
    budget = CallBudget(process.purse, CallCost(lambda *tokens: 7.0, Expected(None)))
    chat = Chat(JOB, Silent(), process.brakes, Metrics(), open_lane(), budget=budget)  # type: ignore[arg-type]
    asking = asyncio.create_task(chat.ask(chat.payload([{"role": "user", "content": "x"}]), process.brakes.stopped))
    await asyncio.sleep(0.3)
    asking.cancel()
    await asyncio.wait([asking])
    await process.purse.put_away()
    await asyncio.sleep(0.5)
    assert coordinator.budget.charged_usd == 7.0


def test_what_is_expected_follows_what_calls_cost() -> None:
    calls = Expected(200)
    cost = CallCost(lambda prompt, cached, completion, written=0, /: prompt * 1.0 + completion * 10.0, calls)
    assert cost.expected(400) == 100 + 2000
    assert cost.expected(400, others=107.0) == 107.0
    assert cost.expected(4000, others=107.0) == 1000.0
    calls.learn(400, 200, 0, 10)
    calls.learn(400, 200, 0, 20)
    assert cost.expected(800) == 400 + 150
    short = Expected(None)
    parts_without_tokens = CallCost(lambda prompt, *others: float(prompt), short)
    short.learn(1000, 100, 0, 10)
    assert parts_without_tokens.expected(5000) == 100 + 1000
    assert parts_without_tokens.expected(600) == 60
    for _ in range(5000):
        calls.learn(400, 100, 0, 30)
    assert cost.expected(400) == pytest.approx(100 + 300, rel=0.02)
