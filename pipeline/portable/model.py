"""A trained model in a folder, run by ONNX Runtime."""

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
from .seals import damaged, tell_extra

ANSWER_SECONDS = 60  # for one picture


@functools.cache
def _limit_memory() -> int:
    """Bounds what ONNX Runtime may take for all models of this process together; returns the bytes.

    Half of the machine's memory, or of the container's; 4 GB where the system does not tell.
    """
    from onnxruntime.capi import _pybind_state as runtime

    most = 8 << 30
    with suppress(AttributeError, ValueError, OSError):  # Windows has no sysconf
        most = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with suppress(OSError, ValueError):  # no container, or no bound ("max")
        most = min(most, int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="utf-8")))
    place = runtime.OrtMemoryInfo(
        "Cpu", runtime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, runtime.OrtMemType.DEFAULT
    )
    with suppress(Exception):  # another library in this process has set its own
        runtime.create_and_register_allocator(place, runtime.OrtArenaCfg({"max_mem": most // 2}))
    return most // 2


def _session(model: bytes, threads: int):
    """An ONNX Runtime session that takes nothing but these bytes and runs nothing while it is made."""
    import onnxruntime  # here, so that reading pictures needs numpy and Pillow only

    _limit_memory()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # what fails is raised, and told in one line
    options.add_session_config_entry("session.load_model_format", "ONNX")
    options.add_session_config_entry("session.use_env_allocators", "1")
    # Folding computes parts of the graph while it is loaded, where no bound on time or memory holds.
    return onnxruntime.InferenceSession(
        model, options, providers=["CPUExecutionProvider"], disabled_optimizers=["ConstantFolding"]
    )


def _within(seconds: float, function: Callable, stop: Callable[[], None]) -> object:
    """Calls a function in a thread of its own and waits for it.

    Raises:
        TimeoutError: it took too long; `stop` was called, and what it still does nobody waits for.
    """
    ended: Future = Future()

    def call() -> None:
        try:
            ended.set_result(function())
        except BaseException as error:  # for whoever waits
            ended.set_exception(error)

    threading.Thread(target=call, daemon=True).start()
    try:
        return ended.result(seconds)
    except TimeoutError:
        stop()
        raise


def _first_line(error: Exception) -> str:
    """What ONNX Runtime says, without the places in its source."""
    if "bfc_arena" in str(error):
        return f"it asks for more than {_limit_memory() >> 20:,} MB of memory"
    text = " ".join(str(error).split()).rpartition(" : ")[2]
    return "".join(letter if letter.isprintable() else "?" for letter in text)[:200]


class OnnxClassifier:
    """A trained model in a folder: `model.onnx` and `model.json`, sealed by `SHA256SUMS`.

    The model takes one picture, uint8 height × width × 3 of any size, and gives calibrated probabilities; all
    that happens to a picture after it was decoded is inside. The folder may come from a stranger: it is data,
    and what does not answer as such a model does is refused.

    Args:
        folder: where it is.
        threads: within one picture; 0 is ONNX Runtime's own choice.
        seconds: that one answer may take.

    Raises:
        DamagedError: a file is not as it was sealed, of an older form, or no such model.
    """

    def __init__(self, folder: str | Path, threads: int = 0, seconds: float = ANSWER_SECONDS):
        folder = Path(folder)
        self._file, self._seconds = folder / "model.onnx", seconds
        if wrong := damaged(folder):
            raise DamagedError(
                f"{folder}: {', '.join(wrong)}; take another copy of the model, or, "
                "in the project that made it, run: petfaces verify --repair"
            )
        tell_extra(folder, str(folder))
        self.card = read_card(folder)
        self.classes, self.unsure_below = self.card.classes, self.card.unsure_below
        model = read_onnx(self._file)
        try:
            self.session = _within(seconds, lambda: _session(model, threads), lambda: None)
        except TimeoutError:
            raise DamagedError(f"{self._file} was not loaded within {seconds:g} seconds") from None
        except Exception as error:  # ONNX Runtime raises many kinds
            raise DamagedError(f"{self._file} can't be loaded ({_first_line(error)})") from error
        self._check_form()
        self.probabilities(np.full((2, 3, 3), 128, dtype=np.uint8))

    def _check_form(self) -> None:
        inputs, outputs = self.session.get_inputs(), self.session.get_outputs()
        if [each.name for each in inputs] != ["picture"]:
            raise DamagedError(f"{self._file.parent}: model.onnx is of an older form; export it again")
        (picture,) = inputs
        if picture.type != "tensor(uint8)" or len(picture.shape) != 3 or picture.shape[2] != 3:
            raise DamagedError(f"{self._file} takes no picture, uint8 height × width × 3")
        if [(each.type, each.shape) for each in outputs] != [("tensor(float)", [len(self.classes)])]:
            raise DamagedError(
                f"{self._file} does not give one probability for each of the {len(self.classes)} classes of "
                "model.json"
            )

    def probabilities(self, picture: bytes | Image.Image | np.ndarray) -> np.ndarray:
        """Of each class, of one picture: encoded, decoded by `read_picture`, or as uint8 array H × W × 3.

        Raises:
            UnreadableError: it is no picture.
            DamagedError: the model gives no probabilities, or none in time.
        """
        if isinstance(picture, bytes | bytearray | memoryview):
            # Byte for byte as packed; the graph, which shrinks an array, is a few of 255 levels beside it.
            pixels = shrink(read_picture(bytes(picture)), self.card.input.max_side)
        else:
            pixels = np.asarray(picture)
            if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
                raise UnreadableError(
                    f"an array must be uint8, height × width × 3, not {pixels.dtype} {pixels.shape}"
                )
        found = self._run(pixels)
        fine = found.shape == (len(self.classes),) and np.isfinite(found).all()
        # Of several classes an image may have all or none: each share is at most 1.
        several = self.card.several
        most, least = (found.max(initial=0), 0) if several else (found.sum(dtype=np.float64), 0.99)
        if not fine or found.min() < 0 or not least <= float(most) <= 1.01:
            raise DamagedError(f"{self._file} answers with something else than probabilities")
        return found

    def _run(self, pixels: np.ndarray) -> np.ndarray:
        import onnxruntime

        options = onnxruntime.RunOptions()

        def stop() -> None:
            options.terminate = True

        try:
            (found,) = _within(
                self._seconds, lambda: self.session.run(None, {"picture": pixels}, options), stop
            )
        except TimeoutError:
            raise DamagedError(f"{self._file} gave no answer within {self._seconds:g} seconds") from None
        except Exception as error:  # ONNX Runtime raises many kinds
            raise DamagedError(f"{self._file} can't answer ({_first_line(error)})") from error
        return found

    def answer(self, picture: bytes | Image.Image | np.ndarray, top: int = 5) -> dict:
        """The most probable classes of one picture.

        Returns:
            `labels`, best first, `probabilities` in the same order, and, of a model that names one class,
            `unsure`: whether the first is too little to name it. Of one that names several, `present`:
            whether the picture has each of the `labels`; all those that it has come, and come first.

        Raises:
            UnreadableError: it is no picture.
        """
        shares = self.probabilities(picture)
        if self.card.several:
            present = shares >= np.array(self.card.thresholds)
            best = np.lexsort((-shares, ~present))[: max(top, int(present.sum()))]
            more = {"present": [bool(present[place]) for place in best]}
        else:
            best = np.argsort(-shares, kind="stable")[:top]
            more = {"unsure": bool(shares[best[0]] < self.unsure_below)}
        return {
            "labels": [self.classes[place] for place in best],
            "probabilities": [float(shares[place]) for place in best],
            **more,
        }

    def predict(self, model_input, params=None):
        """What MLflow calls.

        Args:
            model_input: DataFrame with the column `image`: encoded bytes or uint8 arrays H × W × 3.
            params: unused; MLflow passes it.

        Returns:
            DataFrame, a row a picture: what `answer` says of the five most probable classes.

        Raises:
            UnreadableError: names the row whose picture can't be used.
        """
        import pandas

        answers = []
        for row, picture in enumerate(model_input["image"]):
            try:
                answers.append(self.answer(picture))
            except Exception as error:  # of reading it, or of the model on it
                raise UnreadableError(f"row {row}: {reason(error)}") from error
        decided = "present" if self.card.several else "unsure"
        return pandas.DataFrame(answers, columns=["labels", "probabilities", decided])
