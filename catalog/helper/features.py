"""Features of a frozen backbone by image hash, stored in chunks that are memory-mapped."""

import functools
import json
import logging
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from catalog.champions import Champion
from pipeline.artifacts import atomic
from pipeline.common.errors import UserError
from pipeline.portable import (
    DamagedError,
    OnnxClassifier,
    Preprocessing,
    UnreadableError,
    read_picture,
    resizing,
)

_log = logging.getLogger(__name__)

CHUNK = 1024  # features per file
BATCH = 16  # images per run of the network


class FeatureStore:
    """Features computed by one backbone.

    Args:
        folder: of this backbone; files ``NAME.npy`` (float32, N×C) with the images' hashes in ``NAME.json``.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        self._where: dict[str, tuple[str, int]] = {}
        self._chunks: dict[str, np.ndarray] = {}
        for file in sorted(folder.glob("*.json")):  # written after its features
            for row, key in enumerate(json.loads(file.read_text(encoding="utf-8"))):
                self._where[key] = file.stem, row

    def __contains__(self, sha256: str) -> bool:
        return sha256 in self._where

    def add(self, hashes: list[str], features: np.ndarray) -> None:
        """Stores features, N×C, in a file of their own."""
        name = f"{len(self._chunks) + len(list(self._folder.glob('*.json'))):06d}-{hashes[0][:8]}"
        with atomic.replace_file(self._folder / f"{name}.npy") as part, open(part, "wb") as stream:
            np.save(stream, features.astype(np.float32))
        atomic.replace_text(self._folder / f"{name}.json", json.dumps(hashes))
        self._where.update((key, (name, row)) for row, key in enumerate(hashes))

    def get(self, hashes: list[str]) -> np.ndarray:
        """Features of these images, N×C float32, in their order.

        Raises:
            KeyError: an image has none.
        """
        rows = []
        for key in hashes:
            name, row = self._where[key]
            if name not in self._chunks:
                self._chunks[name] = np.load(self._folder / f"{name}.npy", mmap_mode="r")
            rows.append(self._chunks[name][row])
        return np.stack(rows)


class Backbone:
    """A frozen network in ONNX Runtime.

    Args:
        graph: maps uint8 `pictures`, N×S×S×3, to float32 `features`, N×C.
        sizing: how images are resized for it.
    """

    def __init__(self, graph: Path, sizing: Preprocessing):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors only
        self._session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
        self._sizing = sizing

    def prepare(self, file: Path) -> np.ndarray:
        """The image in a file as the network takes it, uint8 S×S×3."""
        sizing = self._sizing
        picture = resizing.shrink(read_picture(file.read_bytes()), sizing.max_side)
        return resizing.to_square(picture, sizing.size, sizing.interpolation, sizing.crop, sizing.crop_pct)

    def __call__(self, pictures: np.ndarray) -> np.ndarray:
        return self._session.run(None, {"pictures": pictures})[0]


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


def _prepare(backbone: Backbone | ChampionNetwork, file: Path) -> np.ndarray:
    """Raises UserError for an image that has been damaged since it was read."""
    try:
        return backbone.prepare(file)
    except UnreadableError as error:
        raise UserError(f"{file} has been damaged ({error}); read the project's images again") from error


def compute(
    store: FeatureStore,
    backbone: Backbone | ChampionNetwork,
    files: dict[str, Path],
    report: Callable[[int, int], None],
) -> int:
    """Computes and stores the features that are missing; returns their number.

    Args:
        store: where they go.
        backbone: the network.
        files: images by hash.
        report: called with the number of finished and of all missing images.
    """
    missing = [key for key, file in files.items() if key not in store and file.is_file()]
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
    pool: ThreadPoolExecutor, backbone: Backbone | ChampionNetwork, files: list[Path]
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
def imagenet_backbone(folder: Path) -> tuple[FeatureStore, Backbone]:
    """The backbone that `model=probe` starts from, with its ImageNet weights; loaded once.

    Args:
        folder: below which each backbone's features have a folder.

    Raises:
        UserError: its weights are not available.
    """
    from omegaconf import OmegaConf

    from models.build import NetworkError, WeightsError, build
    from models.classifier import Classifier
    from models.pretrained import preprocessing
    from pipeline import config, tasks
    from pipeline.artifacts import onnx_export
    from pipeline.portable import ModelCard

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
    graph = onnx_export.trunk(model, card)
    return FeatureStore(folder / graph.parent.name), Backbone(graph, sizing)


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
