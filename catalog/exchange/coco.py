"""Labels in COCO files: an image has the categories of its annotations, wherever their boxes are."""

from collections import defaultdict
from collections.abc import Iterator

from catalog.exchange.records import Format, LabelFile, Problem, Record, checked, paths_of, record
from catalog.language import _
from pipeline.common.errors import UserError


def is_coco(tree: object) -> bool:
    """Whether a JSON value looks like a COCO file."""
    return isinstance(tree, dict) and "images" in tree and ("annotations" in tree or "categories" in tree)


def read(tree: dict) -> LabelFile:
    """Reads a COCO file.

    Raises:
        UserError: one of its lists is missing, or its categories or images can't be told apart.
    """
    images, annotations, categories = (_list(tree, key) for key in ("images", "annotations", "categories"))
    names: dict[int, str] = {}
    for category in categories:
        number, name = _id(category), category.get("name") if isinstance(category, dict) else None
        if number is None or not isinstance(name, str) or not name.strip():
            raise UserError(_("a category of the COCO file has no id or no name"))
        if number in names:
            raise UserError(_("two categories of the COCO file have the id {number}").format(number=number))
        names[number] = name
    given: dict[int, set[str | None]] = defaultdict(set)
    for annotation in annotations:
        image = _id(annotation, "image_id")
        if image is not None:
            given[image].add(names.get(_id(annotation, "category_id")))
    return LabelFile(Format.COCO, checked(_records(images, annotations, given)))


def _records(images: list, annotations: list, given: dict[int, set[str | None]]) -> Iterator[Record]:
    seen: set[int] = set()
    for where, image in enumerate(images, start=1):
        number = _id(image)
        if number is None:
            yield Record(where, problem=Problem.BAD_VALUE)
            continue
        if number in seen:
            raise UserError(_("two images of the COCO file have the id {number}").format(number=number))
        seen.add(number)
        classes = given.get(number, set())
        problem = None if classes else Problem.NO_LABEL
        paths = [image.get("path"), *paths_of(image.get("file_name")), *paths_of(image.get("coco_url"))]
        # An annotation without a known category makes the value None, which `record` refuses.
        yield record(where, image.get("sha256"), paths, classes, problem=problem)
    for where, annotation in enumerate(annotations, start=1):
        number = _id(annotation, "image_id")
        if number not in seen:
            if number is not None:
                seen.add(number)  # an image that the file lacks is one row, however many boxes it has
            yield Record(where, problem=Problem.NO_IMAGE_THERE)


def _list(tree: dict, key: str) -> list:
    value = tree.get(key)
    if not isinstance(value, list):
        raise UserError(_("the COCO file has no list {key}").format(key=key))
    return value


def _id(row: object, key: str = "id") -> int | None:
    value = row.get(key) if isinstance(row, dict) else None
    return value if type(value) is int else None
