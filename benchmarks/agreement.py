"""Whether a model gives the same answer in torch, ONNX Runtime, MLflow's pyfunc, serve and the browser.

``python -m benchmarks.agreement`` uses the champion of params.yaml's data, and images of its test split as
they are in the archive. ``--model`` selects another model. Each row of the table compares a pair:

- the differences in probability
- the number of different top predictions, if the first model's top two classes are more than MARGIN apart

pyfunc and the browser give only the five most probable classes, so only those are compared.
"""

import re
import shutil
import tempfile
import threading
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas
import requests
from rich.console import Console
from rich.table import Table

from benchmarks.common import argument_parser, describe_machine
from benchmarks.serving import served
from models import classifier
from pipeline import portable
from pipeline.common.paths import ROOT
from pipeline.data.dataset import LooseImages, PackedDataset
from pipeline.evaluation import predictions
from pipeline.inference import browser_demo, export, resolve
from pipeline.portable import ModelCard
from pipeline.sources import archives

MARGIN = 0.05


# Each of these functions returns probabilities of encoded images, images × classes, NaN where there is none.


def by_torch(train: Path, files: list[bytes]) -> np.ndarray:
    """By the trained network; Pillow resizes the images."""
    model, card = classifier.load(train)
    images = [np.asarray(portable.read_picture(file)) for file in files]
    return predictions.predict(model, LooseImages(images, card.input), 16)


def by_pyfunc(folder: Path, files: list[bytes]) -> np.ndarray:
    """By MLflow's loader."""
    model = portable._load_pyfunc(str(folder))
    answers = model.predict(pandas.DataFrame({"image": files}))
    found = np.full((len(files), len(model.classes)), np.nan)
    for row, (labels, values) in enumerate(zip(answers["labels"], answers["probabilities"], strict=True)):
        found[row, [model.classes.index(label) for label in labels]] = values
    return found


def by_serve(folder: Path, files: list[bytes], classes: list[str]) -> np.ndarray:
    """By uploads to ``petfaces serve``."""
    with served(folder) as address:
        found = np.empty((len(files), len(classes)))
        for row, file in enumerate(files):
            url = f"{address}/predict?top=1000"
            answer = requests.post(url, files={"photo": file}, timeout=60).json()
            found[row, [classes.index(label) for label in answer["labels"]]] = answer["probabilities"]
        return found


def by_browser(folder: Path, files: list[bytes], card: ModelCard) -> np.ndarray | None:
    """By the browser demo in Chromium; None if Chromium is not installed."""
    binary = shutil.which("chromium") or shutil.which("chromium-browser")
    if not binary:
        return None
    from playwright.sync_api import sync_playwright

    addresses: list[str] = []
    is_serving = threading.Event()

    def ready(address: str) -> None:
        addresses.append(address)
        is_serving.set()

    threading.Thread(target=browser_demo.serve, args=(folder, 0, ready), daemon=True).start()
    is_serving.wait()
    names = [re.sub(r"^(cat|dog)_", "", name).replace("_", " ") for name in card.classes]
    found = np.full((len(files), len(names)), np.nan)
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=binary, args=["--no-sandbox"])
        tab = browser.new_page(locale="en-GB")
        tab.goto(addresses[0])
        tab.wait_for_selector("body[data-ready=yes]", timeout=60_000)
        for row, file in enumerate(files):
            tab.set_input_files("#file", {"name": "a.jpg", "mimeType": "image/jpeg", "buffer": file})
            while int(tab.get_attribute("body", "data-answered") or 0) < row + 1:
                tab.wait_for_timeout(10)
            read_bars = "bars => bars.map(bar => [bar.getAttribute('aria-label'), bar.value])"
            for name, probability in tab.eval_on_selector_all("#bars progress", read_bars):
                found[row, names.index(name)] = probability
        browser.close()
    return found


def compare(one: np.ndarray, other: np.ndarray) -> tuple[float, float, int]:
    """Maximum and mean difference where both have a probability, and the number of different top classes."""
    both = ~np.isnan(one) & ~np.isnan(other)
    differences = np.abs(one - other)[both]
    top_one, top_other = (np.nanargmax(each, axis=1) for each in (one, other))
    best = -np.sort(-np.nan_to_num(one), axis=1)
    is_clear = best[:, 0] - best[:, 1] > MARGIN
    return float(differences.max()), float(differences.mean()), int((is_clear & (top_one != top_other)).sum())


def main() -> None:
    parser = argument_parser(__spec__.name, __doc__, overrides=False)
    parser.add_argument("--model", help=resolve.HELP)
    parser.add_argument("--pictures", type=int, default=500, help="number of images")
    args = parser.parse_args()
    with resolve.opened(args.model) as found, tempfile.TemporaryDirectory() as scratch:
        card = found.card
        pack = PackedDataset.open(ROOT / "data" / card.data)
        paths = set(pack.table["path"])
        # Test images first, then others, because a test split may have fewer than 500.
        test_paths = set(pack.table["path"][pack.table["split"] == "test"])
        members = archives.members(ROOT / "data" / card.data / "archive")
        data = {path: encoded for path, encoded in members if path in paths}
        files = [data[path] for path in sorted(data, key=lambda path: (path not in test_paths, path))]
        files = files[: args.pictures]
        folder = export.export(found, Path(scratch) / "exported")
        session = portable.OnnxClassifier(folder)
        methods: dict[str, Callable[[], np.ndarray | None]] = {
            "torch": lambda: by_torch(found.train, files),
            "ONNX Runtime": lambda: np.stack([session.probabilities(file) for file in files]),
            "pyfunc": lambda: by_pyfunc(found.portable, files),
            "serve": lambda: by_serve(folder, files, card.classes),
            "browser": lambda: by_browser(folder / "try", files, card),
        }
        results = {name: result for name, method in methods.items() if (result := method()) is not None}
    columns = ("", "", "maximum difference", "mean difference", "different top prediction")
    table = Table(*columns, title=f"{len(files)} images")
    for one, other in combinations(results, 2):
        maximum, mean, count = compare(results[one], results[other])
        table.add_row(one, other, f"{maximum:.4f}", f"{mean:.6f}", str(count))
    console = Console(width=120)
    console.print(describe_machine("torch", "onnxruntime", "mlflow"))
    console.print(table)


if __name__ == "__main__":
    main()
