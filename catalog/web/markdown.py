"""Renders the Markdown of instructions."""

import re

from markdown_it import MarkdownIt
from markupsafe import Markup

_MARKDOWN = MarkdownIt("commonmark", {"html": False}).disable("image")  # a page loads nothing of other sites
_LINK = re.compile(r"https?://\S+")


def as_html(text: str) -> Markup:
    """Instructions as HTML; a text that is only a link becomes one. HTML in the text is shown as text."""
    text = text.strip()
    if _LINK.fullmatch(text):
        text = f"<{text}>"
    return Markup(_MARKDOWN.render(text))
