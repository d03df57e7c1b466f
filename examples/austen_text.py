"""Six novels by Jane Austen as plain text, from Debian's package r-cran-janeaustenr.

    apt-get download r-cran-janeaustenr
    dpkg -x r-cran-janeaustenr_*.deb austen
    python examples/austen_text.py austen -o austen.txt

The novels were published from 1811 to 1818 and are in the public domain. A paragraph becomes a line; headings and marks
of emphasis are left out.
"""

from __future__ import annotations

import argparse
import re
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

_DATABASE = "usr/lib/R/site-library/janeaustenr/data/Rdata.rdb"
_HEADING = re.compile(r"(?i:(chapter|volume|letter)\b.{0,20}|finis|the end|(by )?jane austen|by)|[^a-z]*")


def vectors(database: bytes) -> Iterator[list[str]]:
    """The character vectors of R's database of lazily loaded data: serialized objects, each deflated on its own."""
    while database:
        inflate = zlib.decompressobj()
        content = inflate.decompress(database[4:])
        database = inflate.unused_data
        at = 14 + struct.unpack(">I", content[14:18])[0] + 4  # behind the versions and the name of the encoding
        kind, count = struct.unpack(">II", content[at : at + 8])
        if kind & 0xFF != 16:
            raise SystemExit(f"{_DATABASE}: an object is no character vector")
        at += 8
        lines = []
        for _ in range(count):
            _, length = struct.unpack(">Ii", content[at : at + 8])
            lines.append(content[at + 8 : at + 8 + length].decode("utf-8"))
            at += 8 + length
        yield lines


def paragraphs(lines: list[str]) -> Iterator[str]:
    """The paragraphs of a novel, which empty lines separate."""
    for block in "\n".join(line.strip() for line in lines).split("\n\n"):
        text = " ".join(block.replace("_", "").replace("--", " — ").split())
        if not _HEADING.fullmatch(text):
            yield text


def main() -> None:
    """Reads the unpacked package, writes the text."""
    parser = argparse.ArgumentParser(description="Jane Austen's novels as plain text, one paragraph a line.")
    parser.add_argument("package", type=Path, help="folder into which the Debian package was unpacked")
    parser.add_argument(
        "-o", "--output", type=Path, required=True, help="text file to write; novels lie two lines apart"
    )
    arguments = parser.parse_args()
    novels = ["\n".join(paragraphs(lines)) for lines in vectors((arguments.package / _DATABASE).read_bytes())]
    arguments.output.write_text("\n\n".join(novels) + "\n", encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
