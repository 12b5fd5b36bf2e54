"""What is searched for, in the address of the data page and of its requests."""

from dataclasses import dataclass
from typing import Annotated
from urllib.parse import urlencode

from fastapi import Depends, Query

from catalog.language import N_, _
from catalog.store.search import Order, Position, Search
from catalog.store.tables import Action, PageKind, Status
from catalog.web.fields import Text
from pipeline.common.errors import UserError


@dataclass(frozen=True)
class Choice:
    """A value of a filter: its name, and what it stands for."""

    name: str
    means: object


STATUSES = {
    "labeled": Choice(N_("labeled"), (Status.LABELED,)),
    "unlabeled": Choice(N_("not labeled or skipped"), (Status.WAITING, Status.SKIPPED)),
    "waiting": Choice(N_("not labeled yet"), (Status.WAITING,)),
    "skipped": Choice(N_("skipped"), (Status.SKIPPED,)),
    "unknown": Choice(N_("unknown"), (Status.UNKNOWN,)),
    "disputed": Choice(N_("disputed"), (Status.DISPUTED,)),
}
ORIGINS: dict[str, str] = {
    PageKind.MANUAL: N_("page in random order"),
    PageKind.CLUSTER: N_("page of similar images"),
    PageKind.PRELABELED: N_("page with suggestions"),
    PageKind.TEST: N_("test page"),
    PageKind.SECOND: N_("second opinion"),
    PageKind.REVIEW: N_("review of a dispute"),
    PageKind.RECHECK: N_("page of images queued again"),
    Action.GROUP: N_("labeled as a group"),
    Action.IMPORT: N_("imported file"),
    Action.CONFIRM: N_("confirmed"),
    Action.REJECT: N_("sent back"),
    Action.MERGE: N_("classes merged"),
    Action.REQUEUE: N_("queued again"),
    Action.DISCARD: N_("labels discarded"),
    Action.UNDO: N_("taken back"),
}
ORDERS: dict[Order, str] = {
    Order.NEWEST: N_("last labeled first"),
    Order.SUSPECTS: N_("label suspects first"),
    Order.UNSURE: N_("least certain first"),
    Order.RANDOM: N_("random order"),
}
TESTS = {
    "only": Choice(N_("only test images"), True),
    "without": Choice(N_("without test images"), False),
}
DIFFERS = {"yes": True}


@dataclass(frozen=True)
class SearchQuery:
    """The parameters of an address, as text.

    Attributes:
        least, most: confidence in percent.
        differs: `yes` or empty.
    """

    status: str = ""
    label: str = ""
    person: Text = ""
    kind: str = ""
    least: str = ""
    most: str = ""
    differs: str = ""
    test: str = ""
    text: Annotated[Text, Query(max_length=200)] = ""
    order: str = ""

    @property
    def is_filtered(self) -> bool:
        """Whether anything is searched for; an order alone isn't."""
        return any(value for name, value in vars(self).items() if name != "order")

    def address(self, **others: object) -> str:
        """The parameters that are given, for an address; empty without any."""
        found = {name: value for name, value in {**vars(self), **others}.items() if value not in ("", None)}
        return f"?{urlencode(found)}" if found else ""

    def search(self) -> Search:
        """What is searched for.

        Raises:
            UserError: a parameter has no meaning.
        """
        return Search(
            statuses=_known(STATUSES, self.status, "status").means if self.status else (),
            class_id=_number(self.label, "label"),
            person=self.person,
            origin=self.kind if self.kind and _known(ORIGINS, self.kind, "kind") else "",
            least=_share(self.least, "least"),
            most=_share(self.most, "most"),
            differs=bool(self.differs and _known(DIFFERS, self.differs, "differs")),
            is_test=_known(TESTS, self.test, "test").means if self.test else None,
            text=self.text.strip(),
            order=Order(self.order) if self.order and _known(ORDERS, self.order, "order") else Order.NEWEST,
        )


ByAddress = Annotated[SearchQuery, Depends()]


def position(text: str | None) -> Position | None:
    """The position in the parameters `after` and `before`.

    Raises:
        UserError: it is none.
    """
    return Position.parse(text) if text else None


def _known(choices: dict, value: str, name: str):
    if value not in choices:
        raise UserError(_("{name}: one of {choices}").format(name=name, choices=", ".join(choices)))
    return choices[value]


def _number(value: str, name: str) -> int | None:
    try:
        return int(value) if value else None
    except ValueError:
        raise UserError(_("{name}: a number, not {value}").format(name=name, value=value[:40])) from None


def _share(percent: str, name: str) -> float | None:
    number = _number(percent, name)
    if number is not None and not 0 <= number <= 100:
        raise UserError(_("{name}: a number from 0 to 100").format(name=name))
    return None if number is None else number / 100
