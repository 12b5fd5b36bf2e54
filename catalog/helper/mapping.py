"""Draws a project's map: images with similar features come to lie close together.

The first two principal components are a map at once. Then t-SNE arranges a random sample, and places the
other images one by one: where an image goes depends on the sample only, so images that join move no other.

L. van der Maaten, G. Hinton, Visualizing data using t-SNE, 2008. P. Poličar, M. Stražar, B. Zupan, Embedding
to reference t-SNE space addresses batch effects in single-cell classification, 2021: placing new points.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from catalog import maps, sentences
from catalog.feature_store import FeatureStore
from catalog.helper import features
from catalog.helper.heads import Projection
from catalog.helper.progress import Progress
from catalog.library import Library
from catalog.maps import Fit, Map
from catalog.store import Database
from catalog.store import maps as stored
from catalog.store.maps import MIN_IMAGES, Place
from catalog.store.tables import Project

SAMPLE = 10_000  # images that are arranged; it takes 13 s on two cores
COMPONENTS = 50  # of their features
PERPLEXITY = 30
ITERATIONS = (250, 500)  # exaggerated, and plain
PLACING = 100  # iterations; with 250 images move by less than a point's size
CHUNK = 10_000  # images whose features are in memory at once
GROWTH = 0.3  # of a map by images that were placed, after which it is fitted anew


def draw(database: Database, library: Library, project: Project, progress: Progress) -> str:
    """Computes missing features, then draws the map, or adds images to it that it doesn't have.

    A map that is arranged again stays until the new one is there.

    Returns:
        How many images it has, in one line.

    Raises:
        UserError: the backbone's weights are not available.
    """
    with database.read() as session:
        everything = stored.places(session, project.id)
        extent = stored.extent(session, project.id)
    present = [image for image in everything if library.image(image.sha256, image.suffix).is_file()]
    if len(present) < MIN_IMAGES:
        library.map(project.id).unlink(missing_ok=True)
        return sentences.TOO_FEW_TO_MAP.format(least=MIN_IMAGES, count=len(present))
    progress.report(0, 0, sentences.LOADING_BACKBONE)
    store, backbone = features.imagenet_backbone(library.features)
    files = {
        image.sha256: library.image(image.sha256, image.suffix)
        for image in present
        if image.sha256 not in store
    }
    features.compute(
        store, backbone, files, lambda done, total: progress.report(done, total, sentences.COMPUTING)
    )
    file = library.map(project.id)
    asked, before = maps.asked_anew(file), maps.load(file, with_fit=True)
    has_map = before is not None and before.fit is not None
    if not has_map or asked is not None or extent.images > (1 + GROWTH) * before.fit.images:
        fit, components = _fit(store, present, extent, None if has_map else file, progress)
        ids = np.array([image.id for image in present])
        raw = np.concatenate([fit.positions, _placed(fit, components[len(fit.positions) :], progress)])
        positions = fit.on_map(raw)
    else:
        ids, positions, fit = _joined(store, present, before, progress)
    Map(ids, positions, extent.images, extent.newest, fit).save(file)
    maps.done_anew(file, asked)
    return sentences.MAPPED.format(count=f"{len(ids):,}")


def _fit(
    store: FeatureStore, present: list[Place], extent: stored.Extent, first: Path | None, progress: Progress
) -> tuple[Fit, np.ndarray]:
    """Saves the map of principal components to the file `first`, if there is one, then arranges the sample.

    Returns:
        The fit, and the components of all images, N×COMPONENTS.
    """
    sample = store.get([image.sha256 for image in present[:SAMPLE]])
    projection = Projection.fit(sample, COMPONENTS)
    components = np.concatenate(list(_components(store, projection.mean, projection.axes, present)))
    if first is not None:
        plane = components[:, :2] if components.shape[1] > 1 else np.pad(components, ((0, 0), (0, 1)))
        ids = np.array([image.id for image in present])
        corners = plane.min(axis=0), plane.max(axis=0)
        Map(ids, maps.scaled(plane, *corners), extent.images, extent.newest, None).save(first)
    positions = arrange(
        components[:SAMPLE], lambda done, total: progress.report(done, total, sentences.ARRANGING)
    )
    return Fit(projection.mean, projection.axes, components[:SAMPLE], positions, extent.images), components


def _joined(
    store: FeatureStore, present: list[Place], before: Map, progress: Progress
) -> tuple[np.ndarray, np.ndarray, Fit]:
    """Ids and positions of the map before, without images that are gone and with those that joined."""
    known = set(before.ids.tolist())
    new = [image for image in present if image.id not in known]
    stays = np.isin(before.ids, np.array([image.id for image in present]))
    parts, fit = [before.positions[stays]], before.fit
    if new:
        components = np.concatenate(list(_components(store, fit.mean, fit.axes, new)))
        parts.append(fit.on_map(_placed(fit, components, progress)))
    ids = np.concatenate([before.ids[stays], np.array([image.id for image in new], np.int64)])
    return ids, np.concatenate(parts), fit


def _components(
    store: FeatureStore, mean: np.ndarray, axes: np.ndarray, images: list[Place]
) -> Iterator[np.ndarray]:
    project = Projection(mean, axes)
    for start in range(0, len(images), CHUNK):
        yield project(store.get([image.sha256 for image in images[start : start + CHUNK]])).astype(np.float32)


def _placed(fit: Fit, components: np.ndarray, progress: Progress) -> np.ndarray:
    """Positions of images that were not arranged, N×2 in t-SNE's units."""
    placing, parts = Placing(fit.components, fit.positions), [np.zeros((0, 2))]
    for start in range(0, len(components), CHUNK):
        progress.report(start, len(components), sentences.PLACING)
        parts.append(placing(components[start : start + CHUNK]))
    return np.concatenate(parts)


def arrange(components: np.ndarray, report: Callable[[int, int], None]) -> np.ndarray:
    """Positions of images by t-SNE, N×2 in its own units; equal components give equal positions.

    Args:
        components: N×D.
        report: called with the number of finished and of all iterations.
    """
    from openTSNE import TSNE

    first, second = ITERATIONS
    done = 0

    def count(*_state: object) -> None:
        nonlocal done
        done += 10
        report(done, first + second)

    tsne = TSNE(
        perplexity=_perplexity(len(components)),
        early_exaggeration_iter=first,
        n_iter=second,
        random_state=0,
        n_jobs=_threads(),
        callbacks=count,
        callbacks_every_iters=10,
    )
    return np.asarray(tsne.fit(components.astype(np.float64)), np.float64)


class Placing:
    """Places images among those that were arranged.

    Args:
        components: of the arranged images, S×D.
        positions: of these images in t-SNE's units, S×2.
    """

    def __init__(self, components: np.ndarray, positions: np.ndarray):
        from openTSNE import TSNEEmbedding
        from openTSNE.affinity import PerplexityBasedNN

        settings = {"random_state": 0, "n_jobs": _threads()}
        perplexity = _perplexity(len(positions))
        affinities = PerplexityBasedNN(components.astype(np.float64), perplexity=perplexity, **settings)
        self._reference = TSNEEmbedding(positions.astype(np.float64), affinities, **settings)
        self._count = len(positions)

    def __call__(self, components: np.ndarray) -> np.ndarray:
        """Positions of other images, N×2; each depends on the arranged ones only."""
        found = self._reference.transform(
            components.astype(np.float64),
            perplexity=min(5, (self._count - 1) / 3),
            k=min(25, self._count - 1),
            n_iter=PLACING,
        )
        return np.asarray(found)


def _perplexity(count: int) -> float:
    """That of t-SNE, which a few images can't have neighbours for."""
    return min(PERPLEXITY, (count - 1) / 3)


def _threads() -> int:
    return len(os.sched_getaffinity(0))
