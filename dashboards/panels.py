"""The vocabulary of our dashboards: a panel has a title, a unit, a description, and a legend for each query."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Literal

from grafana_foundation_sdk.builders import bargauge, common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models.common import LegendDisplayMode, LegendPlacement, VisibilityMode

DATASOURCE = models.DataSourceRef(type_val="prometheus", uid="${datasource}")
GRID = 24
PanelBuilder = timeseries.Panel | stat.Panel | bargauge.Panel


@dataclass(frozen=True)
class Query:
    """PromQL and the name of its series, which may hold `{{label}}`."""

    expr: str
    legend: str


@dataclass(frozen=True, kw_only=True)
class Panel:
    """What one panel shows. `unit` is Grafana's name of it, `width` is out of 24.

    A `lines` panel draws its queries over time. `number` and `bars` show the value at the end of the time range.
    """

    title: str
    unit: str
    description: str
    queries: tuple[Query, ...]
    kind: Literal["lines", "number", "bars"] = "lines"
    width: int = 8
    height: int = 8
    most: float | None = None
    """The axis' end, where there is a natural one."""

    def build(self) -> PanelBuilder:
        panel: PanelBuilder
        if self.kind == "lines":
            legend = (
                common.VizLegendOptions()
                .display_mode(LegendDisplayMode.LIST)
                .placement(LegendPlacement.BOTTOM)
                .show_legend(True)
            )
            panel = timeseries.Panel().legend(legend).fill_opacity(8).show_points(VisibilityMode.NEVER)
        elif self.kind == "number":
            panel = stat.Panel()
        else:
            panel = bargauge.Panel()
        panel = panel.title(self.title).unit(self.unit).description(self.description).datasource(DATASOURCE)
        panel = panel.span(self.width).height(self.height).min(0)
        if self.most is not None:
            panel = panel.max(self.most)
        for index, query in enumerate(self.queries):
            target = prometheus.Dataquery().expr(query.expr).legend_format(query.legend).ref_id(chr(ord("A") + index))
            panel = panel.with_target(target.range() if self.kind == "lines" else target.instant())
        return panel


@dataclass(frozen=True)
class Row:
    """A heading and its panels, left to right."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class Variable:
    """A choice at the dashboard's top: the values of a label. `all_value` is what "All" stands for in a query."""

    name: str
    title: str
    metric: str
    all_value: str | None = ".*"

    def build(self) -> dashboard.QueryVariable:
        everything = models.VariableOption(text="All", value="$__all", selected=True)
        variable = (
            dashboard.QueryVariable(self.name)
            .label(self.title)
            .datasource(DATASOURCE)
            .query(f"label_values({self.metric}, {self.name})")
            .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
            .sort(models.VariableSort.ALPHABETICAL_ASC)
            .multi(True)
            .include_all(True)
            .current(everything)
        )
        return variable.all_value(self.all_value) if self.all_value is not None else variable


def build(
    *, uid: str, title: str, description: str, since: str, variables: tuple[Variable, ...], rows: tuple[Row, ...]
) -> dashboard.Dashboard:
    """A dashboard that works with any Prometheus data source; panels are numbered in their order."""
    board = (
        dashboard.Dashboard(title)
        .uid(uid)
        .description(description)
        .tags(["docbatch"])
        .time(since, "now")
        .refresh("30s")
        .timezone("browser")
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .with_variable(dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus"))
    )
    for variable in variables:
        board = board.with_variable(variable.build())
    number = 0
    for row in rows:
        number += 1
        board = board.with_row(dashboard.Row(row.title).id(number))
        for panel in row.panels:
            number += 1
            board = board.with_panel(panel.build().id(number))
    return board


def to_json(board: dashboard.Dashboard) -> str:
    return json.dumps(board.build(), cls=JSONEncoder, indent=2, sort_keys=True) + "\n"


def rate(metric: str, *, by: str, where: str = "", nonzero: bool = False) -> str:
    """Events a second, over the interval that Grafana takes for the scrape's."""
    return f"sum by ({by}) (rate({metric}{{{where}}}[$__rate_interval])){' > 0' if nonzero else ''}"


def quantiles(metric: str, *, by: str, where: str = "", of: tuple[float, ...] = (0.5, 0.95, 0.99)) -> tuple[Query, ...]:
    """Quantiles of a histogram, one query each."""
    legend = " ".join(f"{{{{{label.strip()}}}}}" for label in by.split(","))
    return tuple(
        Query(
            f"histogram_quantile({q}, sum by (le, {by}) (rate({metric}_bucket{{{where}}}[$__rate_interval])))",
            f"{legend} p{q * 100:g}",
        )
        for q in of
    )
