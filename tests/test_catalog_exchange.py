"""Files of labels come from strangers: each is read, or refused in one clear line."""

import json
import random

import pytest

from catalog import exchange, language
from catalog.exchange import records, safe_json
from catalog.exchange.records import Problem, paths_of
from pipeline.common.errors import UserError

HASH = "ab" * 32
TABLE = f"path,labels,status,sha256\na.png,cat,labeled,{HASH}\n'=b.png,cat|dog,labeled,\nc.png,,unknown,\n"
COCO = {
    "images": [{"id": 1, "file_name": "a.png", "sha256": HASH}, {"id": 2, "file_name": "b.png"}],
    "annotations": [
        *({"id": number, "image_id": 1, "category_id": 7, "bbox": [0, number, 5, 5]} for number in range(3)),
        {"id": 9, "image_id": 2, "category_id": 7},
        {"id": 10, "image_id": 2, "category_id": 8},
    ],
    "categories": [{"id": 7, "name": "cat"}, {"id": 8, "name": "dog"}],
}


def result(*names, tag="label", kind="choices"):
    return {"from_name": tag, "to_name": "image", "type": kind, "value": {kind: list(names)}}


def task(*annotations, **data):
    return {"id": 5, "data": {"image": "a.png"} | data, "annotations": list(annotations)}


TASKS = [
    task({"result": [result("cat")]}, sha256=HASH),
    task({"result": [result("cat", kind="rectanglelabels"), result("cat", kind="rectanglelabels")]}),
]
MIN = [
    {"image": "a.png", "id": 1, "kind": "cat", "annotator": 1, "annotation_id": 3, "lead_time": 1.5},
    {"image": "b.png", "id": 2, "kind": {"choices": ["cat", "dog"]}, "annotator": 1, "annotation_id": 4},
    {"image": "c.png", "id": 3, "annotator": 1, "annotation_id": 5},
]


def read(value):
    content = value if isinstance(value, str) else json.dumps(value)
    return exchange.read(content.encode())


def classes(value):
    return [record.classes for record in read(value).records]


def problems(value):
    return [record.problem for record in read(value).records]


def test_the_format_is_recognised_by_the_content():
    formats = [read(value).format for value in (TABLE, COCO, TASKS, MIN)]
    assert formats == ["CSV", "COCO", "Label Studio JSON", "Label Studio JSON-MIN"]
    for value in (TABLE, json.dumps(COCO)):
        assert exchange.read(b"\xef\xbb\xbf" + value.encode()).records == read(value).records


def test_the_labels_of_each_format():
    assert classes(TABLE) == [("cat",), ("cat", "dog"), ()]
    assert [record.is_unknown for record in read(TABLE).records] == [False, False, True]
    assert classes(COCO) == [("cat",), ("cat", "dog")]
    assert classes(TASKS) == [("cat",), ("cat",)]
    assert classes(MIN) == [("cat",), ("cat", "dog"), ()]
    assert [read(value).records[0].sha256 for value in (TABLE, COCO, TASKS)] == [HASH] * 3


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_a_table_has_any_usual_delimiter_and_quotes(delimiter, newline):
    rows = ["Label", "Path"], ['"big cat"', f'"a{delimiter} b.png"'], [" dog ", "c.png"]
    content = newline.join(delimiter.join(row) for row in rows)
    found = read(content).records
    assert [(record.paths[0], record.classes) for record in found] == [
        (f"a{delimiter} b.png".replace("\t", "\\t"), ("big cat",)),
        ("c.png", ("dog",)),
    ]


def test_a_table_may_name_its_delimiter_as_excel_does():
    found = exchange.read(b"\xef\xbb\xbfsep=;\r\npath;label\r\na,b.png;cat\r\n").records
    assert [(record.where, record.paths[0], record.classes) for record in found] == [(3, "a,b.png", ("cat",))]


def test_annotations_of_no_image_are_refused_rather_than_dropped():
    more = [{"image_id": 5, "category_id": 7}, {"category_id": 7}, None, {"image_id": 5, "category_id": 8}]
    found = read(COCO | {"annotations": COCO["annotations"] + more}).records
    expected = [None, None, *[Problem.NO_IMAGE_THERE] * 3]
    assert [record.problem for record in found] == expected
    assert [record.where for record in found[2:]] == [6, 7, 8]


@pytest.mark.parametrize(
    ("annotations", "problem"),
    [
        ([], Problem.NO_LABEL),
        ([{"result": [], "was_cancelled": True}], Problem.SKIPPED),
        ([{"result": [result("a")]}, {"result": [result("b")]}], Problem.DISAGREE),
        ([{"result": [result("a")]}, {"result": [result("b")], "ground_truth": True}], None),
        ([{"result": [result("a")]}, {"result": [result("b")], "was_cancelled": True}], None),
        ([{"result": [result(1)]}], Problem.BAD_VALUE),
        ([{"result": [result("")]}], Problem.BAD_VALUE),
        ([{"result": [result("\ud800")]}], Problem.BAD_VALUE),
        ([{"result": [result("x" * 2000)]}], Problem.BAD_VALUE),
        ([{"result": [result(*map(str, range(2000)))]}], Problem.TOO_MANY),
        ("none", Problem.BAD_VALUE),
        ([{"result": "x"}], None),  # submitted without a label
    ],
)
def test_annotations_that_say_nothing_clear_are_a_problem_of_their_row(annotations, problem):
    assert problems([{"data": {"image": "a.png"}, "annotations": annotations}]) == [problem]


def test_of_several_tags_ours_is_taken_and_others_must_be_alone():
    both = [task({"result": [result("cat"), result("good", tag="quality")]})]
    assert classes(both) == [("cat",)]
    assert classes([task({"result": [result("good", tag="quality")]})]) == [("good",)]
    with pytest.raises(UserError, match="several tags \\(breed, quality\\)"):
        read([task({"result": [result("cat", tag="breed"), result("good", tag="quality")]})])


@pytest.mark.parametrize(
    ("address", "paths"),
    [
        ("/data/local-files/?d=photos/a%20b.jpg", ["photos/a b.jpg"]),
        ("/data/upload/3/0a1b2c3d-cat.jpg", ["/data/upload/3/0a1b2c3d-cat.jpg", "cat.jpg"]),
        ("https://host/x/a%2Bb.jpg?token=1", ["/x/a+b.jpg"]),
        ("s3://bucket/x/a.jpg", ["/x/a.jpg"]),
        ("a#1.jpg", ["a"]),
    ],
)
def test_an_address_gives_the_path_in_it(address, paths):
    assert paths_of(address)[0] == address
    assert paths_of(address)[1:] == [path for path in paths if path != address]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"path,label\n", "has no rows"),
        (b"a.png,cat\nb.png,dog\n", "the first line must name the columns"),
        (
            b'path,label\na,b\n"a.png,cat\nx\n',
            "line 3 of the CSV file can't be read: a quotation mark is not cl",
        ),
        (b'path,label\na,b\n"a"x,cat\n', "line 3 of the CSV file .* after a closing quotation mark"),
        (b'sep=;\r\n\npath;label\n"a"x;cat\n', "line 4 of the CSV file .* else than ;"),
        (b"path,path,label\na,b,c\n", "two columns named path"),
        (b"path,label\n" + b"x" * 200_000 + b",cat\n", "line 2 of .*: a field is too long"),
        ("path,label\r\ncaf\u00e9.png,cat\n".encode("latin-1"), "line 2 of .* is not UTF-8; .* CSV UTF-8"),
        ("path,label\na\n,\u00e9.png,cat\n".encode("latin-1"), "line 3 of .* is not UTF-8"),
        ('[\n{"path": "caf\u00e9.png"}]'.encode("latin-1"), "line 2 of .* is not UTF-8"),
        (b"PK\x03\x04" + b"x" * 2000, "an Excel workbook or an archive"),
        (bytes.fromhex("d0cf11e0a1b11ae1") + bytes(2000), "an Excel workbook or an archive"),
        (b"", "the file is empty"),
        (b"\xef\xbb\xbf\r\n \n", "the file is empty"),
        ("path,label\na,b\n".encode("utf-16"), "UTF-16"),
        (b"\x1f\x8b\0\0", "neither JSON nor CSV"),
        (b"[]", "neither COCO nor an export of Label Studio"),
        (b'{"a": 1}', "neither COCO nor an export of Label Studio"),
        (b"[1, 2]", "neither COCO nor an export of Label Studio"),
        (b'{"images": [', "line 1 is no JSON from character 13 on"),
        (b"[" * 100_000, "too deeply"),
        (b'{"images": [], "images": []}', "the key images stands twice"),
        (b"[" + b"9" * 5000 + b"]", "number that is too large"),
        (b'[{"data": {"image": "a"}, "x": NaN}]', "NaN is no JSON number"),
        (b'{"images": {}, "annotations": [], "categories": []}', "no list images"),
        (b'{"images": [], "annotations": [], "categories": [{"id": 1}]}', "no id or no name"),
        (b'{"images": [], "annotations": [], "categories": []}', "has no rows"),
        (b'{"images": [{"id": 1}, {"id": 1}], "annotations": [], "categories": []}', "two images"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_clear_line(content, message):
    with pytest.raises(UserError, match=message) as error:
        exchange.read(content)
    assert len(str(error.value)) < 400 and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "content",
    [
        b'path,label\n"a"x,c\n',
        b'path,label\n"a',
        b"path,label\n\xe9,c",
        b"PK\x03\x04",
        b"{,",
        b"path,label\n" + b"x" * 200_000,
    ],
)
def test_what_is_wrong_with_a_file_is_told_in_dutch(content):
    with language.using("nl"), pytest.raises(UserError) as dutch:
        exchange.read(content)
    with pytest.raises(UserError) as english:
        exchange.read(content)
    words = [set(str(error.value).split(": ")[-1].split(";")[0].split()) for error in (dutch, english)]
    assert words[0].isdisjoint(
        words[1] - {"is", "UTF-8", "Excel", ",", "CSV", "JSON", "2", "1", "in", "UTF-8)"}
    )


def test_files_with_too_many_values_or_rows_are_refused(monkeypatch):
    monkeypatch.setattr(safe_json, "MAX_VALUES", 100)
    monkeypatch.setattr(records, "MAX_RECORDS", 3)
    with pytest.raises(UserError, match="more than 100 values"):
        read([task()] * 101)
    with pytest.raises(UserError, match="more than 3 rows"):
        read("path,label\n" + "a.png,cat\n" * 4)


def test_a_million_empty_values_are_read_as_problems():
    assert len(read([{"data": {}}] + [{}] * 300_000).records) == 300_001
    wide = {**COCO, "annotations": [0] * 900_000}
    assert set(problems(wide)) == {Problem.NO_LABEL, Problem.NO_IMAGE_THERE}


STRANGE = [
    *(None, True, -1, 1e308, 10**30, "", "x" * 5000, "\ud800", "\0", "\u202e", [], {}, [[]], {"a": []}),
    *([None], ["cat", 5], {"choices": "cat"}, {"choices": [[]]}, "../../etc/passwd", "http://["),
]


def mutated(value, chance):
    """The value with some of its parts replaced by strange ones, or left out."""
    if chance.random() < 0.08:
        return chance.choice(STRANGE)
    if isinstance(value, dict):
        kept = {key: mutated(each, chance) for key, each in value.items() if chance.random() > 0.05}
        return kept
    if isinstance(value, list):
        return [mutated(each, chance) for each in value if chance.random() > 0.05]
    return value


@pytest.mark.parametrize("value", [COCO, TASKS, MIN], ids=["coco", "tasks", "min"])
def test_any_json_is_read_or_refused_in_one_line(value):
    chance, read_ones = random.Random(7), 0
    for _ in range(1500):
        content = json.dumps(mutated(value, chance)).encode()
        try:
            found = exchange.read(content).records
        except UserError as error:
            assert str(error) and "\n" not in str(error)
            continue
        read_ones += 1
        for record in found:
            assert all(isinstance(name, str) for name in (*record.paths, *record.classes))
            "".join(record.paths).encode()  # what is looked up in the database
    assert read_ones > 300


@pytest.mark.parametrize("content", [TABLE.encode(), json.dumps(TASKS).encode()], ids=["table", "tasks"])
def test_any_bytes_are_read_or_refused_in_one_line(content):
    chance = random.Random(8)
    for _ in range(1500):
        damaged = bytearray(content)
        for _ in range(chance.randint(1, 6)):
            damaged[chance.randrange(len(damaged))] = chance.choice(b'\0\xff"\n\r,;[]{}:x')
        try:
            exchange.read(bytes(damaged[: chance.randint(1, len(damaged))]))
        except UserError as error:
            assert "\n" not in str(error)
