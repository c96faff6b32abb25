"""The report's page: all in one file, escaped, its scripts allowed by their hashes alone, no network at all."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.resources import files
from typing import Any

import jinja2
import plotly.offline  # type: ignore[import-untyped]

from batch.client.status import RunResult
from batch.files.manifest import Manifest
from batch.report.charts import QUANTILES, charts
from batch.report.measures import Measures
from batch.terminal.ending import equation
from batch.terminal.printable import printable
from batch.terminal.quantities import duration, is_simulated, money, tokens, total, why

DRAW = """
const figures = JSON.parse(document.getElementById("figures").textContent);
for (const [name, figure] of Object.entries(figures)) {
  Plotly.newPlot("chart-" + name, figure.data, figure.layout, {displayModeBar: false, responsive: true});
}
"""


@dataclass(frozen=True)
class Report:
    """What a page is made of. `manifest` is None while the run has not ended once."""

    status: RunResult
    manifest: Manifest | None
    measures: Measures
    job_name: str
    model: str

    @property
    def facts(self) -> dict[str, tuple[str, float, str]]:
        """Name -> its text, its exact value, the value as a person reads it. Counts are of the rows that were read."""
        measures, simulated = self.measures, is_simulated(self.model)
        counts = {
            "documents": ("documents answered", measures.documents),
            "ok": ("ok", measures.ok),
            "errors": ("errors", measures.errors),
            "retryable_errors": ("of them retryable", measures.retryable_errors),
        }
        spent = {
            "prompt_tokens": ("tokens in", measures.prompt_tokens),
            "cached_tokens": ("of them cached", measures.cached_tokens),
            "completion_tokens": ("tokens out", measures.completion_tokens),
        }
        quantiles = {
            f"latency_{name}": (f"latency {name}", measures.latencies.quantile(share))
            for name, share in QUANTILES.items()
        }
        cost = round(measures.cost_usd, 6)
        known = money(cost, simulated=simulated, unpriced=measures.unpriced)
        return {
            **{name: (text, value, f"{value:,}") for name, (text, value) in counts.items()},
            **{name: (text, value, tokens(value)) for name, (text, value) in spent.items()},
            "cost_usd": ("cost", cost, known),
            "seconds": ("wall time", self.status.seconds, duration(self.status.seconds)),
            **{
                name: (text, round(value, 4), f"{value:.3g} s")
                for name, (text, value) in quantiles.items()
                if value is not None
            },
        }

    @property
    def verdict(self) -> tuple[str, str]:
        """Tells whether the rows that were read are those of the manifest: (equal, different or open, a sentence)."""
        if self.manifest is None or not self.status.ended:
            return "open", "the run has not ended: all that is answered by now"
        totals = self.manifest.totals
        names = ("documents", "ok", "errors", "prompt_tokens", "completion_tokens")
        different = [
            f"{getattr(totals, name):,} {name.replace('_', ' ')}"
            for name in names
            if getattr(totals, name) != getattr(self.measures, name)
        ]
        if different:
            return "different", f"the manifest says {', '.join(different)}; docbatch verify {self.status.run_id}"
        return "equal", "as in the manifest"


def render(report: Report) -> str:
    """Returns the whole page, some 5 MB, most of it plotly.js."""
    status, measures = report.status, report.measures
    figures = charts(measures)
    scripts = [plotly.offline.get_plotlyjs(), DRAW] if figures else []
    facts = report.facts
    kind, text = report.verdict
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, finalize=_printable
    )
    return environment.from_string(files(__package__).joinpath("page.html").read_text()).render(
        policy=_policy(scripts),
        status=status,
        because=why(status),
        simulated=is_simulated(report.model),
        equation=equation(measures.documents, measures.ok, measures.errors),
        verdict={"kind": kind, "text": text},
        planned=f"{total(status)} documents planned",
        facts=[(name, text, value) for name, (text, value, _) in facts.items()],
        shown={name: shown for name, (_, _, shown) in facts.items()},
        measures=measures,
        figures=figures,
        scripts=scripts,
        job_name=report.job_name,
        model=report.model,
        written_at=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        version=version("docbatch"),
    )


def _printable(value: Any) -> Any:
    """Names and messages as a terminal would have them: HTML has no place for control characters, escaped or not."""
    return printable(value, lines=True) if type(value) is str else value


def _policy(scripts: list[str]) -> str:
    """Nothing may be fetched, and no script runs but ours: not even one that an escaping mistake let in.

    plotly.js writes a style sheet of its own, and makes pictures of its charts on request.
    """
    hashes = [f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in scripts]
    sources = " ".join(hashes) or "'none'"
    return f"default-src 'none'; script-src {sources}; style-src 'unsafe-inline'; img-src data: blob:"
