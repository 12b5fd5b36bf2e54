"""``petfaces sweeps NAME`` writes a sweep's page; without a name it lists the sweeps.

Reads the jobs' folders, writes ``runs/sweeps/<name>/index.html``, prints the best configurations, and with
``--save`` writes the best one to ``conf/experiment/``.
"""

import math
import textwrap
from statistics import fmean

import click

from pipeline.common import paths, text
from pipeline.common.errors import UserError
from pipeline.config import overrides
from pipeline.evaluation import ranking
from pipeline.sweeps import effects, jobs, page
from pipeline.sweeps.effects import Configuration, Metric
from pipeline.sweeps.jobs import Sweep

MAX_ROWS = 10  # configurations printed
WIDTH = 160  # characters of a table's line if the output is not a terminal


def _cost(configuration: Configuration) -> str:
    """The training cost of a configuration, as text."""
    job = configuration.jobs[0]
    images_seen = [item.metrics.get("pictures_seen") for item in configuration.jobs]
    parts = [
        f"{job.metrics[key]:,} {title}"
        for key, title in (("parameters", "parameters"), ("multiply_adds", "multiply-adds a picture"))
        if key in job.metrics
    ]
    if None not in images_seen:
        parts.append(f"{max(images_seen):,} pictures seen")
    timed = [item.seconds for item in configuration.jobs if item.seconds is not None]
    if timed:
        parts.append(f"{page.duration(max(timed))} of wall time in the sweep")
    return ", ".join(parts)


def _comment(
    name: str, sweep: Sweep, configuration: Configuration, metric: Metric, sentence: str
) -> list[str]:
    """Lines of an experiment file's header: its command, cost and expected result."""
    seeds = ", ".join(map(str, configuration.seeds))
    data = configuration.jobs[0].settings["data"]["name"]
    is_mean = len(configuration.values) > 1
    trained = f"mean of seeds {seeds} (lowest–highest)" if is_mean else f"seed {seeds} alone"
    paragraphs = [
        f"python -m pipeline.train experiment={name}",
        f"Cost: {_cost(configuration)}.",
        f"Expect: {metric.title} {configuration.show(metric)} on {data}, {trained}.",
        f"The best of {len(sweep.finished)} jobs of the sweep {sweep.name}. {sentence}",
    ]
    return [line for paragraph in paragraphs for line in textwrap.wrap(paragraph, 105)]


def _table(sweep: Sweep, ranked: list[Configuration], metric: Metric) -> None:
    """Prints the best configurations."""
    numbers, rows = effects.ranks(ranked), []
    for number, configuration in zip(numbers, ranked[:MAX_ROWS], strict=False):
        timed = [job.seconds for job in configuration.jobs if job.seconds is not None]
        values = (effects.short(configuration.jobs[0].value(name)) for name in sweep.parameters)
        seeds, names = map(str, configuration.seeds), (job.name for job in configuration.jobs)
        time = page.duration(fmean(timed) if timed else None)
        rows.append([number, configuration.show(metric), *values, ", ".join(seeds), ", ".join(names), time])
    title = f"sweep {sweep.name}: {len(sweep.finished)} of {len(sweep.jobs)} jobs finished"
    columns = ["rank", metric.title, *sweep.parameters, "seeds", "jobs", "wall time"]
    text.print_table(columns, rows, title, right=columns[:2], width=WIDTH)
    if len(ranked) > MAX_ROWS:
        print(f"and {len(ranked) - MAX_ROWS} more configurations on the page")
    if any("=" in number for number in numbers):
        print(ranking.RULE)


def show(name_or_id: str, key: str | None, name: str | None) -> None:
    """Writes a sweep's page and prints its best configurations.

    Args:
        name_or_id: the sweep's name, or its parent run's name or id in MLflow.
        key: of the metric; None: the task's monitored metric.
        name: of the experiment file for the best configuration; None: not saved.

    Raises:
        UserError: no such sweep, no finished job, or the experiment can't be saved.
    """
    if name is not None:
        overrides.check_name(name)
    sweep = jobs.read(jobs.resolve(name_or_id))
    metric = effects.find_metric(sweep, key)
    ranked = effects.configurations(sweep, metric)
    reliability = effects.reliability(sweep, ranked, metric)
    best = ranked[0] if ranked and not math.isnan(ranked[0].mean) else None
    comment = _comment(name or "NAME", sweep, best, metric, reliability[0]) if best else []
    settings = overrides.experiment_yaml(best.jobs[0].overrides, comment) if best else ""
    target = jobs.SWEEPS / sweep.name / "index.html"
    page.write(sweep, ranked, metric, reliability, effects.effects(sweep, metric), settings, target)
    if ranked:
        _table(sweep, ranked, metric)
    for sentence in (*sweep.notes, *reliability):
        print(text.printable(sentence))
    for job in sweep.jobs:
        if job.status != "finished":
            reason = f": {job.reason}" if job.reason else ""
            print(text.shortened(f"job {job.name}: {job.status}{reason} {job.override_text}".rstrip(), 1000))
    if best and not name:
        print(f"\nThe best, for conf/experiment/ (--save NAME writes it):\n\n{text.lines(settings)}")
    print(f"page: {target.relative_to(paths.ROOT)}")
    if name:
        if best is None:
            raise UserError(f"no finished job of {sweep.name} reported {metric.title}: nothing to save")
        overrides.save(name, best.jobs[0].overrides, best.jobs[0].settings, comment)
        print(f"saved: conf/experiment/{name}.yaml; run it: python -m pipeline.train experiment={name}")


def overview() -> None:
    """Prints a table of all sweeps."""
    rows = []
    for name in jobs.names():
        sweep = jobs.read(name, details=False)
        metric = effects.find_metric(sweep, None)
        ranked = effects.configurations(sweep, metric)
        data = ", ".join(sorted({job.settings["data"]["name"] for job in sweep.finished}))
        best = f"{metric.title} {ranked[0].show(metric)}" if ranked else "–"
        rows.append([name, data, f"{len(sweep.finished)} of {len(sweep.jobs)}", best])
    if not rows:
        print("no sweeps yet; one is: python -m pipeline.train --multirun model=scratch,probe seed=1,2")
        return
    text.print_table(["name", "data", "jobs", "best"], rows, "sweeps", width=WIDTH)
    print("a page of one: petfaces sweeps NAME")


@click.command()
@click.argument("sweep", required=False, metavar="[SWEEP]")
@click.option(
    "--metric",
    metavar="val/NAME",
    help="The metric to rank by, a column of the page's table of jobs (a loss is minimised); by default the "
    "monitored metric.",
)
@click.option("--save", metavar="NAME", help="Write the best configuration as conf/experiment/NAME.yaml.")
def main(sweep: str | None, metric: str | None, save: str | None) -> None:
    """Write a sweep's page and print its best configurations; without a name, list the sweeps.

    SWEEP is a folder of runs/sweeps/, or name or id of the run that MLflow nests the jobs under.
    """
    if save is not None and not sweep:
        raise click.UsageError("--save needs a sweep")
    if metric is not None and not (sweep and metric.startswith("val/")):
        raise click.UsageError("--metric needs a sweep, and names a validation metric: val/NAME")
    if sweep:
        show(sweep, metric, save)
    else:
        overview()
