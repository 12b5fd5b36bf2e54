"""MLflow's page as users open it: by the printed links, in a browser, until Ctrl-C."""

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import requests
from chromium import chromium


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def _children(pid: int) -> list[int]:
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True).stdout
    pids = [int(each) for each in listed.split()]
    return pids + [descendant for child in pids for descendant in _children(child)]


def _alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.is_file() and ") Z " not in stat.read_text()


def _start(project: Path) -> tuple[subprocess.Popen, dict[str, str]]:
    """`make ui` on a free port, and the links that it prints when it is ready."""
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline", "tracking", "ui", "--port", str(_free_port())],
        cwd=project,
        env={name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    links = {}
    for line in process.stdout:
        if match := re.fullmatch(r"(\w+: \w+) +(http\S+)\n", line):
            links[match[1]] = match[2]
        if line.startswith("Ctrl-C"):
            return process, links
    raise AssertionError("the server did not start")


@pytest.fixture(scope="module")
def page(repro, project):
    """The printed links of a running server."""
    process, links = _start(project)
    yield links
    process.send_signal(signal.SIGINT)
    process.wait()


def test_a_port_in_use_is_an_error_that_suggests_the_next(repro, run):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        done = run("python", "-m", "pipeline", "tracking", "ui", "--port", str(port))
    assert done.returncode == 1
    assert done.stdout == (
        f"error: port {port} is taken; name another: petfaces tracking ui --port {port + 1}\n"
    )


@pytest.mark.slow
def test_links_are_printed_when_the_page_is_ready(page):
    assert set(page) == {"sample: runs", "sample: charts", "sample: versions"}
    assert all("workflowType=machine_learning" in link for link in page.values())
    assert requests.get(page["sample: runs"], timeout=60).ok


@pytest.mark.slow
def test_ctrl_c_stops_the_server_and_its_child_processes(repro, project):
    process, _ = _start(project)
    children = _children(process.pid)
    assert children
    process.send_signal(signal.SIGINT)
    assert process.wait() == 0
    assert not [pid for pid in children if _alive(pid)]


@pytest.fixture(scope="module")
def browser():
    with chromium() as opened:
        yield opened


def _open(browser, link: str, text: str):
    """A tab once it shows the text, and the URLs of other hosts that it requested."""
    tab = browser.new_page(viewport={"width": 1400, "height": 900})
    tab.set_default_timeout(120_000)
    external: list[str] = []
    tab.on(
        "request",
        lambda request: (
            request.url.startswith(("http://127.0.0.1", "data:", "blob:")) or external.append(request.url)
        ),
    )
    tab.goto(link)
    tab.get_by_text(text, exact=True).first.wait_for()
    return tab, external


@pytest.mark.slow
def test_the_runs_table_shows_names_and_metrics_without_scrolling(page, browser):
    tab, external = _open(browser, page["sample: runs"], "probe")
    tab.get_by_role("columnheader", name="best/val/top1").first.wait_for()
    width = tab.viewport_size["width"]
    for heading in ("Run Name", "model", "Created", "best/val/top1", "test/top1"):
        box = tab.get_by_text(heading, exact=True).first.bounding_box()
        assert box["x"] + box["width"] < width, heading
    assert tab.get_by_text("Breeds of").is_visible()
    assert not external
    tab.close()


@pytest.mark.slow
def test_the_charts_show_the_comparison_first(page, browser):
    tab, external = _open(browser, page["sample: charts"], "the kept weights")
    assert tab.get_by_text("test/top1", exact=True).first.is_visible()
    assert not external
    tab.close()


@pytest.mark.slow
def test_a_version_links_to_its_run(page, browser):
    tab, external = _open(browser, page["sample: versions"], "@ champion")
    champion = tab.locator("tr, [role=row]", has_text="@ champion").last
    champion.get_by_role("link", name=re.compile("Version")).click()
    link = tab.get_by_text("trained in the run").get_by_role("link")
    with tab.context.expect_page() as opened:
        link.click()
    opened.value.set_default_timeout(120_000)
    opened.value.get_by_text("About this run").wait_for()
    assert not external
    tab.close()
