"""Labels and official splits follow from folder names; invalid and similar class names are reported."""

import pandas
import pytest
from archive_files import image_file, packed_labels, write_tar

from pipeline import pack
from pipeline.common import tables
from pipeline.common.errors import UserError
from pipeline.data import pack_index
from pipeline.sources import layout, pack_messages


def test_labels_are_class_folders_or_breeds():
    path = "petfaces/dog_american/american_bulldog_12.jpg"
    assert layout.labels(path, "folder") == {
        "path": path,
        "label": "dog_american",
        "species": "dog",
        "breed": "american_bulldog",
        "official": "",
    }
    assert layout.labels(path, "breed")["label"] == "dog_american_bulldog"
    assert layout.labels("pets/mine/tom_1.jpg", "breed")["label"] == "tom"


def test_breeds_are_read_from_file_names(tmp_path):
    found = packed_labels(tmp_path, "pets/dog_x/tom_1.jpg", "pets/ann_2.jpg", classes="breed")
    assert list(found.values()) == ["ann", "dog_tom"]


def test_subfolders_of_a_class_folder_belong_to_it(tmp_path):
    found = packed_labels(tmp_path, "cat/2023/1.jpg", "cat/2024/a/2.jpg", "dog/2023/3.jpg", "dog/4.jpg")
    assert list(found.values()) == ["cat", "cat", "dog", "dog"]


def test_common_parent_folders_are_no_classes(tmp_path):
    found = packed_labels(tmp_path, "my/pets/cat/x/1.jpg", "my/pets/dog/2.jpg", "3.jpg", "my/pets/4.jpg")
    assert found == {"my/pets/cat/x/1.jpg": "cat", "my/pets/dog/2.jpg": "dog"}
    reasons = {row["path"]: row["reason"] for row in tables.read(tmp_path / "pack/quarantine.csv")}
    assert reasons == dict.fromkeys(("3.jpg", "my/pets/4.jpg"), "in no class folder")


def test_the_first_classes_are_listed_with_their_counts(tmp_path):
    packed_labels(tmp_path, *(f"c{number:02}/{copy}.jpg" for number in range(11) for copy in range(2)))
    first, *_ = pack_messages.describe(tmp_path / "pack")
    assert first.startswith("the classes are c00 (2), c01 (2), ")
    assert first.endswith(f" and {11 - pack_messages.MAX_CLASSES} more")


def test_folders_above_class_folders_give_the_official_split(tmp_path):
    names = ("train/cat/1", "valid/cat/2", "Test/cat/3", "train/dog/4", "other/dog/5", "test/6")
    files = {f"pets/{name}.jpg": image_file() for name in names}
    pack.pack(write_tar(tmp_path / "archive", files), tmp_path / "pack", 128)
    index = pandas.read_csv(tmp_path / "pack/index.csv", keep_default_na=False, index_col="path")
    assert dict(zip(index.index.str.split("/").str[-1], index["official"], strict=True)) == {
        "1.jpg": "train",
        "2.jpg": "val",
        "3.jpg": "test",
        "4.jpg": "train",
        "5.jpg": "",
    }
    assert "pets/test/6.jpg,in no class folder" in (tmp_path / "pack/quarantine.csv").read_text()


def test_subfolders_in_a_split_belong_to_the_class_too(tmp_path):
    found = packed_labels(tmp_path, "p/train/cat/2023/1.jpg", "p/train/dog/2.jpg", "p/test/cat/2024/3.jpg")
    assert list(found.values()) == ["cat", "cat", "dog"]
    official = [row["official"] for row in tables.read(tmp_path / "pack/index.csv")]
    assert official == ["test", "train", "train"]


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("train/train", "test/test"),
        ("train/train/train", "test"),
        ("seg_train/seg_train", "seg_test/seg_test"),
        ("train_pets", "Pets-Test"),
        ("pets/training_set", "pets/test_set"),
        ("Training Data", "validation-data"),
        ("trainset", "testset"),
        ("train2017/train_images", "val2017"),
        ("train_val", "test1"),
    ],
)
def test_split_folders_are_recognised_by_name(tmp_path, train, test):
    found = packed_labels(tmp_path, f"{train}/cat/old/1.jpg", f"{train}/dog/2.jpg", f"{test}/cat/3.jpg")
    assert sorted(found.values()) == ["cat", "cat", "dog"]
    official = {row["path"]: row["official"] for row in tables.read(tmp_path / "pack/index.csv")}
    assert official[f"{train}/dog/2.jpg"] == "train"
    assert official[f"{test}/cat/3.jpg"] in ("val", "test")


def test_a_prediction_folder_beside_the_splits_is_no_class(tmp_path):
    folders = ("seg_train/seg_train/cat", "seg_test/seg_test/dog", "seg_pred/seg_pred", "seg_pred")
    found = packed_labels(tmp_path, *(f"{folder}/1.jpg" for folder in folders))
    assert sorted(found.values()) == ["cat", "dog"]
    reasons = {row["path"]: row["reason"] for row in tables.read(tmp_path / "pack/quarantine.csv")}
    assert reasons == dict.fromkeys(("seg_pred/seg_pred/1.jpg", "seg_pred/1.jpg"), "in no class folder")


def test_train_is_a_class_if_no_other_split_exists(tmp_path):
    files = {"train/1.jpg": image_file(), "car/2.jpg": image_file()}
    assert pack.pack(write_tar(tmp_path / "archive", files), tmp_path / "pack", 128)["classes"] == 2


def test_a_class_called_train_may_have_subfolders_and_is_reported(tmp_path):
    assert set(packed_labels(tmp_path, "train/2023/1.jpg", "car/2023/2.jpg").values()) == {"train", "car"}
    assert any("train is treated as a class" in line for line in pack_messages.describe(tmp_path / "pack"))


@pytest.mark.parametrize(
    "paths",
    [
        ("steam_train/old/1", "crash_test/2"),
        ("steam_train/old/1", "bullet_train/old/2", "car/3"),
        ("train/train/1", "train/car/2", "test/train/3"),  # the vehicle, in a split
        ("cat/train/1", "dog/test/2"),
        ("photos/a/1", "images/b/2", "data/3"),
        ("test1/1", "test2/2"),
    ],
)
def test_classes_are_not_mistaken_for_splits(tmp_path, paths):
    found = packed_labels(tmp_path, *(f"{path}.jpg" for path in paths))
    level = 1 if paths[0].startswith("train/") else 0
    assert set(found.values()) == {path.split("/")[level] for path in paths}


@pytest.mark.parametrize(
    "paths",
    [
        ("train/1", "test/2"),
        ("train/train/1", "test/test/2"),
        ("seg_train/1", "seg_test/2"),
        ("train_cat/1", "train_dog/2", "test_cat/3", "test_dog/4"),
    ],
)
def test_splits_without_class_folders_are_an_error_with_the_tree(tmp_path, paths):
    with pytest.raises(UserError, match=r"no class folders: .* are names of splits.*\n  ") as error:
        packed_labels(tmp_path, *(f"{path}.jpg" for path in paths))
    assert f"  {paths[0].split('/')[0]}/  1" in str(error.value).splitlines()


def test_a_single_class_is_an_error_with_the_tree(tmp_path):
    files = {f"all/cat/{year}/{number}.jpg": image_file() for year in (2023, 2024) for number in range(3)}
    deep = {f"train/{path}": data for path, data in files.items()} | {"test/all/x.jpg": image_file()}
    with pytest.raises(UserError) as error:
        pack.pack(write_tar(tmp_path / "archive", deep), tmp_path / "pack", 128)
    assert str(error.value).splitlines()[1:] == [
        "  test/  1",
        "    all/  1",
        "  train/  6",
        "    all/  6",
        "      cat/  6",
    ]


def test_an_unreadable_class_does_not_make_subfolders_classes(tmp_path):
    files = {f"cat/{year}/{number}.jpg": image_file() for year in (2023, 2024) for number in range(3)}
    files |= {"dog/2023/1.HEIC": b"a format that is not read", "dog/2023/2.jpg": b""}
    with pytest.raises(UserError, match=r"one class only, 'cat'.* left out") as error:
        pack.pack(write_tar(tmp_path / "archive", files), tmp_path / "pack", 128)
    assert "  dog/  2" in str(error.value).splitlines()


def test_the_tree_in_an_error_is_short_and_printable(tmp_path):
    files = {f"train/one/\x1b[31m{number}/x.jpg": image_file(8, 8) for number in range(60)}
    files |= {"test/one/x.jpg": image_file(8, 8)}
    with pytest.raises(UserError) as error:
        pack.pack(write_tar(tmp_path / "archive", files), tmp_path / "pack", 128)
    assert "\x1b" not in str(error.value)
    assert len(str(error.value).splitlines()) == pack_messages.MAX_FOLDERS + 2
    assert "more folders" in str(error.value)


def test_class_names_that_look_alike_are_reported(tmp_path):
    names = ("caf\u00e9", "cafe\u0301", "Tabby", "tabby ", "ｔａｂｂｙ", "dog")
    found = packed_labels(tmp_path, *(f"{name}/1.jpg" for name in names))
    assert set(found.values()) == set(names)  # reported, not merged
    warnings = [line for line in pack_messages.describe(tmp_path / "pack") if line.startswith("warning: ")]
    assert len(warnings) == 2
    assert any(r"'cafe\u0301' (1) and 'caf\xe9' (1) look alike" in line for line in warnings)
    assert any("'Tabby' (1) and 'tabby ' (1)" in line and "are 3 classes" in line for line in warnings)


INVALID_NAMES = ("a\nb", "\x1b[31mred", "x\u202eevil", "K\udce4tzchen", "y" * 201, " ")


def test_invalid_class_names_are_quarantined(tmp_path):
    found = packed_labels(
        tmp_path, *(f"{name}/1.jpg" for name in (*INVALID_NAMES, "[b] <i>", "=1+1", "None"))
    )
    assert set(found.values()) == {"[b] <i>", "=1+1", "None"}
    reasons = [row["reason"] for row in tables.read(tmp_path / "pack/quarantine.csv")]
    assert len(reasons) == len(INVALID_NAMES)
    assert all(reason.startswith("its class's name ") for reason in reasons)
    assert set(pack_index.read_index(tmp_path / "pack")["label"]) == set(found.values())
