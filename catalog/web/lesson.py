"""A lesson for schools: a document of ``docs/`` as a page."""

from fastapi import APIRouter
from fastapi.responses import HTMLResponse

from catalog.language import ENGLISH, current
from catalog.web.context import render
from catalog.web.markdown import as_html
from pipeline.common.paths import ROOT

router = APIRouter(include_in_schema=False)


@router.get("/lesson")
def page() -> HTMLResponse:
    suffix = "" if current() == ENGLISH else f".{current()}"
    document = ROOT / "docs" / f"lesson{suffix}.md"
    return render("lesson.html", lesson=as_html(document.read_text(encoding="utf-8")))
