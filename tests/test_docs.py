"""The Chinese documents say what the English ones say: sections, tables, code, figures."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAIRS = {
    "README.md": "README_CN.md",
    **{f"docs/{p.name}": f"docs/zh/{p.name}" for p in (ROOT / "docs").glob("*.md")},
}
CHINESE = "[\u4e00-\u9fff]"
BLOCK = re.compile(r"^```(?:.*\n)*?```$|(?<=\n\n)(?: {4}.*\n)+", re.MULTILINE)


def read(document: str) -> str:
    return (ROOT / document).read_text(encoding="utf-8")


def headings(text: str) -> list[str]:
    """The level of each heading, in order: "#", "##", ..."""
    return re.findall(r"^(#+) ", BLOCK.sub("", text), re.MULTILINE)


def tables(text: str) -> list[tuple[int, int]]:
    """The rows and columns of each table."""
    found = re.findall(r"(?:^\|.*\n)+", BLOCK.sub("", text), re.MULTILINE)
    return [(table.count("\n"), table.splitlines()[1].count("|") - 1) for table in found]


def code(text: str) -> list[list[str]]:
    """The lines of each block, without what is translated: comments, and the text beside paths."""
    annotation = r"(^ {20,}|(?<=\S)( {2,}|  ?# )).*"
    lines = [block.splitlines() for block in BLOCK.findall(text)]
    return [[re.sub(annotation, "", line) for line in block] for block in lines]


def sections_of(text: str) -> list[tuple[str, str]]:
    """The title and the text of each section, without its blocks."""
    _, *parts = re.split(r"^#+ (.*)$", BLOCK.sub("", text), flags=re.MULTILINE)
    return list(zip(parts[::2], parts[1::2], strict=True))


def facts(section: str) -> set[str]:
    """The code spans and the numbers of a section."""
    text = " ".join(section.split())
    spans = set(re.findall(r"`[^`]+`", text))
    text = re.sub(r"`[^`]+`|\]\([^)]*\)|\d+ 月", " ", text)  # months are words in English
    return spans | set(re.findall(r"\d+(?:[.,]\d+)*", text))


def differences(english: str, chinese: str) -> list[str]:
    """What the two texts do not share, one line each."""
    found = [
        f"{kind.__name__}: {kind(english)} != {kind(chinese)}"
        for kind in (headings, tables, code)
        if kind(english) != kind(chinese)
    ]
    sections = [sections_of(text) for text in (english, chinese)]
    for (title, ours), (_, theirs) in zip(*sections, strict=False):
        if apart := facts(ours) ^ facts(theirs):
            found.append(f"{title}: only one language has {sorted(apart)}")
    return found


def test_both_languages_have_the_same_pages() -> None:
    names = [sorted(p.name for p in (ROOT / tree).glob("*.md")) for tree in ("docs", "docs/zh")]
    assert names[0] == names[1]


@pytest.mark.parametrize("document", PAIRS)
def test_both_languages_say_the_same(document: str) -> None:
    assert differences(read(document), read(PAIRS[document])) == []


@pytest.mark.parametrize("document", PAIRS)
def test_each_page_links_to_its_other_language(document: str) -> None:
    other = PAIRS[document]
    pairs = [(document, other.removeprefix("docs/"))]
    pairs.append((other, document if document == "README.md" else f"../{Path(document).name}"))
    for page, target in pairs:
        assert f"]({target})" in read(page), page


@pytest.mark.parametrize("document", PAIRS.values())
def test_chinese_and_latin_text_are_set_apart(document: str) -> None:
    text = re.sub(r"\]\([^)]*\)", "", BLOCK.sub("", read(document)))
    text = re.sub("`[^`]+`", "code", text)
    close = rf"\S*{CHINESE}[\w,;:!?(](?<!{CHINESE})\S*|\S*[a-zA-Z0-9,;:!?%)]{CHINESE}\S*"
    assert re.findall(close, text) == []


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("## Commands\n", ""),
        ("## Commands\n", "### Commands\n"),
        ("| a | 1 |\n", ""),
        ("make demo", "make test"),
        ("99.15", "99.51"),
        ("`--seed`", "`--out`"),
    ],
)
def test_a_difference_is_found(before: str, after: str) -> None:
    page = (
        "# A\n\n## Commands\n\n| n | v |\n|---|---|\n| a | 1 |\n\n"
        "```sh\nmake demo    # try\n```\n\nTop-1 is 99.15 % with `--seed`.\n"
    )
    assert differences(page, page.replace("# try", "# 试一试")) == []
    assert before in page
    assert differences(page, page.replace(before, after)) != []
