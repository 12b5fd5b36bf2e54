"""Renders the Jinja templates of HTML pages and Markdown files."""

from collections.abc import Callable, Mapping
from pathlib import Path

import jinja2

from pipeline.common import text


def render(template: Path, filters: Mapping[str, Callable] | None = None, **variables: object) -> str:
    """Returns a template filled with variables; an undefined variable raises `jinja2.UndefinedError`.

    HTML is escaped in a template named ``.html``. In Markdown, the template itself has to pass untrusted text
    through the filter ``markdown`` or ``code``.

    Args:
        template: the file.
        filters: additional filters by name.
        variables: the template's variables.
    """
    is_html = template.suffix == ".html"
    environment = jinja2.Environment(
        autoescape=is_html,
        finalize=text.html,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=is_html,
    )
    environment.filters |= {"markdown": text.markdown, "code": text.code, **(filters or {})}
    return environment.from_string(template.read_text(encoding="utf-8")).render(variables)
