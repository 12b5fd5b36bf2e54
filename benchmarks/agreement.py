"""Whether a model gives the same answer in torch, ONNX Runtime, MLflow's pyfunc, serve and the browser.

``python -m benchmarks.agreement`` uses the champion of params.yaml's data, and images of its test split as
they are in the archive. ``--model`` selects another model. Each row of the table compares a pair:

- how far the probabilities are apart
- how many top predictions differ although the first model's top two classes are more than MARGIN apart

The browser shows five classes, so only those are compared.
"""

import argparse
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

from benchmarks.machine import described
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


def by_torch(train: Path, files: list[bytes]) -> np.ndarray:
    """Probabilities of the trained network, sized by Pillow."""
    model, card = classifier.load(train)
    pictures = [np.asarray(portable.read_picture(file)) for file in files]
    return predictions.predict(model, LooseImages(pictures, card.input), 16)


def by_pyfunc(folder: Path, files: list[bytes]) -> np.ndarray:
    """What MLflow's loader gives, from its five best labels back to all classes."""
    model = portable._load_pyfunc(str(folder))
    answers = model.predict(pandas.DataFrame({"image": files}))
    found = np.full((len(files), len(model.classes)), np.nan)
    for row, (labels, shares) in enumerate(zip(answers["labels"], answers["probabilities"], strict=True)):
        found[row, [model.classes.index(label) for label in labels]] = shares
    return found


def by_serve(folder: Path, files: list[bytes], classes: list[str]) -> np.ndarray:
    """What serve answers to uploads."""
    with served(folder) as address:
        found = np.empty((len(files), len(classes)))
        for row, file in enumerate(files):
            told = requests.post(f"{address}/predict?top=1000", files={"photo": file}, timeout=60).json()
            found[row, [classes.index(label) for label in told["labels"]]] = told["probabilities"]
        return found


def by_browser(folder: Path, files: list[bytes], card: ModelCard) -> np.ndarray | None:
    """What the page shows in Chromium, or None where there is none."""
    binary = shutil.which("chromium") or shutil.which("chromium-browser")
    if not binary:
        return None
    from playwright.sync_api import sync_playwright

    ready: list[str] = []
    answering = threading.Event()

    def tell(address: str) -> None:
        ready.append(address)
        answering.set()

    threading.Thread(target=browser_demo.serve, args=(folder, 0, tell), daemon=True).start()
    answering.wait()
    names = [re.sub(r"^(cat|dog)_", "", name).replace("_", " ") for name in card.classes]
    found = np.full((len(files), len(names)), np.nan)
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=binary, args=["--no-sandbox"])
        tab = browser.new_page(locale="en-GB")
        tab.goto(ready[0])
        tab.wait_for_selector("body[data-ready=yes]", timeout=60_000)
        for row, file in enumerate(files):
            tab.set_input_files("#file", {"name": "a.jpg", "mimeType": "image/jpeg", "buffer": file})
            while int(tab.get_attribute("body", "data-answered") or 0) < row + 1:
                tab.wait_for_timeout(10)
            read = "bars => bars.map(bar => [bar.getAttribute('aria-label'), bar.value])"
            for name, share in tab.eval_on_selector_all("#bars progress", read):
                found[row, names.index(name)] = share
        browser.close()
    return found


def compared(one: np.ndarray, other: np.ndarray) -> tuple[float, float, int]:
    """Largest and mean difference where both tell a probability, and first answers that differ clearly."""
    both = ~np.isnan(one) & ~np.isnan(other)
    apart = np.abs(one - other)[both]
    first, second = (np.nanargmax(each, axis=1) for each in (one, other))
    best = -np.sort(-np.nan_to_num(one), axis=1)
    clear = best[:, 0] - best[:, 1] > MARGIN
    return float(apart.max()), float(apart.mean()), int((clear & (first != second)).sum())


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.agreement", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--model", help=resolve.HELP)
    parser.add_argument("--pictures", type=int, default=500)
    given = parser.parse_args()
    with resolve.opened(given.model) as found, tempfile.TemporaryDirectory() as scratch:
        card = found.card
        pack = PackedDataset.open(ROOT / "data" / card.data)
        paths = set(pack.table["path"])
        # Test pictures first, then others: 500 may be more than a test split has.
        tested = set(pack.table["path"][pack.table["split"] == "test"])
        read = {
            path: data
            for path, data in archives.members(ROOT / "data" / card.data / "archive")
            if path in paths
        }
        files = [read[path] for path in sorted(read, key=lambda path: (path not in tested, path))]
        files = files[: given.pictures]
        folder = export.export(found, Path(scratch) / "exported")
        session = portable.OnnxClassifier(folder)
        answers: dict[str, Callable[[], np.ndarray | None]] = {
            "torch": lambda: by_torch(found.train, files),
            "ONNX Runtime": lambda: np.stack([session.probabilities(file) for file in files]),
            "pyfunc": lambda: by_pyfunc(found.portable, files),
            "serve": lambda: by_serve(folder, files, card.classes),
            "browser": lambda: by_browser(folder / "try", files, card),
        }
        told = {name: answer for name, each in answers.items() if (answer := each()) is not None}
    table = Table("", "", "apart at most", "on average", "other first answer", title=f"{len(files)} pictures")
    for one, other in combinations(told, 2):
        most, mean, differ = compared(told[one], told[other])
        table.add_row(one, other, f"{most:.4f}", f"{mean:.6f}", str(differ))
    console = Console(width=120)
    console.print(described("torch", "onnxruntime", "mlflow"))
    console.print(table)


if __name__ == "__main__":
    main()
