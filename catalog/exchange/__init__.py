"""Files of labels from and to other programs, as data: nothing here knows the database or the web.

Files come from strangers. Names in them are compared and shown, and never opened.
"""

from catalog.exchange.recognize import read
from catalog.exchange.records import Format, LabelFile, Record, TooManyError

__all__ = ["Format", "LabelFile", "Record", "TooManyError", "read"]
