"""Hands out pages, which are batches of images shown together, and takes what people answer.

An image is on one page at a time: its row names the page that holds it. After LEASE_SECONDS without renewal
another page may take the images; while none has, the page can still be submitted.
"""

import functools
import secrets
import time
from collections.abc import Callable, Mapping

from sqlalchemy import ColumnElement, func, select, update
from sqlalchemy.orm import Session

from catalog.language import _, ngettext
from catalog.store import history, image_counts, labels, merged, projects, review, second_labels, suggestions
from catalog.store.labels import Answer
from catalog.store.suggestions import Order
from catalog.store.tables import Help, Image, Page, PageKind, Project, Status, Suggestion
from pipeline.common.errors import UserError

LEASE_SECONDS = 180  # a browser renews it every minute
KEYS = 9  # the keys 1-9


class StalePageError(Exception):
    """A page that can't be submitted as it is.

    Attributes:
        taken: ids of the images that it no longer holds.
        is_saved: whether the page was submitted before, with other answers.
    """

    def __init__(self, taken: list[int], is_saved: bool = False):
        if is_saved:
            super().__init__(_("this page was saved before, with other labels; undo it to change them"))
        else:
            text = ngettext(
                "{count} image of this page was handed out again or labeled elsewhere",
                "{count} images of this page were handed out again or labeled elsewhere",
                len(taken),
            )
            super().__init__(text.format(count=len(taken)))
        self.taken, self.is_saved = taken, is_saved


def hand_out(session: Session, project: Project, person: str, size: int | None = None) -> Page | None:
    """A new page with images that nobody has open; None if no such image is left.

    Raises:
        UserError: the project is paused.
    """
    _check_runs(project)
    kind, images = _choose(session, project, person, size or project.page_size)
    earlier = {image.id: image.earlier for image in images if image.is_requeued}
    return _open(session, project, kind, images, person, earlier) if images else None


def hand_out_review(session: Session, project: Project, person: str, size: int | None = None) -> Page | None:
    """The same with disputed images, for somebody who decides."""
    _check_runs(project)
    images = review.next_images(session, project, person, size or project.page_size)
    return _open(session, project, PageKind.REVIEW, images, person) if images else None


def _check_runs(project: Project) -> None:
    if project.paused:
        raise UserError(_("{project} is paused; resume it on its settings page").format(project=project.name))


def _open(
    session: Session,
    project: Project,
    kind: PageKind,
    images: list[Image],
    person: str,
    answers: dict[int, dict] | None = None,
) -> Page:
    """Creates a page that holds these images; `answers` are filled in."""
    by_image: dict[int, Suggestion] = {}
    more: dict[int, dict] = {}
    if kind in second_labels.KINDS:
        more = second_labels.predictions(session, images)
    elif kind not in (PageKind.TEST, PageKind.RECHECK) and project.model_help != Help.NONE:
        query = select(Suggestion).where(Suggestion.image_id.in_([image.id for image in images]))
        by_image = {found.image_id: found for found in session.scalars(query)}
    opinions = review.opinions(session, project, images) if kind == PageKind.REVIEW else {}
    successor_of = merged.successors(session, project.id)
    now, shown, reasons = time.time(), [], history.reasons(session, images)
    page = Page(token=secrets.token_urlsafe(18), project_id=project.id, kind=kind, person=person)
    for image in images:
        found = by_image.get(image.id)
        shown.append(
            {
                "id": image.id,
                "sha256": image.sha256,
                "predicted": merged.current(found.predicted, successor_of)
                if found and found.predicted is not None
                else None,
                "confidence": found.confidence if found else None,
                "answer": (answers or {}).get(image.id),
                "reason": reasons.get(image.id),
                "opinions": [vars(each) for each in opinions.get(image.id, [])],
                **more.get(image.id, {}),
            }
        )
        image.page_token, image.leased_until = page.token, now + LEASE_SECONDS
    page.images, page.created_at = shown, now
    page.keys = _keys(session, project, list(by_image.values()))
    page.model_id = max((found.model_id for found in by_image.values()), default=None)
    session.add(page)
    return page


def _keys(session: Session, project: Project, shown: list[Suggestion]) -> list[int]:
    """Class ids for the keys 1-9: the first ones, or those most probable on the page, if the project says so.

    An image's candidates count 1, 1/2, 1/3 and so on; the first classes fill the rest.
    """
    first = [found.id for found in projects.classes(session, project.id)]
    scores = dict.fromkeys(first, 0.0)
    if project.probable_keys:
        for suggestion in shown:
            for rank, class_id in enumerate(suggestion.probable, start=1):
                if class_id in scores:
                    scores[class_id] += 1 / rank
    return sorted(first, key=lambda class_id: -scores[class_id])[:KEYS]


_Choice = tuple[PageKind, Callable[[], list[Image]]]


def _choose(session: Session, project: Project, person: str, size: int) -> tuple[PageKind, list[Image]]:
    """The next images, and the kind of page they make.

    Second labels come as soon as there are enough for a page, so that their share is kept up from the start.
    """
    second = functools.partial(second_labels.next_images, session, project, person, size)
    if len(seconds := second()) == size:
        return PageKind.SECOND, seconds

    def choice(kind: PageKind, status: Status, is_test: bool) -> _Choice:
        free = select(Image).where(*_free(project, status, is_test), _is_requeued(kind))
        return kind, lambda: list(session.scalars(free.order_by(Image.rank).limit(size)))

    choices = [*_suggested(session, project, size), choice(PageKind.MANUAL, Status.WAITING, is_test=False)]
    tests = choice(PageKind.TEST, Status.WAITING, is_test=True)
    choices.insert(0 if _tests_are_due(session, project) else len(choices), tests)
    choices += [
        (PageKind.SECOND, lambda: seconds),
        choice(PageKind.MANUAL, Status.SKIPPED, is_test=False),
        choice(PageKind.TEST, Status.SKIPPED, is_test=True),
        (PageKind.SECOND, functools.partial(second, with_skipped=True)),
    ]
    # Images that had a label before come first: the model learns from them again.
    recheck = functools.partial(choice, PageKind.RECHECK)
    choices = [
        *(recheck(Status.WAITING, is_test=is_test) for is_test in (False, True)),
        *choices,
        *(recheck(Status.SKIPPED, is_test=is_test) for is_test in (False, True)),
    ]
    for kind, find in choices:
        if found := find():
            return kind, _of_one_cluster(session, found) if kind == PageKind.CLUSTER else found
    return PageKind.MANUAL, []


def _suggested(session: Session, project: Project, size: int) -> list[_Choice]:
    """Pages with a model's help, in the order in which they are tried."""
    model = suggestions.newest(session, project.id)
    if model is None or project.model_help == Help.NONE:
        return []
    find = functools.partial(suggestions.next_images, session, model, is_free=_is_free, size=size)
    similar = functools.partial(find, order=Order.SIMILAR)
    choices: list[_Choice] = [(PageKind.CLUSTER, similar)]
    if model.threshold is None or project.model_help != Help.SUGGESTIONS:
        return choices
    kind = PageKind.CLUSTER if _check_is_due(session, project) else PageKind.PRELABELED
    choices.insert(0, (kind, functools.partial(similar, least=model.threshold)))
    if project.uncertain_first:
        unsure = functools.partial(find, order=Order.UNCERTAIN, below=model.threshold)
        # A page that checks confident predictions comes first; else the most uncertain images do.
        position = 1 if kind == PageKind.CLUSTER else 0
        choices.insert(position, (PageKind.MANUAL, unsure))
    return choices


def _check_is_due(session: Session, project: Project) -> bool:
    """Whether the next page of confident predictions is shown without them.

    People tend to accept what is filled in, so only such pages are evidence for the threshold.
    """
    query = select(func.count()).where(Page.project_id == project.id, Page.submitted_at.is_not(None))
    others = session.scalar(query.where(Page.kind.in_(second_labels.KINDS)))
    return (session.scalar(query) - others) % suggestions.CHECK_EVERY == 0


def _of_one_cluster(session: Session, found: list[Image]) -> list[Image]:
    """The images that are in the same cluster as the first one."""
    query = select(Suggestion).where(Suggestion.image_id.in_([image.id for image in found]))
    clusters = {suggestion.image_id: suggestion.cluster for suggestion in session.scalars(query)}
    return [image for image in found if clusters[image.id] == clusters[found[0].id]]


def _free(project: Project, status: Status, is_test: bool) -> tuple[ColumnElement[bool], ...]:
    """Conditions of the project's images with this status that no page holds."""
    of_split = Image.is_test if is_test else ~Image.is_test
    return Image.project_id == project.id, Image.status == status, of_split, labels.not_held()


def _is_requeued(kind: PageKind) -> ColumnElement[bool]:
    """Images that are queued again are on pages of their own."""
    return Image.is_requeued if kind == PageKind.RECHECK else ~Image.is_requeued


def _is_free(image: Image) -> bool:
    """The same of an image that has a suggestion."""
    is_held = image.leased_until is not None and image.leased_until >= time.time()
    waits = image.status == Status.WAITING and not image.is_requeued
    return waits and not image.is_test and not is_held


def _tests_are_due(session: Session, project: Project) -> bool:
    """Whether a test page is next: test images are at most `test_fraction` of those that people have seen."""
    seen = {True: 0, False: 0}
    for (status, is_test), count in image_counts.by_split(session, project.id).items():
        seen[is_test] += count if status != Status.WAITING else 0
    return seen[True] <= project.test_fraction * sum(seen.values())


def renew(session: Session, page: Page) -> int:
    """Keeps an open page for another LEASE_SECONDS; returns how many of its images it still holds."""
    until = time.time() + LEASE_SECONDS
    held = session.execute(
        update(Image).where(Image.page_token == page.token).values(leased_until=until)
    ).rowcount
    return held if page.submitted_at is None else 0


def is_open_for(session: Session, image: Image, person: str) -> bool:
    """Whether an image is on an open page that was handed out to a person."""
    page = session.get(Page, image.page_token) if image.page_token is not None else None
    return page is not None and page.person == person and page.submitted_at is None


def release(session: Session, page: Page) -> None:
    """Gives a page's images back to the queue."""
    session.execute(
        update(Image).where(Image.page_token == page.token).values(page_token=None, leased_until=None)
    )


def submit(session: Session, page: Page, answers: dict[int, Answer]) -> int:
    """Records the answers of a page, and gives its other images back; returns the number of labels.

    The same request twice, after a lost response perhaps, counts once.

    Raises:
        StalePageError: the page doesn't hold all of these images, or was submitted with other answers.
        UserError: an answer names a class that the project doesn't have, or an image of another page.
    """
    stored = {str(image_id): answer.as_json() for image_id, answer in answers.items()}
    if page.submitted_at is not None:
        if page.answers == stored:
            return len(answers)
        raise StalePageError([image["id"] for image in page.images], is_saved=True)
    shown = {image["id"]: image for image in page.images}
    if foreign := answers.keys() - shown.keys():
        raise UserError(_("image {image} isn't on this page").format(image=min(foreign)))
    known = {found.id for found in projects.classes(session, page.project_id)}
    # The page may be older than a merge of classes.
    successor_of = merged.successors(session, page.project_id)
    answers = {number: answer.with_successors(successor_of) for number, answer in answers.items()}
    shown = {number: current_classes(image, successor_of) for number, image in shown.items()}
    for answer in answers.values():
        if unknown := set(answer.classes) - known:
            raise UserError(_("there is no class {number} in this project").format(number=min(unknown)))
    images = {image.id: image for image in session.scalars(select(Image).where(Image.id.in_(list(shown))))}
    if taken := [
        number
        for number in answers
        if images[number].page_token != page.token or not second_labels.is_wanted(page, images[number])
    ]:
        raise StalePageError(taken)
    page.submitted_at, page.answers = time.time(), stored
    second_labels.record(session, page, images, answers)
    release(session, page)
    return len(answers)


def current_classes(image: dict, successor_of: Mapping[int, int]) -> dict:
    """An entry of `Page.images` without classes that were merged since it was written."""
    if not successor_of:
        return image
    predicted, answer = image["predicted"], image["answer"]
    return {
        **image,
        "predicted": predicted and merged.current(predicted, successor_of),
        "answer": answer and Answer.of(answer).with_successors(successor_of).as_json(),
        "opinions": [
            {**each, "classes": merged.current(each["classes"], successor_of)}
            for each in image.get("opinions", [])
        ],
    }


def undo(session: Session, page: Page) -> Page | None:
    """Takes a submitted page's labels back, and opens it again with them filled in.

    Images that were labeled again since then, or that somebody else has open, stay as they are. The same
    request twice, after a lost response perhaps, gives the same page.

    Returns:
        The new page; None if no image is left to take back.
    """
    if page.reopened_as is not None:
        again = session.get(Page, page.reopened_as)
        return again if renew(session, again) else None
    project = session.get(Project, page.project_id)
    answers, reopened = {}, []
    for number, given in (page.answers or {}).items():
        image = session.get(Image, int(number))
        if labels.is_held(image):
            continue
        if labels.take_back(session, image, page) or second_labels.was_skipped(page, image, given):
            answers[image.id] = given
            reopened.append(image)
    if not reopened:
        return None
    session.flush()
    again = _open(session, project, PageKind(page.kind), reopened, page.person, answers)
    page.reopened_as = again.token
    return again
