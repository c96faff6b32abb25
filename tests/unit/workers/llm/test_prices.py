"""What an answer costs: the job's prices, the published ones, the Batch API's half."""

from typing import Any

import pytest
from temporalio.exceptions import ApplicationError

from batch.job.job import Job
from batch.job.model import Model, Prices
from batch.job.part import JobError
from batch.workflows import contracts as c
from workers.llm.prices import pricer, unpriced_budget
from workers.observe.metrics import Metrics
from workers.process.control import RunControl

OWN = Prices(input=1.0, output=4.0, cached_input=0.1)


def test_the_jobs_own_prices_win() -> None:
    price = pricer(Model(name="gpt-4o-mini", prices=OWN))
    assert price(1_000_000, 400_000, 500_000) == pytest.approx(0.6 + 0.04 + 2.0)


def test_cached_input_costs_as_much_as_other_input_unless_said() -> None:
    assert pricer(Model(name="x", prices=Prices(input=2.0, output=0.0)))(1_000_000, 400_000, 0) == pytest.approx(2.0)


@pytest.mark.parametrize("model", [Model(name="x", prices=OWN), Model(name="gpt-4o-mini")])
def test_an_answer_of_the_batch_api_costs_half(model: Model) -> None:
    online, batch = pricer(model)(1000, 100, 50), pricer(model, batch=True)(1000, 100, 50)
    assert online is not None and online > 0
    assert batch == pytest.approx(online / 2)


def test_simulated_models_cost_nothing_and_unknown_ones_nobody_knows_what() -> None:
    assert pricer(Model(name="simulated-small"))(1000, 0, 50) == 0.0
    assert pricer(Model(name="simulated-small", prices=OWN))(1_000_000, 0, 0) == pytest.approx(1.0)
    assert pricer(Model(name="nobody-knows-this"))(1000, 0, 50) is None


@pytest.mark.parametrize(
    ("endpoint", "model", "known"),
    [
        (None, "gpt-4o-mini", True),
        ("", "gpt-4o-mini", True),
        ("https://eu.api.openai.com/v1", "gpt-4o-mini", True),
        ("https://acme.openai.azure.com/openai/v1/", "gpt-4o-mini", True),
        ("https://api.groq.com/openai/v1", "llama-3.3-70b-versatile", True),
        ("http://127.0.0.1:8000/v1", "gpt-4o-mini", False),
        ("http://vllm.models.svc.cluster.local:8000/v1", "command-r", False),
        ("https://llm-gateway.example.com/api.openai.com/v1", "gpt-4o-mini", False),
    ],
)
def test_published_prices_are_those_of_the_provider_at_its_own_address(
    endpoint: str | None, model: str, known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    if endpoint is not None:
        monkeypatch.setenv("OPENAI_BASE_URL", endpoint)
    assert (pricer(Model(name=model))(1000, 0, 50) is not None) is known
    assert pricer(Model(name=model, prices=OWN))(1_000_000, 0, 0) == pytest.approx(1.0)


def test_a_mistyped_price_names_the_known_ones() -> None:
    job = {
        "name": "t",
        "source": {"uri": "s3://corpus/t/"},
        "prompt": {"user": "{{ text }}"},
        "model": {"name": "x", "prices": {"inputs": 1.0, "output": 1.0}},
        "output": {"uri": "s3://results/"},
    }
    with pytest.raises(JobError, match=r"model.prices.inputs: unknown key, did you mean 'input'\?; known are input, "):
        Job.parse(job)


@pytest.mark.parametrize(
    ("name", "prices", "refused"), [("gpt-4o-mini", None, False), ("x", OWN, False), ("x", None, True)]
)
async def test_a_maximum_cost_needs_a_known_price(name: str, prices: Prices | None, refused: bool) -> None:
    """Also where no client checked it: the claim refuses the run before anything of it is written."""
    job = Job.parse(
        {
            "name": "t",
            "source": {"uri": "s3://corpus/t/"},
            "prompt": {"user": "{{ text }}"},
            "model": {"name": name, "prices": prices.model_dump() if prices else None},
            "output": {"uri": "s3://results/"},
            "limits": {"max_cost_usd": 5},
        }
    )
    assert ("give model.prices" in unpriced_budget(job)) is refused
    if refused:
        nothing: Any = object()
        control = RunControl(nothing, nothing, nothing, Metrics())
        with pytest.raises(ApplicationError, match="the price of 'x' is not known") as error:
            await control.claim_run(c.ClaimInput("t-1", job.to_json(), "execution"))
        assert error.value.non_retryable
