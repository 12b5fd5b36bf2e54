"""Training against tuning: a small network from scratch and the taught head, on the same held-out images."""

import time
import warnings
from collections.abc import Callable
from datetime import timedelta

import numpy as np

from catalog import backbone
from catalog.feature_store import FeatureStore
from catalog.helper.progress import Progress
from catalog.language import N_
from catalog.library import Library
from catalog.store import Database, samples
from catalog.store.samples import Sample
from catalog.store.tables import Project
from catalog.teach import folds, head
from catalog.teach.comparison import Comparison, Point
from catalog.teach.data import TrainingData
from pipeline.common.errors import UserError
from pipeline.portable import read_picture, resizing

SIDE = 64  # pixels of the images for the network from scratch
WIDTHS = (16, 32, 64, 128)  # its channels: 0.3 million parameters
SHOWN = 8000  # images that it sees in all epochs together: about 20 seconds on two cores
EPOCHS = (6, 60)  # at least and at most
SECONDS = 90  # after which it ends early, on a busy machine
HELD_OUT = 4  # one image in so many, but whole recordings
TIMED = 16  # images whose features are computed again to know how long that takes


def compare(database: Database, library: Library, project: Project, progress: Progress) -> str:
    """Trains both on the same images, and writes their curves on the held-out ones while it goes on.

    Returns:
        Nothing to say beside the curves.

    Raises:
        UserError: there are too few images, or a file is missing.
    """
    with database.read() as session:
        found = samples.taught(session, project.id)
    exported = backbone.load(library.backbone)
    store = FeatureStore(library.features / exported.key)
    found = [each for each in found if each.sha256 in store]
    if len({each.class_id for each in found}) < 2:
        raise UserError(N_("Too few images: at least two classes need an image each."))
    data = TrainingData.collect(found, exported.key, store)
    test = _held_out(data)
    comparison = Comparison(data.samples, len(found), int(test.sum()))
    target = library.compared(project.id)
    pixels = np.stack([_pixels(library, each) for each in found])
    seconds = _seconds_per_image(library, exported.network, found)
    comparison.tuning.extend(_tuning(data, test, seconds))
    comparison.save(target)
    epochs = int(np.clip(SHOWN / len(found), *EPOCHS))

    def after_epoch(epoch: int, point: Point) -> None:
        comparison.scratch.append(point)
        comparison.save(target)
        progress.report(epoch, epochs, "training a small network from scratch")

    _train_from_scratch(data, test, pixels, epochs, after_epoch)
    return ""


def _held_out(data: TrainingData) -> np.ndarray:
    """Which images neither learns from, N bool.

    Raises:
        UserError: a class has images of one recording only.
    """
    if folds.groups_per_class(data.y, data.groups, len(data.classes)).min() < 2:
        raise UserError(N_("each class needs images of two recordings: one to learn from, one to test on"))
    return folds.deal(data.y, data.groups, HELD_OUT)[0]


def _pixels(library: Library, sample: Sample) -> np.ndarray:
    """A sample as the network from scratch sees it, uint8 SIDE×SIDE×3."""
    try:
        # It was decoded in a process of its own when it was added, so this can't take long.
        picture = read_picture(library.image(sample.sha256, sample.suffix).read_bytes())
    except FileNotFoundError:
        raise UserError(N_("an image's file is missing")) from None
    return resizing.to_square(resizing.shrink(picture, 4 * SIDE), SIDE, "bilinear", "squash", 1.0)


def _seconds_per_image(library: Library, network: backbone.Backbone, found: list[Sample]) -> float:
    """How long the backbone takes for an image; its features are computed once and then kept."""
    some = found[:TIMED]
    start = time.perf_counter()
    pictures = []
    for each in some:
        picture = read_picture(library.image(each.sha256, each.suffix).read_bytes())
        pictures.append(network.square(resizing.shrink(picture, network.sizing.max_side)))
    network(np.stack(pictures))
    return (time.perf_counter() - start) / len(some)


def _tuning(data: TrainingData, test: np.ndarray, seconds_per_image: float) -> list[Point]:
    """Accuracy of each recorded step of the head's training; the time begins with the features."""
    x, y, classes = data.x, data.y, len(data.classes)
    start = time.perf_counter()
    training = head.train(x[~test], y[~test], classes, data.groups[~test])
    duration, steps = time.perf_counter() - start, len(training.weights)
    before = seconds_per_image * len(y)
    points = []
    for step in range(steps):
        logits = x[test] @ training.weights[step].T + training.biases[step]
        right = logits[:, :classes].argmax(axis=1) == y[test]
        points.append(Point(before + duration * step / max(1, steps - 1), float(right.mean())))
    return points


def _train_from_scratch(
    data: TrainingData,
    held_out: np.ndarray,
    pixels: np.ndarray,
    epochs: int,
    after_epoch: Callable[[int, Point], None],
) -> None:
    """Trains a small network with Lightning.

    Args:
        data: class indices; its features are not used.
        held_out: the images that it is tested on, N bool.
        pixels: the images, uint8 N×SIDE×SIDE×3.
        epochs: of the training.
        after_epoch: called with the number of an epoch, from 1, and its point.
    """
    import pytorch_lightning as pl
    import torch
    from torch.utils.data import DataLoader, TensorDataset

    from models.classifier import Classifier
    from models.scratch import ScratchCNN
    from pipeline import tasks

    torch.manual_seed(0)
    images, targets = torch.from_numpy(pixels), torch.from_numpy(data.y)
    train, test = (torch.from_numpy(np.flatnonzero(mask)) for mask in (~held_out, held_out))
    classes = len(data.classes)
    task = tasks.of("single_label")
    net = ScratchCNN(classes, list(WIDTHS), [1] * len(WIDTHS))
    half = [0.5] * 3
    model = Classifier(net, classes, half, half, task, lr=2e-3, weight_decay=0.05)
    start = time.perf_counter()

    class Curve(pl.Callback):
        def on_validation_epoch_end(self, trainer: pl.Trainer, _: pl.LightningModule) -> None:
            accuracy = float(trainer.callback_metrics[task.monitor])
            after_epoch(trainer.current_epoch + 1, Point(time.perf_counter() - start, accuracy))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # advice on loaders' workers, which small images don't need
        trainer = pl.Trainer(
            accelerator="cpu",
            max_epochs=epochs,
            max_time=timedelta(seconds=SECONDS),
            callbacks=[Curve()],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
        )
        trainer.fit(
            model,
            DataLoader(TensorDataset(images[train], targets[train]), 16, shuffle=True),
            DataLoader(TensorDataset(images[test], targets[test]), 64),
        )
