"""Computes features of image files by a frozen backbone, or predictions by a champion."""

import functools
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from catalog import backbone as exported
from catalog.backbone import Backbone
from catalog.champions import Champion
from catalog.feature_store import FeatureStore
from catalog.library import Library
from catalog.teach import typical
from pipeline.common.errors import UserError
from pipeline.portable import (
    DamagedError,
    ModelCard,
    OnnxClassifier,
    Preprocessing,
    UnreadableError,
    read_picture,
    resizing,
)

_log = logging.getLogger(__name__)

CHUNK = 1024  # features per file of the store
BATCH = 16  # images per run of the network


class FileBackbone(Backbone):
    """A backbone that reads image files."""

    def prepare(self, file: Path) -> np.ndarray:
        """The image in a file as the network takes it, uint8 S×S×3."""
        return self.square(resizing.shrink(read_picture(file.read_bytes()), self.sizing.max_side))


class ChampionNetwork:
    """A champion of the pipeline; its features are the probabilities of its classes.

    Args:
        folder: the exported model.

    Raises:
        UserError: it is damaged.
    """

    def __init__(self, folder: Path):
        try:
            self._model = OnnxClassifier(folder, threads=1)  # images are prepared in several threads
        except DamagedError as error:
            raise UserError(str(error)) from error
        self.card = self._model.card

    def prepare(self, file: Path) -> np.ndarray:
        """The probabilities for the image in a file."""
        return self._model.probabilities(file.read_bytes())

    def __call__(self, probabilities: np.ndarray) -> np.ndarray:
        return probabilities


class ImageFiles(Mapping[str, Path]):
    """The files of images by their hashes; paths are made when they are asked for, to save memory.

    Args:
        library: of the catalog.
        suffixes: of the images, by hash.
    """

    def __init__(self, library: Library, suffixes: dict[str, str]):
        self._library, self._suffixes = library, suffixes

    def __getitem__(self, sha256: str) -> Path:
        return self._library.image(sha256, self._suffixes[sha256])

    def __iter__(self) -> Iterator[str]:
        return iter(self._suffixes)

    def __len__(self) -> int:
        return len(self._suffixes)


def _prepare(backbone: FileBackbone | ChampionNetwork, file: Path) -> np.ndarray:
    """Raises UserError for an image that has been damaged since it was read."""
    try:
        return backbone.prepare(file)
    except UnreadableError as error:
        raise UserError(f"{file} has been damaged ({error}); read the project's images again") from error


def compute(
    store: FeatureStore,
    backbone: FileBackbone | ChampionNetwork,
    files: ImageFiles,
    report: Callable[[int, int], None],
) -> int:
    """Computes and stores the features that are missing; returns their number.

    Args:
        store: where they go.
        backbone: the network.
        files: of the images.
        report: called with the number of finished and of all missing images.
    """
    missing = [key for key in files if key not in store and files[key].is_file()]
    done = 0
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for start in range(0, len(missing), CHUNK):
            keys = missing[start : start + CHUNK]
            parts = []
            for batch in _batches(pool, backbone, [files[key] for key in keys]):
                parts.append(backbone(batch))
                done += len(batch)
                report(done, len(missing))
            store.add(keys, np.concatenate(parts))
    return len(missing)


def _batches(
    pool: ThreadPoolExecutor, backbone: FileBackbone | ChampionNetwork, files: list[Path]
) -> Iterator[np.ndarray]:
    """Prepared images, up to BATCH together; the next batch is read while the last one is computed."""
    starts = range(0, len(files), BATCH)
    upcoming = [pool.submit(_prepare, backbone, file) for file in files[:BATCH]]
    for start in starts:
        current = upcoming
        next_files = files[start + BATCH : start + 2 * BATCH]
        upcoming = [pool.submit(_prepare, backbone, file) for file in next_files]
        yield np.stack([future.result() for future in current])


@functools.cache
def imagenet_backbone(folder: Path) -> tuple[FeatureStore, FileBackbone]:
    """The backbone that `model=probe` starts from, with its ImageNet weights; loaded once.

    Args:
        folder: below which each backbone's features have a folder.

    Raises:
        UserError: its weights are not available.
    """
    trunk = _imagenet_trunk()
    return FeatureStore(folder / trunk.graph.parent.name), FileBackbone(trunk.graph, trunk.card.input)


def imagenet_typical() -> np.ndarray:
    """Features of that backbone that are typical of any picture, C (see `catalog.teach.typical`)."""
    return _imagenet_trunk().typical


def publish_backbone(library: Library) -> None:
    """Exports the backbone to the catalog's folder for the teach page, unless it is there.

    Raises:
        UserError: its weights are not available.
    """
    if not exported.is_current(library.backbone):
        trunk = _imagenet_trunk()
        exported.publish(library.backbone, trunk.graph, trunk.card, trunk.typical)


@dataclass(frozen=True)
class _Trunk:
    """The graph of `imagenet_backbone`, the card of a model with it, and its typical features."""

    graph: Path
    card: ModelCard
    typical: np.ndarray


@functools.cache
def _imagenet_trunk() -> _Trunk:
    from omegaconf import OmegaConf
    from torch import nn

    from models.build import NetworkError, WeightsError, build
    from models.classifier import Classifier
    from models.pretrained import preprocessing
    from pipeline import config, tasks
    from pipeline.artifacts import onnx_export

    cfg = config.compose("model=probe")
    net_config = OmegaConf.to_container(cfg.model.net, resolve=True)
    try:
        net = build(net_config, 2)
    except (NetworkError, WeightsError) as error:
        raise UserError(str(error)) from error
    defaults = preprocessing(net)
    given = {"max_side": 256, **OmegaConf.to_container(cfg.model.input, resolve=True)}
    sizing = Preprocessing(**{key: defaults[key] if value is None else value for key, value in given.items()})
    card = ModelCard(
        name="backbone",
        data="catalog",
        drawings=False,
        classes=["a", "b"],
        species=["", ""],
        net=net_config | {"weights": None, "file": None},
        input=sizing,
        channels_last=cfg.model.channels_last,
        flip=False,  # twice the cost for a few tenths of a per cent
        temperature=1.0,
        unsure_below=0.0,
        task="single_label",
        thresholds=[],
    )
    model = Classifier(net, 2, sizing.mean, sizing.std, tasks.of("single_label"), flip=False)
    *_, last = (module for module in net.modules() if isinstance(module, nn.BatchNorm2d))
    shift, spread = (values.detach().numpy() for values in (last.bias, last.weight))
    return _Trunk(onnx_export.trunk(model, card), card, typical.of_network(shift, spread))


@functools.lru_cache(1)
def of_champion(folder: Path, champion: Champion) -> tuple[FeatureStore, ChampionNetwork]:
    """A champion, and where the probabilities are kept that it has computed; loaded once.

    Args:
        folder: below which they have a folder.
        champion: the champion.

    Raises:
        UserError: it is damaged.
    """
    return FeatureStore(folder / champion.name), ChampionNetwork(champion.folder)
