"""Hundreds of mutated cards at every entry point: each works or is a one-line error, without side effects."""

import json
import random
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from untrusted_models import CARD, OLD, SETTINGS, copied, written

from pipeline import evaluate
from pipeline.artifacts import onnx_export
from pipeline.artifacts.model_folder import ModelFolder
from pipeline.common.errors import UserError, os_errors_as_user_errors
from pipeline.inference import export, resolve, serve
from pipeline.maintenance import vetting
from pipeline.portable import OnnxClassifier
from pipeline.train import start_model
from pipeline.training import build

CARDS = 300  # mutated in each test
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
    uses_canary = _watched["canary"] in str(arguments[:2]) if event in ("open", "import") else False
    if event in (*REFUSED, "pickle.find_class") or uses_canary:
        _seen.append(f"{event} {str(arguments)[:200]}")


@pytest.fixture(scope="module", autouse=True)
def _audit():
    sys.addaudithook(_hook)  # can't be removed; it does nothing outside `_canary`


@contextmanager
def _canary(name: str):
    """Asserts that its context starts no program, connects to nothing and loads no file of this name."""
    _seen.clear()
    _watched.update(on=True, canary=name)
    try:
        yield
    finally:
        _watched["on"] = False
    assert not _seen


@pytest.fixture(scope="module")
def canary(tmp_path_factory):
    """A folder with a module and a pickle that end the process when loaded."""
    folder = tmp_path_factory.mktemp("canary")
    (folder / "canary_module.py").write_text("raise SystemExit('imported')\n")
    (folder / "canary.pkl").write_bytes(b"cos\nabort\n(tR.")
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))


def _junk(rng: random.Random, canary: Path) -> object:
    file, timm = str(canary / "canary.pkl"), "models.pretrained.create"
    nested: object = 1
    for _ in range(rng.choice([3, 60, 900])):
        nested = [nested]
    return rng.choice(
        [
            None, True, False, 0, -1, 1, 7, 0.5, -0.0, 1e-300, 1e308, 10**30, float("nan"), float("inf"),
            "", "x", "x" * 5000, "a\nb", "\ud800", "\x1b[31m", "..", "../../x", file, f"hf-hub:{file}",
            f"local-dir:{canary}", "canary_module.run", "models.canary_module.Net", "resnet10t",
            "models.scratch.ResidualBlock", "models.pretrained.create", "${oc.env:HOME}",
            [], {}, [1, 2, 3], [None] * 3, ["a"] * 3, nested,
            {"_target_": "canary_module.run"},
            {"_target_": "pandas.read_pickle", "filepath_or_buffer": file},
            {"_target_": timm, "backbone": "resnet10t", "checkpoint_path": file},
            {"_target_": timm, "backbone": "resnet10t", "cache_dir": file},
            {"_target_": timm, "backbone": f"hf-hub:{file}", "weights": "hub"},
            {"_target_": timm, "backbone": "resnet10t", "weights": "file", "file": file},
            {"_target_": "models.scratch.ScratchCNN", "widths": [10**5] * 60, "depths": [10**5] * 60},
        ]
    )  # fmt: skip


def _nodes(tree: object, depth: int = 5) -> list[tuple]:
    """(container, key) of every node of a tree, down to a depth."""
    if not depth:
        return []
    keys = list(tree) if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else []
    own = [(tree, key) for key in keys]
    return own + [node for _, key in own for node in _nodes(tree[key], depth - 1)]


def _mutated(rng: random.Random, canary: Path) -> str:
    """The JSON of a card with a few changes, or any other JSON; sometimes truncated."""
    if rng.random() < 0.1:
        return json.dumps(_junk(rng, canary))
    card = json.loads(json.dumps(rng.choice([CARD, *OLD.values()])))
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        container, key = rng.choice(_nodes(card))
        change = rng.randrange(5)
        if change == 0:
            del container[key]
        elif change == 1 and isinstance(container, dict):
            container[rng.choice(["_args_", "_partial_", "extra", "size", "file", "cache_dir"])] = _junk(
                rng, canary
            )
        elif change == 2 and isinstance(container[key], list):
            container[key] *= rng.choice([0, 2, 1000])
        else:
            container[key] = _junk(rng, canary)
        if not _nodes(card):
            break
    text = json.dumps(card)
    return text[: rng.randrange(len(text))] if rng.random() < 0.05 else text


@pytest.fixture(scope="module")
def valid(tmp_path_factory):
    """A valid train folder, and the same model exported."""
    folder = tmp_path_factory.mktemp("valid")
    train, exported = written(folder / "train", CARD), folder / "portable"
    onnx_export.to_onnx(train, exported)
    return train, exported


@pytest.fixture
def quick(monkeypatch):
    """Exporting and serving, which take minutes, are replaced: the tests are about reading cards."""
    monkeypatch.setattr(onnx_export, "_export", lambda *_: (_ for _ in ()).throw(UserError("exported")))
    monkeypatch.setattr(onnx_export, "trunk", lambda *_: (_ for _ in ()).throw(UserError("exported")))
    monkeypatch.setattr("uvicorn.Server.run", lambda *_, **__: None)
    monkeypatch.setattr("pipeline.tracking.descriptions.name_of", lambda model: "x")


@pytest.mark.integration
def test_mutated_cards_work_or_are_refused_in_one_line_at_every_entry_point(
    valid, canary, quick, tmp_path, capsys
):
    train, exported = valid
    rng, ends = random.Random(15), {}
    net = build.build  # imports timm before the audit hook is active
    assert net
    for number in range(CARDS):
        text = _mutated(rng, canary)
        train_copy = copied(train, tmp_path / f"{number}/train", model_json=text)
        exported_copy = copied(exported, tmp_path / f"{number}/portable", model_json=text)
        entries = {
            "predict exported": lambda folder=exported_copy: OnnxClassifier(
                resolve._find(str(folder), tmp_path / "s").portable
            ),
            "predict trained": lambda folder=train_copy: resolve._find(str(folder), tmp_path / "s"),
            "export": lambda one=exported_copy, two=train_copy: export.export(
                ModelFolder(two, portable=one), tmp_path / "o", page=False
            ),
            "evaluate": lambda folder=train_copy: evaluate.evaluate(
                folder, tmp_path / "no", tmp_path / "e", 1, 0
            ),
            "register": lambda one=train_copy, two=exported_copy: ModelFolder(one, one, two).card,
            "serve": lambda folder=exported_copy: serve.run(folder, "127.0.0.1", 0),
            "sync, reproduce": lambda folder=train_copy: ModelFolder.open(folder),
            "start": lambda folder=train_copy: _start(folder),
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


def test_mutated_settings_work_or_are_refused_before_code_of_a_commit_runs(project, canary, tmp_path):
    import yaml

    from pipeline.artifacts import untrusted

    rng, ends = random.Random(7), set()
    vetting.settings(yaml.safe_load(SETTINGS), project, "sample 1")
    for number in range(CARDS):
        tree = yaml.safe_load(SETTINGS)
        for _ in range(rng.choice([1, 1, 2])):
            if nodes := _nodes(tree):
                container, key = rng.choice(nodes)
                container[key] = _junk(rng, canary)
        folder = tmp_path / str(number)
        folder.mkdir()

        def call(folder=folder, tree=tree):
            (folder / "config.yaml").write_text(yaml.safe_dump(tree), errors="surrogatepass")
            vetting.settings(untrusted.settings(folder), project, "sample 1")

        with _canary(str(canary)):
            ends.add(_end("reproduce", call, str(tree)))
    assert ends == {"works", "refused"}
