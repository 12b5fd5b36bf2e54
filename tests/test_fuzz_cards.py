"""Hundreds of mutated cards at every entry point: each works or ends in one line, and does nothing else."""

import json
import random
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from strangers import CARD, OLD, SETTINGS, copied, written

from pipeline import evaluate
from pipeline.artifacts import onnx_export
from pipeline.artifacts.model_folder import ModelFolder
from pipeline.common.errors import UserError, os_errors_as_user_errors
from pipeline.inference import export, resolve, serve
from pipeline.maintenance import vetting
from pipeline.portable import OnnxClassifier
from pipeline.train import start_model
from pipeline.training import build

CARDS = 300  # mutated ones
_seen: list[str] = []
_watched: dict[str, bool | str] = {"on": False, "canary": "-"}
REFUSED = (
    "subprocess.Popen",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "socket.connect",
    "socket.getaddrinfo",
)


def _hook(event: str, arguments: tuple) -> None:
    if not _watched["on"]:
        return
    told_canary = _watched["canary"] in str(arguments[:2]) if event in ("open", "import") else False
    if event in (*REFUSED, "pickle.find_class") or told_canary:
        _seen.append(f"{event} {str(arguments)[:200]}")


@pytest.fixture(scope="module", autouse=True)
def _audit():
    sys.addaudithook(_hook)  # can't be taken away again; it does nothing outside `_canary`


@contextmanager
def _canary(name: str):
    """Makes sure that nothing is run, fetched or opened by this name while the context lasts."""
    _seen.clear()
    _watched.update(on=True, canary=name)
    try:
        yield
    finally:
        _watched["on"] = False
    assert not _seen


@pytest.fixture(scope="module")
def canary(tmp_path_factory):
    """A folder with a module and a pickle that tell when they are used."""
    folder = tmp_path_factory.mktemp("canary")
    (folder / "canary_module.py").write_text("raise SystemExit('imported')\n")
    (folder / "canary.pkl").write_bytes(b"cos\nabort\n(tR.")
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))


def _junk(luck: random.Random, canary: Path) -> object:
    file, timm = str(canary / "canary.pkl"), "models.pretrained.create"
    deep: object = 1
    for _ in range(luck.choice([3, 60, 900])):
        deep = [deep]
    return luck.choice(
        [
            None, True, False, 0, -1, 1, 7, 0.5, -0.0, 1e-300, 1e308, 10**30, float("nan"), float("inf"),
            "", "x", "x" * 5000, "a\nb", "\ud800", "\x1b[31m", "..", "../../x", file, f"hf-hub:{file}",
            f"local-dir:{canary}", "canary_module.run", "models.canary_module.Net", "resnet10t",
            "models.scratch.ResidualBlock", "models.pretrained.create", "${oc.env:HOME}",
            [], {}, [1, 2, 3], [None] * 3, ["a"] * 3, deep,
            {"_target_": "canary_module.run"},
            {"_target_": "pandas.read_pickle", "filepath_or_buffer": file},
            {"_target_": timm, "backbone": "resnet10t", "checkpoint_path": file},
            {"_target_": timm, "backbone": "resnet10t", "cache_dir": file},
            {"_target_": timm, "backbone": f"hf-hub:{file}", "weights": "hub"},
            {"_target_": timm, "backbone": "resnet10t", "weights": "file", "file": file},
            {"_target_": "models.scratch.ScratchCNN", "widths": [10**5] * 60, "depths": [10**5] * 60},
        ]
    )  # fmt: skip


def _places(tree: object, deep: int = 5) -> list[tuple]:
    """(container, key) of everything in a tree."""
    if not deep:
        return []
    keys = list(tree) if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else []
    own = [(tree, key) for key in keys]
    return own + [place for _, key in own for place in _places(tree[key], deep - 1)]


def _mutated(luck: random.Random, canary: Path) -> str:
    """The text of a card with a few things changed, or of any JSON."""
    if luck.random() < 0.1:
        return json.dumps(_junk(luck, canary))
    card = json.loads(json.dumps(luck.choice([CARD, *OLD.values()])))
    for _ in range(luck.choice([1, 1, 1, 2, 4])):
        container, key = luck.choice(_places(card))
        change = luck.randrange(5)
        if change == 0:
            del container[key]
        elif change == 1 and isinstance(container, dict):
            container[luck.choice(["_args_", "_partial_", "extra", "size", "file", "cache_dir"])] = _junk(
                luck, canary
            )
        elif change == 2 and isinstance(container[key], list):
            container[key] *= luck.choice([0, 2, 1000])
        else:
            container[key] = _junk(luck, canary)
        if not _places(card):
            break
    text = json.dumps(card)
    return text[: luck.randrange(len(text))] if luck.random() < 0.05 else text


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A sound train folder, and the same exported."""
    place = tmp_path_factory.mktemp("sound")
    train, exported = written(place / "train", CARD), place / "portable"
    onnx_export.to_onnx(train, exported)
    return train, exported


@pytest.fixture
def quick(monkeypatch):
    """Sound cards are not exported and served for minutes: reading them is what is tried."""
    monkeypatch.setattr(onnx_export, "_export", lambda *_: (_ for _ in ()).throw(UserError("exported")))
    monkeypatch.setattr(onnx_export, "trunk", lambda *_: (_ for _ in ()).throw(UserError("exported")))
    monkeypatch.setattr("uvicorn.Server.run", lambda *_, **__: None)
    monkeypatch.setattr("pipeline.tracking.descriptions.name_of", lambda model: "x")


@pytest.mark.integration
def test_hundreds_of_mutated_cards_end_in_one_line_at_every_entry_point(
    sound, canary, quick, tmp_path, capsys
):
    train, exported = sound
    luck, ends = random.Random(15), {}
    net = build.build  # the module is loaded, and timm with it, before anything is watched
    assert net
    for number in range(CARDS):
        text = _mutated(luck, canary)
        taught = copied(train, tmp_path / f"{number}/train", model_json=text)
        taken = copied(exported, tmp_path / f"{number}/portable", model_json=text)
        entries = {
            "predict exported": lambda folder=taken: OnnxClassifier(
                resolve._find(str(folder), tmp_path / "s").portable
            ),
            "predict trained": lambda folder=taught: resolve._find(str(folder), tmp_path / "s"),
            "export": lambda one=taken, two=taught: export.export(
                ModelFolder(two, portable=one), tmp_path / "o", page=False
            ),
            "evaluate": lambda folder=taught: evaluate.evaluate(
                folder, tmp_path / "no", tmp_path / "e", 1, 0
            ),
            "register": lambda one=taught, two=taken: ModelFolder(one, one, two).card,
            "serve": lambda folder=taken: serve.run(folder, "127.0.0.1", 0),
            "sync, reproduce": lambda folder=taught: ModelFolder.open(folder),
            "start": lambda folder=taught: _start(folder),
        }
        for entry, call in entries.items():
            with _canary(str(canary)):
                ends.setdefault(entry, set()).add(_end(entry, call, text))
    capsys.readouterr()
    for entry, found in ends.items():
        assert found == {"works", "refused"}, (entry, found)


def _start(folder: Path) -> None:
    cfg = OmegaConf.create({"model": {"start": str(folder)}})
    with start_model(cfg) as start:
        build.load_start(_net(), CARD["net"], CARD["classes"], start, str(folder))


_nets: list = []


def _net():
    from models import build

    if not _nets:
        _nets.append(build.build(CARD["net"], 3))
    return _nets[0]


def _end(entry: str, call, text: str) -> str:
    try:
        with os_errors_as_user_errors():
            call()
    except UserError as error:
        assert "\n" not in str(error), (entry, text)
        return "works" if str(error) == "exported" or "no packed pictures" in str(error) else "refused"
    except Exception as error:
        raise AssertionError(f"{entry}: {type(error).__name__} {error}: {text[:3000]}") from error
    return "works"


def test_mutated_settings_are_data_before_a_commits_code_is_given_them(house, canary, tmp_path):
    import yaml

    from pipeline.artifacts import untrusted

    luck, ends = random.Random(7), set()
    vetting.settings(yaml.safe_load(SETTINGS), house, "sample 1")
    for number in range(CARDS):
        tree = yaml.safe_load(SETTINGS)
        for _ in range(luck.choice([1, 1, 2])):
            if places := _places(tree):
                container, key = luck.choice(places)
                container[key] = _junk(luck, canary)
        folder = tmp_path / str(number)
        folder.mkdir()

        def call(folder=folder, tree=tree):
            (folder / "config.yaml").write_text(yaml.safe_dump(tree), errors="surrogatepass")
            vetting.settings(untrusted.settings(folder), house, "sample 1")

        with _canary(str(canary)):
            ends.add(_end("reproduce", call, str(tree)))
    assert ends == {"works", "refused"}
