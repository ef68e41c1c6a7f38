"""The documentation, served by the control plane under `/docs/`: where the `type` of an error leads.

Pages are the Markdown files of `docs/`, rendered once per process. No login: they hold nothing of this installation.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import path
from django.utils.safestring import SafeString, mark_safe
from markdown_it import MarkdownIt

from gateway.environment import ROOT

DOCS = ROOT / "docs"
_MARKDOWN = MarkdownIt("commonmark", {"html": False}).enable("table")
#: A first cell that names codes (`key_missing`, …): each becomes an anchor.
_CODES = re.compile(r"<td>((?:<code>[A-Za-z0-9_]+</code>(?:, )?)+)</td>")
_HEADING = re.compile(r"<h([1-4])>(.*?)</h\1>")
_LINK = re.compile(r'href="(?!https?:)([^"#]*?)\.md(#[^"]*)?"')


def page(request: HttpRequest, name: str = "configuration") -> HttpResponse:
    if name not in dict(pages()):  # the list decides, not the file system: a name cannot climb
        raise Http404(f"There is no page '{name}'.")
    file = DOCS / f"{name}.md"
    context = {"title": title(file), "html": html(file), "pages": pages(), "name": name}
    return render(request, "docs.html", context)


def picture(request: HttpRequest, name: str) -> HttpResponse:
    file = DOCS / "screenshots" / f"{name}.png"
    if file not in DOCS.glob("screenshots/*.png"):
        raise Http404(f"There is no picture '{name}'.")
    return HttpResponse(file.read_bytes(), content_type="image/png", headers={"Cache-Control": "public, max-age=3600"})


@cache
def pages() -> list[tuple[str, str]]:
    """(name, title) of each page, plugins last."""
    files = sorted(DOCS.rglob("*.md"), key=lambda file: (file.parent != DOCS, file.stem))
    return [(file.relative_to(DOCS).with_suffix("").as_posix(), title(file)) for file in files]


@cache
def title(file: Path) -> str:
    return file.read_text().partition("\n")[0].lstrip("# ").strip()


@cache
def html(file: Path) -> SafeString:
    """Links between pages lead to their URLs, headings and codes can be linked to."""
    folder = file.parent.relative_to(DOCS)

    def link(match: re.Match[str]) -> str:
        target = (DOCS / folder / match[1]).resolve()
        inside = target.is_relative_to(DOCS)
        return f'href="/docs/{target.relative_to(DOCS).as_posix()}{match[2] or ""}"' if inside else 'href="/docs/"'

    text = _MARKDOWN.render(file.read_text())
    text = text.replace("<pre>", '<pre tabindex="0">')  # a wide one scrolls, with the keyboard, too
    text = _LINK.sub(link, text)
    text = _HEADING.sub(lambda m: f'<h{m[1]} id="{_slug(m[2])}">{m[2]}</h{m[1]}>', text)
    text = _CODES.sub(
        lambda m: "<td>" + re.sub(r"<code>(\w+)</code>", r'<code id="\1">\1</code>', m[1]) + "</td>", text
    )
    return mark_safe(text)  # noqa: S308 - made of our own files, with raw HTML switched off


def _slug(heading: str) -> str:
    """As GitHub does it, so that links work in both places."""
    text = re.sub(r"<[^>]+>", "", heading).lower()
    return re.sub(r"[^\w\- ]", "", text).strip().replace(" ", "-")


urlpatterns = [
    path("", page, name="docs"),
    path("screenshots/<slug:name>.png", picture, name="docs-picture"),
    path("<path:name>", page, name="docs-page"),
]
