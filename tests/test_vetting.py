"""A version's recorded files are checked before its commit's code runs with them."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml
from untrusted_models import LINEAGE, SETTINGS

from pipeline.artifacts import untrusted
from pipeline.common.errors import UserError
from pipeline.maintenance import vetting


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    """A worktree with its own network class."""
    tree = tmp_path_factory.mktemp("tree")
    (tree / "models").mkdir()
    (tree / "models/tiny.py").write_text("class Tiny:\n    pass\n\n\ndef run():\n    pass\n")
    (tree / "models/scratch.py").write_text("class ScratchCNN:\n    pass\n")
    (tree / "conf").symlink_to("/tmp")
    subprocess.run(["git", "init", "-q"], cwd=tree, check=True)
    return tree


def _new(path: str, mode: str = "100644", text: str = "x") -> str:
    return (
        f"diff --git a/{path} b/{path}\nnew file mode {mode}\nindex 0000000..1111111\n"
        f"--- /dev/null\n+++ b/{path}\n@@ -0,0 +1 @@\n+{text}\n"
    )


CHANGED = """diff --git a/models/tiny.py b/models/tiny.py
--- a/models/tiny.py
+++ b/models/tiny.py
@@ -1,3 +1,2 @@
 class Tiny:
-    pass
-
+    x = 1
"""


def test_files_of_a_diff_are_listed_with_line_counts(tree, tmp_path):
    (tmp_path / "changes.diff").write_text(CHANGED + _new("pipeline/new piece.py"))
    lines = [str(each) for each in vetting.changes(tmp_path / "changes.diff", tree)]
    assert lines == ["models/tiny.py  +1 −2", "pipeline/new piece.py  +1 −0"]
    assert not (tree / "pipeline").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "can't be read"),
        ("no diff", "can't be read"),
        (_new("../outside.py"), "none of the code|can't be read"),
        (_new("models/../../outside.py"), "none of the code|can't be read"),
        (_new("/etc/outside"), "none of the code|can't be read"),
        (_new(".git/hooks/post-checkout", "100755"), "none of the code|can't be read"),
        (_new("models/.git/config"), "none of the code|can't be read"),
        (_new("models/.GIT/config"), "none of the code|can't be read"),
        (_new(".dvc/config"), "none of the code"),
        (_new("Makefile"), "none of the code"),
        (_new("tests/conftest.py"), "none of the code"),
        (_new("conf/x.yaml"), "none of the code"),  # conf is a symlink here
        (_new("models/link", "120000", "/etc"), "a link or a submodule"),
        (_new("models/sub", "160000"), "a link or a submodule"),
        (
            "diff --git a/models/tiny.py b/models/tiny.py\nold mode 100644\nnew mode 100755\n",
            "file's mode or name",
        ),
        (
            "diff --git a/models/tiny.py b/models/b.py\nsimilarity index 100%\nrename from models/tiny.py\n"
            "rename to models/b.py\n",
            "file's mode or name",
        ),
        (_new("models/x.py") + "GIT binary patch\nliteral 99999999999\n", "MB of binary files"),
    ],
)
def test_a_diff_of_anything_but_code_is_refused(text, message, tree, tmp_path):
    (tmp_path / "changes.diff").write_text(text)
    with pytest.raises(UserError, match=message) as error:
        vetting.changes(tmp_path / "changes.diff", tree)
    assert "\n" not in str(error.value)


def _settings(**changes) -> dict:
    """SETTINGS with other values; a double underscore separates nested keys: model__net."""
    config = yaml.safe_load(SETTINGS)
    for key, value in changes.items():
        *parents, last = key.split("__")
        node = config
        for parent in parents:
            node = node[parent]
        node[last] = value
    return config


def test_settings_with_the_commits_own_classes_are_accepted(tree):
    vetting.settings(_settings(), tree, "sample 1")
    vetting.settings(_settings(model__net={"_target_": "models.tiny.Tiny", "width": 3}), tree, "sample 1")
    local, lightning = (
        {"_target_": "models.tiny.Tiny", "width": 3},
        {"_target_": "pytorch_lightning.callbacks.X"},
    )
    config = _settings(callbacks={"a": local, "b": lightning}, metrics={"c": local}, model__loss=local)
    vetting.settings(config, tree, "sample 1")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model__net": {"_target_": "pandas.read_pickle"}}, "no class in that commit"),
        ({"model__net": {"_target_": "models.tiny.run"}}, "no class in that commit"),
        ({"model__net": {"_target_": "models.tiny.os.system"}}, "no class in that commit"),
        ({"model__net": {"_target_": "models.../x.Y"}}, "no class in that commit"),
        (
            {"model__net": {"_target_": "models.tiny.Tiny", "x": {"_target_": "os.abort"}}},
            "no plain argument",
        ),
        ({"model__net": {"_target_": "models.tiny.Tiny", "_args_": [1]}}, "no plain argument"),
        (
            {"model__net": {"_target_": "models.pretrained.create", "backbone": "hf-hub:a/b"}},
            "is not a timm model name",
        ),
        (
            {"model__net": {"_target_": "models.pretrained.create", "backbone": "x", "cache_dir": "/"}},
            "takes no argument",
        ),
        ({"model__input": {"_target_": "os.abort"}}, "has the key _target_"),
        ({"augment__transforms": [{"from_dict": {}}]}, "has no transform"),
        ({"augment__transforms": [{"load": {"filepath_or_buffer": "x"}}]}, "has no transform"),
        ({"augment__transforms": [{"Compose": {}}]}, "has no transform"),
        ({"augment__transforms": [{"Lambda": {"image": {"a": 1}}}]}, "not a plain value"),
        ({"augment__transforms": "x"}, "list of transforms"),
        ({"trainer__workers": 100_000}, "more than 64"),
        ({"trainer__devices": "5000"}, "no whole number"),
        ({"trainer__devices": 5000.0}, "no whole number"),
        ({"trainer__devices": [0] * 5000}, "more than 64"),
        ({"trainer__threads": True}, "no whole number"),
        ({"model__batch_size": 10**9}, "more than 65536"),
        ({"model__epochs": 10**9}, "more than 100000"),
        ({"trainer": None}, "trainer is no mapping"),
        ({"callbacks": {"a": {"_target_": "os.abort"}}}, "must be a class of"),
        ({"callbacks": {"a": {"_target_": "models.tiny.run"}}}, "no class in that commit"),
        ({"callbacks": {"a": {"_target_": "models.tiny.Tiny", "x": {"_target_": "a"}}}}, "no plain argument"),
        (
            {"callbacks": {"a": {"_target_": "pytorch_lightning.callbacks.X", "dirpath": "/x"}}},
            "outside the worktree",
        ),
        (
            {"callbacks": {"a": {"_target_": "pytorch_lightning.callbacks.X", "dirpath": "../x"}}},
            "outside the worktree",
        ),
        ({"callbacks": "x"}, "callbacks is no mapping"),
        ({"callbacks": {"a": 1}}, "callbacks.a is no mapping"),
        ({"metrics": {"a": {"_target_": "torch.nn.Linear"}}}, "must be a class of"),
        ({"model__loss": {"_target_": "timm.loss.X", "_partial_": True}}, "only _target_"),
        ({"model__loss": "x"}, "loss is no mapping"),
    ],
)
def test_settings_with_other_classes_or_values_are_refused(changes, message, tree):
    with pytest.raises(UserError, match=message) as error:
        vetting.settings(_settings(**changes), tree, "sample 1")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "contains other than"),
        ("seed: 1", "written by an older version"),
        (SETTINGS.replace("sample", "../../x"), "data.name: '../../x' is not a valid name"),
        (SETTINGS.replace("\nseed: 1", "\nseed: ${oc.env:HOME}"), "contains other than"),
        (SETTINGS.replace("\nseed: 1", "\nseed: !!python/object/apply:os.system [id]"), "missing or damaged"),
        (SETTINGS.replace("\nseed: 1", "\nseed: 2026-01-01"), "contains other than"),
        ("a: &a [x, x]\nb: &b [*a, *a]\n" + SETTINGS, "has YAML aliases"),
        (SETTINGS + "x: " + "[" * 3000, "missing or damaged"),
        (SETTINGS + "# " + "x" * 300_000, "missing or damaged"),
        (SETTINGS + "\t", "missing or damaged"),
    ],
)
def test_a_config_with_more_than_plain_values_is_a_one_line_error(text, message, tmp_path):
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(UserError, match=re.escape(message)) as error:
        untrusted.settings(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"commit": "--upload-pack=x"}, "commit='--upload-pack=x' is not a hash"),
        ({"commit": "HEAD"}, "commit='HEAD' is not a hash"),
        ({"commit": 5}, "commit='5' is not a hash"),
        ({"start": "../x"}, "start='../x' is not a hash"),
        ({"dirty": "yes"}, "dirty must be true or false"),
        ({"data": None}, "data and environment must be mappings"),
        ({"data": LINEAGE["data"] | {"name": "../../home"}}, "'../../home' is not a valid name"),
        ({"data": LINEAGE["data"] | {"name": ".."}}, "'..' is not a valid name"),
        ({"environment": {"torch": {"a": 1}}}, "'torch' is not a plain value"),
        ({"environment": []}, "data and environment must be mappings"),
    ],
)
def test_an_invalid_lineage_is_refused(changes, message, tmp_path):
    import json

    (tmp_path / "lineage.json").write_text(json.dumps(LINEAGE))
    assert untrusted.lineage(tmp_path) == LINEAGE
    (tmp_path / "lineage.json").write_text(json.dumps(LINEAGE | changes))
    with pytest.raises(UserError, match=re.escape(message)):
        untrusted.lineage(tmp_path)


def test_values_that_dvc_puts_into_commands_must_be_names():
    vetting.params({"data": "sample", "models": ["scratch"], "seed": 1, "fetch": {"path": "my photos"}})
    for value in ("x; touch y", "$(id)", "`id`", "a b", "-x", "../x", "x\n"):
        with pytest.raises(UserError, match=re.escape(f"params.yaml: {value!r} is not a valid name")):
            vetting.params({"models": [value]})
    for group in ("fetch", "pack", "split"):
        for value in (None, 3, "x", ["x"]):
            with pytest.raises(UserError, match="no mapping"):
                vetting.params({group: value})


def test_a_dvc_lock_with_unexpected_paths_or_fields_is_refused(tmp_path):
    file = tmp_path / "dvc.lock"
    file.write_text(f"schema: '2.0'\nstages: {{split: {{outs: [{{path: data/x, md5: {'a' * 32}}}]}}}}\n")
    assert yaml.safe_load(vetting.lock(file))["stages"]["split"]["outs"][0]["path"] == "data/x"
    valid = f"path: data/x, md5: {'a' * 32}"
    damaged, no_md5 = "recorded dvc.lock is damaged", "has no MD5 of DVC's cache for data/x"
    for stage, message in (
        (f"{{outs: [{{path: ../x, md5: {'a' * 32}}}]}}", "names ../x, which is outside the project"),
        (f"{{outs: [{{path: /etc, md5: {'a' * 32}}}]}}", "names /etc, which is outside the project"),
        ("{outs: [{}]}", damaged),
        ("{outs: 3}", damaged),
        ("[]", damaged),
        ("{outs: [{path: data/x}]}", damaged),
        ("{outs: [{path: data/x, md5: ../../../../../victim.txt}]}", no_md5),
        ("{outs: [{path: data/x, md5: aa/../../x}]}", no_md5),
        ("{deps: [{path: data/x, md5: ../x}]}", no_md5),
        (f"{{outs: [{{{valid}.dir.dir}}]}}", no_md5),
        (f"{{outs: [{{{valid}, hash: sha256}}]}}", no_md5),
        (f"{{outs: [{{{valid}, remote: other}}]}}", no_md5),
        (f"{{outs: [{{{valid}, cloud: {{x: {{etag: y}}}}}}]}}", no_md5),
        (f"{{outs: [{{{valid}, files: [{{relpath: ../x, md5: y}}]}}]}}", no_md5),
        (f"{{outs: [{{{valid}, size: x}}]}}", no_md5),
    ):
        file.write_text(f"schema: '2.0'\nstages: {{split: {stage}}}\n")
        with pytest.raises(UserError, match=re.escape(message)):
            vetting.lock(file)


@pytest.mark.parametrize("mode", [" 120000", "\v120000", "0120000", "120000 x", "100644 x"])
def test_a_files_mode_is_parsed_as_git_does(mode, tree, tmp_path):
    (tmp_path / "changes.diff").write_text(_new("models/link", mode, "/etc"), newline="")
    with pytest.raises(UserError, match="a link or a submodule"):
        vetting.changes(tmp_path / "changes.diff", tree)
