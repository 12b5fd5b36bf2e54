"""Uploads are answered, bad ones refused in one line, and what was begun is ended when it stops."""

import contextlib
import io
import json
import os
import queue
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait

import numpy as np
import psutil
import pytest
import requests
from PIL import Image

from pipeline.common.errors import UserError
from pipeline.common.paths import ROOT as HOUSE
from pipeline.inference import request_limits, serve
from pipeline.portable import OnnxClassifier, UnreadableError, read_picture, shrink
from pipeline.sources import synthetic

FOLDER = "runs/sample/register/champion/portable"


def _start() -> tuple[subprocess.Popen, str]:
    program = subprocess.Popen(
        [sys.executable, "-m", "pipeline", "serve", FOLDER, "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    line = program.stdout.readline()
    found = re.search(r"at (http://127\.0\.0\.1:\d+)/predict", line)
    assert found, line
    return program, found[1]


@pytest.fixture(scope="module")
def served(repro, house):
    """The address of a server."""
    program, address = _start()
    yield address
    program.send_signal(signal.SIGTERM)
    assert program.wait(60) in (0, -signal.SIGTERM)


@pytest.fixture(scope="module")
def face():
    (_, data), *_ = synthetic.pictures(1, seed=9)
    return data


def test_an_upload_is_answered_as_the_model_answers(served, house, face):
    told = requests.post(f"{served}/predict?top=3", files={"photo": face}, timeout=60)
    assert told.status_code == 200, told.text
    answer, expected = told.json(), OnnxClassifier(house / FOLDER, threads=1).answer(face, 3)
    assert answer.pop("probabilities") == pytest.approx(expected.pop("probabilities"))
    assert answer == expected


def test_a_large_photo_is_answered_as_everywhere(served, house, face):
    buffer = io.BytesIO()
    Image.open(io.BytesIO(face)).resize((700, 500)).save(buffer, "PNG")
    told = requests.post(f"{served}/predict?top=3", files={"photo": buffer.getvalue()}, timeout=60).json()
    assert told == OnnxClassifier(house / FOLDER, threads=1).answer(buffer.getvalue(), 3)


def test_it_says_how_it_is_and_what_it_takes(served):
    health = requests.get(f"{served}/health", timeout=60).json()
    assert health["status"] == "ok" and health["data"] == "sample" and health["drawings"] is True
    form = requests.get(f"{served}/openapi.json", timeout=60).json()
    assert set(form["paths"]) == {"/health", "/predict"}
    page = requests.get(f"{served}/docs", timeout=60)
    assert "/predict" in page.text and "http" not in page.text.replace(served, "")


def _png(width: int, height: int) -> bytes:
    """A picture that claims so many pixels in a few bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    )


def _blank(width: int, height: int) -> bytes:
    """A whole picture of so many pixels in few bytes."""
    buffer = io.BytesIO()
    Image.new("RGB", (width, height)).save(buffer, "PNG")
    return buffer.getvalue()


def _picture() -> bytes:
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(buffer, "JPEG")
    return buffer.getvalue()


def _animation() -> bytes:
    frames = [Image.fromarray(np.full((20, 20, 3), value, np.uint8)) for value in (0, 99, 200)]
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("files", "status", "told"),
    [
        ({"photo": b""}, 422, "photo: empty file"),
        ({"photo": b"\0" * 17_000_000}, 413, "more than 16,000,000"),
        ({"photo": _png(30_000, 30_000)}, 422, "pixels"),
        ({"photo": _png(6_000, 6_000)}, 422, "6000×6000 pixels, more than 25,000,000"),
        ({"photo": _picture()[:700]}, 422, "photo: damaged"),
        ({"photo": b"GIF89a no"}, 422, "photo: not a picture of a known format"),
        ({"photo": b"%PDF-1.4 no picture"}, 422, "photo: not a picture of a known format"),
        ({"photo": _blank(20_000, 100)}, 422, "20000×100 pixels: one side is more than 100 times the other"),
        ({"photo": _animation()}, 422, "photo: an animation; send one picture"),
        ({"picture": b"x"}, 422, "as curl -F photo=@FILE does"),
        (None, 422, "as curl -F photo=@FILE does"),
        ({"photo": (None, "x.jpg")}, 422, "as curl -F photo=@FILE does"),  # its @ forgotten
    ],
)
def test_a_bad_upload_is_refused_in_one_line(served, files, status, told):
    done = requests.post(f"{served}/predict", files=files, timeout=60)
    assert done.status_code == status, done.text
    assert told in done.json()["detail"] and "\n" not in done.json()["detail"]


def test_what_is_no_http_is_refused_in_json(served):
    host, port = served.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as line:
        line.settimeout(60)
        line.sendall(b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: many\r\n\r\n")
        head, _, body = _all(line).partition("\r\n\r\n")
    assert head.startswith("HTTP/1.1 400 ") and "application/json" in head
    assert json.loads(body)["detail"]
    assert requests.head(f"{served}/health", timeout=60).status_code == 200


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_ends_without_a_traceback(repro, house, face, number):
    program, address = _start()
    assert requests.post(f"{address}/predict", files={"photo": face}, timeout=60).ok
    program.send_signal(number)
    told, _ = program.communicate(timeout=60)
    assert told == ""


@pytest.mark.parametrize(
    ("folder", "host", "told"),
    [
        (FOLDER, "", "--host is empty"),
        ("runs/sample/train/scratch", "127.0.0.1", "export --model .*/train/scratch --out exported"),
        ("README.md", "127.0.0.1", "export --out exported"),
    ],
)
def test_what_can_not_be_served_is_told_with_the_way(repro, house, folder, host, told):
    with pytest.raises(UserError, match=told):
        serve.run(house / folder, host, 0)


def _all(line: socket.socket) -> str:
    """What comes until the other side closes."""
    parts = []
    while part := line.recv(4000):
        parts.append(part)
    return b"".join(parts).decode()


def test_a_length_that_was_not_told_is_bounded_too(served):
    host, port = served.removeprefix("http://").split(":")
    head = "POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=b\r\n"
    start = b'--b\r\nContent-Disposition: form-data; name="photo"; filename="a.jpg"\r\n\r\n'
    with socket.create_connection((host, int(port))) as line:
        line.settimeout(60)
        line.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n{len(start):x}\r\n".encode() + start + b"\r\n")
        for _ in range(16):  # no more, for what it leaves unread would reset the connection before its answer
            line.sendall(b"f4240\r\n" + b"x" * 1_000_000 + b"\r\n")
        told = _all(line)
    assert told.startswith("HTTP/1.1 413") and "more than 16,000,000 bytes" in told


def _peak(process: int) -> int:
    """Bytes of memory that a process and those it started have held at most."""
    with open(f"/proc/{process}/status") as told:
        own = next(int(line.split()[1]) * 1024 for line in told if line.startswith("VmHWM"))
    return own + sum(_peak(child.pid) for child in psutil.Process(process).children())


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory and cores are Linux' to tell")
def test_memory_is_bounded_whatever_is_sent(repro, house):
    largest, bomb, heavy = _blank(5_000, 5_000), _png(30_000, 30_000), b"\0" * 15_900_000
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})  # of the server: one picture is decoded at a time then
    try:
        program, address = _start()
    finally:
        os.sched_setaffinity(0, cores)
    try:

        def send(photo: bytes) -> int:
            return requests.post(f"{address}/predict", files={"photo": photo}, timeout=120).status_code

        assert send(largest) == 200
        before = _peak(program.pid)
        with ThreadPoolExecutor(24) as pool:
            told = list(pool.map(send, [largest, bomb, heavy, heavy] * 16))
        assert set(told[::4]) == {200} and set(told) == {200, 422}
        # 133 MB of uploads that wait and are parsed.
        assert _peak(program.pid) - before < 250_000_000
    finally:
        program.terminate()
        program.wait(60)


def test_silent_connections_take_nobodys_place(served):
    host, port = served.removeprefix("http://").split(":")
    with contextlib.ExitStack() as silent:
        for _ in range(80):
            silent.enter_context(socket.create_connection((host, int(port))))
        assert requests.get(f"{served}/health", timeout=60).ok


def test_an_upload_that_breaks_off_harms_nobody(served, face):
    host, port = served.removeprefix("http://").split(":")
    head = "POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=b\r\n"
    for _ in range(3):
        with socket.create_connection((host, int(port))) as line:
            line.sendall(f"{head}Content-Length: 5000\r\n\r\n--b\r\n".encode())
    assert requests.post(f"{served}/predict", files={"photo": face}, timeout=60).ok


@contextlib.contextmanager
def _impatient(seconds: float, model: OnnxClassifier | None = None, **protocol: int):
    """The address of a server in this process that waits so long and no longer."""
    import uvicorn

    from pipeline.inference import serve

    door = socket.socket()
    door.bind(("127.0.0.1", 0))
    app = serve.application(model or OnnxClassifier(HOUSE / FOLDER, threads=1), seconds)
    patient = request_limits.limited_protocol(seconds, **protocol)
    server = uvicorn.Server(uvicorn.Config(app, http=patient, log_level="critical"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [door]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    yield door.getsockname()
    server.should_exit = True
    thread.join(30)


SLOW = (
    b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=b\r\n"
    b"Content-Length: 5000\r\n\r\n--b\r\n"
)


def test_slow_uploads_take_nobodys_place(served, face):
    host, port = served.removeprefix("http://").split(":")
    with contextlib.ExitStack() as slow:
        for _ in range(70):
            slow.enter_context(socket.create_connection((host, int(port)))).sendall(SLOW)
        assert requests.get(f"{served}/health", timeout=15).ok
        assert requests.post(f"{served}/predict", files={"photo": face}, timeout=15).ok


@pytest.mark.parametrize("bounds", [{"max_incomplete": 3}, {"max_bytes": 3 * len(SLOW)}])
def test_of_too_many_slow_connections_the_longest_makes_room(repro, bounds):
    with _impatient(30, **bounds) as address, contextlib.ExitStack() as slow:
        lines = [slow.enter_context(socket.create_connection(address)) for _ in range(5)]
        for line in lines:
            line.settimeout(20)
            line.sendall(SLOW)
            time.sleep(0.05)
        for line in lines[:2]:
            with contextlib.suppress(ConnectionResetError):
                assert _all(line) == ""
        lines[-1].setblocking(False)
        with pytest.raises(BlockingIOError):
            lines[-1].recv(1)
        assert requests.get(f"http://127.0.0.1:{address[1]}/health", timeout=15).ok


class _Slow:
    """A model that answers when it is told to."""

    def __init__(self, model: OnnxClassifier):
        self.card, self.classes, self.go, self.asked = model.card, model.classes, threading.Event(), 0

    def answer(self, pixels: np.ndarray, top: int) -> dict:
        self.asked += 1
        assert self.go.wait(60)
        if self.asked > 1:
            raise RuntimeError("[ONNXRuntimeError] : 1 :\n FAIL")
        return {"labels": ["cat"], "probabilities": [1.0], "unsure": False}


def test_of_whole_requests_no_more_are_taken_than_can_wait(repro, house, face, monkeypatch):

    monkeypatch.setattr(request_limits, "MAX_ACTIVE", 2)
    model = _Slow(OnnxClassifier(house / FOLDER, threads=1))
    with _impatient(30, model) as (_, port), ThreadPoolExecutor(3) as pool:

        def ask(_) -> requests.Response:
            return requests.post(f"http://127.0.0.1:{port}/predict", files={"photo": face}, timeout=60)

        asked = [pool.submit(ask, number) for number in range(3)]
        done, _ = wait(asked, return_when=FIRST_COMPLETED)
        model.go.set()
        assert [each.result().json() for each in done] == [
            {"detail": "too many requests at once; come again"}
        ]
        answers = {each.result().status_code: each.result().text for each in asked}
        assert set(answers) == {200, 500, 503}
        # And an error of the model concerns the picture alone.
        assert "the model gives no answer ([ONNXRuntimeError] : 1 : FAIL)" in answers[500]


@pytest.mark.parametrize(
    ("host", "status"),
    [
        *((host, 200) for host in ("localhost:8000", "127.0.0.1", "[::1]:80", "LOCALHOST", "127.9.9.9:1")),
        *((host, 421) for host in ("evil.example:8000", "localhost.evil.example", "[::2]", "1", "10.0.0.1")),
    ],
)
def test_on_loopback_only_its_own_names_are_answered(served, host, status):
    told = requests.get(f"{served}/health", headers={"Host": host}, timeout=15)
    assert told.status_code == status
    assert status == 200 or "start it with --allow-host" in told.json()["detail"]


def test_the_page_is_shown_under_this_machines_names_only(tmp_path):
    """`export --serve`: a stranger's page must not read the model."""
    from pipeline.inference import browser_demo

    (tmp_path / "card.json").write_text("{}")
    address: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=browser_demo.serve, args=(tmp_path, 0, address.put), daemon=True).start()
    file = f"{address.get(timeout=30)}card.json"
    assert requests.get(file, timeout=15).ok
    assert requests.get(file, headers={"Host": "localhost"}, timeout=15).ok
    assert requests.get(file, headers={"Host": "evil.example"}, timeout=15).status_code == 421


def test_names_may_be_allowed_and_elsewhere_any_is_where_none_is_named(repro, house, monkeypatch):
    import uvicorn

    from pipeline.inference import serve

    asked = []
    monkeypatch.setattr(uvicorn.Server, "run", lambda *_, **__: None)
    monkeypatch.setattr(serve, "application", lambda _, hosts: asked.append(hosts))
    for host, allowed in (("127.0.0.1", None), ("0.0.0.0", None), ("127.0.0.1", ["Pets.example"])):
        serve.run(house / FOLDER, host, 0, allowed)
    assert asked == [[], None, ["pets.example"]]


@contextlib.contextmanager
def _decoder(seconds: float = 60):
    from pipeline.inference.decoder import Decoder

    decoder = Decoder(64, 1_000_000, seconds)
    yield decoder
    decoder.close()


def test_a_decoder_gives_the_pixels_that_the_model_was_trained_on():
    data = _picture()
    large = _blank(300, 200)
    with _decoder() as decoder:
        assert np.array_equal(decoder.read(data), read_picture(data))
        assert np.array_equal(decoder.read(large), shrink(read_picture(large), 64))
        for bad, told in (
            (b"x", "not a picture"),
            (_animation(), "an animation"),
            (_blank(1001, 1000), "more than"),
        ):
            with pytest.raises(UnreadableError, match=told):
                decoder.read(bad)


def test_a_decoder_that_hangs_is_ended_and_the_next_picture_is_read():
    with _decoder() as decoder:
        decoder.read(_picture())
        decoder.timeout = 0.1
        os.kill(hung := decoder.process.pid, signal.SIGSTOP)
        with pytest.raises(UnreadableError, match=r"it takes more than 0\.1 seconds to decode"):
            decoder.read(_picture())
        assert not psutil.pid_exists(hung)
        decoder.timeout = 60
        assert decoder.read(_picture()).shape == (64, 64, 3)


def test_a_decoder_that_breaks_costs_one_picture():
    with _decoder() as decoder:
        decoder.read(_picture())
        os.kill(decoder.process.pid, signal.SIGSTOP)
        threading.Timer(0.1, os.kill, (decoder.process.pid, signal.SIGKILL)).start()
        with pytest.raises(UnreadableError, match="the decoder broke on it"):
            decoder.read(_picture())
        assert decoder.read(_picture()).shape == (64, 64, 3)
        decoder.process.kill()
        decoder.process.wait()  # between two pictures it costs none
        assert decoder.read(_picture()).shape == (64, 64, 3)


def test_a_decoder_takes_no_more_memory_than_it_may(monkeypatch):
    from pipeline.inference import decoder as module

    start = subprocess.Popen
    code = (
        "import sys; from pipeline.inference import decoder; "
        "decoder.MEMORY = 150_000_000; decoder.main(sys.argv[1:])"
    )
    monkeypatch.setattr(
        module.subprocess,
        "Popen",
        lambda command, **how: start([sys.executable, "-c", code, *command[3:]], **how),
    )
    with _decoder() as decoder:
        decoder.max_pixels = 100_000_000
        with pytest.raises(UnreadableError, match="too large for the memory"):
            decoder.read(_blank(8000, 8000))
        assert decoder.read(_picture()).shape == (64, 64, 3)


def test_an_upload_that_does_not_come_is_given_up(repro):
    head = "POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=b\r\n"
    with _impatient(0.3) as address, socket.create_connection(address) as line:
        line.sendall(f"{head}Content-Length: 5000\r\n\r\n--b\r\n".encode())
        line.settimeout(20)
        assert (told := _all(line)).startswith("HTTP/1.1 408") and "within 0.3 seconds" in told


@pytest.mark.parametrize("first", ["", "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"])
def test_a_head_that_does_not_end_is_given_up(repro, first):
    with _impatient(0.5) as address, socket.create_connection(address) as line:
        line.sendall(f"{first}GET /health HTTP/1.1\r\nHost: localhost\r\n".encode())
        line.settimeout(3)  # shorter than uvicorn's own patience
        assert _all(line).count("HTTP/1.1 200") == (1 if first else 0)


def test_what_was_begun_is_answered_before_it_stops(repro, house, face):
    program, address = _start()
    answers = []

    def ask() -> None:
        answers.append(requests.post(f"{address}/predict", files={"photo": face}, timeout=60).status_code)

    requests.get(f"{address}/health", timeout=60)
    asking = [threading.Thread(target=ask) for _ in range(8)]
    for each in asking:
        each.start()
    time.sleep(0.1)
    os.kill(program.pid, signal.SIGTERM)
    for each in asking:
        each.join()
    program.wait(60)
    assert answers == [200] * 8


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["conf"], "conf holds no model.onnx; export a model and serve that folder: petfaces export"),
        ([FOLDER, "--port"], ""),
    ],
)
def test_what_can_not_be_served_is_told_in_one_line(repro, run, arguments, told):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        if not told:
            port = str(taken.getsockname()[1])
            arguments, told = [*arguments, port], f"error: --port {port} on 127.0.0.1: Address already in use"
        done = run("python", "-m", "pipeline", "serve", *arguments)
    assert done.returncode == 1
    assert told in done.stdout and "Traceback" not in done.stdout
