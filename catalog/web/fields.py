"""Types of what requests contain: values that both databases can hold."""

from typing import Annotated

from pydantic import AfterValidator, Field

from catalog.language import _
from pipeline.common.errors import UserError

MAX_ID = 2**63 - 1

ImageId = Annotated[int, Field(ge=1, le=MAX_ID)]


def _without_nul(text: str) -> str:
    """Refuses what SQLite would store and PostgreSQL can't.

    Raises:
        UserError: the text has the character with number 0.
    """
    if "\0" in text:
        raise UserError(_("a text is too long, or has characters that the database can't store"))
    return text


Text = Annotated[str, AfterValidator(_without_nul)]
