"""Labels train a champion, which suggests labels, which train a better champion: on real faces."""

from pathlib import Path, PurePosixPath

import pytest
from catalog_server import Catalog
from sqlalchemy import func, select

from benchmarks.labeling import Person
from catalog.store import projects, suggestions
from catalog.store.tables import Event, Help, Image, Model, PageKind, Status
from pipeline.portable import OnnxClassifier
from pipeline.sources import archives, photos

ARCHIVE = Path(__file__).resolve().parents[2] / "shared/data/petfaces.tar.gz"
FIRST = 300  # labels that the first champion is trained on

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not ARCHIVE.is_file(), reason="needs real faces in ../shared/data"),
]


@pytest.fixture
def real_probe(change, restored):
    """The probe as users have it, and as the only candidate."""
    change("params.yaml", ("models: [scratch, probe]", "models: [probe]"))
    change("conf/model/probe.yaml", ("input: {size: 64}\n", ""))


def accuracy(project: Path, catalog: Catalog, truth: dict[int, str]) -> float:
    """The champion's top-1 on all test images, labeled or not."""
    model = OnnxClassifier(project / "runs/labels/register/champion/portable")
    with catalog.database.read() as session:
        tests = [
            (catalog.library.image(image.sha256, image.suffix).read_bytes(), truth[image.id])
            for image in session.scalars(select(Image).where(Image.is_test))
        ]
    return sum(model.answer(data)["labels"][0] == name for data, name in tests) / len(tests)


def test_labels_train_a_champion_that_suggests_labels_that_train_a_better_one(
    run, project, real_probe, tmp_path
):
    label_of = {
        path: PurePosixPath(path).parent.name
        for path, _ in archives.members(ARCHIVE)
        if photos.is_named_as_picture(path)
    }
    catalog = Catalog.create(tmp_path)
    catalog.add_project(
        ARCHIVE,
        classes=tuple(sorted(set(label_of.values()))),
        model_help=Help.SUGGESTIONS,
        test_fraction=0.15,
    )
    with catalog.database.read() as session:
        truth = {image.id: label_of[image.path] for image in session.scalars(select(Image))}

    def labeled() -> int:
        with catalog.database.read() as session:
            return projects.counts(session, 1)[Status.LABELED]

    def retrain() -> float:
        done = run(
            "python", "-m", "pipeline", "catalog", "--folder", str(catalog.library.folder), "retrain", "pets"
        )
        assert done.returncode == 0, done.stdout
        catalog.finish_jobs()
        found = accuracy(project, catalog, truth)
        print(f"champion of {labeled():,} labels: top-1 {found:.1%} on all test images")
        return found

    with catalog.served() as address:
        person = Person(address, 1, truth)
        while labeled() < FIRST:
            person.label_page()
            catalog.finish_jobs()
        first = retrain()
        with catalog.database.read() as session:
            champion = suggestions.newest(session, 1).champion
        assert champion.startswith("labels-")
        while person.label_page():
            catalog.finish_jobs()
    assert labeled() == len(truth)
    with catalog.database.read() as session:
        of_champion = (
            select(func.count())
            .select_from(Event)
            .join(Model, Model.id == Event.model_id)
            .where(Model.champion == champion, Event.page_kind == PageKind.PRELABELED)
        )
        filled_in = session.scalar(of_champion)
    print(
        f"filled in by the champion: {filled_in:,}; right: {person.count.right / person.count.prelabels:.1%}"
    )
    assert filled_in
    assert retrain() > first
