"""With accounts, whatever somebody sends, it reaches only what the role allows, and nothing from other sites.

Each route of the application is tried. A new route is for admins only until it is added to a list here.
"""

import pytest
import requests
from catalog_server import Catalog, folder_of
from fastapi.routing import iter_route_contexts
from people import add_person, sign_in

from catalog.app import application
from catalog.store.tables import Image, Page, Role

pytestmark = pytest.mark.integration  # they ask a server about each route

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND")
PUBLIC = {
    *("GET /sign-in", "HEAD /sign-in", "POST /sign-in", "POST /language"),
    *("GET /texts/{language}.json", "HEAD /texts/{language}.json", "GET /static", "HEAD /static"),
}
OF_LABELERS = PUBLIC | {
    *("GET /", "HEAD /", "GET /projects/{project_id}/label", "HEAD /projects/{project_id}/label"),
    *("GET /api/projects/{project_id}", "HEAD /api/projects/{project_id}"),
    "POST /api/projects/{project_id}/pages",
    *("POST /api/pages/{token}/submit", "POST /api/pages/{token}/keep"),
    *("POST /api/pages/{token}/release", "POST /api/pages/{token}/undo"),
    *("GET /images/{image_id}/thumbnail", "HEAD /images/{image_id}/thumbnail"),
    *("GET /images/{image_id}/large", "HEAD /images/{image_id}/large"),
    *("GET /account", "HEAD /account", "POST /account", "POST /sign-out", "POST /sign-out-everywhere"),
}
VALUES = {
    **{"project_id": "1", "image_id": "1", "class_id": "1", "account_id": "1", "language": "nl"},
    **{"kind": "read", "token": "x"},
}
CROSS_SITE = (
    {"Origin": "https://evil.example"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"},
)


@pytest.fixture(scope="module")
def catalog(tmp_path_factory):
    folder = tmp_path_factory.mktemp("access")
    catalog = Catalog.create(folder)
    catalog.add_project(folder_of(folder / "images", 6), page_size=1)
    add_person(catalog, "ann", Role.ADMIN)
    add_person(catalog, "lars")
    add_person(catalog, "lena")
    return catalog


@pytest.fixture(scope="module")
def address(catalog):
    with catalog.served() as address:
        yield address


@pytest.fixture(scope="module")
def paths(catalog):
    """The paths of all routes, as they are declared."""
    app = application(catalog.database, catalog.library, with_helper=False)
    found = [route.path for route in iter_route_contexts(app.routes)]
    assert len(found) > 50 and {"/", "/static", "/openapi.json", "/people", "/teach"} <= set(found)
    return found


def reached(browser, address, paths, **headers):
    """The requests, of all routes and methods, that weren't refused for the person's role."""
    found = set()
    for path in paths:
        filled = "/static/style.css" if path == "/static" else path.format_map(_Values())
        for method in METHODS:
            answer = browser.request(
                method, address + filled, headers=headers, allow_redirects=False, timeout=60
            )
            is_sent_to_sign_in = answer.headers.get("location", "").startswith("/sign-in?")
            if answer.status_code not in (401, 403, 421) and not is_sent_to_sign_in:
                found.add((f"{method} {path}", answer.status_code))
    return found


class _Values(dict):
    def __missing__(self, name):
        return VALUES.get(name, "1")


def allowed(found):
    """Without those that no route takes: the answer says nothing but that."""
    return {request for request, status in found if status != 405}


def declared(requests_of):
    """Without HEAD where a route has none."""
    return {each for each in requests_of if not each.startswith("HEAD ") or each == "HEAD /static"}


def test_without_a_session_only_signing_in_answers(address, paths):
    found = reached(requests.Session(), address, paths)
    assert {request for request, _ in found} <= PUBLIC
    # Signing in with nothing gets 401, like a request that is refused.
    assert allowed(found) | {"POST /sign-in"} == declared(PUBLIC)


@pytest.mark.parametrize("accept", ["text/html", "application/json"])
def test_a_labeler_reaches_the_label_page_and_nothing_else(catalog, address, paths, accept):
    found, last = set(), ("/sign-out", "/sign-out-everywhere")  # they end the session
    for some in ([path for path in paths if path not in last], last[:1], last[1:]):
        found |= reached(sign_in(address, "lars"), address, some, Accept=accept)
    assert {request for request, _ in found} <= OF_LABELERS
    assert allowed(found) | {"POST /sign-in"} == declared(OF_LABELERS)


def test_a_new_route_is_for_admins(catalog):
    from benchmarks.common import serving

    app = application(catalog.database, catalog.library, with_helper=False)
    app.get("/new")(lambda: "seen")
    app.add_route("/plain", lambda request: None)
    with serving(app) as address:
        lars, ann = sign_in(address, "lars"), sign_in(address, "ann")
        assert ann.get(f"{address}/new", timeout=30).json() == "seen"
        for path in ("new", "plain", "nothing"):
            assert lars.get(f"{address}/{path}", timeout=30).status_code == 403
            assert requests.get(f"{address}/{path}", timeout=30).status_code == 401


@pytest.mark.parametrize("headers", CROSS_SITE)
def test_no_route_is_used_by_another_site(address, paths, headers):
    browser = sign_in(address, "ann")
    for path in paths:
        filled = address + ("/static/style.css" if path == "/static" else path.format_map(_Values()))
        for method in METHODS:
            if method in ("GET", "HEAD") and "Sec-Fetch-Dest" in headers:
                continue  # a link that a person has clicked
            answer = browser.request(method, filled, headers=headers, timeout=30)
            assert answer.status_code == 403, (method, path)
            assert method == "HEAD" or "another site" in answer.text


def test_a_link_on_another_site_opens_a_page(address):
    followed = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    browser = sign_in(address, "lars")
    answer = browser.get(f"{address}/projects/1/label", headers=followed, timeout=30)
    assert answer.status_code == 200 and "frame-ancestors 'none'" in answer.headers["content-security-policy"]
    framed = browser.get(f"{address}/", headers={**followed, "Sec-Fetch-Dest": "iframe"}, timeout=30)
    assert framed.status_code == 403


def test_a_labeler_uses_only_pages_and_images_that_were_handed_out_to_this_person(catalog, address):
    lars, lena = sign_in(address, "lars"), sign_in(address, "lena")

    def post(browser, path, **body):
        return browser.post(f"{address}/api/{path}", json=body, timeout=30)

    page = post(lars, "projects/1/pages").json()["page"]
    (image,) = page["images"]
    answers = {"answers": {str(image["id"]): {"status": "labeled", "classes": [1]}}}
    views = [f"{address}/images/{image['id']}/{kind}" for kind in ("thumbnail", "large")]
    for kind in ("keep", "release", "undo"):
        assert post(lena, f"pages/{page['token']}/{kind}").status_code == 404
    assert post(lena, f"pages/{page['token']}/submit", **answers).status_code == 404
    own = post(lena, "projects/1/pages", token=page["token"]).json()["page"]
    assert own["token"] != page["token"] and own["images"][0]["id"] != image["id"]
    assert [lena.get(view, timeout=60).status_code for view in views] == [404, 404]
    assert [lars.get(view, timeout=60).status_code for view in views] == [200, 200]
    assert post(lars, f"pages/{page['token']}/keep").json()["held"]
    assert post(lars, f"pages/{page['token']}/submit", **answers).json() == {"saved": 1}
    assert [lars.get(view, timeout=60).status_code for view in views] == [404, 404]
    with catalog.database.read() as session:
        assert session.get(Page, page["token"]).person == "lars"
        assert session.get(Image, image["id"]).classes == [1]
    assert post(lars, f"pages/{page['token']}/undo").json()["page"]["images"][0]["id"] == image["id"]


def test_a_labeler_sees_names_of_projects_and_nothing_of_their_pages(address):
    browser = sign_in(address, "lars")
    first = browser.get(address, headers={"Accept": "text/html"}, timeout=30).text
    label = browser.get(f"{address}/projects/1/label", headers={"Accept": "text/html"}, timeout=30).text
    assert 'href="/projects/1/label"' in first and "pets" in first
    for page in (first, label):
        for link in ('"/projects/1"', "/projects/new", "/teach", "/people", "settings"):
            assert link not in page


def test_a_refusal_is_a_page_for_people_and_json_for_programs(address):
    browser = sign_in(address, "lars")
    page = browser.get(f"{address}/projects/1/export", headers={"Accept": "text/html"}, timeout=30)
    assert page.status_code == 403 and "this page is for admins" in page.text and "Sign out" in page.text
    program = browser.get(f"{address}/projects/1/export", timeout=30)
    assert program.json() == {"detail": "this page is for admins; you can label images"}
    sent = requests.get(f"{address}/projects/1?a=b", headers={"Accept": "text/html"}, timeout=30)
    assert sent.url == f"{address}/sign-in?next=%2Fprojects%2F1%3Fa%3Db"
    script = {"Accept": "text/html", "Sec-Fetch-Mode": "cors", "Sec-Fetch-Site": "same-origin"}
    assert requests.get(f"{address}/projects/1/status", headers=script, timeout=30).status_code == 401
