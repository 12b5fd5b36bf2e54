"""What a sweep says: its candidates by mean over seeds, what is chance, and what each parameter does."""

import math
import statistics
from dataclasses import dataclass
from itertools import pairwise

from pipeline.common.errors import UserError
from pipeline.evaluation import ranking
from pipeline.sweeps.jobs import ABSENT, Job, Sweep

TIED = 4  # decimal places of a mean to which tied configurations agree


@dataclass(frozen=True)
class Metric:
    """A figure of validation that a sweep can be judged by; shares are told in per cent."""

    key: str
    title: str
    percent: bool
    larger: bool  # is better

    def of(self, job: Job) -> float:
        """In per cent for shares; NaN where a job has none."""
        value = job.metrics.get(self.key, math.nan)
        return 100 * value if self.percent else value

    def show(self, value: float) -> str:
        if math.isnan(value):
            return "NaN"
        return f"{value:.1f} %" if self.percent else f"{value:.3f}"

    def difference(self, value: float) -> str:
        return f"{value:.1f} points" if self.percent else f"{value:.3f}"

    def better(self, one: float, other: float) -> bool:
        return one > other if self.larger else one < other


def metrics(sweep: Sweep) -> dict[str, Metric]:
    """The figures that a sweep can be judged by, the one that its task is decided by first."""
    task = sweep.task
    found = [Metric(f"val/{figure.key}", f"val {figure.title}", True, True) for figure in task.ranked[:2]]
    found.append(Metric("val/loss", "val loss", False, False))
    known = {metric.key for metric in found} | {f"val/{figure.key}" for figure in task.ranked}
    own = sorted({key for job in sweep.finished for key in job.metrics if key.startswith("val/")} - known)
    found += [Metric(key, key.replace("/", " "), False, True) for key in own]
    return {metric.key: metric for metric in found}


def find_metric(sweep: Sweep, key: str | None) -> Metric:
    """The figure of this key; None is the one that the sweep's task is decided by.

    Raises:
        UserError: the sweep has none of this key.
    """
    found = metrics(sweep)
    if key is not None and key not in found:
        raise UserError(f"sweep {sweep.name} has no metric {key[:100]}; it has {', '.join(found)}")
    return found[key or sweep.task.monitor]


@dataclass
class Candidate:
    """Jobs that differ by their seed alone."""

    jobs: list[Job]
    figures: list[float]  # one a seed

    @property
    def mean(self) -> float:
        return statistics.fmean(self.figures)

    @property
    def tied_by(self) -> float:
        """The mean as ties are told by: float32 metrics of the same counts differ in their last digits."""
        return round(self.mean, TIED)

    @property
    def cost(self) -> tuple[float, ...]:
        """The mean cost of its jobs, by `ranking.cost`."""
        costs = [ranking.cost(job.metrics) for job in self.jobs]
        return tuple(map(statistics.fmean, zip(*costs, strict=True)))

    @property
    def seeds(self) -> list:
        return sorted({job.settings["seed"] for job in self.jobs})

    def show(self, metric: Metric) -> str:
        """The mean, and how far the seeds lie apart."""
        if len(self.figures) < 2 or math.isnan(self.mean):
            return metric.show(self.mean)
        low, high = (f"{end(self.figures):.{1 if metric.percent else 3}f}" for end in (min, max))
        return f"{metric.show(self.mean)} ({low}–{high})"


def candidates(sweep: Sweep, metric: Metric) -> list[Candidate]:
    """Finished jobs grouped over seeds, best mean first; of ties, the cheapest (`ranking.RULE`); NaN last."""
    groups: dict[str, dict[object, Job]] = {}
    for job in sweep.finished:
        key = repr([item for item in job.plain.items() if item[0] != "seed"])
        # The same seed again is the same run, and says nothing about spread.
        groups.setdefault(key, {}).setdefault(job.settings["seed"], job)
    found = [
        Candidate(list(jobs.values()), [metric.of(job) for job in jobs.values()]) for jobs in groups.values()
    ]

    def order(candidate: Candidate) -> tuple:
        loss = statistics.fmean(job.metrics["val/loss"] for job in candidate.jobs)
        mean = candidate.tied_by
        return math.isnan(mean), -mean if metric.larger else mean, candidate.cost, loss

    return sorted(found, key=order)


def ranks(ranked: list[Candidate]) -> list[str]:
    """What a table shows as each candidate's rank; a dash where there is no mean."""
    numbers = ranking.ranks([item.tied_by for item in ranked if not math.isnan(item.mean)])
    return numbers + ["–"] * (len(ranked) - len(numbers))


def _spread(ranked: list[Candidate]) -> tuple[float, int] | None:
    """Pooled standard deviation over seeds, and its degrees of freedom."""
    repeated = [item for item in ranked if len(item.figures) > 1 and not math.isnan(item.mean)]
    freedom = sum(len(item.figures) - 1 for item in repeated)
    if not freedom:
        return None
    squares = sum((len(item.figures) - 1) * statistics.variance(item.figures) for item in repeated)
    return math.sqrt(squares / freedom), freedom


def _lead(ranked: list[Candidate], metric: Metric) -> str:
    """Whether the best is more than chance before the next, by the spread over seeds of their models."""
    from scipy.stats import t

    best, second = ranked[:2]
    models = {item.jobs[0].settings["model"]["name"] for item in (best, second)}
    spread = _spread([item for item in ranked if item.jobs[0].settings["model"]["name"] in models])
    gap = abs(best.tied_by - second.tied_by)
    lead = f"The best is {metric.difference(gap)} before the next"
    if tied := sum(item.tied_by == best.tied_by for item in ranked[1:]):
        lead = f"The best ties with {tied} other{'s' if tied > 1 else ''} (the cheapest comes first)"
    if spread is None:
        return (
            f"{lead}, but no such configuration ran with a second seed: how much of the differences is "
            "chance is not known. Add seed=1,2,3 to the sweep."
        )
    deviation, freedom = spread
    if deviation == 0:
        return f"{lead}. The seed changes nothing here, so it can't tell how much of that is chance."
    noise = deviation * math.sqrt(1 / len(best.figures) + 1 / len(second.figures))
    reach = float(t.ppf(0.975, freedom)) * noise
    verdict = "within the spread over seeds" if gap <= reach else "more than the spread over seeds"
    return (
        f"{lead}: {verdict}. Seeds alone set two such configurations apart by up to "
        f"{metric.difference(reach)} (95 %, from a standard deviation of {metric.difference(deviation)} with "
        f"{freedom} degree{'s' if freedom > 1 else ''} of freedom)."
    )


def _wilson(share: float, images: int) -> str:
    """The ends of a share's 95 % Wilson interval, in per cent."""
    from scipy.stats import binomtest

    found = binomtest(round(share * images), images).proportion_ci(0.95, method="wilson")
    return f"{100 * found.low:.1f}–{100 * found.high:.1f}"


def belief(sweep: Sweep, ranked: list[Candidate], metric: Metric) -> list[str]:
    """Frank sentences on how much of the order is chance."""
    ranked = [item for item in ranked if not math.isnan(item.mean)]
    if not ranked:
        return [f"No job has left a {metric.title}: there is nothing to choose."]
    best, said = ranked[0], []
    if len(ranked) > 1:
        said.append(_lead(ranked, metric))
    elif spread := _spread(ranked):
        said.append(
            f"One configuration with {len(best.figures)} seeds: nothing to choose. Over the seeds "
            f"{metric.title} spreads by {metric.difference(spread[0])} (standard deviation)."
        )
    else:
        said.append("One job only: nothing is compared.")
    if metric.percent:
        job = best.jobs[0]
        pictures = max(1, round(job.lineage["data"]["pictures"] * job.settings["split"]["val"]))
        said.append(
            f"On about {pictures:,} validation pictures a share of {metric.show(best.mean)} has a 95 % "
            f"interval of {_wilson(best.mean / 100, pictures)} % (Wilson) by itself, and choosing the best "
            "of many flatters it."
        )
    lost = sum(math.isnan(metric.of(job)) for job in sweep.finished)
    if lost:
        said.append(f"Jobs that finished without a {metric.title} (NaN), and can't be best: {lost}.")
    return said


def is_number(value: object) -> bool:
    """A bool is a choice, not a number."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_log(values: list) -> bool:
    """Numbers that span a decade or more."""
    return min(values) > 0 and max(values) >= 10 * min(values)


@dataclass
class Effect:
    """Of one parameter: its values with the mean of the metric at each, and its importance, if it has one."""

    parameter: str
    means: list[tuple[str, float, int]]  # value, mean, jobs; best mean first
    importance: float | None = None

    @property
    def range(self) -> float:
        return abs(self.means[0][1] - self.means[-1][1])


def importance(jobs: list[Job], parameters: list[str], metric: Metric) -> tuple[dict[str, float], str]:
    """Permutation importance in a random forest (Breiman 2001, doi:10.1023/A:1010933404324).

    Args:
        jobs: finished ones that have the metric.
        parameters: what varies.
        metric: to explain.

    Returns:
        By how much the forest's error (root mean square, the metric's unit) grows where a parameter is
        shuffled, and a sentence on how far to trust it; no figures where there are too few jobs.
    """
    needed = max(10, 4 * len(parameters))
    if len(parameters) < 2:
        return {}, "With fewer than two parameters nothing competes: the figure tells all."
    if len(jobs) < needed:
        return {}, (
            f"{len(jobs)} jobs are too few to weigh {len(parameters)} parameters against each other; "
            f"{needed} would do."
        )
    import numpy as np
    import pandas as pd
    from sklearn.compose import make_column_transformer
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.inspection import permutation_importance
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder

    table, choices, rng = {}, [], np.random.default_rng(0)
    for parameter in parameters:
        values = [job.value(parameter) for job in jobs]
        there = [value for value in values if value != ABSENT]
        # Where a model has no such key any value will do: a mark of its own would tell the model.
        values = [there[rng.integers(len(there))] if value == ABSENT else value for value in values]
        if all(map(is_number, values)):
            table[parameter] = [float(value) for value in values]
        else:
            table[parameter] = [str(value) for value in values]
            choices.append(parameter)
    x, y = pd.DataFrame(table), np.array([metric.of(job) for job in jobs])
    forest = RandomForestRegressor(200, oob_score=True, random_state=0)
    model = make_pipeline(
        make_column_transformer((OneHotEncoder(), choices), remainder="passthrough"),
        forest,
    )
    model.fit(x, y)
    found = permutation_importance(
        model, x, y, scoring="neg_root_mean_squared_error", n_repeats=10, random_state=0
    )
    share = 100 * max(forest.oob_score_, 0)
    told = f"Of jobs that it was not shown the forest explains {share:.0f} % of the variance" + (
        "." if forest.oob_score_ > 0 else ", nothing at all: read nothing into these figures."
    )
    return dict(zip(parameters, found.importances_mean.tolist(), strict=True)), told


def _groups(jobs: list[Job], parameter: str) -> list[tuple[str, list[Job]]]:
    """Jobs by a parameter's value; numbers that hardly repeat are quartered."""
    found: dict[str, list[Job]] = {}
    for job in jobs:
        found.setdefault(repr(job.value(parameter)), []).append(job)
    if len(found) > 8 and all(is_number(job.value(parameter)) for job in jobs):
        ranked = sorted(jobs, key=lambda job: job.value(parameter))
        cuts = [round(part * len(ranked) / 4) for part in range(5)]
        quarters = [ranked[low:high] for low, high in pairwise(cuts)]
        return [
            (f"{short(some[0].value(parameter))} to {short(some[-1].value(parameter))}", some)
            for some in quarters
        ]
    return [(short(some[0].value(parameter)), some) for some in found.values()]


def effects(sweep: Sweep, metric: Metric) -> tuple[list[Effect], str]:
    """Of each parameter, the most important first, and a sentence on the importance."""
    jobs = [job for job in sweep.finished if not math.isnan(metric.of(job))]
    weights, told = importance(jobs, sweep.parameters, metric)
    found = []
    for parameter in sweep.parameters:
        means = [
            (value, statistics.fmean(map(metric.of, some)), len(some))
            for value, some in _groups([job for job in jobs if job.value(parameter) != ABSENT], parameter)
        ]
        means.sort(key=lambda row: -row[1] if metric.larger else row[1])
        if means:
            found.append(Effect(parameter, means, weights.get(parameter)))
    return sorted(found, key=lambda item: -(item.importance if weights else item.range)), told


def labels(values: list, limit: int) -> dict[str, str]:
    """A label for each distinct value, by its `repr`; values that shorten to the same text are numbered."""
    found: dict[str, str] = {}
    for value in values:
        if repr(value) not in found:
            text, place = short(value, limit), 2
            while text in found.values():
                text, place = f"{short(value, limit)} ({place})", place + 1
            found[repr(value)] = text
    return found


def short(value: object, limit: int = 40) -> str:
    """A value in a table or beside an axis."""
    text = f"{value:g}" if isinstance(value, float) else "null" if value is None else str(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"
