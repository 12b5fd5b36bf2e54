"""Analysis of a sweep: configurations ranked by mean over seeds, seed noise, the effect of each parameter."""

import math
import statistics
from dataclasses import dataclass
from itertools import pairwise

from pipeline.common.errors import UserError
from pipeline.evaluation import ranking
from pipeline.sweeps.jobs import ABSENT, Job, Sweep

TIE_DECIMALS = 4  # configurations whose means agree to so many decimals tie


@dataclass(frozen=True)
class Metric:
    """A validation metric that a sweep can be ranked by.

    Attributes:
        key: in ``metrics.json``, or ``val/loss``.
        title: heading in tables and charts.
        percent: whether it is a fraction, shown in per cent.
        larger_is_better: the order of the ranking.
    """

    key: str
    title: str
    percent: bool
    larger_is_better: bool

    def value(self, job: Job) -> float:
        """The job's value, in per cent for fractions; NaN if it has none."""
        value = job.metrics.get(self.key, math.nan)
        return 100 * value if self.percent else value

    def show(self, value: float) -> str:
        """A value as text."""
        if math.isnan(value):
            return "NaN"
        return f"{value:.1f} %" if self.percent else f"{value:.3f}"

    def difference(self, value: float) -> str:
        """A difference between two values as text."""
        return f"{value:.1f} points" if self.percent else f"{value:.3f}"


def metrics(sweep: Sweep) -> dict[str, Metric]:
    """The metrics that a sweep can be ranked by, by key, its task's monitored metric first."""
    task = sweep.task
    result = [Metric(f"val/{spec.key}", f"val {spec.title}", True, True) for spec in task.ranked[:2]]
    result.append(Metric("val/loss", "val loss", False, False))
    known = {metric.key for metric in result} | {f"val/{spec.key}" for spec in task.ranked}
    custom = sorted({key for job in sweep.finished for key in job.metrics if key.startswith("val/")} - known)
    result += [Metric(key, key.replace("/", " "), False, True) for key in custom]
    return {metric.key: metric for metric in result}


def find_metric(sweep: Sweep, key: str | None) -> Metric:
    """The metric with this key; None: the monitored metric of the sweep's task.

    Raises:
        UserError: the sweep has no such metric.
    """
    found = metrics(sweep)
    if key is not None and key not in found:
        raise UserError(f"sweep {sweep.name} has no metric {key[:100]}; it has {', '.join(found)}")
    return found[key or sweep.task.monitor]


@dataclass
class Configuration:
    """The jobs that differ only in the seed, and the metric's value in each."""

    jobs: list[Job]
    values: list[float]

    @property
    def mean(self) -> float:
        return statistics.fmean(self.values)

    @property
    def rounded_mean(self) -> float:
        """The mean, rounded: float32 metrics of the same counts differ in the last digits."""
        return round(self.mean, TIE_DECIMALS)

    @property
    def cost(self) -> tuple[float, ...]:
        """The mean of `ranking.cost` over its jobs."""
        costs = [ranking.cost(job.metrics) for job in self.jobs]
        return tuple(map(statistics.fmean, zip(*costs, strict=True)))

    @property
    def seeds(self) -> list:
        return sorted({job.settings["seed"] for job in self.jobs})

    def show(self, metric: Metric) -> str:
        """The mean, and the range over seeds."""
        if len(self.values) < 2 or math.isnan(self.mean):
            return metric.show(self.mean)
        low, high = (f"{end(self.values):.{1 if metric.percent else 3}f}" for end in (min, max))
        return f"{metric.show(self.mean)} ({low}–{high})"


def configurations(sweep: Sweep, metric: Metric) -> list[Configuration]:
    """Finished jobs grouped over seeds, best mean first, NaN last.

    Of equal means the cheapest comes first: fewest multiply-adds in training, then per image, then fewest
    parameters (`ranking.cost`), then the lowest validation loss.
    """
    groups: dict[str, dict[object, Job]] = {}
    for job in sweep.finished:
        key = repr([item for item in job.plain.items() if item[0] != "seed"])
        # A repeated seed gives the same result, so it adds no information on the spread.
        groups.setdefault(key, {}).setdefault(job.settings["seed"], job)
    found = [Configuration([*jobs.values()], [*map(metric.value, jobs.values())]) for jobs in groups.values()]

    def order(configuration: Configuration) -> tuple:
        loss = statistics.fmean(job.metrics["val/loss"] for job in configuration.jobs)
        mean = configuration.rounded_mean
        return math.isnan(mean), -mean if metric.larger_is_better else mean, configuration.cost, loss

    return sorted(found, key=order)


def ranks(ranked: list[Configuration]) -> list[str]:
    """Each configuration's rank as text; a dash if its mean is NaN."""
    numbers = ranking.ranks([item.rounded_mean for item in ranked if not math.isnan(item.mean)])
    return numbers + ["–"] * (len(ranked) - len(numbers))


def _pooled_std(ranked: list[Configuration]) -> tuple[float, int] | None:
    """Pooled standard deviation over seeds and its degrees of freedom; None without repeated seeds."""
    repeated = [item for item in ranked if len(item.values) > 1 and not math.isnan(item.mean)]
    freedom = sum(len(item.values) - 1 for item in repeated)
    if not freedom:
        return None
    squares = sum((len(item.values) - 1) * statistics.variance(item.values) for item in repeated)
    return math.sqrt(squares / freedom), freedom


def _compare_best(ranked: list[Configuration], metric: Metric) -> str:
    """A sentence: is the best ahead by more than chance, given the spread over seeds of these models?

    Compares the lead with the 95 % interval of a difference of means, by Student's t with the pooled standard
    deviation over seeds.
    """
    from scipy.stats import t

    best, runner_up = ranked[:2]
    models = {item.jobs[0].settings["model"]["name"] for item in (best, runner_up)}
    spread = _pooled_std([item for item in ranked if item.jobs[0].settings["model"]["name"] in models])
    gap = abs(best.rounded_mean - runner_up.rounded_mean)
    lead = f"The best is ahead of the runner-up by {metric.difference(gap)}"
    if tied := sum(item.rounded_mean == best.rounded_mean for item in ranked[1:]):
        lead = f"The best ties with {tied} other{'s' if tied > 1 else ''} (the cheapest comes first)"
    if spread is None:
        return (
            f"{lead}, but no configuration of these models was trained with more than one seed, so the seed "
            "noise is unknown. Add seed=1,2,3 to the sweep."
        )
    deviation, freedom = spread
    if deviation == 0:
        return f"{lead}. The seeds of each configuration gave equal results and do not measure the noise."
    noise = deviation * math.sqrt(1 / len(best.values) + 1 / len(runner_up.values))
    bound = float(t.ppf(0.975, freedom)) * noise
    verdict = "within the spread over seeds" if gap <= bound else "more than the spread over seeds"
    return (
        f"{lead}: {verdict}. Two equal configurations would differ by up to {metric.difference(bound)} "
        f"through their seeds alone (95 %, from a standard deviation of {metric.difference(deviation)} with "
        f"{freedom} degree{'s' if freedom > 1 else ''} of freedom)."
    )


def _wilson(fraction: float, images: int) -> str:
    """The 95 % Wilson interval of a fraction, in per cent, as text."""
    from scipy.stats import binomtest

    interval = binomtest(round(fraction * images), images).proportion_ci(0.95, method="wilson")
    return f"{100 * interval.low:.1f}–{100 * interval.high:.1f}"


def reliability(sweep: Sweep, ranked: list[Configuration], metric: Metric) -> list[str]:
    """Sentences on how reliable the ranking is, given the seeds and the number of validation images."""
    ranked = [item for item in ranked if not math.isnan(item.mean)]
    if not ranked:
        return [f"No finished job reported {metric.title}, so no configuration is the best."]
    best, sentences = ranked[0], []
    if len(ranked) > 1:
        sentences.append(_compare_best(ranked, metric))
    elif spread := _pooled_std(ranked):
        sentences.append(
            f"Only one configuration reported {metric.title}, so there is nothing to compare. Its standard "
            f"deviation over {len(best.values)} seeds is {metric.difference(spread[0])}."
        )
    else:
        sentences.append(
            f"Only one configuration reported {metric.title}, with one seed, so there is nothing to compare."
        )
    if metric.percent:
        job = best.jobs[0]
        images = max(1, round(job.lineage["data"]["pictures"] * job.settings["split"]["val"]))
        sentences.append(
            f"On about {images:,} validation pictures a share of {metric.show(best.mean)} has a 95 % "
            f"interval of {_wilson(best.mean / 100, images)} % (Wilson) on its own; choosing the best of "
            "many biases it upward."
        )
    missing = sum(math.isnan(metric.value(job)) for job in sweep.finished)
    if missing:
        sentences.append(
            f"Jobs that finished without {metric.title} (NaN), excluded from the ranking: {missing}."
        )
    return sentences


def is_number(value: object) -> bool:
    """Whether a value is numeric; a bool counts as a category."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_log(values: list) -> bool:
    """Whether the numbers are all positive and span a decade or more."""
    return min(values) > 0 and max(values) >= 10 * min(values)


@dataclass
class Effect:
    """The mean metric at each value of one parameter, and the parameter's importance if computed."""

    parameter: str
    means: list[tuple[str, float, int]]  # value, mean, jobs; best mean first
    importance: float | None = None

    @property
    def range(self) -> float:
        return abs(self.means[0][1] - self.means[-1][1])


def importance(jobs: list[Job], parameters: list[str], metric: Metric) -> tuple[dict[str, float], str]:
    """Permutation importance in a random forest (Breiman 2001, doi:10.1023/A:1010933404324).

    Args:
        jobs: finished jobs that have the metric.
        parameters: the varying parameters.
        metric: the metric to explain.

    Returns:
        For each parameter, the increase of the forest's error (RMSE, in the metric's unit) when it is
        shuffled, and a sentence on reliability; an empty dict for too few jobs or parameters.
    """
    needed = max(10, 4 * len(parameters))
    if len(parameters) < 2:
        return {}, "Importance needs two varied parameters; see the chart."
    if len(jobs) < needed:
        return {}, (
            f"{len(jobs)} jobs are too few for the importance of {len(parameters)} parameters; at least "
            f"{needed} jobs are needed."
        )
    import numpy as np
    import pandas as pd
    from sklearn.compose import make_column_transformer
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.inspection import permutation_importance
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder

    table, categorical, rng = {}, [], np.random.default_rng(0)
    for parameter in parameters:
        values = [job.value(parameter) for job in jobs]
        present = [value for value in values if value != ABSENT]
        # A model without the key gets a random value: a special one would identify the model.
        values = [present[rng.integers(len(present))] if value == ABSENT else value for value in values]
        if all(map(is_number, values)):
            table[parameter] = [float(value) for value in values]
        else:
            table[parameter] = [str(value) for value in values]
            categorical.append(parameter)
    x, y = pd.DataFrame(table), np.array([metric.value(job) for job in jobs])
    forest = RandomForestRegressor(200, oob_score=True, random_state=0)
    encoder = make_column_transformer((OneHotEncoder(), categorical), remainder="passthrough")
    model = make_pipeline(encoder, forest).fit(x, y)
    result = permutation_importance(
        model, x, y, scoring="neg_root_mean_squared_error", n_repeats=10, random_state=0
    )
    message = f"The random forest's out-of-bag R² is {forest.oob_score_:.2f}" + (
        "." if forest.oob_score_ > 0 else ", not above 0: ignore these figures."
    )
    return dict(zip(parameters, result.importances_mean.tolist(), strict=True)), message


def _groups(jobs: list[Job], parameter: str) -> list[tuple[str, list[Job]]]:
    """Jobs by a parameter's value as text; more than 8 different numbers are split into quartiles."""
    by_value: dict[str, list[Job]] = {}
    for job in jobs:
        by_value.setdefault(repr(job.value(parameter)), []).append(job)
    if len(by_value) > 8 and all(is_number(job.value(parameter)) for job in jobs):
        ranked = sorted(jobs, key=lambda job: job.value(parameter))
        cuts = [round(quarter * len(ranked) / 4) for quarter in range(5)]
        quarters = [ranked[low:high] for low, high in pairwise(cuts)]
        return [
            (f"{short(group[0].value(parameter))} to {short(group[-1].value(parameter))}", group)
            for group in quarters
        ]
    return [(short(group[0].value(parameter)), group) for group in by_value.values()]


def effects(sweep: Sweep, metric: Metric) -> tuple[list[Effect], str]:
    """The effect of each parameter, most important first, and a sentence on the importance."""
    jobs = [job for job in sweep.finished if not math.isnan(metric.value(job))]
    importances, message = importance(jobs, sweep.parameters, metric)
    found = []
    for parameter in sweep.parameters:
        means = [
            (value, statistics.fmean(map(metric.value, group)), len(group))
            for value, group in _groups([job for job in jobs if job.value(parameter) != ABSENT], parameter)
        ]
        means.sort(key=lambda row: -row[1] if metric.larger_is_better else row[1])
        if means:
            found.append(Effect(parameter, means, importances.get(parameter)))
    return sorted(found, key=lambda item: -(item.importance if importances else item.range)), message


def axis_labels(values: list, limit: int) -> dict[str, str]:
    """Axis labels of the distinct values by their `repr`; values shortened to the same text are numbered."""
    found: dict[str, str] = {}
    for value in values:
        if repr(value) not in found:
            text, number = short(value, limit), 2
            while text in found.values():
                text, number = f"{short(value, limit)} ({number})", number + 1
            found[repr(value)] = text
    return found


def short(value: object, limit: int = 40) -> str:
    """A value as text for tables and axes."""
    text = f"{value:g}" if isinstance(value, float) else "null" if value is None else str(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"
