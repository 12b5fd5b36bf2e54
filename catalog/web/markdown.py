"""Renders Markdown: instructions, and documents."""

import re

from markdown_it import MarkdownIt
from markdown_it.rules_core import StateCore
from markupsafe import Markup


def _remove_styles(state: StateCore) -> None:
    """Removes the alignment of columns, since the Content-Security-Policy forbids `style`."""
    for token in state.tokens:
        token.attrs.pop("style", None)


_MARKDOWN = MarkdownIt("commonmark", {"html": False}).enable("table")
_MARKDOWN.disable("image")  # a page loads nothing of other sites
_MARKDOWN.core.ruler.push("remove_styles", _remove_styles)
_LINK = re.compile(r"https?://\S+")


def as_html(text: str) -> Markup:
    """Markdown as HTML; a text that is only a link becomes one. HTML in the text is shown as text."""
    text = text.strip()
    if _LINK.fullmatch(text):
        text = f"<{text}>"
    return Markup(_MARKDOWN.render(text))
