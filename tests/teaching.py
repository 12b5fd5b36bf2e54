"""A catalog with a project of the teach page, and a tiny backbone instead of the pretrained one."""

import io
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import requests
from catalog_server import Catalog
from onnx import numpy_helper, parser
from PIL import Image

from catalog import backbone
from pipeline.portable import ModelCard, Preprocessing

SIDE = 32  # pixels that the backbone takes
COLOURS = {"red": (200, 40, 40), "green": (40, 180, 60), "blue": (40, 60, 200)}


def publish_backbone(folder: Path) -> None:
    """Publishes two convolutions with random weights: enough to tell colours apart."""
    graph = parser.parse_model(f"""
        <ir_version: 9, opset_import: ["" : 18]>
        tiny (uint8[pictures, {SIDE}, {SIDE}, 3] pictures) => (float[pictures, 24] features)
        <float[pictures, 12, 16, 16] small, float[pictures, 24, 8, 8] last> {{
            planes = Transpose <perm=[0, 3, 1, 2]> (pictures)
            bytes = Cast <to=1> (planes)
            white = Constant <value=float {{255.0}}> ()
            shares = Div (bytes, white)
            first = Conv <strides=[2, 2], pads=[1, 1, 1, 1]> (shares, first_weight)
            small = Relu (first)
            second = Conv <strides=[2, 2], pads=[1, 1, 1, 1]> (small, second_weight)
            last = Relu (second)
            axes = Constant <value_ints=[2, 3]> ()
            features = ReduceMean <keepdims=0> (last, axes)
        }}
    """)
    random = np.random.default_rng(0)
    for name, shape in (("first_weight", (12, 3, 3, 3)), ("second_weight", (24, 12, 3, 3))):
        weights = random.normal(0, 0.3, shape).astype(np.float32)
        graph.graph.initializer.append(numpy_helper.from_array(weights, name))
    trunk = folder.parent / "trunk/tiny.onnx"
    trunk.parent.mkdir(parents=True, exist_ok=True)
    onnx.save_model(graph, trunk)
    card = ModelCard(
        name="tiny",
        data="catalog",
        drawings=False,
        classes=["a", "b"],
        species=["", ""],
        net={"_target_": "models.scratch.ScratchCNN", "widths": [12, 24], "depths": [1, 1]},
        input=Preprocessing(64, SIDE, "bilinear", "squash", 1.0, [0.5] * 3, [0.5] * 3),
        channels_last=False,
        flip=False,
        temperature=1.0,
        unsure_below=0.0,
        task="single_label",
        thresholds=[],
    )
    backbone.publish(folder, trunk, card, np.zeros(24))


def photo(colour: str, seed: int) -> bytes:
    """An image of mostly one colour, different for each seed."""
    noise = np.random.default_rng(seed).integers(-35, 35, (40, 48, 3))
    pixels = np.clip(np.array(COLOURS[colour]) + noise, 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@dataclass
class Lesson:
    """A project of the teach page over HTTP."""

    catalog: Catalog
    address: str
    project: int = 0
    classes: dict[str, int] = field(default_factory=dict)

    def start(self, *names: str) -> "Lesson":
        """Creates the project, with classes of these names."""
        answer = requests.post(f"{self.address}/teach", allow_redirects=False, timeout=30)
        self.project = int(answer.headers["location"].rpartition("/")[2])
        for found, name in zip(self.state()["classes"], names, strict=False):
            self.post(f"/classes/{found['id']}", name=name)
            self.classes[name] = found["id"]
        for name in names[2:]:
            self.classes[name] = self.post("/classes", name=name)["id"]
        return self

    @property
    def root(self) -> str:
        return f"{self.address}/api/teach/{self.project}"

    def state(self) -> dict:
        return requests.get(self.root, timeout=30).json()

    def counts(self) -> dict[str, int]:
        return {found["name"]: found["count"] for found in self.state()["classes"]}

    def post(self, path: str, expected: int = 200, **body: object) -> dict:
        answer = requests.post(self.root + path, json=body, timeout=60)
        assert answer.status_code == expected, answer.text
        return answer.json()

    def add(self, name: str, *images: bytes, burst: str | None = None) -> dict:
        files = [("files", (f"{number}.png", data)) for number, data in enumerate(images)]
        data = {"burst": burst} if burst else None
        path = f"{self.root}/classes/{self.classes[name]}/samples"
        answer = requests.post(path, files=files, data=data, timeout=60)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def show(self, count: int = 4) -> "Lesson":
        """Adds images of its colour to each class."""
        for name in self.classes:
            self.add(name, *(photo(name, seed) for seed in range(count)))
        return self

    def samples(self, name: str) -> list[int]:
        path = f"{self.root}/classes/{self.classes[name]}/samples?limit=200"
        return [found["id"] for found in requests.get(path, timeout=30).json()]

    def train(self) -> dict:
        self.post("/train")
        return self.wait()

    def wait(self) -> dict:
        """The state once the worker has nothing left to do."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            state = self.state()
            is_validated = state["model"] is None or state["model"]["validation"] is not None
            if state["progress"]["phase"] == "idle" and is_validated:
                return state
            time.sleep(0.02)
        raise AssertionError(state)

    def answer(self, image: bytes) -> dict:
        answer = requests.post(f"{self.root}/answer", data=image, timeout=30)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def name_of(self, answer: dict) -> str:
        """The class that an answer names."""
        best = answer["classes"][int(np.argmax(answer["probabilities"]))]
        return next(name for name, class_id in self.classes.items() if class_id == best)
