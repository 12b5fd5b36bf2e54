"""Renders a sweep's page: Plotly charts, embedded so that they work from disk, and plain tables."""

import json
import math
from html import escape
from itertools import cycle
from pathlib import Path
from statistics import fmean
from urllib.parse import quote

from pipeline.artifacts import atomic
from pipeline.common import pages, text
from pipeline.evaluation import ranking
from pipeline.sweeps.effects import (
    Candidate,
    Effect,
    Metric,
    is_log,
    is_number,
    labels,
    metrics,
    ranks,
    short,
)
from pipeline.sweeps.jobs import ABSENT, Job, Sweep

COLOURS = ("#2f8fd0", "#e8590c", "#2b9a66", "#a256c9", "#c2255c", "#8a7d00")  # legible on white and on black
SCALE = ((0, "#8fa3bf"), (0.5, "#2f8fd0"), (1, "#e8590c"))


def _order(value: object) -> tuple:
    return (0, value, "") if is_number(value) else (1 + (value == ABSENT), 0, str(value))


def _distinct(values: list) -> list:
    """Distinct values: numbers in order, then strings, then `ABSENT`."""
    return sorted({repr(value): value for value in values}.values(), key=_order)


def _thin(ticks: list, limit: int = 12) -> list:
    return ticks[:: math.ceil(len(ticks) / limit)]


def _axis(values: list) -> dict:
    """A parallel-coordinates axis: numeric (log if the values span a decade), else category indices."""
    distinct = _distinct(values)
    if all(is_number(value) for value in values):
        scale = math.log10 if is_log(values) else float
        ticks = distinct
        if len(distinct) > 8:
            low, high = min(values), max(values)
            steps = [low + (high - low) * step / 5 for step in range(6)]
            decades = (
                range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1) if is_log(values) else ()
            )
            inner = [10.0**power for power in decades if low < 10.0**power < high]
            ticks = [low, *inner, high] if is_log(values) else steps
        return {
            "values": [scale(value) for value in values],
            "tickvals": [scale(value) for value in ticks],
            "ticktext": [f"{value:.4g}" for value in ticks],
        }
    indices = {repr(value): index for index, value in enumerate(distinct)}
    ticks, names = _thin(distinct), labels(distinct, 16)
    return {
        "values": [indices[repr(value)] for value in values],
        "tickvals": [indices[repr(value)] for value in ticks],
        "ticktext": [names[repr(value)] for value in ticks],
        "range": [-0.2, len(distinct) - 0.8],
    }


def _parallel(jobs: list[Job], parameters: list[str], metric: Metric):
    """Parallel coordinates, one line per job; the metric is the last axis and the colour."""
    import plotly.graph_objects as go

    values = [metric.of(job) for job in jobs]
    shown = list(parameters)
    if len({job.settings["seed"] for job in jobs}) > 1:
        shown.append("seed")
    dimensions = [{"label": short(name, 24), **_axis([job.value(name) for job in jobs])} for name in shown]
    number_format = ".1f" if metric.percent else ".3f"
    dimensions.append({"label": _unit(metric), "values": values, "tickformat": number_format})
    return go.Figure(
        go.Parcoords(
            dimensions=dimensions,
            line={"color": values, "colorscale": SCALE, "reversescale": not metric.larger},
            labelside="top",
        ),
        {"height": 420, "margin": {"l": 60, "r": 60, "t": 60, "b": 30}},
    )


def _label(job: Job, parameters: list[str], metric: Metric) -> str:
    lines = [f"job {job.name}: {metric.show(metric.of(job))}"]
    lines += [f"{name} = {short(job.value(name))}" for name in [*parameters, "seed"]]
    return "<br>".join(escape(text.printable(line), quote=False) for line in lines)  # plotly reads HTML


def _best_so_far(jobs: list[Job], parameters: list[str], metric: Metric):
    """The best metric up to each job, in the order of the jobs."""
    import plotly.graph_objects as go

    values, best = [metric.of(job) for job in jobs], []
    for value in values:
        best.append(value if not best or metric.better(value, best[-1]) else best[-1])
    names = [job.name for job in jobs]
    return go.Figure(
        [
            go.Scatter(
                x=names,
                y=values,
                mode="markers",
                name="a job",
                marker={"color": COLOURS[0]},
                text=[_label(job, parameters, metric) for job in jobs],
                hoverinfo="text",
            ),
            go.Scatter(
                x=names,
                y=best,
                mode="lines",
                line={"shape": "hv", "color": COLOURS[1]},
                name="best so far",
                hoverinfo="skip",
            ),
        ],
        {
            "height": 340,
            "xaxis": {"title": {"text": "job"}, "type": "category", "nticks": 12},
            "yaxis": {"title": {"text": _unit(metric)}},
            "legend": {"orientation": "h", "y": 1.12},
            "margin": {"l": 60, "r": 20, "t": 30, "b": 50},
        },
    )


def _unit(metric: Metric) -> str:
    return f"{metric.title}, %" if metric.percent else metric.title


def _means(x: list, y: list[float], order: list, line: dict, **more: object):
    """A line through the mean at each point of `order`."""
    import plotly.graph_objects as go

    points = [point for point in order if point in x]
    means = [fmean(value for point, value in zip(x, y, strict=True) if point == at) for at in points]
    return go.Scatter(x=points, y=means, mode="lines", line=line, showlegend=False, hoverinfo="skip", **more)


def _metric_by_parameter(jobs: list[Job], parameter: str, parameters: list[str], metric: Metric):
    """The metric against one parameter: boxes if values repeat often, else points; one colour per model."""
    import plotly.graph_objects as go

    colours = dict(zip({job.settings["model"]["name"]: None for job in jobs}, cycle(COLOURS), strict=False))
    jobs = [job for job in jobs if job.value(parameter) != ABSENT]
    values = [job.value(parameter) for job in jobs]
    numbers = all(is_number(value) for value in values)
    distinct = _distinct(values)
    boxes = len(jobs) >= 5 * len(distinct) and len(distinct) <= 8
    names = labels(distinct, 16)
    models: dict[str, list[Job]] = {}
    for job in jobs:
        models.setdefault(job.settings["model"]["name"], []).append(job)
    traces = []
    for model, group in models.items():
        colour = colours[model]
        continuous = numbers and not boxes
        common = {
            "x": [job.value(parameter) if continuous else names[repr(job.value(parameter))] for job in group],
            "y": [metric.of(job) for job in group],
            "text": [_label(job, parameters, metric) for job in group],
            "hoverinfo": "text",
            "name": model,
            "marker": {"color": colour, "size": 7, "opacity": 0.75},
        }
        if boxes:
            traces.append(go.Box(**common, boxpoints="all", jitter=0.4, pointpos=0, line={"width": 1.5}))
        else:
            traces.append(go.Scatter(**common, mode="markers", legendgroup=model))
            if 2 <= len(distinct) <= 12 and len(group) > len(distinct):
                order = distinct if continuous else list(names.values())
                line = {"color": colour, "width": 1.5}
                traces.append(_means(common["x"], common["y"], order, line, legendgroup=model))
    axis: dict = {"title": {"text": short(parameter)}}
    if numbers and not boxes:
        axis |= {"type": "log" if is_log(values) else "linear"}
        if len(distinct) <= 8:
            axis |= {"tickvals": distinct, "ticktext": [f"{value:g}" for value in distinct]}
        else:
            axis |= {"tickformat": "~g", "dtick": 1} if is_log(values) else {}
    else:
        axis |= {"type": "category", "categoryarray": list(names.values())}
    return go.Figure(
        traces,
        {
            "height": 320,
            "xaxis": axis,
            "yaxis": {"title": {"text": _unit(metric)}},
            "boxmode": "overlay" if parameter == "model" else "group",
            "showlegend": len(models) > 1,
            "legend": {"orientation": "h", "y": 1.15},
            "margin": {"l": 60, "r": 20, "t": 30, "b": 50},
        },
    )


def figures(sweep: Sweep, effects: list[Effect], metric: Metric) -> dict[str, dict]:
    """All charts as Plotly JSON objects, by the id of their HTML element; none for fewer than two jobs."""
    jobs = [job for job in sweep.finished if not math.isnan(metric.of(job))]
    if len(jobs) < 2:
        return {}
    drawn = {
        "parallel": _parallel(jobs, sweep.parameters, metric),
        "so-far": _best_so_far(jobs, sweep.parameters, metric),
    }
    for index, effect in enumerate(effects):
        drawn[f"effect-{index}"] = _metric_by_parameter(jobs, effect.parameter, sweep.parameters, metric)
    result = {}
    for name, figure in drawn.items():
        figure.update_layout(template="none", paper_bgcolor="rgba(0,0,0,0)", plot_bgcolor="rgba(0,0,0,0)")
        result[name] = json.loads(figure.to_json())
    return result


def duration(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    return f"{seconds:.0f} s" if seconds < 600 else f"{seconds / 60:.0f} min"


def write(
    sweep: Sweep,
    ranked: list[Candidate],
    metric: Metric,
    belief: list[str],
    effects: tuple[list[Effect], str],
    best: str,
    target: Path,
) -> None:
    """Writes the page.

    Args:
        sweep: the sweep.
        ranked: candidates, best first.
        metric: the ranking metric.
        belief: sentences on chance.
        effects: effects of the parameters, and a sentence on their importance.
        best: YAML of the best configuration's experiment file.
        target: output file.
    """
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    drawn = figures(sweep, effects[0], metric)
    page = pages.render(
        Path(__file__).with_name("page.html"),
        {"short": short, "duration": duration, "quote": quote},
        sweep=sweep,
        data=sorted({job.settings["data"]["name"] for job in sweep.finished}),
        drawings=any(job.drawings for job in sweep.finished),
        ranked=ranked,
        ranks=ranks(ranked),
        tied=ranking.RULE if any("=" in rank for rank in ranks(ranked)) else "",
        repeated=any(len(item.jobs) > 1 for item in ranked),
        metric=metric,
        metrics=metrics(sweep),
        belief=belief,
        effects=effects[0],
        told=effects[1],
        best=best,
        figures=drawn,
        plotly=Markup(get_plotlyjs()) if drawn else "",
    )
    atomic.replace_text(target, page)
