"""Sentences of the helper. They are stored in English, and translated where a page shows them.

A stored sentence is recognised by the text that made it. What is not recognised, such as the reason of an
error in a library, stays English.
"""

import functools
import re

from catalog.language import N_, _, number, percent

FILES_READ = N_("{files} files read")
RESULT = N_("{files} files: {added} new images, {bad} that can't be used")
UNREADABLE_FOLDER = N_("{path} can't be read ({reason})")
EMPTY_FOLDER = N_(
    "{path} is empty now, but {files} files were read there, so its disk or share may be disconnected"
)
NO_IMAGES = N_("no images yet")
LOADING_BACKBONE = N_("loading the backbone")
COMPUTING = N_("computing features")
ARRANGING = N_("arranging images by similarity")
PLACING = N_("placing the other images")
MAPPED = N_("a map of {count} images")
TOO_FEW_TO_MAP = N_("a map needs at least {least} images that can be read; there are {count}")
TRAINING = N_("training on the labels")
LOADING_CHAMPION = N_("loading the champion {champion}")
PREDICTING = N_("predicting with {champion}")

TOO_FEW = N_("too few labels for predictions ({labels})")
SIMILAR = N_("pages show similar images")
CHAMPION = N_("the champion {champion}")
TRAINED = N_("trained on {labels} labels")
SAME_CLASS = N_("pages show images with the same predicted class")
FILLED_IN = N_("suggestions are filled in at a confidence of {confidence} and above")
CHECKED = N_("{checked} of {needed} predictions checked by people so far")
WITHOUT_PAGE = N_("without the browser page ({reason})")
NOT_SHOWN = N_("not yet shown to be right {precision} of the time, so nothing is filled in")

_MADE = (
    *(UNREADABLE_FOLDER, EMPTY_FOLDER),
    *(FILES_READ, RESULT, NO_IMAGES, LOADING_BACKBONE, COMPUTING, TRAINING, LOADING_CHAMPION, PREDICTING),
    *(ARRANGING, PLACING, MAPPED, TOO_FEW_TO_MAP),
    *(TOO_FEW, SIMILAR, CHAMPION, TRAINED, SAME_CLASS, FILLED_IN, CHECKED, NOT_SHOWN, WITHOUT_PAGE),
)
# Those of the store and of the pipeline, as they are written there.
_OF_OTHERS = (
    N_("with a page to try it in the browser"),
    N_("there is no model yet; press Train first"),
    N_("a class was deleted meanwhile; try again"),
    N_("the backbone has changed since the training; press Train again"),
    N_("Too few images: at least two classes need an image each."),
    N_("each class needs images of two recordings: one to learn from, one to test on"),
    N_("an image's file is missing"),
    N_("the helper ended unexpectedly, twice; out of memory perhaps"),
    N_("{path} is not there; name a folder or an archive of this machine"),
    N_("{data} has no archive yet; run: dvc repro fetch, or name a folder"),
    N_("{file} has been damaged ({reason}); read the project's images again"),
    N_("{folder} is missing; choose the champion again on the settings page"),
    N_("skipped files: {count} ({kinds})"),
    N_("empty file"),
    N_("more than {count} bytes"),
    N_("more than {count} pixels"),
    N_("{size} pixels, more than {count}"),
    N_("{size} pixels: one side is more than {count} times the other"),
    N_("not a picture of a known format"),
    N_("damaged: {reason}"),
)
_NUMBER = re.compile(r"\d{1,3}(,\d{3})*(\.\d+)?")


def shown(sentence: str) -> str:
    """A stored sentence in the present language; its parts are joined by ``; ``."""
    whole = _translated(sentence)
    return "; ".join(_translated(part) or part for part in sentence.split("; ")) if whole is None else whole


def _translated(sentence: str) -> str | None:
    for text in (*_OF_OTHERS, *_MADE):
        if found := _pattern(text).fullmatch(sentence):
            return _(text).format_map({key: _value(value) for key, value in found.groupdict().items()})
    return None


@functools.cache
def _pattern(text: str) -> re.Pattern:
    """Matches the sentences that a text makes."""
    parts = re.split(r"\{(\w+)\}", text)
    escaped = (f"(?P<{part}>.+?)" if index % 2 else re.escape(part) for index, part in enumerate(parts))
    return re.compile("".join(escaped), re.DOTALL)


def _value(text: str) -> str:
    """A value of a sentence; numbers in the way of the present language."""
    if _NUMBER.fullmatch(text):
        return number(float(text.replace(",", "")))
    if text.endswith("%") and _NUMBER.fullmatch(text[:-1]):
        return percent(float(text[:-1].replace(",", "")) / 100)
    return text
