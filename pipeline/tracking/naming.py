"""Run names and selected files of ``conf/``, derived from the settings of a live or restored run."""

import functools
import hashlib
from pathlib import Path

from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from pipeline import config
from pipeline.artifacts import job_outcomes
from pipeline.artifacts.model_folder import ModelFolder
from pipeline.common.paths import CONF, PARAMS, ROOT
from pipeline.common.text import printable
from pipeline.config.overrides import BY_CONTENT, BY_NAME, OverrideFinder, Overrides
from pipeline.config.renamed import RENAMED, upgrade

GROUPS = (*BY_NAME, *BY_CONTENT, "experiment")  # parameters of a run whose values name files
MAX_DIFFERENCES, MAX_VALUE = 5, 40  # in a run's name: differences, and characters of a value
HASH = "… sha256 "  # precedes the hash in a truncated parameter
MAX_PARAM = 250  # characters of a parameter, the limit of older MLflow servers


def name_of(model: ModelFolder) -> str:
    """Name of a model's run: the overrides in its sweep's outcomes, else as `run_name`."""
    outcomes = job_outcomes.read(model.train.parent) if model.sweep else {}
    number = job_outcomes.numbers(outcomes).get(model.train.name)
    overrides = outcomes[number]["words"] if number is not None else ""
    return str(overrides or run_name(model.settings, model.train))


def run_name(settings: dict, folder: Path) -> str:
    """Name of a single run: the model, and the differences from ``conf/`` and ``params.yaml``.

    Args:
        settings: the resolved configuration.
        folder: the train folder; the run of a pipeline stage is named after the model only.
    """
    model = settings["model"]["name"]
    if folder.parent.name == "train" and folder.parent.parent.parent == ROOT / "runs":
        return model
    overrides = _find_overrides(settings)
    if overrides is None:  # conf/ has changed since
        return f"{model} seed={settings['seed']}"
    groups = [f"{group}={overrides.choices[group]}" for group in BY_CONTENT if group not in overrides.default]
    values = sorted(overrides.values.items(), key=lambda item: item[0] == "seed")  # seed last
    differences = [*groups, *(f"{key}={_short(value)}" for key, value in values)]
    rest = len(differences) - MAX_DIFFERENCES
    return " ".join([model, *differences[:MAX_DIFFERENCES], *([f"and {rest} more"] if rest > 0 else [])])


def _short(value: object) -> str:
    text = printable("null" if value is None else value)
    return text if len(text) <= MAX_VALUE else f"{text[:MAX_VALUE]}…"


def params(settings: dict) -> dict[str, str]:
    """A configuration as MLflow parameters; the full one is an artifact.

    Includes the file selected in each of `GROUPS`. Long values are truncated and end in a hash, so that
    differences remain visible. ``data.source`` is left out, as a property of the data set.
    """
    values = {key: value for key, value in config.flat(settings) if not key.startswith("data.source.")}
    return selected_files(settings) | {key: _truncated(str(value)) for key, value in values.items()}


def _truncated(text: str) -> str:
    if len(text) <= MAX_PARAM:
        return text
    return f"{text[: MAX_PARAM - 30]}{HASH}{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def comparable(params: dict[str, str]) -> frozenset:
    """The parameters that all versions of this project log alike, as (key, value), for matching runs."""
    return frozenset(
        (RENAMED.get(key, key), value)
        for key, value in params.items()
        if key not in GROUPS and HASH not in value
    )


def selected_files(settings: dict) -> dict[str, str]:
    """The selected file of each group of ``conf/``.

    The value of `experiment` is the largest experiment file that the settings contain, or none.
    """
    overrides = _find_overrides(settings)
    if overrides is None:
        return {group: settings[group]["name"] for group in BY_NAME}
    flat, best = dict(config.flat(upgrade(settings))), ("none", 0)
    for name in config.choices("experiment"):
        tree = OmegaConf.to_container(OmegaConf.load(CONF / "experiment" / f"{name}.yaml"), resolve=False)
        groups = [each for each in tree.pop("defaults", []) if isinstance(each, dict)]
        selected = {key.rpartition("/")[2]: value for each in groups for key, value in each.items()}
        values = dict(config.flat(tree))
        matches = all(overrides.choices.get(group) == choice for group, choice in selected.items())
        matches = matches and all(key in flat and flat[key] == value for key, value in values.items())
        if matches and len(selected) + len(values) > best[1]:
            best = name, len(selected) + len(values)
    return {**overrides.choices, "experiment": best[0]}


def _find_overrides(settings: dict) -> Overrides | None:
    """The fewest overrides for these settings; None if ``conf/`` can no longer express them."""
    files = sorted([PARAMS, *CONF.rglob("*.yaml")])
    hydra = GlobalHydra.instance()
    running, hydra.hydra = hydra.hydra, None  # Hydra refuses to compose within a Hydra app
    try:
        state = tuple((str(file), file.stat().st_mtime_ns) for file in files)
        return _override_finder(state).find(upgrade(settings))
    except Exception:  # conf/ may have changed in any way; a name must not stop a training
        return None
    finally:
        hydra.hydra = running


@functools.lru_cache(maxsize=1)
def _override_finder(state: tuple) -> OverrideFinder:
    """Cached until a file of ``conf/`` changes."""
    return OverrideFinder()
