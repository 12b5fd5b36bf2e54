"""`kill -9` of the server, of the helper and of the database loses no label that was answered with 200."""

import os
import random
import re
import signal
import subprocess
import sys
import threading
import time

import postgresql
import psutil
import pytest
import requests
from catalog_server import Catalog, folder_of, open_page
from sqlalchemy import func, select

from catalog.library import DATABASE_VARIABLE
from catalog.store import bulk, labels, relabeling
from catalog.store.labels import Answer
from catalog.store.tables import Event, Help, Image, Status

KILLS = 25

pytestmark = pytest.mark.slow


def start(catalog):
    """The server's process and its address."""
    server = subprocess.Popen(
        [sys.executable, "-m", "pipeline", "catalog", "--folder", catalog.library.folder, "--port", "0"],
        env={**os.environ, DATABASE_VARIABLE: catalog.library.database_url},
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


def test_no_answered_label_is_lost_on_postgresql(tmp_path):
    """The server, its helper and the database are killed at random moments, while people go on."""
    with postgresql.own_server() as postgres:
        catalog = Catalog.create(tmp_path, postgres.create())
        catalog.add_project(folder_of(tmp_path / "images", 3000), page_size=4, model_help=Help.SUGGESTIONS)
        answered: dict[int, int] = {}
        statuses: set[int] = set()
        chance = random.Random(0)
        server, address = start(catalog)
        stop = threading.Event()

        def work(number: int) -> None:
            page = None
            while not stop.is_set():
                try:
                    page = page or open_page(address)
                    if page is None:
                        return
                    given = {image["id"]: 1 + (image["id"] + number) % 3 for image in page["images"]}
                    body = {key: {"status": "labeled", "classes": [value]} for key, value in given.items()}
                    url = f"{address}/api/pages/{page['token']}/submit"
                    status = requests.post(url, json={"answers": body}, timeout=60).status_code
                    statuses.add(status)
                    if status == 200:
                        answered.update(given)
                        page = None
                except requests.RequestException as error:  # people try again
                    statuses.add(getattr(error.response, "status_code", 0))
                    stop.wait(0.1)

        people = [threading.Thread(target=work, args=(number,)) for number in range(2)]
        for person in people:
            person.start()
        for number in range(KILLS):
            stop.wait(chance.uniform(0.2, 3))
            if number % 3 == 0:
                postgres.kill()
                stop.wait(chance.uniform(0, 1))
                postgres.start()
            elif number % 3 == 1:
                for helper in psutil.Process(server.pid).children():
                    helper.send_signal(signal.SIGKILL)
            else:
                os.kill(server.pid, signal.SIGKILL)
                server.wait()
                server, address = start(catalog)
        stop.set()
        for person in people:
            person.join()
        os.kill(server.pid, signal.SIGKILL)
        server.wait()
        assert statuses <= {0, 200, 503}
        assert len(answered) > 300
        with catalog.database.read() as session:
            assert list(labels.differences(session, 1)) == []
            last = labels.derived(session.scalars(select(Event).order_by(Event.id)))
        assert {key: last[key][1]["classes"] for key in answered} == {
            key: [value] for key, value in answered.items()
        }
        catalog.database.close()


def until_answered(address):
    for _ in range(300):
        try:
            requests.get(f"{address}/projects/1/classes/progress", timeout=30).raise_for_status()
            return
        except requests.ConnectionError:
            time.sleep(0.1)
    raise AssertionError(f"nothing answers on {address}")


def test_discarding_labels_goes_on_after_each_kill_until_all_are_discarded(tmp_path):
    catalog = Catalog.create(tmp_path)
    catalog.add_project(folder_of(tmp_path / "images", 3000))
    with catalog.database.write() as session:
        project = catalog.project(session)
        bulk.label(session, project, range(1, 3001), Answer(Status.LABELED, (1,)), "ann")
        project.paused = True
        tests = {image.id for image in session.scalars(select(Image).where(Image.is_test))}
    form = {"names": "horse", "policy": "discard", "is_confirmed": "true"}
    chance, left = random.Random(0), []
    while not left or left[-1]:
        server, address = start(catalog)
        until_answered(address)
        if not left:
            requests.post(f"{address}/projects/1/classes", data=form, timeout=30).raise_for_status()
        time.sleep(chance.uniform(0, 0.6))
        server.kill()
        server.wait()
        server.stdout.close()
        with catalog.database.read() as session:
            (row,) = relabeling.unfinished(session) or [None]
            labeled = select(func.count()).where(Image.status == Status.LABELED)
            left.append(session.scalar(labeled))
            assert row is not None or left[-1] == 0
        assert len(left) < 60
    assert any(0 < count < 3000 - len(tests) for count in left), left
    with catalog.database.read() as session:
        assert len(session.scalars(select(Event).where(Event.action == "discard")).all()) == 3000 - len(tests)
        assert list(labels.differences(session, 1)) == []
