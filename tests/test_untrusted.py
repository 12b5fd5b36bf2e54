"""A model from a stranger is data: whatever its files say, nothing is imported, run or fetched."""

import json
import math
import pickle
import random
from contextlib import suppress
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from google.protobuf.message import DecodeError
from onnx import TensorProto, helper, parser
from safetensors.torch import load_file, save
from strangers import CARD, OLD, copied, written

from models import build, classifier
from pipeline import portable
from pipeline.artifacts import onnx_export
from pipeline.common.errors import UserError
from pipeline.portable import DamagedError, OnnxClassifier, onnx_file


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    return written(tmp_path_factory.mktemp("stranger") / "train", CARD)


@pytest.fixture(scope="module")
def exported(trained) -> Path:
    folder = trained.with_name("portable")
    onnx_export.to_onnx(trained, folder)
    return folder


UPGRADED = {"flip": False, "temperature": 1.0, "unsure_below": 0.0, "task": "single_label", "thresholds": []}


@pytest.mark.parametrize("name", OLD)
def test_cards_of_earlier_code_still_load_and_answer(name, tmp_path):
    folder = written(tmp_path / "old", OLD[name])
    model, card = classifier.load(folder)
    kept = json.loads(card.to_json())
    assert kept | OLD[name] == kept  # all that it said, and what it lacked:
    assert {key: kept[key] for key in kept.keys() - OLD[name].keys()} == {
        key: value for key, value in UPGRADED.items() if key not in OLD[name]
    }
    assert model(torch.zeros(1, 32, 32, 3, dtype=torch.uint8)).shape == (1, 3)


def test_every_model_of_this_checkout_has_arguments_that_its_registry_knows():
    from omegaconf import OmegaConf

    from pipeline import config

    for name in config.choices("model"):
        build.check(OmegaConf.to_container(config.compose(f"model={name}").model.net, resolve=True))


@pytest.mark.parametrize(
    ("net", "message"),
    [
        ({"_target_": "pandas.read_pickle", "filepath_or_buffer": "x.pkl"}, "is not a registered network"),
        ({"_target_": "os.system", "command": "touch x"}, "is not a registered network"),
        ({"_target_": "models.classifier.load", "folder": "/"}, "is not a registered network"),
        ({"_target_": "models.pretrained.torch.hub.load"}, "is not a registered network"),
        (CARD["net"] | {"widths": {"_target_": "pandas.read_pickle"}}, "net must be a mapping"),
        (CARD["net"] | {"_partial_": True}, "takes no argument '_partial_'"),
        (CARD["net"] | {"widths": [8, 100_001]}, "out of bounds"),
        (CARD["net"] | {"widths": [8, 90_000]}, "the weights do not match the card.s network"),
        (CARD["net"] | {"depths": [1, 100_000]}, "far larger than the weights"),
        (CARD["net"] | {"widths": [0, 0]}, "out of bounds"),
        (CARD["net"] | {"depths": [0, 0]}, "out of bounds"),
        (CARD["net"] | {"dropout": 1.5}, "out of bounds"),
        (CARD["net"] | {"depths": "11"}, "wrong type for ScratchCNN"),
        (CARD["net"] | {"dropout": True}, "wrong type for ScratchCNN"),
        ({"_target_": "models.scratch.ScratchCNN"}, "needs the argument"),
        *(
            ({"_target_": "models.pretrained.create", "backbone": name}, message)
            for name, message in [
                ("hf-hub:timm/resnet18.a1_in1k", "is not a timm model name"),
                ("local-dir:/tmp", "is not a timm model name"),
                ("../resnet10t", "is not a timm model name"),
                ("resnet1800", "can't be built"),
                ("vit_giant_patch14_dinov2", "far larger than the weights"),
            ]
        ),
        *(
            ({"_target_": "models.pretrained.create", "backbone": "resnet10t", name: value}, message)
            for name, value, message in [
                ("checkpoint_path", "/etc/passwd", "takes no argument 'checkpoint_path'"),
                ("cache_dir", "/tmp/x", "takes no argument"),
                ("pretrained", True, "takes no argument"),
                ("pretrained_cfg", "x", "takes no argument"),
                ("pretrained_cfg_overlay", "x", "takes no argument"),
                ("features_only", True, "takes no argument"),
                ("img_size", 1_000_000, "out of bounds"),
            ]
        ),
    ],
)
def test_a_card_names_known_networks_with_known_arguments_or_is_refused(net, message, trained, tmp_path):
    folder = copied(trained, tmp_path / "card", model_json=json.dumps(CARD | {"net": net}))
    with pytest.raises(DamagedError, match=message):
        classifier.load(folder)


def test_a_cards_weights_and_files_are_not_fetched(monkeypatch, trained, tmp_path):
    card = OLD["backbone"]
    folder = written(tmp_path / "backbone", card)
    net = card["net"] | {"weights": "hub", "file": "/etc/passwd"}
    folder = copied(folder, tmp_path / "hub", model_json=json.dumps(card | {"net": net}))
    monkeypatch.setattr("models.pretrained._load_file", lambda *_: pytest.fail("opened"))
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *_, **__: pytest.fail("fetched"))
    classifier.load(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no sound JSON"),
        ("[]", "no model card"),
        ("[" * 100_000, "too deeply nested"),
        ('{"name": "a", "name": "b"}', "a key stands twice"),
        (json.dumps(CARD | {"temperature": math.nan}), "NaN is no number"),
        (json.dumps(CARD | {"temperature": 0}), "temperature must be"),
        (json.dumps(CARD).replace("1.5", "1e999"), "temperature must be"),
        (json.dumps(CARD).replace("1.5", "1" * 5000), "no sound JSON"),
        (json.dumps(CARD | {"data": "../../x"}), "data must be a name"),
        (json.dumps(CARD | {"data": "..", "name": "x"}), "data must be a name"),
        (json.dumps(CARD | {"name": "a/b"}), "name must be a name"),
        (json.dumps(CARD | {"classes": ["a", "a", "b"]}), "classes must be"),
        (json.dumps(CARD | {"classes": ["a"], "species": [""]}), "classes must be"),
        (json.dumps(CARD | {"classes": ["a", "b", "\ud800"]}), "no sound JSON"),
        (json.dumps(CARD | {"species": [""]}), "species must name one"),
        (json.dumps(CARD | {"input": CARD["input"] | {"size": 100_000}}), "input.size must be"),
        (json.dumps(CARD | {"input": CARD["input"] | {"std": [0, 1, 1]}}), "input.std must be"),
        (json.dumps(CARD | {"input": CARD["input"] | {"blur": 3}}), "unknown field 'blur'"),
        (json.dumps({key: CARD[key] for key in CARD if key != "input"}), "input is missing"),
    ],
)
def test_what_is_no_card_is_told_in_one_line(text, message, tmp_path):
    (tmp_path / "model.json").write_text(text)
    with pytest.raises(DamagedError, match=message) as error:
        portable.read_card(tmp_path)
    assert "\n" not in str(error.value)


def test_a_field_of_later_code_has_no_effect(trained, tmp_path):
    card = CARD | {"later": {"_target_": "os.abort"}}
    folder = copied(trained, tmp_path / "later", model_json=json.dumps(card))
    assert classifier.load(folder)[1] == classifier.load(trained)[1]


@pytest.mark.parametrize("kind", ["pickle", "short", "header", "shape", "missing"])
def test_weights_that_lie_are_told(kind, trained, tmp_path):
    good = (trained / "weights.safetensors").read_bytes()
    length = int.from_bytes(good[:8], "little")
    data = {
        "pickle": pickle.dumps({"a": 1}, protocol=5),
        "short": good[: len(good) // 2],
        "header": (1 << 60).to_bytes(8, "little") + good[8:],
        "shape": good[:8] + good[8 : 8 + length].replace(b"[8,3,3,3]", b"[3,8,3,3]") + good[8 + length :],
        "missing": b"",
    }[kind]
    folder = copied(trained, tmp_path / kind, weights_safetensors=data)
    if kind == "missing":
        (folder / "weights.safetensors").unlink()
    with pytest.raises(DamagedError, match=r"weights|can't be read"):
        classifier.load(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda value: value.to(torch.bool), "is torch.bool, not torch.float32"),
        (lambda value: value.to(torch.int8), "is torch.int8, not torch.float32"),
        (lambda value: value.to(torch.complex64), "is torch.complex64, not torch.float32"),
        (lambda value: value * math.nan, "contains NaN or infinity"),
        (lambda value: value / 0, "contains NaN or infinity"),
    ],
)
def test_weights_that_would_be_converted_or_answer_nan_are_refused(change, message, trained, tmp_path):
    state = load_file(trained / "weights.safetensors")
    state["head.weight"] = change(state["head.weight"])
    folder = copied(trained, tmp_path / "odd", weights_safetensors=save(state))
    with pytest.raises(DamagedError, match=message):
        classifier.load(folder)
    with pytest.raises(DamagedError, match=message):
        onnx_export.to_onnx(folder, tmp_path / "portable")


def test_weights_of_half_the_bits_are_read(trained, tmp_path):
    state = {name: value.half() for name, value in load_file(trained / "weights.safetensors").items()}
    state = {
        name: value.long() if name.endswith("batches_tracked") else value for name, value in state.items()
    }
    folder = copied(trained, tmp_path / "half", weights_safetensors=save(state))
    assert classifier.load(folder)[0].net.head.weight.dtype == torch.float32


def test_a_network_whose_export_nobody_would_read_is_told_at_export(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_file, "_ALLOWED", {("node", 4): (frozenset((b"Conv",)), "the operator {}")})
    with pytest.raises(UserError, match=r"can't be exported: .* has the operator"):
        onnx_export.to_onnx(trained, tmp_path / "portable")


# --- ONNX


def _graph(body: str, classes: int = 3, before: str = "uint8[h,w,3] picture") -> bytes:
    head = f'<ir_version: 10, opset_import: ["" : 18]> g ({before}) => (float[{classes}] probabilities)'
    return parser.parse_model(f"{head} {{ {body} }}").SerializeToString()


CONSTANT = "probabilities = Constant <value_floats=[0.1,0.2,0.7]> ()"
LOOP = """m = Constant <value_int: int = 9000000000000000000> ()
  c = Constant <value = bool {1}> ()
  x0 = Constant <value_floats=[0.1,0.2,0.7]> ()
  probabilities = Loop (m, c, x0) <body = b (int64 i, bool ci, float[3] x) => (bool co, float[3] y) {
     co = Identity(ci)
     y = Identity(x)
  }>"""
HUGE = """s = Constant <value_ints=[100000,1000,1000]> ()
  a = Constant <value = float {0.5}> ()
  v = Expand (a, s)
  m = ReduceMean <keepdims=0> (v)
  x = Constant <value_floats=[0.1,0.2,0.7]> ()
  probabilities = Add (x, m)"""


DATA_DECIDES = f"""s = Constant <value_ints=[600000000]> ()
  a = Constant <value = bool {{1}}> ()
  v = Expand (a, s)
  n = NonZero (v)
  {CONSTANT}"""
JOINED = "t0 = Identity (picture)\n" + "\n".join(
    f"t{number + 1} = StringConcat (t{number}, t{number})" for number in range(30)
)
JOINED += f"\n{CONSTANT}"


def _texts() -> onnx.TensorProto:
    return helper.make_tensor("t", TensorProto.STRING, [1], [b"a"])


def _with_raw_node(field: bytes) -> bytes:
    """A graph with one more node, of which protobuf reads something else than its tag of 35 bits says."""
    node = b"\x22\x08Identity" + field
    graph = b"\x0a" + bytes([len(node)]) + node
    return _graph(CONSTANT) + b"\x3a" + bytes([len(graph)]) + graph


def _external(where: str) -> bytes:
    """A graph whose constant lies in another file."""
    tensor = helper.make_tensor("w", TensorProto.FLOAT, [3], [0.1, 0.2, 0.7])
    tensor.ClearField("float_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", where), ("length", "12")):
        tensor.external_data.add(key=key, value=value)
    inputs = "uint8[h,w,3] picture, float[3] w"
    model = onnx.ModelProto.FromString(_graph("probabilities = Identity (w)", before=inputs))
    del model.graph.input[1]
    model.graph.initializer.append(tensor)
    return model.SerializeToString()


def _with(change) -> bytes:
    model = onnx.ModelProto.FromString(_graph(CONSTANT))
    change(model)
    return model.SerializeToString()


HOSTILE = {
    "empty": (b"", "no ONNX file"),
    "text": (b"no model at all, but a few words", "no ONNX file"),
    "zeros": (bytes(1000), "no ONNX file"),
    "three of 35": (
        _graph("probabilities = Constant <value_floats=[0.5,0.5]> ()", 2),
        "one probability for each",
    ),
    "NaN": (_graph(CONSTANT.replace("0.1", "nan")), "something else than probabilities|no ONNX"),
    "sum": (_graph(CONSTANT.replace("0.1", "0.9")), "something else than probabilities"),
    "negative": (_graph(CONSTANT.replace("0.1,0.2", "-0.5,0.8")), "something else than probabilities"),
    "another shape": (
        _graph("x = Constant <value_floats=[0.5,0.5]> () probabilities = Identity (x)"),
        "one probability for each",
    ),
    "another input": (_graph(CONSTANT, before="uint8[h,w,3] image"), "of an older form"),
    "float input": (_graph(CONSTANT, before="float[h,w,3] picture"), "takes no picture"),
    "a loop": (_graph(LOOP), "has the operator 'Loop'"),
    "huge": (_graph(HUGE), "of memory"),
    "external": (_external("/etc/hostname"), "has data in other files"),
    "external beside": (_external("SHA256SUMS"), "has data in other files"),
    "functions": (
        _with(lambda model: model.functions.add(name="f", domain="d")),
        "has functions of its own",
    ),
    # A tag of more than 32 bits, of which protobuf takes the lower ones: field 25, a function, 2 bytes long.
    "hidden functions": (_graph(CONSTANT) + b"\xca\x81\x80\x80\x10\x02\x0a\x00", "no ONNX file"),
    "results as long as the data say": (_graph(DATA_DECIDES), "has the operator 'NonZero'"),
    "texts in a constant": (_graph(f't = Constant <value_string="a"> () {CONSTANT}'), "has texts"),
    "texts in a list": (_graph(f't = Constant <value_strings=["a"]> () {CONSTANT}'), "has texts"),
    "texts in a tensor": (
        _with(lambda model: model.graph.initializer.append(_texts())),
        "has texts|values that are no numbers",
    ),
    "texts of numbers": (_graph(f"t = Cast <to=8> (picture) {CONSTANT}"), "has texts"),
    "joined texts": (_graph(JOINED), "has the operator 'StringConcat'"),
    "sequences": (_graph(f"s = SequenceConstruct (picture) {CONSTANT}"), "the operator 'SequenceCons"),
    # The same deeper down: a node of another domain (field 7), an attribute that is a graph (6).
    "hidden domain": (_with_raw_node(b"\xba\x80\x80\x80\x10\x04evil"), "no ONNX file"),
    "hidden branch": (_with_raw_node(b"\x2a\x07\xb2\x80\x80\x80\x10\x01\x00"), "no ONNX file"),
    "training": (_with(lambda model: model.training_info.add()), "has steps of a training"),
    "operators": (
        _with(lambda model: model.graph.node.add(op_type="Identity", domain="evil", output=["z"])),
        "operators outside the standard",
    ),
    "unknown operator": (
        _with(lambda model: model.graph.node.add(op_type="NoSuch", output=["z"])),
        "has the operator 'NoSuch'",
    ),
    "wrong types": (_graph("probabilities = Add (picture, picture)"), "can't be loaded"),
    "sparse": (_with(lambda model: model.graph.sparse_initializer.add()), "has sparse tensors"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_an_onnx_file_that_is_no_such_model_is_told_in_one_line(name, exported, tmp_path, capfd):
    data, message = HOSTILE[name]
    folder = copied(exported, tmp_path / "model", model_onnx=data)
    with pytest.raises(DamagedError, match=message) as error:
        OnnxClassifier(folder, threads=1)
    assert "\n" not in str(error.value)
    assert capfd.readouterr().err == ""


def test_an_answer_that_takes_too_long_is_broken_off(exported, tmp_path):
    slow = """s = Constant <value_ints=[2000,2000]> ()
      a = Constant <value = float {0.001}> ()
      v0 = Expand (a, s)
      """ + "\n".join(f"v{number + 1} = MatMul (v{number}, v{number})" for number in range(400))
    slow += """ m = ReduceMean <keepdims=0> (v400)
      zero = Constant <value = float {0}> ()
      nothing = Mul (m, zero)
      x = Constant <value_floats=[0.1,0.2,0.7]> ()
      probabilities = Add (x, nothing)"""
    folder = copied(exported, tmp_path / "model", model_onnx=_graph(slow))
    with pytest.raises(DamagedError, match=r"gave no answer within 0\.2 seconds"):
        OnnxClassifier(folder, threads=1, seconds=0.2)


def test_a_sound_model_answers_and_its_file_alone_is_read(exported):
    model = OnnxClassifier(exported, threads=1)
    assert model.probabilities(np.zeros((40, 30, 3), np.uint8)).sum() == pytest.approx(1, abs=1e-4)


def _holds_what_is_refused(model: onnx.ModelProto) -> bool:
    """What `onnx` itself, a reader of another make, finds in a model."""
    attributes = [attribute for node in model.graph.node for attribute in node.attribute]
    tensors = [*model.graph.initializer, *(attribute.t for attribute in attributes)]
    return bool(
        model.functions
        or model.training_info
        or model.graph.sparse_initializer
        or any(node.domain not in ("", "ai.onnx") for node in model.graph.node)
        or any(node.op_type not in portable.OPERATORS for node in model.graph.node)
        or any(each.HasField("g") or each.graphs or each.HasField("sparse_tensor") for each in attributes)
        or any(tensor.external_data or tensor.data_location or tensor.string_data for tensor in tensors)
    )


def test_a_thousand_damaged_graphs_never_end_in_a_traceback_nor_hide_anything(exported, tmp_path):
    good, luck = (exported / "model.onnx").read_bytes(), random.Random(0)
    file = tmp_path / "model.onnx"
    accepted = 0
    for _ in range(1000):
        data = bytearray(good[: luck.choice([len(good), luck.randrange(len(good))])])
        for _ in range(luck.randrange(1, 8)):
            if data:
                data[luck.randrange(min(len(data), 4000))] = luck.randrange(256)
        file.write_bytes(data)
        try:
            portable.read_onnx(file)
        except DamagedError as error:
            assert "\n" not in str(error)
            continue
        with suppress(DecodeError):  # which ONNX Runtime refuses as well
            assert not _holds_what_is_refused(onnx.ModelProto.FromString(bytes(data)))
            accepted += 1
    assert accepted > 100
