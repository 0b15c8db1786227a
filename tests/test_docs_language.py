"""How pages and reports speak: short sentences, an answer in the first paragraph, American spelling."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from html import unescape
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LONGEST = 35  # words in a sentence
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGES = [page for page in PAGES if "results" not in page.parts]  # tables that commands write
# Letters in brackets hide the words from the spelling check, which would correct them here.
BRITISH = re.compile(
    r"\b(?:(?:behavi|col|fav|flav|hon|lab|neighb)our\w*|(?:de|of)fen[c]e\w*|licen[c]e\w*|cent[r]e[ds]?|gr[e]y\w*|art[e]fact\w*|"
    r"(?:un)?label(?:led|ling)|model(?:led|ling)|travel(?:led|ling)|catalog[u]e\w*|jud[g]ement\w*|"
    r"(?:\w+[a-z])?(?:normal|recogn|synchron|serial|initial|minim|maxim|optim|organ|regular|quant|visual|general|"
    r"token|author|util|parallel|categ[o]r|random)is(?:e[ds]?|ing|ation\w*|er\w*))\b",
    re.IGNORECASE,
)
REPORTS = [
    *sorted((ROOT / "genaf_sdk" / "report").glob("*.py")),
    *sorted((ROOT / "genaf_sdk" / "report" / "templates").glob("*.html")),
    ROOT / "export" / "card.py",
]
NOT_PROSE = (
    (r"^```.*?^```$", "\n\n"),  # blocks of code
    (r"^\$\$.*?^\$\$$", "\n\n"),  # equations
    (r"<!--.*?-->", ""),
    (r"^\s*\|.*$", "\n"),  # tables
    (r"^(::: .*|(?: {4}.*\n?)+)$", "\n"),  # names that the reference documents
    (r"^#+ .*$", "\n\n"),
    (r"!\[[^\]]*\]\([^)]*\)", ""),  # pictures
    (r"\[([^\]]*)\]\([^)]*\)", r"\1"),  # of a link its text
    (r"`[^`]*`", "Code"),
    (r"\$[^$]+\$", "x"),
    (r"^\s*(?:[-*]|\d+\.) ", "\n\n"),  # each item of a list is by itself
    (r"[*_]", ""),
)


def prose(markdown: str) -> list[str]:
    """The paragraphs of a page, without code, tables, headings and the addresses of links."""
    for pattern, instead in NOT_PROSE:
        flags = re.MULTILINE | (re.DOTALL if pattern.startswith(("^```", r"^\$\$", "<!--")) else 0)
        markdown = re.sub(pattern, instead, markdown, flags=flags)
    return [" ".join(paragraph.split()) for paragraph in re.split(r"\n\s*\n", markdown) if paragraph.strip()]


def sentences(paragraph: str) -> list[str]:
    """Split where a full stop, a question or an exclamation mark is followed by the beginning of another sentence."""
    marked = re.sub(r"\b(e\.g|i\.e|al|vs|cf|Fig|Eq|Sec)\.", r"\1", paragraph)
    return re.split(r"(?<=[.!?])[\"')]* +(?=[\"'(]*[A-Z0-9])", marked)


def too_long(paragraphs: list[str]) -> list[str]:
    found = []
    for paragraph in paragraphs:
        for sentence in sentences(paragraph):
            words = [word for word in sentence.split() if re.search(r"\w", word)]
            if len(words) > LONGEST:
                found.append(f"{len(words)} words: {sentence}")
    return found


def shown_texts(path: Path) -> Iterator[str]:
    """The texts that a file of the report shows, as Markdown; "x" stands for what is put in at run time."""
    text = path.read_text("utf-8")
    if path.suffix == ".py":
        yield from (found for found in strings(ast.parse(text)) if " " in found)
    else:
        text = re.sub(r"<(style|script)\b.*?</\1>|{#.*?#}|{%.*?%}", "\n\n", text, flags=re.DOTALL)
        text = re.sub(r"{{.*?}}", "x", text, flags=re.DOTALL)
        text = re.sub(r"</?(?:b|i|em|strong|code|a|span|abbr|sup|sub)\b[^>]*>", "", text)
        yield unescape(re.sub(r"<[^>]*>", "\n\n", text))


def strings(tree: ast.AST) -> Iterator[str]:
    """The texts of a program that are no docstrings, those with placeholders as one."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            continue
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "x" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        else:
            yield from strings(node)


def test_what_counts_as_a_sentence() -> None:
    page = "# A title\n\nShort one. Another, [with a link](to/somewhere.md) and `code in it`.\n\n```sh\nls -l\n```\n\n"
    page += "| a | b |\n| - | - |\n\n- an item:\n- a second\n\n" + "word " * 36 + "end.\n"
    paragraphs = prose(page)
    assert paragraphs[:3] == ["Short one. Another, with a link and Code.", "an item:", "a second"]
    assert sentences(paragraphs[0]) == ["Short one.", "Another, with a link and Code."]
    assert [found[:8] for found in too_long(paragraphs)] == ["37 words"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_no_sentence_of_a_page_is_too_long(page: Path) -> None:
    found = too_long(prose(page.read_text("utf-8")))
    assert not found, "\n".join(found)


@pytest.mark.parametrize("path", REPORTS, ids=lambda path: path.name)
def test_no_sentence_of_a_report_is_too_long(path: Path) -> None:
    found = [sentence for text in shown_texts(path) for sentence in too_long(prose(text))]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_a_page_answers_in_its_first_paragraph(page: Path) -> None:
    title, blank, first = page.read_text("utf-8").split("\n", 2)
    assert (title[:2], blank) == ("# ", ""), "one title, then the answer"
    paragraph = first.partition("\n\n")[0]
    assert not re.match(r"[|#!<\-`]{2,}|[-*] |[|>]|!\[", paragraph), "text comes first"
    said = " ".join(prose(paragraph))
    assert len(said.split()) >= 8
    assert said.endswith((".", "**")), said
    assert not re.match(r"(For who|This (page|document)|Here )", said), "say the answer, not whom the page is for"
    assert not said.endswith("?")


def test_spelling_is_american() -> None:
    texts = {page: page.read_text("utf-8") for page in [*PAGES, ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md"]}
    texts |= {path: path.read_text("utf-8") for folder in ("genaf_sdk", "export") for path in sources(folder)}
    found = [f"{path.relative_to(ROOT)}: {word}" for path, text in texts.items() for word in set(BRITISH.findall(text))]
    assert not found, "\n".join(found)


def test_evidence_is_not_called_proof() -> None:
    for page in PAGES:
        for line in page.read_text("utf-8").splitlines():
            if re.search(r"\bpro(of|of|ofs|ven|ves?)\b", line, re.IGNORECASE):
                assert re.search(r"certif", line, re.IGNORECASE), f"{page.name}: {line}"


def sources(folder: str) -> list[Path]:
    return [path for path in (ROOT / folder).rglob("*.py") if "genaf_sdk/export" not in path.as_posix()]
