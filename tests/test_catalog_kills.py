"""`kill -9` of the server and of the helper loses no label that was answered with 200."""

import os
import random
import re
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest
import requests
from catalog_server import Catalog, folder_of, open_page
from sqlalchemy import select

from catalog.store import labels
from catalog.store.tables import Event, Help

KILLS = 25

pytestmark = pytest.mark.slow


def start(catalog):
    """The server's process and its address."""
    server = subprocess.Popen(
        [sys.executable, "-m", "pipeline", "catalog", "--folder", catalog.library.folder, "--port", "0"],
        stdout=subprocess.PIPE,
        text=True,
    )
    return server, re.search(r"http://\S+?(?=;)", server.stdout.readline())[0]


def test_no_answered_label_is_lost(tmp_path):
    catalog = Catalog.create(tmp_path)
    catalog.add_project(folder_of(tmp_path / "images", 3000), page_size=4, model_help=Help.SUGGESTIONS)
    answered: dict[int, int] = {}
    chance = random.Random(0)
    for number in range(KILLS):
        server, address = start(catalog)
        stop = threading.Event()

        def work(address=address, stop=stop, number=number) -> None:
            while not stop.is_set():
                try:
                    page = open_page(address)
                    if page is None:
                        return
                    given = {image["id"]: 1 + (image["id"] + number) % 3 for image in page["images"]}
                    body = {key: {"status": "labeled", "classes": [value]} for key, value in given.items()}
                    url = f"{address}/api/pages/{page['token']}/submit"
                    if requests.post(url, json={"answers": body}, timeout=10).status_code == 200:
                        answered.update(given)
                except requests.RequestException:
                    return

        people = [threading.Thread(target=work) for _ in range(2)]
        for person in people:
            person.start()
        time.sleep(chance.uniform(0.2, 3))
        helpers = psutil.Process(server.pid).children()
        if number % 2:
            for helper in helpers:
                helper.send_signal(signal.SIGKILL)
            time.sleep(chance.uniform(0, 0.5))
        os.kill(server.pid, signal.SIGKILL)
        server.wait()
        stop.set()
        for person in people:
            person.join()
        # The helper ends by itself when its server is gone.
        psutil.wait_procs(helpers, timeout=10)
        assert not any(helper.is_running() for helper in helpers)
    assert len(answered) > 500
    with catalog.database.read() as session:
        assert list(labels.differences(session, 1)) == []
        last = {event.image_id: event.after for event in session.scalars(select(Event).order_by(Event.id))}
    assert {key: last[key]["classes"] for key in answered} == {
        key: [value] for key, value in answered.items()
    }
