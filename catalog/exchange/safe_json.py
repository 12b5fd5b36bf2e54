"""Reads JSON of strangers: its size is bounded, and what programs understand differently is refused."""

import json

from catalog.language import _, number
from pipeline.common import text
from pipeline.common.errors import UserError

MAX_VALUES = 20_000_000  # they take up to 100 bytes of memory each


def load(data: bytes) -> object:
    """The value of a JSON file.

    Raises:
        UserError: it is no JSON, or has duplicate keys, NaN, too large numbers, too many or too deeply
            nested values.
        UnicodeDecodeError: it is not UTF-8.
    """
    # Each value but the first follows one of these; those within texts count too.
    if data.count(b",") + data.count(b"[") + data.count(b"{") > MAX_VALUES:
        message = _("the file has more than {count} values; split it")
        raise UserError(message.format(count=number(MAX_VALUES)))
    content = data.decode()  # not below: this error is a ValueError, too
    try:
        return json.loads(content, object_pairs_hook=_object, parse_constant=_constant)
    except json.JSONDecodeError as error:
        message = _("line {line} is no JSON from character {column} on")
        raise UserError(message.format(line=number(error.lineno), column=number(error.colno))) from None
    except RecursionError:
        raise UserError(_("the file nests its values too deeply")) from None
    except ValueError:  # of a number with thousands of digits
        raise UserError(_("the file has a number that is too large")) from None


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _value in pairs if key in seen or seen.add(key))
        message = _("the key {key} stands twice in one object; which one counts?")
        raise UserError(message.format(key=text.shortened(twice, 60)))
    return found


def _constant(name: str) -> float:
    raise UserError(_("{name} is no JSON number").format(name=name))
