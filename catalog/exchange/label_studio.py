"""Labels in exports of Label Studio: its formats JSON and JSON-MIN.

`catalog.label_studio` writes what it imports.
"""

from collections.abc import Iterator

from catalog.exchange.records import Format, LabelFile, Problem, Record, checked, paths_of, record
from catalog.language import _
from pipeline.common import text
from pipeline.common.errors import UserError

CONTROL, OBJECT = "label", "image"  # names of the tags in our configuration
_ABOUT = frozenset({"id", "annotator", "annotation_id", "created_at", "updated_at", "lead_time", "image"})
_USUAL = ("choice", "choices", "label", "labels", "class", "classes", "category")


def is_export(tree: object) -> bool:
    """Whether a JSON value looks like Label Studio's format JSON."""
    return _first_has(tree, {"data"}) and isinstance(tree[0]["data"], dict)


def is_min_export(tree: object) -> bool:
    """Whether a JSON value looks like Label Studio's format JSON-MIN."""
    return _first_has(tree, {"annotation_id"})


def _first_has(tree: object, keys: set[str]) -> bool:
    return isinstance(tree, list) and bool(tree) and isinstance(tree[0], dict) and keys <= tree[0].keys()


def read(tasks: list) -> LabelFile:
    """Reads the format JSON.

    Raises:
        UserError: the tasks have several kinds of labels, so it is unclear which to take.
    """
    control = _one_control(_controls(tasks))
    return LabelFile(Format.LABEL_STUDIO, checked(_records(tasks, control)))


def _one_control(found: set[str]) -> str | None:
    """The tag whose choices are the labels: the only one, or that of our own configuration."""
    if len(found) <= 1:
        return next(iter(found), None)
    if CONTROL in found:
        return CONTROL
    message = _(
        "the file has labels of several tags ({names}); export a project with one tag, or name it {name}"
    )
    names = text.listed([text.shortened(name, 30) for name in sorted(found)], 5)
    raise UserError(message.format(names=names, name=CONTROL))


def _annotations(task: object) -> list[dict] | None:
    """The annotations of a task that were submitted; None if it isn't written as it should be."""
    given = task.get("annotations", task.get("completions", [])) if isinstance(task, dict) else None
    if not isinstance(given, list) or not all(isinstance(each, dict) for each in given):
        return None
    return given


def _choices(region: object) -> tuple[str, list] | None:
    """The name of the tag and the classes of a result; None if it is of another kind."""
    if not isinstance(region, dict) or not isinstance(region.get("value"), dict):
        return None
    kind, control = region.get("type"), region.get("from_name")
    if not isinstance(kind, str) or not isinstance(control, str):
        return None
    given = region["value"].get(kind) if kind == "choices" or kind.endswith("labels") else None
    return (control, given) if isinstance(given, list) else None


def _results(annotation: dict) -> list:
    result = annotation.get("result")
    return result if isinstance(result, list) else []


def _controls(tasks: list) -> set[str]:
    found: set[str] = set()
    for task in tasks:
        for annotation in _annotations(task) or []:
            found.update(choices[0] for choices in map(_choices, _results(annotation)) if choices)
    return found


def _records(tasks: list, control: str | None) -> Iterator[Record]:
    for where, task in enumerate(tasks, start=1):
        annotations = _annotations(task)
        data = task.get("data") if isinstance(task, dict) else None
        if annotations is None or not isinstance(data, dict):
            yield Record(where, problem=Problem.BAD_VALUE)
            continue
        classes, problem = _agreed(annotations, control)
        yield record(where, data.get("sha256"), _names(data), classes, problem=problem)


def _names(data: dict) -> list[str]:
    """How a task calls its image: our path, its address, else other texts that end like a file."""
    found = [data["path"]] if isinstance(data.get("path"), str) else []
    found += paths_of(data.get(OBJECT))
    if not found:
        addresses = (value for value in data.values() if isinstance(value, str) and "." in value[-6:])
        found += [path for address in addresses for path in paths_of(address)]
    return found


def _agreed(annotations: list[dict], control: str | None) -> tuple[list, Problem | None]:
    """The classes on which a task's annotations agree; those marked as ground truth decide."""
    done = [each for each in annotations if not each.get("was_cancelled")]
    if not done:
        return [], Problem.SKIPPED if annotations else Problem.NO_LABEL
    done = [each for each in done if each.get("ground_truth") is True] or done
    answers = []
    for annotation in done:
        found = [choices for choices in map(_choices, _results(annotation)) if choices]
        answers.append([name for tag, given in found if tag == control for name in given])
    if not all(isinstance(name, str) for answer in answers for name in answer):
        return [], Problem.BAD_VALUE
    if len({frozenset(answer) for answer in answers}) > 1:
        return [], Problem.DISAGREE
    return answers[0], None


def read_min(rows: list) -> LabelFile:
    """Reads the format JSON-MIN, in which each annotation is a row.

    Raises:
        UserError: no key or several keys may be the labels.
    """
    control = _one_control(_min_controls(rows))
    return LabelFile(Format.LABEL_STUDIO_MIN, checked(_min_records(rows, control)))


def _min_controls(rows: list) -> set[str]:
    """The keys of labels: Label Studio writes them between the task's id and the annotator."""
    found: set[str] = set()
    for row in (row for row in rows if isinstance(row, dict)):
        keys = list(row)
        if "id" in row and "annotator" in row:
            found.update(keys[keys.index("id") + 1 : keys.index("annotator")])
    usual = {key for row in rows if isinstance(row, dict) for key in row if key in _USUAL}
    return (found - _ABOUT) or usual


def _min_records(rows: list, control: str | None) -> Iterator[Record]:
    for where, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            yield Record(where, problem=Problem.BAD_VALUE)
            continue
        value = row.get(control) if control else None
        data = {key: each for key, each in row.items() if key != control and key not in _ABOUT - {OBJECT}}
        classes = _min_classes(value)
        problem = Problem.BAD_VALUE if classes is None else None
        yield record(where, row.get("sha256"), _names(data), classes or [], problem=problem)


def _min_classes(value: object) -> list | None:
    """The classes of a row; None if they aren't written as they should be."""
    if value is None:
        return []
    if isinstance(value, str):
        return [value]
    regions = value if isinstance(value, list) else [value]
    found: list = []
    for region in regions:
        given = region
        if isinstance(region, dict):
            given = next(
                (each for key, each in region.items() if key == "choices" or key.endswith("labels")), None
            )
        if isinstance(given, str):
            given = [given]
        if not isinstance(given, list):
            return None
        found += given
    return found
