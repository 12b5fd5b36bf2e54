"""On a really full disk, programs fail with the cause, keep earlier results and continue once there is space.

The disk is a small tmpfs, mounted in a namespace of the test's own, so no root is needed.
"""

import io
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

# Prepended to each program, which gets the disk's folder and size first: `fill` leaves so many bytes free on
# the disk, `free` undoes it.
SMALL_DISK = """
import contextlib, ctypes, os, shutil, sys
from pathlib import Path

disk, size = Path(sys.argv[1]), sys.argv[2]

def mount():
    libc, user, group = ctypes.CDLL(None), os.getuid(), os.getgid()
    if libc.unshare(0x10000000 | 0x20000):  # namespaces of users, where this one is root, and of mounts
        return False
    with contextlib.suppress(OSError):
        for name, text in ("setgroups", "deny"), ("uid_map", f"0 {user} 1"), ("gid_map", f"0 {group} 1"):
            Path("/proc/self", name).write_text(text)
        return not libc.mount(b"small", bytes(disk), b"tmpfs", 0, f"size={size}".encode())
    return False

def fill(left=0):
    with contextlib.suppress(OSError), open(disk / "filler", "wb") as stream:
        stream.write(bytes(max(0, shutil.disk_usage(disk).free - left)))

def free():
    (disk / "filler").unlink()

if __name__ == "__main__" and not mount():
    sys.exit(77)
"""


@pytest.fixture
def on_small_disk(run, tmp_path):
    """Runs a program with a small disk; returns the lines it prints."""

    def run_on_disk(disk: Path, size: str, program: str, *arguments: object) -> list[str]:
        disk.mkdir(parents=True, exist_ok=True)
        file = tmp_path / "on_small_disk.py"
        file.write_text(SMALL_DISK + program)
        done = run("python", *map(str, (file, disk, size, *arguments)))
        if done.returncode == 77:
            pytest.skip("this machine can't mount a tmpfs in a namespace")
        return done.stdout.splitlines()

    return run_on_disk


def _archive(file: Path, count: int) -> Path:
    with tarfile.open(file, "w") as archive:
        for number in range(count):
            pixels = np.random.default_rng(number).integers(0, 256, (40, 60, 3), dtype=np.uint8)
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, "PNG")
            member = tarfile.TarInfo(f"a/{number % 2}/x_{number}.png")
            member.size = buffer.tell()
            buffer.seek(0)
            archive.addfile(member, buffer)
    return file


def test_packing_on_a_full_disk(on_small_disk, tmp_path):
    program = """
from pipeline import pack, portable
from pipeline.common import errors

def main():
    first, second = map(Path, sys.argv[3:])
    pack.pack(first, disk / "pack", 128)
    before = portable.sums(disk / "pack")
    fill(left=200_000)
    try:
        with errors.os_errors_as_user_errors():
            pack.pack(second, disk / "pack", 128)
    except errors.UserError as error:
        print("raised:", error)
    print("intact:", portable.damaged(disk / "pack") == [] and portable.sums(disk / "pack") == before)
    print("files:", sorted(file.name for file in disk.iterdir()), shutil.disk_usage(disk).free > 150_000)
    free()
    print("then:", pack.pack(second, disk / "pack", 128)["pictures"])

if __name__ == "__main__":  # the workers are spawned
    main()
"""
    archives = _archive(tmp_path / "first", 4), _archive(tmp_path / "second", 60)  # 432 kB of pixels
    disk = tmp_path / "disk"
    assert on_small_disk(disk, "1m", program, *archives) == [
        f"raised: {disk}/pack can't be read or written (No space left on device); "
        "free disk space, change the permissions, or use another folder",
        "intact: True",
        "files: ['filler', 'pack'] True",
        "then: 60",
    ]


TRAINS = """
from pipeline import config, train
from pipeline.artifacts.checkpoints import Checkpoints
from pipeline.common import errors, log, paths
from pipeline.evaluation import mistakes
from pipeline.tracking.live import Run

log.setup("train")

def same(one, two):
    return {f.name: f.read_bytes() for f in one.iterdir()} == {f.name: f.read_bytes() for f in two.iterdir()}

push = Run.push
def fills_after(epochs):
    def push_and_fill(self, rows):
        push(self, rows)
        if len(rows) == epochs:
            fill()
    return push_and_fill

mistakes.draw = lambda *arguments: None  # plots take longer than so small a training
folder = Path(sys.argv[3])
overrides = ["model=scratch", "data.epochs=3", "model.batch_size=16", "seed=71"]
train.train(config.compose(*overrides, f"out={folder / 'uninterrupted'}"))
shutil.rmtree(paths.ROOT / "runs/.work", ignore_errors=True)
"""


def test_checkpointing_on_a_full_disk(repro, project, on_small_disk, tmp_path):
    program = f"""{TRAINS}
os.symlink(disk, paths.ROOT / "runs/.work")
cfg = config.compose(*overrides, f"out={{folder / 'out'}}")
Run.push = fills_after(2)  # the first epoch's checkpoint is written when the second begins
try:
    with errors.os_errors_as_user_errors():
        train.train(cfg)
except errors.UserError as error:
    print("raised:", error)
(kept,) = disk.glob("*/checkpoints")
print("kept:", Checkpoints(kept).latest() is not None, len(list(kept.iterdir())), (folder / "out").exists())
free()
Run.push = push
train.train(cfg)
print("same:", same(folder / "out", folder / "uninterrupted"))
"""
    shutil.rmtree(project / "runs/.work", ignore_errors=True)
    try:
        lines = on_small_disk(tmp_path / "disk", "160m", program, tmp_path)  # a checkpoint has 25 MB
    finally:
        (project / "runs/.work").unlink(missing_ok=True)
    (message,) = [line for line in lines if line.startswith("raised: ")]
    assert "No space left on device" in message and "free disk space" in message
    assert "kept: True 1 False" in lines
    assert "train: resuming after epoch 1" in lines
    assert lines[-1] == "same: True"


@pytest.mark.parametrize("what", ["mlflow.db", pytest.param("mlartifacts", marks=pytest.mark.slow)])
def test_training_continues_on_mlflows_full_disk_and_logs_later(repro, on_small_disk, tmp_path, what):
    """MLflow's full disk is reported once, with its cause; what is missing is logged later from the files."""
    program = f"""{TRAINS}
from pipeline import tracking
from pipeline.artifacts import curves
from pipeline.tracking import store

database, artifacts = (disk, folder) if sys.argv[4] == "mlflow.db" else (folder, disk)
os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{{database / 'store.db'}}"
store.client.cache_clear()
client = store.client()
client.create_experiment("sample", artifact_location=(artifacts / "artifacts").as_uri())
Run.push = fills_after(1)
train.train(config.compose(*overrides, f"out={{folder / 'out'}}"), "full")
print("same:", same(folder / "out", folder / "uninterrupted"))
free()
for _ in range(2):
    tracking.ensure(folder / "out")
(run,) = client.search_runs([client.get_experiment_by_name("sample").experiment_id])
print("run:", run.info.status)
rows = curves.read(folder / "out")
for key in ("val/top1", "train/loss"):
    points = [point.step for point in client.get_metric_history(run.info.run_id, key)]
    print("once:", points == list(range(len(rows))))
held = {{Path(file.path).name: file.file_size for file in client.list_artifacts(run.info.run_id, "train")}}
print("artifacts:", held == {{file.name: file.stat().st_size for file in (folder / "out").iterdir()}})
"""
    lines = on_small_disk(tmp_path / "disk", "16m", program, tmp_path, what)
    (warning,) = [line for line in lines if line.startswith("train: warning: ")]
    assert "can't write, its disk is full; free some space; the files are complete" in warning
    assert [line for line in lines if line.partition(":")[0] in ("same", "run", "once", "artifacts")] == [
        "same: True",
        "run: FINISHED",
        "once: True",
        "once: True",
        "artifacts: True",
    ], lines
