"""What a head answers that was taught with few images: ``python -m benchmarks.few data=petfaces``

First the accuracy with 1 to 20 training images a class, on all other images, beside nearest class mean and
logistic regression; means and standard deviations of ten draws.

Then which images are answered at all: unseen ones of a few classes, and others, which belong to none of them.
The peers answer if their highest probability reaches the threshold at which 95 % of the test images of the
classes are answered; in practice nobody knows it. "Similar" are a class and the one with the nearest mean,
"different" ones a class and the farthest.

It needs the data set's archive (``dvc repro fetch``); the sample's and ``--photos`` add images of no class.
"""

import warnings
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks.common import argument_parser, describe_machine, time_in_turn
from benchmarks.pictures import computed, others, pictures
from catalog.helper.features import imagenet_typical
from catalog.teach.descent import nearest_mean, softmax
from catalog.teach.head import train
from pipeline import config
from pipeline.common.paths import ROOT

DRAWS = range(100, 110)  # others were used for choosing the method
SHOTS, NONE_SHOTS = (1, 5, 10, 20), (1, 5, 20)
CLASSES = ("2 similar", "2 different", "2", "3", "5", "20")
KNOWN = 0.95  # share of the test images that the peers' threshold answers


def drawn(y: np.ndarray, chosen: np.ndarray, count: int, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Training and test images of the chosen classes, and their labels counted from 0."""
    parts = [rng.permutation(np.flatnonzero(y == label)) for label in chosen]
    training, test = [part[:count] for part in parts], [part[count:] for part in parts]
    labels = np.arange(len(chosen))
    return (
        *(np.concatenate(training), np.repeat(labels, count)),
        *(np.concatenate(test), np.repeat(labels, [len(part) for part in test])),
    )


def by_means(x: np.ndarray, y: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Probabilities of nearest class mean, N×classes, for features in units of their deviation."""
    means = np.stack([x[y == label].mean(axis=0) for label in np.unique(y)])
    centre = means.mean(axis=0)
    scale = np.sqrt(np.square(x - centre).sum(axis=1).mean())
    weight, bias = nearest_mean((means - centre) / scale, np.float32(10))
    return softmax((images - centre) / scale @ weight.T + bias)


def by_regression(x: np.ndarray, y: np.ndarray, images: np.ndarray) -> np.ndarray:
    return LogisticRegression(max_iter=1000).fit(x, y).predict_proba(images)


def by_standardised(x: np.ndarray, y: np.ndarray, images: np.ndarray) -> np.ndarray:
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    return model.fit(x, y).predict_proba(images)


def by_head(x: np.ndarray, y: np.ndarray, images: np.ndarray) -> np.ndarray:
    return train(x, y, y.max() + 1).head.probabilities(images)[:, :-1]


METHODS = {
    "this head": by_head,
    "nearest class mean": by_means,
    "logistic regression": by_regression,
    "the same, standardised": by_standardised,
}


def accuracy_table(x: np.ndarray, y: np.ndarray, data: str) -> Table:
    """Accuracy of each method by number of training images."""
    table = Table("images a class", *METHODS, title=f"accuracy on {data}, {y.max() + 1} classes")
    for count in SHOTS:
        right: dict[str, list[float]] = {name: [] for name in METHODS}
        for seed in DRAWS:
            parts = drawn(y, np.unique(y), count, np.random.default_rng(seed))
            training, labels, test, truth = parts
            for name, method in METHODS.items():
                answers = method(x[training], labels, x[test]).argmax(axis=1)
                right[name].append(float((answers == truth).mean()))
        table.add_row(str(count), *(f"{np.mean(each):.1%} ± {np.std(each):.1%}" for each in right.values()))
    return table


def choose(x: np.ndarray, y: np.ndarray, which: str, rng: np.random.Generator) -> np.ndarray:
    """Random classes, as `CLASSES` describes them."""
    number, _, kind = which.partition(" ")
    if not kind:
        return rng.choice(y.max() + 1, int(number), replace=False)
    means = np.stack([x[y == label].mean(axis=0) for label in range(y.max() + 1)])
    first = int(rng.integers(len(means)))
    distance = np.square(means - means[first]).sum(axis=1)
    nearest = np.argsort(distance)
    return np.array([first, nearest[1] if kind == "similar" else nearest[-1]])


def none_table(x: np.ndarray, y: np.ndarray, outside: dict[str, np.ndarray]) -> Table:
    """Share of images that get an answer: of the classes, and of others."""
    names = ("known", "other classes", *outside)
    table = Table("classes", "images", "method", *names, title="share of images that are answered")
    for which in CLASSES:
        for count in NONE_SHOTS:
            shares: dict[str, list[list[float]]] = {}
            for seed in DRAWS:
                rng = np.random.default_rng(seed)
                chosen = choose(x, y, which, rng)
                training, labels, test, _ = drawn(y, chosen, count, rng)
                asked = [x[test], x[~np.isin(y, chosen)], *outside.values()]
                head = train(x[training], labels, len(chosen), typical=imagenet_typical()).head
                answered = [float((~head.is_none(head.probabilities(each))).mean()) for each in asked]
                shares.setdefault("this head", []).append(answered)
                for name in ("nearest class mean", "logistic regression"):
                    highest = [METHODS[name](x[training], labels, each).max(axis=1) for each in asked]
                    level = np.quantile(highest[0], 1 - KNOWN)
                    shares.setdefault(name, []).append([float((each >= level).mean()) for each in highest])
            for name, rows in shares.items():
                table.add_row(which, str(count), name, *(f"{share:.1%}" for share in np.mean(rows, axis=0)))
            table.add_section()
    return table


def main() -> None:
    """Prints the tables and the time of one training."""
    parser = argument_parser("benchmarks.few", __doc__)
    parser.add_argument("--photos", type=Path, help="folder with the archives of Oxford-IIIT Pet")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", "The number of unique classes")  # with one image a class
    data = config.compose(*arguments.overrides).data.name
    found = list(pictures(ROOT / "data" / data / "archive"))
    x = computed(data, (image for _, image in found))
    y = np.unique([label for label, _ in found], return_inverse=True)[1]
    console = Console(width=130)
    console.print(describe_machine("numpy", "scikit-learn", "onnxruntime"), f"{len(y):,} images")
    console.print(accuracy_table(x, y, data))
    console.print(none_table(x, y, others(data, arguments.photos)))
    rows, labels = np.arange(3700) % len(x), np.arange(3700) % 37
    timing = time_in_turn({"train": lambda: train(x[rows], labels, 37)}, 5)["train"]
    console.print(f"training with 37 × 100 images: {timing.format()} s")


if __name__ == "__main__":
    main()
