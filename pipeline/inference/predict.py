"""Predicts the classes of photos: ``petfaces predict PHOTO…``"""

import json
import logging
import os
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

import click

from pipeline.common import log, tables, text
from pipeline.common.errors import UserError
from pipeline.inference import resolve
from pipeline.sources import photos
from pipeline.tasks import SEPARATOR

if TYPE_CHECKING:
    from pipeline.portable import ModelCard, OnnxClassifier

_log = logging.getLogger(__name__)

SINGLE = 5  # up to this many photos, each gets its own table


def answers(portable: "OnnxClassifier", names: Iterable[str], top: int) -> Iterator[tuple[str, dict]]:
    """Predicts images in parallel, one per core, and yields the results in order.

    Only a few images are in memory at a time.

    Args:
        portable: the model, limited to one thread.
        names: as `photos.read` accepts them.
        top: number of classes.

    Yields:
        The name, and the result of `OnnxClassifier.answer`, or `error` with the reason.
    """
    from pipeline.portable import UnreadableError, reason

    def predict_one(name: str) -> dict:
        try:
            return portable.answer(photos.read(name), top)
        except UnreadableError as error:
            return {"error": str(error)}
        except Exception as error:  # an error of ONNX Runtime concerns only this image
            return {"error": f"the model gives no answer ({reason(error)})"}

    workers = len(os.sched_getaffinity(0))
    with ThreadPoolExecutor(workers) as pool:
        pending: deque = deque()
        for name in names:
            pending.append((name, pool.submit(predict_one, name)))
            if len(pending) > 2 * workers:
                photo, answer = pending.popleft()
                yield photo, answer.result()
        for photo, answer in pending:
            yield photo, answer.result()


def _present(answer: dict) -> list[str]:
    """The classes that a multi-label model finds in an image."""
    return [label for label, is_there in zip(answer["labels"], answer["present"], strict=True) if is_there]


def _in_words(answer: dict) -> str:
    """The predicted classes, for display."""
    if "present" in answer:
        return ", ".join(_present(answer)) or "none"
    label = answer["labels"][0]
    return f"unsure, perhaps {label}" if answer["unsure"] else label


def _as_table(name: str, answer: dict, unsure_below: float) -> None:
    print(text.printable(name))  # not as the table's title, which would be wrapped to its width
    columns = {
        "class" if "present" in answer else "breed": answer["labels"],
        "probability": [f"{probability:.1%}" for probability in answer["probabilities"]],
    }
    if "present" in answer:
        columns["named"] = ["yes" if is_there else "" for is_there in answer["present"]]
    text.print_table(list(columns), zip(*columns.values(), strict=True), right=["probability"])
    if answer.get("unsure"):
        print(f"Unsure: it names a breed from {unsure_below:.0%} on.")


def _as_line(name: str, answer: dict) -> None:
    probability = "" if "present" in answer else f", {answer['probabilities'][0]:.1%}"
    print(f"{text.printable(name)}: {text.printable(_in_words(answer))}{probability}")


def _as_json(name: str, answer: dict) -> None:
    print(json.dumps({"photo": name, **answer}))  # ASCII: valid in any encoding, and without terminal escapes


def _as_csv(write_row, top: int, name: str, answer: dict) -> None:
    results = list(zip(answer.get("labels", []), answer.get("probabilities", []), strict=True))[:top]
    results += [("", "")] * (top - len(results))
    cells = [cell for label, probability in results for cell in (label, probability and f"{probability:.6f}")]
    decision = SEPARATOR.join(_present(answer)) if "present" in answer else answer.get("unsure", "")
    row = [name, decision, *cells, answer.get("error", "")]
    # Programs get the raw name; for a terminal, control characters are escaped.
    write_row(map(text.printable, row) if sys.stdout.isatty() else row)


def _writer(
    kind: str, top: int, several: bool, card: "ModelCard"
) -> tuple[Callable[[str, dict], None], bool]:
    """The function that writes a result, and whether it also gets errors: programs need a row per image."""
    if kind == "jsonl":
        return _as_json, True
    if kind == "csv":
        write_row = tables.writer(sys.stdout)
        numbers = range(1, top + 1)
        columns = [cell for number in numbers for cell in (f"label_{number}", f"probability_{number}")]
        decision = "present" if card.several else "unsure"
        write_row(["photo", decision, *columns, "error"])
        return partial(_as_csv, write_row, top), True
    return (_as_line if several else partial(_as_table, unsure_below=card.unsure_below)), False


def predict(words: list[str], model: str | None, top: int, kind: str) -> int:
    """Prints the most probable classes of each photo.

    Args:
        words: files, folders, patterns, or ``-`` for standard input.
        model: as `resolve.opened` accepts it.
        top: number of classes.
        kind: output format, `table`, `jsonl` or `csv`.

    Returns:
        The number of photos that failed; each is reported on stderr, and the rest is still processed.

    Raises:
        UserError: there is no such model, or no photo.
    """
    from tqdm import tqdm

    from pipeline.portable import FORMATS, OnnxClassifier

    several = len(words) > SINGLE or any(os.path.isdir(word) or "*" in word for word in words)  # noqa: PTH112
    with resolve.opened(model) as found:
        portable = OnnxClassifier(found.portable, threads=1)
        top = min(top, len(portable.classes))
        write, writes_errors = _writer(kind, top, several, portable.card)
        skipped: Counter[str] = Counter()
        # A progress bar would mix with results printed to the terminal.
        bar = tqdm(
            answers(portable, photos.image_paths(words, skipped), top),
            disable=log.is_quiet() or sys.stdout.isatty() or None,
            unit=" photos",
        )
        seen = failed = 0
        for name, answer in bar:
            seen += 1
            if "error" in answer:
                failed += 1
                _log.error("%s: %s", name, answer["error"])
            if "error" not in answer or writes_errors:
                write(name, answer)
    if skipped:
        _log.warning("%s", photos.skipped_message(skipped))
    if not seen:
        raise UserError(f"{text.shortened(', '.join(words), 300)}: no pictures there ({', '.join(FORMATS)})")
    # For programs, notes go to stderr, apart from the data.
    note_stream = sys.stdout if kind == "table" else sys.stderr
    if portable.card.drawings:
        note = "This champion was trained on drawings and knows no photographs. The real faces: make petfaces"
        print(note, file=note_stream)
    elif failed < seen and kind == "table":
        print("It was trained on heads cut tight: crop the photo to the pet's head for a fair answer.")
    return failed


@click.command()
@click.argument("photos", nargs=-1, required=True, metavar="PHOTO...")
@click.option("--model", help=resolve.HELP)
@click.option("--top", type=click.IntRange(min=1), default=5, show_default=True, help="Classes to show.")
@click.option(
    "--format",
    "kind",
    type=click.Choice(["table", "jsonl", "csv"]),
    default="table",
    show_default=True,
    help="For people, or for programs.",
)
def main(photos: tuple[str, ...], model: str | None, top: int, kind: str) -> None:
    """Name the classes in photos.

    PHOTO is a picture's file, a folder, a pattern, or - for standard input.
    """
    try:
        failed = predict(list(photos), model, top, kind)
    except BrokenPipeError:  # the reader, such as head, closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    sys.exit(1 if failed else 0)
