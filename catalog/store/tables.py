"""Tables of the catalog's database; `catalog/migrations` creates them.

Times are seconds since 1970 (UTC). The current label of an image is derived from its last event.
"""

import enum

from sqlalchemy import JSON as PLAIN_JSON
from sqlalchemy import BigInteger, ForeignKey, Index, String, UniqueConstraint
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

JSON = PLAIN_JSON().with_variant(JSONB(), "postgresql")  # whose JSON can't be compared or grouped
_SEARCHED = ("status", "is_test", "origin", "differs", "labeled_by", "class_key")  # columns of images
_NEVER_AGAIN = {"sqlite_autoincrement": True}  # an id of a deleted row, which somebody may still know


class Base(DeclarativeBase):
    """Base of all tables."""


class Identity(Base):
    """One row, made with the tables.

    Attributes:
        catalog: random; copies and restored backups have the same. A backup belongs to it.
        database: random, of this very database; a copy has its own. A folder belongs to it.
    """

    __tablename__ = "identity"

    id: Mapped[int] = mapped_column(primary_key=True)
    catalog: Mapped[str] = mapped_column(String(32))
    database: Mapped[str] = mapped_column(String(32))


class Source(enum.StrEnum):
    """Where a project's images come from."""

    FOLDER = "folder"  # a folder or an archive on this machine
    DATASET = "dataset"  # the archive of one of the pipeline's data sets
    UPLOAD = "upload"


class Kind(enum.StrEnum):
    """How people give a project its labels."""

    LABEL = "label"  # images wait for labels on the label page
    TEACH = "teach"  # images are added to a class on the teach page


class Help(enum.StrEnum):
    """What a model does for those who label."""

    NONE = "none"
    GROUPS = "groups"  # pages of similar images
    SUGGESTIONS = "suggestions"  # and labels filled in, once it has learned enough


class Status(enum.StrEnum):
    """An image's current label."""

    WAITING = "waiting"
    LABELED = "labeled"
    UNKNOWN = "unknown"  # a person has looked and can't tell
    SKIPPED = "skipped"  # comes again after all others
    DISPUTED = "disputed"  # two people have answered differently; waits for a third to decide
    REMOVED = "removed"  # taken out of its class on the teach page; can be restored


class PageKind(enum.StrEnum):
    """How the images of a page were chosen, and what is shown with them."""

    MANUAL = "manual"
    TEST = "test"  # manual, without any suggestion: these images grade the models
    CLUSTER = "cluster"  # similar images
    PRELABELED = "prelabeled"  # with a model's suggestions filled in
    SECOND = "second"  # labeled by somebody else before, which isn't shown
    REVIEW = "review"  # disputed images, with both answers
    RECHECK = "recheck"  # images that are queued again, with their earlier labels filled in


class Action(enum.StrEnum):
    """What gave an image a label, or took it away, other than a page's answer."""

    REJECT = "reject"  # sent back to the queue by a person, with a reason
    DISCARD = "discard"  # all labels of a project were discarded
    REQUEUE = "requeue"  # queued again; the label before is filled in
    MERGE = "merge"  # its class was merged into another one
    IMPORT = "import"  # a file of labels
    GROUP = "group"  # a group of images was labeled in one action, on the map or the data page
    CONFIRM = "confirm"  # a person has looked at the label again, and it is right
    UNDO = "undo"  # an action was taken back


class ImportState(enum.StrEnum):
    """How far the import of a file of labels is."""

    WAITING = "waiting"  # nobody has applied it
    STARTED = "started"  # is being applied, or was cut off
    DONE = "done"


class Role(enum.StrEnum):
    """What an account may do."""

    ADMIN = "admin"
    LABELER = "labeler"  # sees the label page and its instructions only


class JobState(enum.StrEnum):
    """State of the helper's work."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


class Project(Base):
    """Images to label, the classes to choose from, and how labeling works."""

    __tablename__ = "project"
    __table_args__ = _NEVER_AGAIN

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(100), unique=True)
    task: Mapped[str] = mapped_column(String(20))  # of pipeline.tasks
    source: Mapped[Source] = mapped_column(String(20))
    source_path: Mapped[str]  # empty for uploads
    instructions: Mapped[str]  # Markdown, or a link
    model_help: Mapped[Help] = mapped_column(String(12))
    probable_keys: Mapped[bool]  # keys 1-9 are the most probable classes instead of the first
    uncertain_first: Mapped[bool]  # active learning instead of a random order
    page_size: Mapped[int]
    min_precision: Mapped[float]  # of suggestions that are filled in
    test_fraction: Mapped[float]
    champion: Mapped[str] = mapped_column(String(200), default="")  # of catalog.champions, or empty
    paused: Mapped[bool]
    created_at: Mapped[float]
    kind: Mapped[Kind] = mapped_column(String(10), default=Kind.LABEL)
    is_watched: Mapped[bool] = mapped_column(default=False)  # new files of its folder join by themselves
    refreshed_at: Mapped[float | None]  # when its source was last read to the end, or seen to be unchanged
    refresh_problem: Mapped[str] = mapped_column(String(400), default="")  # why a watched source can't be
    second_share: Mapped[float] = mapped_column(default=0.0)  # of the images, to label by two people


class Account(Base):
    """A person who may use the catalog.

    Attributes:
        name: recorded with each label.
        password: hash by argon2.
        session_key: random; sessions with another one have ended.
    """

    __tablename__ = "account"
    __table_args__ = _NEVER_AGAIN

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(100), unique=True)
    role: Mapped[Role] = mapped_column(String(10))
    password: Mapped[str] = mapped_column(String(200))
    session_key: Mapped[str] = mapped_column(String(40))
    created_at: Mapped[float]


class LabelClass(Base):
    """A class of a project.

    Attributes:
        position: the first nine have the keys 1-9.
        is_enabled: whether the teach page's model learns it.
        merged_into: the class that has taken over its images. It isn't offered any more, but earlier events
            name it.
    """

    __tablename__ = "label_class"
    __table_args__ = (UniqueConstraint("project_id", "name"), _NEVER_AGAIN)

    id: Mapped[int] = mapped_column(primary_key=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("project.id"))
    name: Mapped[str] = mapped_column(String(200))
    position: Mapped[int]
    is_enabled: Mapped[bool] = mapped_column(default=True)
    merged_into: Mapped[int | None] = mapped_column(ForeignKey("label_class.id"))


class ClassChange(Base):
    """A change of a project's classes; rows are only ever added.

    Attributes:
        kind: `added`, `renamed`, `merged`, or `undone` for a change that was taken back.
        before, after: the name before and after it; of the class that took over if it was merged.
        policy: of `catalog.store.class_changes`, what was done with the labels; empty if nothing was.
        batch: of the events that it caused, or that were taken back; empty if there are none.
    """

    __tablename__ = "class_change"
    __table_args__ = (Index("class_change_project", "project_id", "id"), _NEVER_AGAIN)

    id: Mapped[int] = mapped_column(primary_key=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("project.id"))
    class_id: Mapped[int] = mapped_column(ForeignKey("label_class.id"))
    at: Mapped[float]
    person: Mapped[str] = mapped_column(String(100))
    kind: Mapped[str] = mapped_column(String(10))
    before: Mapped[str] = mapped_column(String(200))
    after: Mapped[str] = mapped_column(String(200))
    policy: Mapped[str] = mapped_column(String(10))
    batch: Mapped[str] = mapped_column(String(40))


class Relabeling(Base):
    """A change of many labels that follows from a change of classes; see `catalog.store.relabeling`.

    It is done in many transactions. A row without `finished_at` goes on when the server starts again.

    Attributes:
        kind: an `Action`: `requeue`, `discard`, `merge` or `undo`.
        batch: of its events.
        undone_batch: the batch that it takes back; empty if it isn't an undo.
        class_id: the class that was merged into another; else None.
        last_event: the project's last event when it began; later labels stay as they are.
        total: images to change when it began.
        changed: images that were changed.
    """

    __tablename__ = "relabeling"
    __table_args__ = (Index("relabeling_project", "project_id", "id"), _NEVER_AGAIN)

    id: Mapped[int] = mapped_column(primary_key=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("project.id"))
    kind: Mapped[Action] = mapped_column(String(10))
    batch: Mapped[str] = mapped_column(String(40))
    undone_batch: Mapped[str] = mapped_column(String(40), default="")
    person: Mapped[str] = mapped_column(String(100))
    class_id: Mapped[int | None] = mapped_column(ForeignKey("label_class.id"))
    last_event: Mapped[int]
    total: Mapped[int]
    changed: Mapped[int] = mapped_column(default=0)
    started_at: Mapped[float]
    finished_at: Mapped[float | None]


class Image(Base):
    """An image of a project, with its current label and lease.

    Attributes:
        sha256: of the encoded file, the image's identity within the project.
        path: where it was found first, for display and export.
        is_test: drawn from `sha256`; test images are labeled without suggestions.
        rank: position in the random order, from `sha256`.
        status, classes, event_id: derived from the last event, as are the next eight, of which people search
            by the first six, and `first_person`; see `catalog.store.derived`.
        class_key: `classes` as text, `,3,17,`; empty without classes.
        labeled_by: who has made the last event; empty without one.
        labeled_at: its time; 0 without one.
        origin: its kind of page, or its action; empty if it has neither.
        confidence: of the prediction that it records; None without a prediction.
        differs: whether the person has said something else than this prediction.
        is_requeued: whether it waits again with a label from before, which is filled in.
        earlier: this label, as in `Event`.
        page_token, leased_until: the page that shows the image now.
        burst: the webcam recording that it belongs to; None for other images.
        first_person: who has labeled it first, while it waits for the label of a second person; else None.
    """

    __tablename__ = "image"
    __table_args__ = (
        UniqueConstraint("project_id", "sha256"),
        Index("image_queue", "project_id", "status", "is_requeued", "is_test", "rank"),
        Index("image_page", "page_token"),
        Index("image_sha256", "sha256"),
        Index("image_second", "project_id", "first_person", "rank"),
        Index("image_lease", "project_id", "leased_until"),
        Index("image_person", "project_id", "labeled_by"),
        # An order of the data page each. They have all that is searched by, so a search that finds little
        # reads one of them to its end, and no rows.
        Index("image_by_time", "project_id", "labeled_at", "id", *_SEARCHED, "confidence"),
        Index("image_by_confidence", "project_id", "confidence", "id", *_SEARCHED),
        Index("image_by_rank", "project_id", "rank", "id", *_SEARCHED, "confidence"),
        _NEVER_AGAIN,
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("project.id"))
    sha256: Mapped[str] = mapped_column(String(64))
    path: Mapped[str]
    suffix: Mapped[str] = mapped_column(String(10))
    width: Mapped[int]
    height: Mapped[int]
    is_test: Mapped[bool]
    rank: Mapped[int]
    # Their former values are known at each change: `catalog.store.session` needs them.
    status: Mapped[Status] = mapped_column(String(10), default=Status.WAITING, active_history=True)
    classes: Mapped[list[int]] = mapped_column(JSON, default=list, active_history=True)
    event_id: Mapped[int | None]
    page_token: Mapped[str | None] = mapped_column(String(40))
    leased_until: Mapped[float | None]
    burst: Mapped[str | None] = mapped_column(String(40))
    first_person: Mapped[str | None] = mapped_column(String(100))
    class_key: Mapped[str] = mapped_column(default="")
    labeled_by: Mapped[str] = mapped_column(String(100), default="")
    labeled_at: Mapped[float] = mapped_column(default=0.0)
    origin: Mapped[str] = mapped_column(String(12), default="")
    confidence: Mapped[float | None]
    differs: Mapped[bool] = mapped_column(default=False)
    is_requeued: Mapped[bool] = mapped_column(default=False, active_history=True)
    earlier: Mapped[dict | None] = mapped_column(JSON)


class ImageCount(Base):
    """The number of a project's images with a status, and of those labeled with a class.

    `catalog.store.image_counts` changes it with the images.

    Attributes:
        class_id: 0 in the rows that count all images with a status.
    """

    __tablename__ = "image_count"

    project_id: Mapped[int] = mapped_column(ForeignKey("project.id"), primary_key=True)
    class_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    status: Mapped[Status] = mapped_column(String(10), primary_key=True)
    is_test: Mapped[bool] = mapped_column(primary_key=True)
    images: Mapped[int]


class SeenFile(Base):
    """A file of a project's folder that was read.

    It isn't read again while its size and time of change are the same.

    Attributes:
        path: within the folder.
        size: in bytes.
        modified: time of its last change in nanoseconds.
        sha256: of its content; empty if it is no image.
    """

    __tablename__ = "seen_file"
    __table_args__ = (UniqueConstraint("project_id", "path"), _NEVER_AGAIN)

    id: Mapped[int] = mapped_column(primary_key=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("project.id"))
    path: Mapped[str]
    size: Mapped[int] = mapped_column(BigInteger)
    modified: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str] = mapped_column(String(64))


class Quarantined(Base):
    """A file that can't be used, with the reason."""

    __tablename__ = "quarantined"
    __table_args__ = (UniqueConstraint("project_id", "path"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("project.id"))
    path: Mapped[str]
    reason: Mapped[str]


class Page(Base):
    """Images handed out together to one tab.

    Attributes:
        token: random; who knows it may submit the page.
        images: in their order, each with `id`, `sha256`, `predicted`, `confidence`, `answer` and `reason`.
            The prediction is shown on prelabeled pages only; the answer is that of an undone page; the reason
            is that of the person who has sent the image back. On the pages of second labels and of reviews
            also `model_id`, of the prediction, and `opinions`, the two answers that a review shows.
        keys: class ids on the keys 1-9.
        model_id: the model that made the predictions.
        answers: what was submitted, by image id, so that a repeated request is recognised.
        reopened_as: the page that undoing this one has opened.
    """

    __tablename__ = "page"
    __table_args__ = (
        Index("page_project", "project_id", "submitted_at"),
        Index("page_kind", "project_id", "kind", "person", "submitted_at"),
    )

    token: Mapped[str] = mapped_column(String(40), primary_key=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("project.id"))
    kind: Mapped[PageKind] = mapped_column(String(12))
    person: Mapped[str] = mapped_column(String(100))
    images: Mapped[list[dict]] = mapped_column(JSON)
    keys: Mapped[list[int]] = mapped_column(JSON)
    model_id: Mapped[int | None] = mapped_column(ForeignKey("model.id"))
    created_at: Mapped[float]
    submitted_at: Mapped[float | None]
    answers: Mapped[dict | None] = mapped_column(JSON)
    reopened_as: Mapped[str | None] = mapped_column(String(40))


class Event(Base):
    """A person's label for an image; events are only ever added.

    Attributes:
        page_kind: how the image was shown; None for an event without a page.
        model_id, predicted, confidence: the prediction that a model had made before, shown or not.
        before, after: status and classes, as ``{"status": "labeled", "classes": [3]}``. If the image is
            queued again, also `earlier`, the label that is filled in; if it waits for a second label, also
            `first_person`.
        geometry: reserved for boxes.
        answer: what a second person said, whatever the label became (see `Status.DISPUTED`); else None.
        action: what caused an event without a page; None for a single label on the teach page.
        reason: a person's, for rejecting a label.
        batch: random; shared by the events of one action, so that it can be taken back.
        takes_back: id of the event that this one takes back; None if it takes none back.
    """

    __tablename__ = "event"
    __table_args__ = (
        Index("event_project", "project_id", "id"),
        Index("event_image", "image_id", "id"),
        Index("event_batch", "batch"),
        Index("event_hours", "project_id", "at", "person", "page_kind"),
        Index("event_person", "person", "page_kind"),
        Index("event_kind", "project_id", "page_kind", "id"),
        Index("event_takes_back", "takes_back"),
        _NEVER_AGAIN,
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("project.id"))
    image_id: Mapped[int] = mapped_column(ForeignKey("image.id"))
    at: Mapped[float]
    person: Mapped[str] = mapped_column(String(100))
    page_token: Mapped[str | None] = mapped_column(String(40))
    page_kind: Mapped[PageKind | None] = mapped_column(String(12))
    model_id: Mapped[int | None] = mapped_column(ForeignKey("model.id"))
    predicted: Mapped[list[int] | None] = mapped_column(JSON)
    confidence: Mapped[float | None]
    before: Mapped[dict] = mapped_column(JSON)
    after: Mapped[dict] = mapped_column(JSON)
    geometry: Mapped[dict | None] = mapped_column(JSON)
    answer: Mapped[dict | None] = mapped_column(JSON)
    action: Mapped[Action | None] = mapped_column(String(12))
    reason: Mapped[str | None] = mapped_column(String(500))
    batch: Mapped[str | None] = mapped_column(String(40))
    takes_back: Mapped[int | None]


class Model(Base):
    """Suggestions of one computation: clusters, or a head trained on labels.

    Attributes:
        last_event: id of the last event that it has learned from.
        labels: number of images that it has learned from.
        threshold: confidence from which suggestions are filled in; None if there are too few labels.
        message: a sentence for the dashboard.
        champion: name of the champion that made the predictions; empty if a head trained here did.
        run_path: path of its run in MLflow's UI; None if MLflow could not be used.
    """

    __tablename__ = "model"

    id: Mapped[int] = mapped_column(primary_key=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("project.id"))
    created_at: Mapped[float]
    last_event: Mapped[int]
    labels: Mapped[int]
    threshold: Mapped[float | None]
    message: Mapped[str]
    champion: Mapped[str] = mapped_column(String(200), default="")
    run_path: Mapped[str | None] = mapped_column(String(100))


class Suggestion(Base):
    """The latest model's group and prediction for an image that waits; the next model replaces it.

    Attributes:
        is_waiting: whether the image waits now, and isn't queued again; it follows from its columns.
        cluster: number of a group of similar images, in the order in which they are shown.
        distance: position within the cluster.
        predicted: the most probable classes; None before there is a trained head.
        confidence: calibrated probability that `predicted` is right; 0 without it.
        probable: ids of the most probable classes, best first.
    """

    __tablename__ = "suggestion"
    __table_args__ = (
        Index("suggestion_queue", "project_id", "is_waiting", "cluster", "distance"),
        Index("suggestion_confidence", "project_id", "is_waiting", "confidence"),
    )

    image_id: Mapped[int] = mapped_column(ForeignKey("image.id"), primary_key=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("project.id"))
    model_id: Mapped[int] = mapped_column(ForeignKey("model.id"))
    is_waiting: Mapped[bool] = mapped_column(default=True)
    cluster: Mapped[int]
    distance: Mapped[float]
    predicted: Mapped[list[int] | None] = mapped_column(JSON)
    confidence: Mapped[float]
    probable: Mapped[list[int]] = mapped_column(JSON)


class Suspect(Base):
    """A label that the pipeline's last audit holds for wrong.

    It counts while it is the image's label: not if somebody has labeled the image again since the audit.

    Attributes:
        event_id: of the label.
        class_key: the label, see `Image`.
        proposed: ids of the classes that the audit holds for right.
        own_probability: of the label, by a model that was trained without the image.
        probability: of `proposed`.
    """

    __tablename__ = "suspect"
    __table_args__ = (Index("suspect_order", "project_id", "own_probability", "image_id"),)

    image_id: Mapped[int] = mapped_column(ForeignKey("image.id"), primary_key=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("project.id"))
    event_id: Mapped[int]
    class_key: Mapped[str]
    proposed: Mapped[list[int]] = mapped_column(JSON)
    own_probability: Mapped[float]
    probability: Mapped[float]


class Job(Base):
    """Work of the helper process, for its progress on the page.

    Attributes:
        attempts: how often the helper ended unexpectedly while it worked on it.
        done, total: progress; `total` is 0 while it is unknown.
    """

    __tablename__ = "job"
    __table_args__ = (
        Index("job_queue", "state", "id"),
        Index("job_project", "project_id", "kind"),
        _NEVER_AGAIN,
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("project.id"))
    kind: Mapped[str] = mapped_column(String(20))  # of catalog.store.jobs
    state: Mapped[JobState] = mapped_column(String(10))
    attempts: Mapped[int]
    done: Mapped[int]
    total: Mapped[int]
    message: Mapped[str]
    created_at: Mapped[float]
    updated_at: Mapped[float]


class LabelImport(Base):
    """A file of labels that waits for a person's choices, or whose labels were taken over.

    Attributes:
        batch: of the events, from the first attempt on, so that all of them can be taken back together.
        person: who has sent it; `at`: when.
        name, format: of the file, for display.
        preview: what it would have changed when it came, see `catalog.store.import_preview`; None if it was
            imported by a command.
        choices: what a person has decided; None before.
        counts: what was done so far, see `catalog.store.imports.Imported`; changes with the labels.
        undone_at, undone_by: when somebody has begun to take it back, and who; None and empty before.
        undone: images that have their label from before again.
    """

    __tablename__ = "label_import"
    __table_args__ = (Index("label_import_project", "project_id", "id"), _NEVER_AGAIN)

    id: Mapped[int] = mapped_column(primary_key=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("project.id"))
    batch: Mapped[str] = mapped_column(String(40), unique=True)
    person: Mapped[str] = mapped_column(String(100))
    at: Mapped[float]
    name: Mapped[str] = mapped_column(String(200))
    format: Mapped[str] = mapped_column(String(30))
    state: Mapped[ImportState] = mapped_column(String(10))
    preview: Mapped[dict | None] = mapped_column(JSON)
    choices: Mapped[dict | None] = mapped_column(JSON)
    counts: Mapped[dict] = mapped_column(JSON)
    undone_at: Mapped[float | None]
    undone_by: Mapped[str] = mapped_column(String(100), default="")
    undone: Mapped[int] = mapped_column(default=0)
