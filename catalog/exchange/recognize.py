"""Recognises the format of a file of labels by its content."""

from catalog.exchange import coco, label_studio, safe_json, table
from catalog.exchange.records import LabelFile
from catalog.language import _, number
from pipeline.common.errors import UserError

MAX_BYTES = 200_000_000  # of a file
_WORKBOOKS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")  # archives of today's Excel, and those before 2007
_BOM = b"\xef\xbb\xbf"


def read(data: bytes) -> LabelFile:
    """The labels in a file.

    Raises:
        UserError: it is no file of a known format, or is damaged.
    """
    data = data.removeprefix(_BOM)
    start = data[:1000].lstrip()
    if not data.strip():
        raise UserError(_("the file is empty"))
    if data.startswith(_WORKBOOKS):
        raise UserError(_("the file is an Excel workbook or an archive; in Excel: Save as, CSV UTF-8"))
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise UserError(_("the file is UTF-16; save it as UTF-8"))
    if b"\0" in data[:1000]:
        raise UserError(_("the file is neither JSON nor CSV; unpack it if it is an archive"))
    try:
        if start[:1] in (b"{", b"["):
            return _read_json(safe_json.load(data))
        return table.read(data.decode())
    except UnicodeDecodeError as error:
        lines = data[: error.start].splitlines() or [b""]
        line = len(lines) + data[: error.start].endswith((b"\r", b"\n"))
        message = _("line {line} of the file is not UTF-8; save it as UTF-8 (in Excel: Save as, CSV UTF-8)")
        raise UserError(message.format(line=number(line))) from None


def _read_json(tree: object) -> LabelFile:
    if coco.is_coco(tree):
        return coco.read(tree)
    if label_studio.is_export(tree):
        return label_studio.read(tree)
    if label_studio.is_min_export(tree):
        return label_studio.read_min(tree)
    raise UserError(_("the JSON file is neither COCO nor an export of Label Studio (JSON or JSON-MIN)"))
