"""Runs a trained model folder with ONNX Runtime."""

import functools
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image

from .card import read_card
from .errors import DamagedError, UnreadableError, reason
from .images import read_picture
from .onnx_file import read_onnx
from .resizing import shrink
from .seals import damaged, warn_of_unsealed

TIME_LIMIT = 60  # seconds per image


@functools.cache
def _limit_memory() -> int:
    """Limits the memory of ONNX Runtime for all models of this process; returns the limit in bytes.

    The limit is half of the machine's or container's memory, or 4 GB if that is unknown.
    """
    from onnxruntime.capi import _pybind_state as runtime

    total = 8 << 30
    with suppress(AttributeError, ValueError, OSError):  # Windows has no sysconf
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with suppress(OSError, ValueError):  # no container, or no limit ("max")
        total = min(total, int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="utf-8")))
    memory_info = runtime.OrtMemoryInfo(
        "Cpu", runtime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, runtime.OrtMemType.DEFAULT
    )
    with suppress(Exception):  # another library in this process has registered one
        runtime.create_and_register_allocator(memory_info, runtime.OrtArenaCfg({"max_mem": total // 2}))
    return total // 2


def _session(model: bytes, threads: int):
    """Creates an ONNX Runtime session that reads no other files and runs no operators while loading."""
    import onnxruntime  # here, so that decoding images needs only numpy and Pillow

    _limit_memory()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # failures are raised and reported in one line
    options.add_session_config_entry("session.load_model_format", "ONNX")
    options.add_session_config_entry("session.use_env_allocators", "1")
    # Constant folding runs parts of the graph at load time, outside the limits on time and memory.
    return onnxruntime.InferenceSession(
        model, options, providers=["CPUExecutionProvider"], disabled_optimizers=["ConstantFolding"]
    )


def within(seconds: float, function: Callable[[], object]) -> object:
    """Calls a function in its own thread and returns its result.

    Raises:
        TimeoutError: it took too long; the thread is abandoned.
    """
    future: Future = Future()

    def call() -> None:
        try:
            future.set_result(function())
        except BaseException as error:  # re-raised in the waiting thread
            future.set_exception(error)

    threading.Thread(target=call, daemon=True).start()
    return future.result(seconds)


def _first_line(error: Exception) -> str:
    """ONNX Runtime's message in one line, without source locations."""
    if "bfc_arena" in str(error):
        return f"it needs more than {_limit_memory() >> 20:,} MB of memory"
    text = " ".join(str(error).split()).rpartition(" : ")[2]
    return "".join(letter if letter.isprintable() else "?" for letter in text)[:200]


class OnnxClassifier:
    """A trained model in a folder: `model.onnx` and `model.json`, sealed by `SHA256SUMS`.

    The model maps one image, uint8 height × width × 3 of any size, to calibrated probabilities; all
    preprocessing after decoding is part of the graph. The folder is untrusted: files, inputs, outputs and a
    test prediction are checked.

    Args:
        folder: the model folder.
        threads: intra-op threads; 0 lets ONNX Runtime choose.
        seconds: time limit for loading and for each prediction.

    Raises:
        DamagedError: a file differs from its checksum, has an older format, or is not such a model.
    """

    def __init__(self, folder: str | Path, threads: int = 0, seconds: float = TIME_LIMIT):
        folder = Path(folder)
        self._file, self._seconds = folder / "model.onnx", seconds
        if wrong := damaged(folder):
            raise DamagedError(
                f"{folder}: {', '.join(wrong)}; copy the model again, or run, in the project that made it: "
                "petfaces verify --repair"
            )
        warn_of_unsealed(folder, str(folder))
        self.card = read_card(folder)
        self.classes, self.unsure_below = self.card.classes, self.card.unsure_below
        model = read_onnx(self._file)
        try:
            self.session = within(seconds, lambda: _session(model, threads))
        except TimeoutError:
            raise DamagedError(f"{self._file} did not load within {seconds:g} seconds") from None
        except Exception as error:  # ONNX Runtime raises many kinds
            raise DamagedError(f"{self._file} can't be loaded ({_first_line(error)})") from error
        self._check_signature()
        self.probabilities(np.full((2, 3, 3), 128, dtype=np.uint8))

    def _check_signature(self) -> None:
        """Raises DamagedError unless inputs and outputs are as described above."""
        inputs, outputs = self.session.get_inputs(), self.session.get_outputs()
        if [each.name for each in inputs] != ["picture"]:
            raise DamagedError(f"{self._file.parent}: model.onnx has an older format; export it again")
        (picture,) = inputs
        if picture.type != "tensor(uint8)" or len(picture.shape) != 3 or picture.shape[2] != 3:
            raise DamagedError(f"{self._file} must have one input, uint8 height × width × 3")
        if [(each.type, each.shape) for each in outputs] != [("tensor(float)", [len(self.classes)])]:
            raise DamagedError(
                f"{self._file} must output one float32 probability for each of {len(self.classes)} classes"
            )

    def probabilities(self, picture: bytes | Image.Image | np.ndarray) -> np.ndarray:
        """The probability of each class for one image: encoded, from `read_picture`, or uint8 H × W × 3.

        Raises:
            UnreadableError: `picture` is not an image.
            DamagedError: the output is not probabilities, or the time limit was exceeded.
        """
        if isinstance(picture, bytes | bytearray | memoryview):
            # Identical to the packed image; the graph's own shrinking differs by a few of 255 levels.
            pixels = shrink(read_picture(bytes(picture)), self.card.input.max_side)
        else:
            pixels = np.asarray(picture)
            if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
                raise UnreadableError(
                    f"an array must be uint8, height × width × 3, not {pixels.dtype} {pixels.shape}"
                )
        output = self._run(pixels)
        is_valid = output.shape == (len(self.classes),) and np.isfinite(output).all()
        # Multi-label probabilities don't sum to 1; each is at most 1.
        multi_label = self.card.several
        upper, lower = (output.max(initial=0), 0) if multi_label else (output.sum(dtype=np.float64), 0.99)
        if not is_valid or output.min() < 0 or not lower <= float(upper) <= 1.01:
            raise DamagedError(f"{self._file} returned values that are not probabilities")
        return output

    def _run(self, pixels: np.ndarray) -> np.ndarray:
        import onnxruntime

        options = onnxruntime.RunOptions()
        try:
            (output,) = within(self._seconds, lambda: self.session.run(None, {"picture": pixels}, options))
        except TimeoutError:
            options.terminate = True  # ends the abandoned thread
            raise DamagedError(f"{self._file} did not finish within {self._seconds:g} seconds") from None
        except Exception as error:  # ONNX Runtime raises many kinds
            raise DamagedError(f"{self._file} failed ({_first_line(error)})") from error
        return output

    def answer(self, picture: bytes | Image.Image | np.ndarray, top: int = 5) -> dict:
        """The most probable classes of one image.

        Returns:
            `labels`, best first, and `probabilities` in the same order. Single-label models add `unsure`:
            whether the model abstains. Multi-label models add `present`: whether each of the `labels` reaches
            its threshold; all present classes are included and come first.

        Raises:
            UnreadableError: `picture` is not an image.
        """
        probabilities = self.probabilities(picture)
        if self.card.several:
            present = probabilities >= np.array(self.card.thresholds)
            best = np.lexsort((-probabilities, ~present))[: max(top, int(present.sum()))]
            extra = {"present": [bool(present[index]) for index in best]}
        else:
            best = np.argsort(-probabilities, kind="stable")[:top]
            extra = {"unsure": bool(probabilities[best[0]] < self.unsure_below)}
        return {
            "labels": [self.classes[index] for index in best],
            "probabilities": [float(probabilities[index]) for index in best],
            **extra,
        }

    def predict(self, model_input, params=None):
        """MLflow's prediction method.

        Args:
            model_input: DataFrame with the column `image`: encoded bytes or uint8 arrays H × W × 3.
            params: unused; MLflow passes it.

        Returns:
            DataFrame with one row per image: the result of `answer` with its default `top`.

        Raises:
            UnreadableError: an image is unusable or the model fails on it; names the row.
        """
        import pandas

        answers = []
        for row, picture in enumerate(model_input["image"]):
            try:
                answers.append(self.answer(picture))
            except Exception as error:  # from decoding or from the model
                raise UnreadableError(f"row {row}: {reason(error)}") from error
        decision = "present" if self.card.several else "unsure"
        return pandas.DataFrame(answers, columns=["labels", "probabilities", decision])
