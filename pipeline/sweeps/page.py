"""Renders a sweep's page: Plotly charts, embedded so that they work from disk, and plain tables."""

import math
from html import escape
from itertools import accumulate, cycle
from pathlib import Path
from statistics import fmean
from urllib.parse import quote

from pipeline.artifacts import atomic
from pipeline.common import pages, text
from pipeline.evaluation import ranking
from pipeline.sweeps.effects import (
    Configuration,
    Effect,
    Metric,
    axis_labels,
    is_log,
    is_number,
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
    if all(map(is_number, values)):
        scale, ticks = math.log10 if is_log(values) else float, distinct
        if len(distinct) > 8:
            low, high = min(values), max(values)
            if is_log(values):
                powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
                ticks = [low, *(10.0**power for power in powers if low < 10.0**power < high), high]
            else:
                ticks = [low + (high - low) * step / 5 for step in range(6)]
        return {
            "values": [scale(value) for value in values],
            "tickvals": [scale(value) for value in ticks],
            "ticktext": [f"{value:.4g}" for value in ticks],
        }
    indices = {repr(value): index for index, value in enumerate(distinct)}
    ticks, names = _thin(distinct), axis_labels(distinct, 16)
    return {
        "values": [indices[repr(value)] for value in values],
        "tickvals": [indices[repr(value)] for value in ticks],
        "ticktext": [names[repr(value)] for value in ticks],
        "range": [-0.2, len(distinct) - 0.8],
    }


def _figure(traces: list[dict], **layout: object) -> dict:
    """A figure in the form of plotly.js; the page adds the colours of text and grid.

    Args:
        traces: plotly's.
        layout: overrides the layout that all figures share.
    """
    shared = {
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "legend": {"orientation": "h", "y": 1.12},
        "margin": {"l": 60, "r": 20, "t": 30, "b": 50},
    }
    return {"data": traces, "layout": shared | layout}


def _parallel(jobs: list[Job], parameters: list[str], metric: Metric) -> dict:
    """Parallel coordinates, one line per job; the metric is the last axis and the colour."""
    values = [metric.value(job) for job in jobs]
    shown = list(parameters)
    if len({job.settings["seed"] for job in jobs}) > 1:
        shown.append("seed")
    dimensions = [{"label": short(name, 24), **_axis([job.value(name) for job in jobs])} for name in shown]
    number_format = ".1f" if metric.percent else ".3f"
    dimensions.append({"label": _axis_title(metric), "values": values, "tickformat": number_format})
    line = {"color": values, "colorscale": SCALE, "reversescale": not metric.larger_is_better}
    trace = {"type": "parcoords", "dimensions": dimensions, "line": line, "labelside": "top"}
    return _figure([trace], height=420, margin={"l": 60, "r": 60, "t": 60, "b": 30})


def _label(job: Job, parameters: list[str], metric: Metric) -> str:
    """The hover text of a job, as HTML."""
    lines = [f"job {job.name}: {metric.show(metric.value(job))}"]
    lines += [f"{name} = {short(job.value(name))}" for name in [*parameters, "seed"]]
    return "<br>".join(escape(text.printable(line), quote=False) for line in lines)  # plotly reads HTML


def _best_so_far(jobs: list[Job], parameters: list[str], metric: Metric) -> dict:
    """The best metric up to each job, in the order of the jobs."""
    names, values = [job.name for job in jobs], [metric.value(job) for job in jobs]
    best = list(accumulate(values, max if metric.larger_is_better else min))
    points = {"type": "scatter", "mode": "markers", "name": "a job", "x": names, "y": values}
    points |= {"text": [_label(job, parameters, metric) for job in jobs], "hoverinfo": "text"}
    points |= {"marker": {"color": COLOURS[0]}}
    line = {"type": "scatter", "mode": "lines", "name": "best so far", "x": names, "y": best}
    line |= {"hoverinfo": "skip", "line": {"shape": "hv", "color": COLOURS[1]}}
    return _figure(
        [points, line],
        height=340,
        xaxis={"title": {"text": "job"}, "type": "category", "nticks": 12},
        yaxis={"title": {"text": _axis_title(metric)}},
    )


def _axis_title(metric: Metric) -> str:
    return f"{metric.title}, %" if metric.percent else metric.title


def _means(x: list, y: list[float], order: list) -> dict:
    """The mean of y at each value of x, in the given order, as coordinates of a trace."""
    points = [point for point in order if point in x]
    means = [fmean(value for point, value in zip(x, y, strict=True) if point == at) for at in points]
    return {"x": points, "y": means}


def _metric_by_parameter(jobs: list[Job], parameter: str, parameters: list[str], metric: Metric) -> dict:
    """The metric against one parameter: boxes if values repeat often, else points; one colour per model."""
    colours = dict(zip({job.settings["model"]["name"]: None for job in jobs}, cycle(COLOURS), strict=False))
    jobs = [job for job in jobs if job.value(parameter) != ABSENT]
    values = [job.value(parameter) for job in jobs]
    distinct = _distinct(values)
    boxes = len(jobs) >= 5 * len(distinct) and len(distinct) <= 8
    continuous = not boxes and all(map(is_number, values))
    names = axis_labels(distinct, 16)
    order = distinct if continuous else list(names.values())
    traces = []
    models = dict.fromkeys(job.settings["model"]["name"] for job in jobs)
    for model in models:
        group = [job for job in jobs if job.settings["model"]["name"] == model]
        points = {
            "x": [job.value(parameter) if continuous else names[repr(job.value(parameter))] for job in group],
            "y": [metric.value(job) for job in group],
            "text": [_label(job, parameters, metric) for job in group],
            "hoverinfo": "text",
            "name": model,
            "marker": {"color": colours[model], "size": 7, "opacity": 0.75},
        }
        if boxes:
            points |= {"type": "box", "boxpoints": "all", "jitter": 0.4, "pointpos": 0}
            points |= {"line": {"width": 1.5}}
        else:
            points |= {"type": "scatter", "mode": "markers", "legendgroup": model}
        traces.append(points)
        if not boxes and 2 <= len(distinct) <= 12 and len(group) > len(distinct):
            means = _means(points["x"], points["y"], order)
            line = {"mode": "lines", "line": {"color": colours[model], "width": 1.5}, "legendgroup": model}
            traces.append({"type": "scatter", **means, **line, "showlegend": False, "hoverinfo": "skip"})
    axis: dict = {"title": {"text": short(parameter)}}
    if not continuous:
        axis |= {"type": "category", "categoryarray": order}
    elif len(distinct) <= 8:
        ticks = {"tickvals": distinct, "ticktext": [f"{value:g}" for value in distinct]}
        axis |= {"type": "log" if is_log(values) else "linear", **ticks}
    else:
        axis |= {"type": "log", "tickformat": "~g", "dtick": 1} if is_log(values) else {"type": "linear"}
    return _figure(
        traces,
        height=320,
        xaxis=axis,
        yaxis={"title": {"text": _axis_title(metric)}},
        boxmode="overlay" if parameter == "model" else "group",
        showlegend=len(models) > 1,
    )


def figures(sweep: Sweep, effects: list[Effect], metric: Metric) -> dict[str, dict]:
    """All charts in the form of plotly.js by the id of their HTML element; none for fewer than two jobs."""
    jobs = [job for job in sweep.finished if not math.isnan(metric.value(job))]
    if len(jobs) < 2:
        return {}
    by_id = {
        "parallel": _parallel(jobs, sweep.parameters, metric),
        "so-far": _best_so_far(jobs, sweep.parameters, metric),
    }
    for index, effect in enumerate(effects):
        by_id[f"effect-{index}"] = _metric_by_parameter(jobs, effect.parameter, sweep.parameters, metric)
    return by_id


def duration(seconds: float | None) -> str:
    """Seconds as text; a dash for None."""
    if seconds is None:
        return "–"
    return f"{seconds:.0f} s" if seconds < 600 else f"{seconds / 60:.0f} min"


def write(
    sweep: Sweep,
    ranked: list[Configuration],
    metric: Metric,
    reliability: list[str],
    effects: tuple[list[Effect], str],
    best: str,
    target: Path,
) -> None:
    """Writes the page.

    Args:
        sweep: the sweep.
        ranked: configurations, best first.
        metric: the ranking metric.
        reliability: sentences, see `effects.reliability`.
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
        reliability=reliability,
        effects=effects[0],
        importance_note=effects[1],
        best=best,
        figures=drawn,
        plotly=Markup(get_plotlyjs()) if drawn else "",
    )
    atomic.replace_text(target, page)
