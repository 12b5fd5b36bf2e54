"""What a run is called, and which files of ``conf/`` it chose: found from its settings, live or restored."""

import functools
import hashlib
import json
from pathlib import Path

from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from pipeline import config
from pipeline.artifacts.model_folder import ModelFolder
from pipeline.common.paths import CONF, PARAMS, ROOT
from pipeline.common.text import printable
from pipeline.config.overrides import NAMED, OTHERS, OverrideFinder, Overrides

GROUPS = (*NAMED, *OTHERS, "experiment")  # parameters of a run that name a file each
MOST, LONG = 5, 40  # differences that a name tells, and characters of each
HASH = "… sha256 "  # before what stands for the rest of a long value
LONGEST = 250  # characters of a parameter: older MLflow servers take no more


def name_of(model: ModelFolder) -> str:
    """Of a model's run: the overrides of a sweep's job; of any other the model and what differs."""
    return _job_names(model.sweep).get(_key(model.settings)) or run_name(model.settings, model.train)


def _job_names(sweep: str | None) -> dict[str, str]:
    """What a sweep's jobs are called, by the hash of their settings."""
    file = ROOT / "runs/sweeps" / str(sweep) / "jobs.json"
    try:
        return json.loads(file.read_text(encoding="utf-8")) if sweep else {}
    except (OSError, ValueError):
        return {}


def name_job(sweep: str, settings: dict, name: str) -> None:
    """Keeps a job's overrides, which its folder does not hold, beside the folders of the sweep."""
    file = ROOT / "runs/sweeps" / sweep / "jobs.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    names = _job_names(sweep) | {_key(settings): name}
    file.write_text(json.dumps(names, indent=2) + "\n", encoding="utf-8")


def _key(settings: dict) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def run_name(settings: dict, folder: Path) -> str:
    """A single run's name: the model, and what differs from what ``conf/`` and ``params.yaml`` say of it.

    Args:
        settings: the resolved configuration.
        folder: train's; a stage's own run is called as its model.
    """
    model = settings["model"]["name"]
    if folder.parent.name == "train" and folder.parent.parent.parent == ROOT / "runs":
        return model
    words = _words(settings)
    if words is None:  # conf/ has changed since
        return f"{model} seed={settings['seed']}"
    chosen = [f"{group}={words.choices[group]}" for group in OTHERS if group not in words.default]
    values = sorted(words.values.items(), key=lambda item: item[0] == "seed")  # the seed last
    differ = [*chosen, *(f"{key}={_short(value)}" for key, value in values)]
    more = [f"and {len(differ) - MOST} more"] if len(differ) > MOST else []
    return " ".join([model, *differ[:MOST], *more])


def _short(value: object) -> str:
    text = printable("null" if value is None else value)
    return text if len(text) <= LONG else f"{text[:LONG]}…"


def params(settings: dict) -> dict[str, str]:
    """A configuration as MLflow's parameters; the whole is an artifact.

    Beside the values stand the names of the files chosen in each of `GROUPS`. Of a long value its beginning
    and a hash are told, so that a difference shows. Where the data are from is the data's.
    """
    values = {key: value for key, value in config.flat(settings) if not key.startswith("data.source.")}
    return chosen(settings) | {key: _cut(str(value)) for key, value in values.items()}


def _cut(text: str) -> str:
    if len(text) <= LONGEST:
        return text
    return f"{text[: LONGEST - 30]}{HASH}{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def comparable(found: dict[str, str]) -> frozenset:
    """Those parameters that every version of this program has logged alike, by which runs are matched."""
    same = {key: value for key, value in found.items() if key not in GROUPS and HASH not in value}
    return frozenset(same.items())


def chosen(settings: dict) -> dict[str, str]:
    """The file of each group; of the experiments one whose choices the settings all have, else none."""
    words = _words(settings)
    if words is None:
        return {group: settings[group]["name"] for group in NAMED}
    flat, best = dict(config.flat(settings)), ("none", 0)
    for name in config.choices("experiment"):
        tree = OmegaConf.to_container(OmegaConf.load(CONF / "experiment" / f"{name}.yaml"), resolve=False)
        groups = [each for each in tree.pop("defaults", []) if isinstance(each, dict)]
        said = {key.rpartition("/")[2]: value for each in groups for key, value in each.items()}
        values = dict(config.flat(tree))
        holds = all(words.choices.get(group) == choice for group, choice in said.items())
        holds = holds and all(key in flat and flat[key] == value for key, value in values.items())
        if holds and len(said) + len(values) > best[1]:
            best = name, len(said) + len(values)
    return {**words.choices, "experiment": best[0]}


def _words(settings: dict) -> Overrides | None:
    """The fewest words for these settings; None where ``conf/`` can't say them any more."""
    files = sorted([PARAMS, *CONF.rglob("*.yaml")])
    hydra = GlobalHydra.instance()
    running, hydra.hydra = hydra.hydra, None  # within a Hydra program composing would be refused
    try:
        state = tuple((str(file), file.stat().st_mtime_ns) for file in files)
        return _speller(state).words(settings)
    except Exception:  # whatever a later conf/ makes of earlier settings: a name must not stop a training
        return None
    finally:
        hydra.hydra = running


@functools.lru_cache(maxsize=1)
def _speller(state: tuple) -> OverrideFinder:
    """Composes anew when a file of ``conf/`` was touched."""
    return OverrideFinder()
