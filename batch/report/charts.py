"""The report's pictures: plotly figures of what `measures` counted, as the plain objects that plotly.js draws.

Only numbers, times and the words of our own error taxonomy go in: plotly takes some HTML in its texts for markup.
"""

from __future__ import annotations

import math
from typing import Any

import plotly.graph_objects as go  # type: ignore[import-untyped]

from batch.report.measures import BINS_PER_DOUBLING, Latencies, Measures
from batch.terminal.quantities import duration

GREEN, RED, GREY, BLUE, ORANGE = "#2e8b57", "#c0392b", "#9aa0a6", "#2f6fb2", "#d98324"
MERGED = 4
"""Bins of the latencies that are drawn as one."""
QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}


def charts(measures: Measures) -> dict[str, dict[str, Any]]:
    """Figures by name, in the order of the page; those without data are left out."""
    if not measures.timeline:
        return {}
    found = {"throughput": _throughput(measures)}
    if measures.latencies.bins:
        found["latency"] = _latency(measures.latencies)
    found["tokens"] = _tokens(measures)
    if measures.error_classes:
        found["errors"] = _errors(measures)
    if measures.slowest:
        found["partitions"] = _partitions(measures)
    return {name: figure.to_plotly_json() for name, figure in found.items()}


def _throughput(measures: Measures) -> Any:
    steps = measures.timeline
    times = [step.start.isoformat() for step in steps]
    figure = _figure(f"Documents in {_step(measures)} (UTC)", barmode="stack", bargap=0)
    for name, colour in (("ok", GREEN), ("errors", RED)):
        counts = [getattr(step, name) for step in steps]
        if name == "ok" or any(counts):
            figure.add_bar(x=times, y=counts, name=name, marker_color=colour, marker_line_width=0)
    figure.update_yaxes(title_text="documents")
    return figure


def _tokens(measures: Measures) -> Any:
    steps = measures.timeline
    times = [step.start.isoformat() for step in steps]
    figure = _figure(
        f"Tokens in {_step(measures)}{', cost so far' if measures.cost_usd else ''}", barmode="stack", bargap=0
    )
    for name, text, colour in (("prompt_tokens", "in", BLUE), ("completion_tokens", "out", ORANGE)):
        figure.add_bar(
            x=times, y=[getattr(step, name) for step in steps], name=text, marker_color=colour, marker_line_width=0
        )
    figure.update_yaxes(title_text="tokens")
    if measures.cost_usd:
        spent, sums = 0.0, []
        for step in steps:
            spent += step.cost_usd
            sums.append(round(spent, 6))
        figure.add_scatter(x=times, y=sums, name="cost, US$", yaxis="y2", line_color=GREEN, line_shape="hv")
        figure.update_layout(
            yaxis2={"overlaying": "y", "side": "right", "title": {"text": "US$"}, "rangemode": "tozero"}
        )
    return figure


def _latency(latencies: Latencies) -> Any:
    bins = latencies.bins
    figure = _figure("Latency of the answers", showlegend=False)
    starts = range(0, len(bins), MERGED)
    end = bins[starts[-1]][0] * 2 ** (MERGED / BINS_PER_DOUBLING)
    figure.add_scatter(
        x=[*(round(bins[start][0], 6) for start in starts), round(end, 6)],
        y=[*(sum(calls for _, calls in bins[start : start + MERGED]) for start in starts), 0],
        name="answers",
        mode="lines",
        fill="tozeroy",
        line={"color": BLUE, "shape": "hv"},
    )
    for number, (name, share) in enumerate(QUANTILES.items()):
        seconds = latencies.quantile(share)
        if seconds is not None:
            figure.add_vline(x=seconds, line_dash="dot", line_color=GREY)
            # On a logarithmic axis a shape stands at the value, an annotation at its logarithm.
            figure.add_annotation(
                text=f"{name} {seconds:.3g} s",
                x=math.log10(seconds),
                y=1 - 0.08 * number,
                yref="paper",
                xanchor="left",
                showarrow=False,
            )
    figure.update_xaxes(type="log", title_text="seconds (logarithmic)")
    figure.update_yaxes(title_text="answers")
    return figure


def _errors(measures: Measures) -> Any:
    classes = measures.error_classes[::-1]
    figure = _figure("Errors by type", barmode="stack", height=140 + 28 * len(classes))
    retryable = [each.retryable for each in classes]
    for name, counts, colour in (
        ("retryable", retryable, ORANGE),
        ("final", [each.count - each.retryable for each in classes], RED),
    ):
        figure.add_bar(y=[each.kind for each in classes], x=counts, name=name, orientation="h", marker_color=colour)
    figure.update_xaxes(title_text="documents")
    figure.update_yaxes(type="category", automargin=True)
    return figure


def _partitions(measures: Measures) -> Any:
    slowest = measures.slowest[::-1]
    figure = _figure("Slowest partitions", showlegend=False, height=140 + 28 * len(slowest))
    figure.add_bar(
        y=[
            f"partition {each.partition}{f', generation {each.generation}' if each.generation > 1 else ''}"
            for each in slowest
        ],
        x=[each.seconds for each in slowest],
        orientation="h",
        marker_color=BLUE,
    )
    figure.update_xaxes(title_text="seconds from the first question to the last answer")
    figure.update_yaxes(type="category", automargin=True)
    return figure


def _step(measures: Measures) -> str:
    seconds = measures.step_seconds
    return f"{seconds} s" if seconds < 120 else duration(seconds)


def _figure(title: str, **layout: Any) -> Any:
    return go.Figure(
        layout={
            "title": {"text": title, "font": {"size": 15}, "x": 0, "xref": "paper"},
            "template": "none",
            "height": 340,
            "margin": {"l": 60, "r": 60, "t": 45, "b": 45},
            "legend": {"orientation": "h", "x": 1, "xanchor": "right", "y": 1.02, "yanchor": "bottom"},
            "font": {"family": "system-ui, sans-serif"},
            "hovermode": "closest",
            **layout,
        }
    )
