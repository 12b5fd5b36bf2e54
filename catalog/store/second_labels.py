"""Second labels: a share of a project's images is labeled by two people, neither of whom sees the other's.

An image that waits for its second label is labeled, and `Image.first_person` says by whom. Equal answers
leave the label as it is. Different ones make the image disputed, and an admin decides
(`catalog.store.review`).
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from catalog.store import labels, merged
from catalog.store.labels import Answer
from catalog.store.tables import Event, Image, Page, PageKind, Project, Status

KINDS = (PageKind.SECOND, PageKind.REVIEW)  # pages of images that have a label already
REMEMBERED = 200  # pages: what a person has skipped on older ones may come again before other images
_JUDGED = (Status.LABELED, Status.UNKNOWN)


def is_chosen(project: Project, image: Image) -> bool:
    """Whether two people label an image.

    It follows from a part of the hash that neither the test split nor the order of the images depends on.
    """
    return int(image.sha256[16:24], 16) < project.second_share * 2**32


def record(session: Session, page: Page, images: Mapping[int, Image], answers: Mapping[int, Answer]) -> None:
    """Records a page's answers, whatever its kind; see `labels.record`.

    A second label or a decision that was skipped isn't recorded.

    Args:
        session: of a write transaction.
        page: the page.
        images: its images by id.
        answers: the person's, by the images' ids.
    """
    project = session.get(Project, page.project_id)
    successors = merged.successors(session, project.id) if page.kind == PageKind.SECOND else {}
    shown = {image["id"]: image for image in page.images}
    with labels.together(session):
        for number, answer in answers.items():
            image, label, given = images[number], answer, None
            is_judged = answer.status in _JUDGED
            if page.kind not in KINDS:
                if is_judged and is_chosen(project, image):
                    label = replace(answer, first_person=page.person)
            elif not is_judged:
                continue
            elif page.kind == PageKind.SECOND:
                given = answer
                if resolved(labels.current(image), successors) != resolved(answer, successors):
                    label = Answer(Status.DISPUTED)
            labels.record(session, image, label, page, shown[number], given)


def resolved(answer: Answer, successors: Mapping[int, int]) -> Answer:
    """The answer with the classes that have taken over those which were merged, see `merged.successors`."""
    return Answer(answer.status, tuple(sorted({successors.get(each, each) for each in answer.classes})))


def is_wanted(page: Page, image: Image) -> bool:
    """Whether an image still waits for what a page asks about it."""
    if page.kind == PageKind.SECOND:
        return image.first_person not in (None, page.person)
    return page.kind != PageKind.REVIEW or image.status == Status.DISPUTED


def next_images(
    session: Session, project: Project, person: str, size: int, with_skipped: bool = False
) -> list[Image]:
    """Images that wait for the second label of this person and that nobody has open, in their random order.

    Args:
        session: of any transaction.
        project: the project.
        person: who would label them.
        size: of the result, at most.
        with_skipped: whether also those come that the person has skipped.
    """
    left_out = set() if with_skipped else skipped(session, project, person, PageKind.SECOND)
    found: list[Image] = []
    for first in _first_people(session, project):
        if first != person:
            query = select(Image).where(Image.project_id == project.id, Image.first_person == first)
            query = query.where(labels.not_held(), Image.id.not_in(left_out))
            found += session.scalars(query.order_by(Image.rank).limit(size))
    return sorted(found, key=lambda image: image.rank)[:size]


def _first_people(session: Session, project: Project) -> Iterator[str]:
    """Those whose labels wait for a second one, looked up in the index one by one."""
    person = ""
    while True:
        following = select(func.min(Image.first_person)).where(
            Image.project_id == project.id, Image.first_person > person
        )
        person = session.scalar(following)
        if person is None:
            return
        yield person


def skipped(session: Session, project: Project, person: str, kind: PageKind) -> set[int]:
    """Ids of images that a person has skipped on the last pages of this kind."""
    query = (
        select(Page.answers)
        .where(Page.project_id == project.id, Page.kind == kind, Page.person == person)
        .where(Page.submitted_at.is_not(None), Page.reopened_as.is_(None))
        .order_by(Page.submitted_at.desc())
        .limit(REMEMBERED)
    )
    return {
        int(number)
        for answers in session.scalars(query)
        for number, given in (answers or {}).items()
        if given["status"] == Status.SKIPPED
    }


def waiting(session: Session, project_id: int) -> Counter[str]:
    """How many images wait for a second label, by the person who has given the first one."""
    query = (
        select(Image.first_person, func.count())
        .where(Image.project_id == project_id, Image.first_person > "")
        .group_by(Image.first_person)
    )
    return Counter(dict(session.execute(query).tuples().all()))


def was_skipped(page: Page, image: Image, given: dict) -> bool:
    """Whether an image was skipped on a page of KINDS, which leaves no event, and still waits."""
    return page.kind in KINDS and given["status"] == Status.SKIPPED and is_wanted(page, image)


def predictions(session: Session, images: Iterable[Image]) -> dict[int, dict[str, object]]:
    """What a model had predicted before the first label, by the images' ids, unless it was filled in.

    It remains evidence for the model, since neither of the two people has seen it.
    """
    query = select(Event).where(Event.id.in_([image.event_id for image in images]))
    columns = ("predicted", "confidence", "model_id")
    return {
        event.image_id: {name: getattr(event, name) for name in columns}
        for event in session.scalars(query)
        if event.page_kind != PageKind.PRELABELED
    }
