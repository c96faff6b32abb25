"""`limits.max_cost_usd` on the real stack: what the provider was really paid, whoever is killed or asks for more."""

from __future__ import annotations

import json
import urllib.request

import pytest

from batch import Job
from batch.client.run import BudgetTooSmall, Run
from batch.client.status import RunResult
from batch.workflows.states import Reason, State
from benchmarks.figures import Figure
from benchmarks.synthetic import synthetic_documents
from tests.chaos.harness import USER_PROMPT, Chaos, Corpus, measured, say
from workers.llm.question import settings_of

INPUT, OUTPUT = 1.0, 8.0
"""US dollars a million tokens of the simulated model."""


def paid(chaos: Chaos) -> float:
    """US dollars by the provider's own count of tokens."""
    stats = chaos.ask("/stats")
    return float(stats["prompt_tokens"] * INPUT + stats["completion_tokens"] * OUTPUT) / 1e6


def job(chaos: Chaos, corpus: Corpus, *, documents: int = 50, concurrency: int = 16, max_cost_usd: float = 1.0) -> Job:
    data = json.loads(chaos.job(corpus, documents=documents, concurrency=concurrency).to_json())
    data["model"]["prices"] = {"input": INPUT, "output": OUTPUT}
    data["limits"]["max_cost_usd"] = max_cost_usd
    return Job.parse(data)


def documents_of_all_sizes(count: int, seed: int) -> dict[str, str]:
    """From 100 bytes to 5 KB, so that calls cost from a half to eight times as much as the cheapest."""
    sizes = (100, 300, 700, 1500, 5000)
    return {
        f"{size}/{key}": data.decode()
        for size in sizes
        for key, data in synthetic_documents(count // len(sizes), size, seed + size)
    }


def cost_of_one(chaos: Chaos, job: Job) -> float:
    """The mean cost of a call, by asking for documents of the same kind, which the provider then forgets."""
    texts = documents_of_all_sizes(60, seed=-1)
    for text in texts.values():
        messages = [{"role": "user", "content": USER_PROMPT.replace("{{ text }}", text)}]
        request = urllib.request.Request(
            f"{chaos.stack.provider_url}/v1/chat/completions",
            data=json.dumps({"messages": messages, **settings_of(job)}).encode(),
            headers={"Authorization": "Bearer simulated-key", "Content-Type": "application/json"},
        )
        urllib.request.urlopen(request, timeout=10).close()
    mean = paid(chaos) / len(texts)
    chaos.ask("/stats/reset", {})
    return mean


async def paused(chaos: Chaos, run: Run, *, within: float) -> RunResult:
    status = await chaos.until_status(run, lambda status: status.state == State.PAUSED, within=within)
    await chaos.until(lambda: chaos.ask("/stats")["in_flight"] == 0, say_what="the end of calls in flight")
    assert status.reason == Reason.MAX_COST, status
    return await run.status()


async def requests(run: Run) -> int:
    """Updates of the coordinator so far."""
    history = await run.handle.fetch_history()
    kind = "workflow_execution_update_accepted_event_attributes"
    return sum(event.HasField(kind) for event in history.events)


async def half_then_all(
    chaos: Chaos, documents: int, *, latency: float, concurrency: int, kill: bool = False, within: float = 60
) -> None:
    """Four workers and half of the money: the run pauses. A higher maximum: it completes."""
    corpus = await chaos.corpus(0, texts=documents_of_all_sizes(documents, seed=7))
    one = cost_of_one(chaos, job(chaos, corpus))
    most = one * documents / 2
    workers = await chaos.start_workers("0", "1", "2", "3", slots=4)
    chaos.provider(latency=latency)
    run = await chaos.start(job(chaos, corpus, concurrency=concurrency, max_cost_usd=most))
    if kill:
        await chaos.until(lambda: paid(chaos) > most / 4, say_what="a quarter of the money")
        loss = await chaos.kill_in_flight(workers[:1], concurrency // 2, within=20)
        assert loss is not None, await run.status()
        say(f"killed after ${paid(chaos):.6f} of ${most:.6f}")
    status = await paused(chaos, run, within=within)
    spent, in_flight = paid(chaos), len(workers) * concurrency
    say(f"paused: {status.message}")
    assert status.max_cost_usd == most
    assert status.charged_usd is not None and status.charged_usd >= spent * 0.999, "never less than what was paid"
    rows = status.cost_usd
    with pytest.raises(BudgetTooSmall, match="has used up"):
        await run.resume()
    with pytest.raises(BudgetTooSmall, match="too little"):
        await run.resume(max_cost_usd=most * 0.5)
    assert (await run.status()).state == State.PAUSED
    asked = await requests(run)
    await run.resume(max_cost_usd=one * documents * 2)
    result = await chaos.complete(run, corpus, within=within)
    again = chaos.ask("/stats")["paid_more_than_once"]
    total = paid(chaos)
    say(f"rows ${rows:.6f} while paused; at the end rows ${result.cost_usd:.6f}, charged ${result.charged_usd:.6f}")
    assert result.charged_usd is not None and total * 0.999 <= result.charged_usd <= one * documents * 2
    again_run = await (await run.rerun(all_errors=True)).wait()
    assert (again_run.generation, again_run.state) == (2, State.COMPLETED)
    assert again_run.max_cost_usd == result.max_cost_usd
    assert again_run.charged_usd == pytest.approx(result.charged_usd)
    measured(
        chaos.test,
        f"{documents:,} documents, four workers of concurrency {concurrency}, `max_cost_usd` half of the full cost.",
        Figure("spent when the run paused, of max_cost_usd", spent / most, "%", at_least=0.80 if kill else 0.95),
        Figure("above it, in calls", max(0.0, spent - most) / one, at_most=float(in_flight)),
        Figure("documents with one ok row after the resume", result.ok, exactly=documents),
        Figure("documents paid more than once", again, exactly=None if kill else 0),
        Figure("requests for money until then, each process", asked / len(workers), at_most=60.0),
        Figure("charged, of what was paid", result.charged_usd / total, "%", at_least=0.999),
    )
    if kill:
        loss = chaos.losses()[0]
        assert loss.paid_again <= loss.bound and chaos.unexplained() == 0


@pytest.mark.soak
async def test_half_the_money_pauses_and_more_of_it_completes(chaos: Chaos) -> None:
    await half_then_all(chaos, 1000, latency=0.02, concurrency=16)


@pytest.mark.soak
async def test_half_the_money_of_20000_documents(chaos: Chaos) -> None:
    await half_then_all(chaos, 20_000, latency=0.2, concurrency=32, within=300)


@pytest.mark.soak
async def test_a_worker_killed_with_money_in_its_purse(chaos: Chaos) -> None:
    await half_then_all(chaos, 1200, latency=0.4, concurrency=16, kill=True)
