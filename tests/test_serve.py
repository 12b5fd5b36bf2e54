"""The HTTP server: answers, errors, limits on memory and time, host names, and shutdown."""

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
from pipeline.common.paths import ROOT as PROJECT
from pipeline.inference import request_limits, serve
from pipeline.portable import OnnxClassifier, UnreadableError, read_picture, shrink
from pipeline.sources import synthetic

FOLDER = "runs/sample/register/champion/portable"


def _start() -> tuple[subprocess.Popen, str]:
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline", "serve", FOLDER, "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    line = process.stdout.readline()
    match = re.search(r"at (http://127\.0\.0\.1:\d+)/predict", line)
    assert match, line
    return process, match[1]


@pytest.fixture(scope="module")
def served(repro, project):
    """The address of a running server."""
    process, address = _start()
    yield address
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) in (0, -signal.SIGTERM)


@pytest.fixture(scope="module")
def face():
    (_, data), *_ = synthetic.pictures(1, seed=9)
    return data


def test_the_response_is_the_models_answer(served, project, face):
    response = requests.post(f"{served}/predict?top=3", files={"photo": face}, timeout=60)
    assert response.status_code == 200, response.text
    answer, expected = response.json(), OnnxClassifier(project / FOLDER, threads=1).answer(face, 3)
    assert answer.pop("probabilities") == pytest.approx(expected.pop("probabilities"))
    assert answer == expected


def test_a_large_photo_gets_the_same_answer_as_elsewhere(served, project, face):
    buffer = io.BytesIO()
    Image.open(io.BytesIO(face)).resize((700, 500)).save(buffer, "PNG")
    answer = requests.post(f"{served}/predict?top=3", files={"photo": buffer.getvalue()}, timeout=60).json()
    assert answer == OnnxClassifier(project / FOLDER, threads=1).answer(buffer.getvalue(), 3)


def test_health_and_openapi_describe_the_service(served):
    health = requests.get(f"{served}/health", timeout=60).json()
    assert health["status"] == "ok" and health["data"] == "sample" and health["drawings"] is True
    schema = requests.get(f"{served}/openapi.json", timeout=60).json()
    assert set(schema["paths"]) == {"/health", "/predict"}
    page = requests.get(f"{served}/docs", timeout=60)
    assert "/predict" in page.text and "http" not in page.text.replace(served, "")


def _png(width: int, height: int) -> bytes:
    """A PNG whose header claims this size, without pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    )


def _blank(width: int, height: int) -> bytes:
    """A valid PNG of this size in few bytes."""
    buffer = io.BytesIO()
    Image.new("RGB", (width, height)).save(buffer, "PNG")
    return buffer.getvalue()


def _noise() -> bytes:
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
    ("files", "status", "message"),
    [
        ({"photo": b""}, 422, "photo: empty file"),
        ({"photo": b"\0" * 17_000_000}, 413, "more than 16,000,000"),
        ({"photo": _png(30_000, 30_000)}, 422, "pixels"),
        ({"photo": _png(6_000, 6_000)}, 422, "6000×6000 pixels, more than 25,000,000"),
        ({"photo": _noise()[:700]}, 422, "photo: damaged"),
        ({"photo": b"GIF89a no"}, 422, "photo: not a picture of a known format"),
        ({"photo": b"%PDF-1.4 no picture"}, 422, "photo: not a picture of a known format"),
        ({"photo": _blank(20_000, 100)}, 422, "20000×100 pixels: one side is more than 100 times the other"),
        ({"photo": _animation()}, 422, "photo: an animation; send one picture"),
        ({"picture": b"x"}, 422, "as curl -F photo=@FILE does"),
        (None, 422, "as curl -F photo=@FILE does"),
        ({"photo": (None, "x.jpg")}, 422, "as curl -F photo=@FILE does"),  # without the @
    ],
)
def test_a_bad_upload_is_a_one_line_error(served, files, status, message):
    done = requests.post(f"{served}/predict", files=files, timeout=60)
    assert done.status_code == status, done.text
    assert message in done.json()["detail"] and "\n" not in done.json()["detail"]


def test_invalid_http_gets_a_json_error(served):
    host, port = served.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as sock:
        sock.settimeout(60)
        sock.sendall(b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: many\r\n\r\n")
        head, _, body = _receive_all(sock).partition("\r\n\r\n")
    assert head.startswith("HTTP/1.1 400 ") and "application/json" in head
    assert json.loads(body)["detail"]
    assert requests.head(f"{served}/health", timeout=60).status_code == 200


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_the_server_without_output(repro, project, face, number):
    process, address = _start()
    assert requests.post(f"{address}/predict", files={"photo": face}, timeout=60).ok
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert output == ""


@pytest.mark.parametrize(
    ("folder", "host", "message"),
    [
        (FOLDER, "", "--host is empty"),
        ("runs/sample/train/scratch", "127.0.0.1", "export --model .*/train/scratch --out exported"),
        ("README.md", "127.0.0.1", "export --out exported"),
    ],
)
def test_a_folder_that_cannot_be_served_is_an_error_with_the_fix(repro, project, folder, host, message):
    with pytest.raises(UserError, match=message):
        serve.run(project / folder, host, 0)


def _receive_all(sock: socket.socket) -> str:
    """Everything until the other side closes."""
    parts = []
    while part := sock.recv(4000):
        parts.append(part)
    return b"".join(parts).decode()


def test_a_chunked_upload_is_limited_too(served):
    host, port = served.removeprefix("http://").split(":")
    head = "POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=b\r\n"
    start = b'--b\r\nContent-Disposition: form-data; name="photo"; filename="a.jpg"\r\n\r\n'
    with socket.create_connection((host, int(port))) as sock:
        sock.settimeout(60)
        sock.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n{len(start):x}\r\n".encode() + start + b"\r\n")
        for _ in range(16):  # any unread rest would reset the connection before the response
            sock.sendall(b"f4240\r\n" + b"x" * 1_000_000 + b"\r\n")
        response = _receive_all(sock)
    assert response.startswith("HTTP/1.1 413") and "more than 16,000,000 bytes" in response


def _peak(pid: int) -> int:
    """Sum of the peak memory, in bytes, of a process and its descendants."""
    with open(f"/proc/{pid}/status") as file:
        own = next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM"))
    return own + sum(_peak(child.pid) for child in psutil.Process(pid).children())


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc and sched_setaffinity")
def test_memory_is_bounded(repro, project):
    largest, bomb, heavy = _blank(5_000, 5_000), _png(30_000, 30_000), b"\0" * 15_900_000
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})  # on one core the server decodes one image at a time
    try:
        process, address = _start()
    finally:
        os.sched_setaffinity(0, cores)
    try:

        def post(photo: bytes) -> int:
            return requests.post(f"{address}/predict", files={"photo": photo}, timeout=120).status_code

        assert post(largest) == 200
        before = _peak(process.pid)
        with ThreadPoolExecutor(24) as pool:
            statuses = list(pool.map(post, [largest, bomb, heavy, heavy] * 8))
        assert set(statuses[::4]) == {200} and set(statuses) == {200, 422}
        # Queued and parsed uploads take 133 MB.
        assert _peak(process.pid) - before < 250_000_000
    finally:
        process.terminate()
        process.wait(60)


def test_idle_connections_do_not_block_others(served):
    host, port = served.removeprefix("http://").split(":")
    with contextlib.ExitStack() as idle:
        for _ in range(80):
            idle.enter_context(socket.create_connection((host, int(port))))
        assert requests.get(f"{served}/health", timeout=60).ok


def test_an_aborted_upload_does_not_affect_others(served, face):
    host, port = served.removeprefix("http://").split(":")
    head = "POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=b\r\n"
    for _ in range(3):
        with socket.create_connection((host, int(port))) as sock:
            sock.sendall(f"{head}Content-Length: 5000\r\n\r\n--b\r\n".encode())
    assert requests.post(f"{served}/predict", files={"photo": face}, timeout=60).ok


@contextlib.contextmanager
def _server(seconds: float, model: OnnxClassifier | None = None, **protocol: int):
    """The address of a server in this process with this timeout."""
    import uvicorn

    from pipeline.inference import serve

    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    app = serve.application(model or OnnxClassifier(PROJECT / FOLDER, threads=1), seconds)
    protocol_class = request_limits.limited_protocol(seconds, **protocol)
    server = uvicorn.Server(uvicorn.Config(app, http=protocol_class, log_level="critical"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    yield listener.getsockname()
    server.should_exit = True
    thread.join(30)


SLOW = (
    b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=b\r\n"
    b"Content-Length: 5000\r\n\r\n--b\r\n"
)


def test_slow_uploads_do_not_block_others(served, face):
    host, port = served.removeprefix("http://").split(":")
    with contextlib.ExitStack() as slow:
        for _ in range(70):
            slow.enter_context(socket.create_connection((host, int(port)))).sendall(SLOW)
        assert requests.get(f"{served}/health", timeout=15).ok
        assert requests.post(f"{served}/predict", files={"photo": face}, timeout=15).ok


@pytest.mark.parametrize("limits", [{"max_incomplete": 3}, {"max_bytes": 3 * len(SLOW)}])
def test_the_oldest_of_too_many_slow_connections_is_closed(repro, limits):
    with _server(30, **limits) as address, contextlib.ExitStack() as slow:
        sockets = [slow.enter_context(socket.create_connection(address)) for _ in range(5)]
        for sock in sockets:
            sock.settimeout(20)
            sock.sendall(SLOW)
            time.sleep(0.05)
        for sock in sockets[:2]:
            with contextlib.suppress(ConnectionResetError):
                assert _receive_all(sock) == ""
        sockets[-1].setblocking(False)
        with pytest.raises(BlockingIOError):
            sockets[-1].recv(1)
        assert requests.get(f"http://127.0.0.1:{address[1]}/health", timeout=15).ok


class _SlowModel:
    """A model that waits for `go`, and fails from the second call on."""

    def __init__(self, model: OnnxClassifier):
        self.card, self.classes, self.go, self.asked = model.card, model.classes, threading.Event(), 0

    def answer(self, pixels: np.ndarray, top: int) -> dict:
        self.asked += 1
        assert self.go.wait(60)
        if self.asked > 1:
            raise RuntimeError("[ONNXRuntimeError] : 1 :\n FAIL")
        return {"labels": ["cat"], "probabilities": [1.0], "unsure": False}


def test_more_requests_than_the_queue_holds_get_503(repro, project, face, monkeypatch):

    monkeypatch.setattr(request_limits, "MAX_ACTIVE", 2)
    model = _SlowModel(OnnxClassifier(project / FOLDER, threads=1))
    with _server(30, model) as (_, port), ThreadPoolExecutor(3) as pool:

        def post(_) -> requests.Response:
            return requests.post(f"http://127.0.0.1:{port}/predict", files={"photo": face}, timeout=60)

        futures = [pool.submit(post, number) for number in range(3)]
        done, _ = wait(futures, return_when=FIRST_COMPLETED)
        model.go.set()
        assert [each.result().json() for each in done] == [
            {"detail": "too many requests at once; come again"}
        ]
        answers = {each.result().status_code: each.result().text for each in futures}
        assert set(answers) == {200, 500, 503}
        # An error of the model fails its own request only.
        assert "the model gives no answer ([ONNXRuntimeError] : 1 : FAIL)" in answers[500]


@pytest.mark.parametrize(
    ("host", "status"),
    [
        *((host, 200) for host in ("localhost:8000", "127.0.0.1", "[::1]:80", "LOCALHOST", "127.9.9.9:1")),
        *((host, 421) for host in ("evil.example:8000", "localhost.evil.example", "[::2]", "1", "10.0.0.1")),
    ],
)
def test_on_loopback_only_local_host_names_are_answered(served, host, status):
    response = requests.get(f"{served}/health", headers={"Host": host}, timeout=15)
    assert response.status_code == status
    assert status == 200 or "start it with --allow-host" in response.json()["detail"]


def test_the_exported_page_is_served_for_local_host_names_only(tmp_path):
    """`export --serve`: a foreign website must not read the model."""
    from pipeline.inference import browser_demo

    (tmp_path / "card.json").write_text("{}")
    address: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=browser_demo.serve, args=(tmp_path, 0, address.put), daemon=True).start()
    file = f"{address.get(timeout=30)}card.json"
    assert requests.get(file, timeout=15).ok
    assert requests.get(file, headers={"Host": "localhost"}, timeout=15).ok
    assert requests.get(file, headers={"Host": "evil.example"}, timeout=15).status_code == 421


def test_hosts_can_be_allowed_and_without_any_a_public_server_allows_all(repro, project, monkeypatch):
    import uvicorn

    from pipeline.inference import serve

    allowed_hosts = []
    monkeypatch.setattr(uvicorn.Server, "run", lambda *_, **__: None)
    monkeypatch.setattr(serve, "application", lambda _, hosts: allowed_hosts.append(hosts))
    for host, allowed in (("127.0.0.1", None), ("0.0.0.0", None), ("127.0.0.1", ["Pets.example"])):
        serve.run(project / FOLDER, host, 0, allowed)
    assert allowed_hosts == [[], None, ["pets.example"]]


@contextlib.contextmanager
def _decoder(seconds: float = 60):
    from pipeline.inference.decoder import Decoder

    decoder = Decoder(64, 1_000_000, seconds)
    yield decoder
    decoder.close()


def test_the_decoder_gives_the_pixels_of_training():
    data = _noise()
    large = _blank(300, 200)
    with _decoder() as decoder:
        assert np.array_equal(decoder.read(data), read_picture(data))
        assert np.array_equal(decoder.read(large), shrink(read_picture(large), 64))
        for bad, message in (
            (b"x", "not a picture"),
            (_animation(), "an animation"),
            (_blank(1001, 1000), "more than"),
        ):
            with pytest.raises(UnreadableError, match=message):
                decoder.read(bad)


def test_the_decoder_tells_the_format_and_the_upright_size():
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    Image.new("RGB", (300, 200), "red").save(buffer, "JPEG", exif=exif)
    with _decoder() as decoder:
        found = decoder.decode(buffer.getvalue())
        assert (found.format, found.width, found.height) == ("JPEG", 200, 300)
        assert found.pixels.shape == (64, 43, 3)
        assert decoder.decode(_blank(300, 200)).width == 300


def test_a_format_that_no_decoder_has_is_refused(monkeypatch):
    """A taken-over subprocess must not choose the names of files."""
    from pipeline.inference import decoder as module

    with _decoder() as decoder:
        decoder.read(_noise())
        reply = module._HEADER.pack(True, 1, 1, 1, 1, b"../x") + bytes(3)
        monkeypatch.setattr(decoder.connection, "recv_bytes", lambda _=None: reply)
        monkeypatch.setattr(decoder.connection, "poll", lambda _=None: True)
        with pytest.raises(UnreadableError, match="known format"):
            decoder.decode(_noise())


def test_a_hanging_decoder_is_killed_and_the_next_image_is_read():
    with _decoder() as decoder:
        decoder.read(_noise())
        decoder.timeout = 0.1
        os.kill(hung := decoder.process.pid, signal.SIGSTOP)
        with pytest.raises(UnreadableError, match=r"it takes more than 0\.1 seconds to decode"):
            decoder.read(_noise())
        assert not psutil.pid_exists(hung)
        decoder.timeout = 60
        assert decoder.read(_noise()).shape == (64, 64, 3)


def test_a_crashed_decoder_fails_one_image_only():
    with _decoder() as decoder:
        decoder.read(_noise())
        os.kill(decoder.process.pid, signal.SIGSTOP)
        threading.Timer(0.1, os.kill, (decoder.process.pid, signal.SIGKILL)).start()
        with pytest.raises(UnreadableError, match="the decoder broke on it"):
            decoder.read(_noise())
        assert decoder.read(_noise()).shape == (64, 64, 3)
        decoder.process.kill()
        decoder.process.wait()  # a crash between two images fails none
        assert decoder.read(_noise()).shape == (64, 64, 3)


def test_the_decoders_memory_is_limited(monkeypatch):
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
        assert decoder.read(_noise()).shape == (64, 64, 3)


def test_an_incomplete_upload_times_out(repro):
    head = "POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=b\r\n"
    with _server(0.3) as address, socket.create_connection(address) as sock:
        sock.sendall(f"{head}Content-Length: 5000\r\n\r\n--b\r\n".encode())
        sock.settimeout(20)
        assert (text := _receive_all(sock)).startswith("HTTP/1.1 408") and "within 0.3 seconds" in text


@pytest.mark.parametrize("first", ["", "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"])
def test_incomplete_headers_time_out(repro, first):
    with _server(0.5) as address, socket.create_connection(address) as sock:
        sock.sendall(f"{first}GET /health HTTP/1.1\r\nHost: localhost\r\n".encode())
        sock.settimeout(3)  # shorter than uvicorn's own timeout
        assert _receive_all(sock).count("HTTP/1.1 200") == (1 if first else 0)


def test_requests_in_progress_are_answered_before_the_server_stops(repro, project, face):
    process, address = _start()
    statuses = []

    def post() -> None:
        statuses.append(requests.post(f"{address}/predict", files={"photo": face}, timeout=60).status_code)

    requests.get(f"{address}/health", timeout=60)
    threads = [threading.Thread(target=post) for _ in range(8)]
    for each in threads:
        each.start()
    time.sleep(0.1)
    os.kill(process.pid, signal.SIGTERM)
    for each in threads:
        each.join()
    process.wait(60)
    assert statuses == [200] * 8


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["conf"], "conf holds no model.onnx; export a model and serve that folder: petfaces export"),
        ([FOLDER, "--port"], ""),
    ],
)
def test_a_failed_start_is_a_one_line_error(repro, run, arguments, text):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        if not text:
            port = str(taken.getsockname()[1])
            arguments, text = [*arguments, port], f"error: --port {port} on 127.0.0.1: Address already in use"
        done = run("python", "-m", "pipeline", "serve", *arguments)
    assert done.returncode == 1
    assert text in done.stdout and "Traceback" not in done.stdout
