"""Names the classes of photos: ``petfaces predict PHOTO…``"""

import json
import os
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

import click

from pipeline.common import tables, text
from pipeline.common.errors import UserError
from pipeline.inference import resolve
from pipeline.sources import photos
from pipeline.tasks import SEPARATOR

if TYPE_CHECKING:
    from pipeline.portable import ModelCard, OnnxClassifier

SINGLE = 5  # photos up to which each has a table of its own


def answers(portable: "OnnxClassifier", names: Iterable[str], top: int) -> Iterator[tuple[str, dict]]:
    """The answer to each picture, in their order, as soon as it is there.

    A core a picture; only a few pictures are in memory at a time, however many come.

    Args:
        portable: the model, on one thread.
        names: as `photos.read` understands them.
        top: how many classes.

    Yields:
        The name, and what `OnnxClassifier.answer` says, or `error` with the reason.
    """
    from pipeline.portable import UnreadableError, reason

    def one(name: str) -> dict:
        try:
            return portable.answer(photos.read(name), top)
        except UnreadableError as error:
            return {"error": str(error)}
        except Exception as error:  # what ONNX Runtime raises concerns this picture alone
            return {"error": f"the model gives no answer ({reason(error)})"}

    workers = len(os.sched_getaffinity(0))
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque = deque()
        for name in names:
            waiting.append((name, pool.submit(one, name)))
            if len(waiting) > 2 * workers:
                done, answer = waiting.popleft()
                yield done, answer.result()
        for done, answer in waiting:
            yield done, answer.result()


def _present(answer: dict) -> list[str]:
    """The classes that an image has, by a model of several classes per image."""
    return [label for label, is_there in zip(answer["labels"], answer["present"], strict=True) if is_there]


def _in_words(answer: dict) -> str:
    """The classes that an answer names."""
    if "present" in answer:
        return ", ".join(_present(answer)) or "none"
    label = answer["labels"][0]
    return f"unsure, perhaps {label}" if answer["unsure"] else label


def _as_table(name: str, answer: dict, unsure_below: float) -> None:
    from rich.console import Console
    from rich.table import Table

    print(text.printable(name))  # above the table, not as its title, which would be folded to its width
    table = Table()
    several = "present" in answer
    for heading in ("class", "probability", "named") if several else ("breed", "probability"):
        table.add_column(heading, justify="right" if heading == "probability" else "left")
    for index, (label, share) in enumerate(zip(answer["labels"], answer["probabilities"], strict=True)):
        named = ["yes" if answer["present"][index] else ""] if several else []
        table.add_row(text.rich(label), f"{share:.1%}", *named)
    Console().print(table)
    if answer.get("unsure"):
        print(f"Unsure: it names a breed from {unsure_below:.0%} on.")


def _as_line(name: str, answer: dict) -> None:
    share = "" if "present" in answer else f", {answer['probabilities'][0]:.1%}"
    print(f"{text.printable(name)}: {text.printable(_in_words(answer))}{share}")


def _as_json(name: str, answer: dict) -> None:
    print(json.dumps({"photo": name, **answer}))  # ASCII: valid under any encoding, and no terminal obeys it


def _as_csv(write_row, top: int, name: str, answer: dict) -> None:
    pairs = list(zip(answer.get("labels", []), answer.get("probabilities", []), strict=True))[:top]
    pairs += [("", "")] * (top - len(pairs))
    cells = [cell for label, share in pairs for cell in (label, share and f"{share:.6f}")]
    decided = SEPARATOR.join(_present(answer)) if "present" in answer else answer.get("unsure", "")
    row = [name, decided, *cells, answer.get("error", "")]
    # A program gets the name's own bytes; a terminal must not obey them.
    write_row(map(text.printable, row) if sys.stdout.isatty() else row)


def _writer(
    kind: str, top: int, several: bool, card: "ModelCard"
) -> tuple[Callable[[str, dict], None], bool]:
    """What writes an answer, and whether it writes errors, too: programs want a line for each picture."""
    if kind == "jsonl":
        return _as_json, True
    if kind == "csv":
        write_row = tables.writer(sys.stdout)
        numbers = range(1, top + 1)
        columns = [cell for number in numbers for cell in (f"label_{number}", f"probability_{number}")]
        decided = "present" if card.several else "unsure"
        write_row(["photo", decided, *columns, "error"])
        return partial(_as_csv, write_row, top), True
    return (_as_line if several else partial(_as_table, unsure_below=card.unsure_below)), False


def predict(words: list[str], model: str | None, top: int, kind: str) -> int:
    """Prints the most probable breeds of each photo.

    Args:
        words: files, folders, patterns, or ``-`` for standard input.
        model: as `resolve.opened` understands it.
        top: how many breeds.
        kind: `table` for people, `jsonl` or `csv` for programs.

    Returns:
        How many photos could not be read; each is named on standard error and stops nothing.

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
        # A bar would break what is printed, unless that goes elsewhere.
        bar = tqdm(
            answers(portable, photos.named(words, skipped), top),
            disable=sys.stdout.isatty() or None,
            unit=" photos",
        )
        seen = failed = 0
        for name, answer in bar:
            seen += 1
            if "error" in answer:
                failed += 1
                tqdm.write(text.printable(f"error: {name}: {answer['error']}"), file=sys.stderr)
            if "error" not in answer or writes_errors:
                write(name, answer)
    if skipped:
        print(photos.told_of(skipped), file=sys.stderr)
    if not seen:
        raise UserError(f"{text.shortened(', '.join(words), 300)}: no pictures there ({', '.join(FORMATS)})")
    # Beside data for programs it would be no line of theirs.
    about = sys.stdout if kind == "table" else sys.stderr
    if portable.card.drawings:
        told = "This champion was trained on drawings and knows no photographs. The real faces: make petfaces"
        print(told, file=about)
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
    except BrokenPipeError:  # whoever read the answers, head perhaps, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    sys.exit(1 if failed else 0)
