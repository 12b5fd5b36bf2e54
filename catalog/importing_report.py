"""Prints what a file of labels would change, and what it has changed."""

import shlex
from collections.abc import Mapping

import click

from catalog.store.import_preview import Preview
from catalog.store.import_rows import Outcome
from catalog.store.imports import Choices, Imported, Replace
from pipeline.common import text

SHOWN = 20  # unknown classes
_TEXTS = {
    Outcome.NEW: "new labels",
    Outcome.DIFFERENT: "different from here",
    Outcome.EQUAL: "same as here",
    Outcome.UNKNOWN_CLASS: "unknown class",
    Outcome.UNMATCHED: "without an image here",
    Outcome.REFUSED: "refused",
}


def print_preview(name: str, shown: Preview, unusable: Mapping[str, str]) -> None:
    """Prints the counts of a file, with the format's name, its unknown classes and what is left out.

    Args:
        name: of the format.
        shown: the preview.
        unusable: why some of the unknown classes can't be added.
    """
    click.echo(f"{name}, {shown.rows:,} rows")
    for outcome, label in _TEXTS.items():
        if count := shown.counts[outcome]:
            click.echo(f"{count:>9,} {label}")
    if shown.repeated:
        click.echo(f"{shown.repeated:>9,} repeat another row")
    if shown.counts[Outcome.DIFFERENT]:
        click.echo(f"of the other labels, {shown.imported:,} would replace labels that came from a file")
    if shown.tests:
        click.echo(
            f"{shown.tests:,} are test images: leave them out if a model had a part in these labels "
            "(--without-tests)"
        )
    if shown.named:
        click.echo(
            f"{shown.named:,} were recognised by their file name alone: leave them out if other folders "
            "have images of the same name (--without-names)"
        )
    names = [f"{text.printable(name)} ({count:,})" for name, count in shown.unknown_classes.most_common()]
    if names:
        click.echo(f"unknown classes (--add-classes): {text.listed(names, SHOWN)}")
    for name, problem in list(unusable.items())[:SHOWN]:
        click.echo(f"{text.shortened(name, 60)} can't be added: {problem}")
    for reason, count in shown.reasons.most_common():
        click.echo(f"{count:>9,} left out: {reason}")
    for outcome in (Outcome.UNMATCHED, Outcome.REFUSED):
        for example in shown.examples.get(outcome, []):
            click.echo(f"  row {example.where:,}, {text.shortened(example.name, 100)}: {example.reason}")


def changes(shown: Preview, choices: Choices) -> bool:
    """Whether anything would change."""
    replaced = {Replace.NONE: 0, Replace.IMPORTED: shown.imported}
    different = replaced.get(choices.replace, shown.counts[Outcome.DIFFERENT])
    return bool(shown.counts[Outcome.NEW] or different or choices.new_classes)


def print_done(done: Imported, project: str) -> None:
    """Prints what an import has done, and how it is taken back."""
    counts = {
        "labeled": done.new,
        "replaced": done.replaced,
        "the same": done.equal,
        "kept as they are": done.kept,
        "test images left out": done.tests,
        "recognised by name alone and left out": done.named,
        "open on somebody's page": done.held,
        "rows left out": done.skipped,
    }
    click.echo(", ".join(f"{count:,} {label}" for label, count in counts.items() if count))
    if done.added:
        click.echo(f"added classes: {', '.join(map(text.printable, done.added))}")
    if done.new or done.replaced:
        click.echo(f"To take it back: {undo_command(project, done.batch)}")


def undo_command(project: str, batch: str) -> str:
    """The command that takes an import back."""
    return f"petfaces catalog undo-import {shlex.quote(project)} {batch}"
