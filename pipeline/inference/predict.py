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

MAX_TABLES = 5  # up to this many photos, each gets its own table


def answers(model: "OnnxClassifier", names: Iterable[str], top: int) -> Iterator[tuple[str, dict]]:
    """Predicts images in parallel, one per core, and yields the results in order.

    Only a few images are in memory at a time.

    Args:
        model: limited to one thread.
        names: as `photos.read` accepts them.
        top: number of classes.

    Yields:
        The name, and the result of `OnnxClassifier.answer` or a dict with only `error`, the reason.
    """
    from pipeline.portable import UnreadableError, reason

    def predict_one(name: str) -> dict:
        try:
            return model.answer(photos.read(name), top)
        except UnreadableError as error:
            return {"error": str(error)}
        except Exception as error:  # an error of ONNX Runtime must not stop the other images
            return {"error": f"the model gives no answer ({reason(error)})"}

    workers = len(os.sched_getaffinity(0))
    with ThreadPoolExecutor(workers) as pool:
        pending: deque = deque()
        for name in names:
            pending.append((name, pool.submit(predict_one, name)))
            if len(pending) > 2 * workers:
                oldest, answer = pending.popleft()
                yield oldest, answer.result()
        for name, answer in pending:
            yield name, answer.result()


def _present(answer: dict) -> list[str]:
    """The classes that a multi-label model finds in an image."""
    return [label for label, present in zip(answer["labels"], answer["present"], strict=True) if present]


def _print_table(name: str, answer: dict, unsure_below: float) -> None:
    print(text.printable(name))  # not as the table's title, which would be wrapped to its width
    columns = {
        "class" if "present" in answer else "breed": answer["labels"],
        "probability": [f"{probability:.1%}" for probability in answer["probabilities"]],
    }
    if "present" in answer:
        columns["named"] = ["yes" if present else "" for present in answer["present"]]
    text.print_table(list(columns), zip(*columns.values(), strict=True), right=["probability"])
    if answer.get("unsure"):
        print(f"Unsure: no breed reaches {unsure_below:.0%}.")


def _print_line(name: str, answer: dict) -> None:
    if "present" in answer:
        result = ", ".join(_present(answer)) or "none"
    else:
        label, probability = answer["labels"][0], answer["probabilities"][0]
        result = f"{'unsure, perhaps ' if answer['unsure'] else ''}{label}, {probability:.1%}"
    print(f"{text.printable(name)}: {text.printable(result)}")


def _print_json(name: str, answer: dict) -> None:
    print(json.dumps({"photo": name, **answer}))  # ASCII: valid in any encoding, and without terminal escapes


def _print_csv(write_row: Callable[[Iterable], None], top: int, name: str, answer: dict) -> None:
    results = list(zip(answer.get("labels", []), answer.get("probabilities", []), strict=True))[:top]
    results += [("", "")] * (top - len(results))
    cells = [cell for label, probability in results for cell in (label, probability and f"{probability:.6f}")]
    decision = SEPARATOR.join(_present(answer)) if "present" in answer else answer.get("unsure", "")
    row = [name, decision, *cells, answer.get("error", "")]
    # Programs get the raw name; for a terminal, control characters are escaped.
    write_row(map(text.printable, row) if sys.stdout.isatty() else row)


def _writer(
    output_format: str, top: int, compact: bool, card: "ModelCard"
) -> tuple[Callable[[str, dict], None], bool]:
    """The function that prints a result.

    Args:
        output_format: `table`, `jsonl` or `csv`.
        top: number of classes.
        compact: whether `table` prints one line per image.
        card: the model's card.

    Returns:
        The function, which takes a name and a result of `answers`; and whether it takes errors too, because
        programs need a row for every image.
    """
    if output_format == "jsonl":
        return _print_json, True
    if output_format == "csv":
        write_row = tables.writer(sys.stdout)
        numbers = range(1, top + 1)
        columns = [cell for number in numbers for cell in (f"label_{number}", f"probability_{number}")]
        decision = "present" if card.several else "unsure"
        write_row(["photo", decision, *columns, "error"])
        return partial(_print_csv, write_row, top), True
    return (_print_line if compact else partial(_print_table, unsure_below=card.unsure_below)), False


def predict(sources: list[str], model: str | None, top: int, output_format: str) -> int:
    """Prints the most probable classes of each photo.

    Args:
        sources: files, folders, patterns, or ``-`` for standard input.
        model: as `resolve.opened` accepts it.
        top: number of classes.
        output_format: `table`, `jsonl` or `csv`.

    Returns:
        The number of photos that failed; each is reported on stderr, and the others are still processed.

    Raises:
        UserError: there is no such model, or no photo.
    """
    from tqdm import tqdm

    from pipeline.portable import FORMATS, OnnxClassifier

    compact = len(sources) > MAX_TABLES
    compact = compact or any(os.path.isdir(source) or "*" in source for source in sources)  # noqa: PTH112
    with resolve.opened(model) as folder:
        classifier = OnnxClassifier(folder.portable, threads=1)
        top = min(top, len(classifier.classes))
        write, writes_errors = _writer(output_format, top, compact, classifier.card)
        skipped: Counter[str] = Counter()
        # A progress bar would mix with results printed to the terminal.
        bar = tqdm(
            answers(classifier, photos.image_paths(sources, skipped), top),
            disable=log.is_quiet() or sys.stdout.isatty() or None,
            unit=" photos",
        )
        count = failed = 0
        for name, answer in bar:
            count += 1
            if "error" in answer:
                failed += 1
                _log.error("%s: %s", name, answer["error"])
            if "error" not in answer or writes_errors:
                write(name, answer)
    if skipped:
        _log.warning("%s", photos.skipped_message(skipped))
    if not count:
        shown = text.shortened(", ".join(sources), 300)
        raise UserError(f"{shown}: no pictures there ({', '.join(FORMATS)})")
    # For programs, notes go to stderr, apart from the data.
    note_stream = sys.stdout if output_format == "table" else sys.stderr
    if classifier.card.drawings:
        note = "The model was trained on drawings, not photographs; to train on photos, run: make petfaces"
        print(note, file=note_stream)
    elif failed < count and output_format == "table":
        print("The model was trained on tightly cropped heads: crop the photo to the pet's head.")
    return failed


@click.command()
@click.argument("photos", nargs=-1, required=True, metavar="PHOTO...")
@click.option("--model", help=resolve.HELP)
@click.option("--top", type=click.IntRange(min=1), default=5, show_default=True, help="Number of classes.")
@click.option(
    "--format",
    "output_format",
    type=click.Choice(["table", "jsonl", "csv"]),
    default="table",
    show_default=True,
    help="jsonl and csv are for programs.",
)
def main(photos: tuple[str, ...], model: str | None, top: int, output_format: str) -> None:
    """Predict the classes of photos.

    PHOTO is an image file, a folder, a pattern, or - for standard input.
    """
    try:
        failed = predict(list(photos), model, top, output_format)
    except BrokenPipeError:  # the reader, such as head, closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    sys.exit(1 if failed else 0)
