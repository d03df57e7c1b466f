"""`python -m tests.oracle` writes tests/vectors; `--check` compares instead and names what differs."""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from .architectures import ARCHITECTURES
from .check_formats import check_formats
from .check_published import check_numerics
from .conformance_vectors import conformance
from .constant_vectors import derived_constants
from .digest_vectors import digests
from .format_vectors import format_cases
from .model_vectors import expected
from .op_vectors import operations
from .output import cases_text, json_text
from .primitive_vectors import primitives
from .tiny_models import directory, profiles_of

ROOT = Path(__file__).resolve().parents[2]
VECTORS = ROOT / "tests" / "vectors"


# Digests of what the oracle does not compute (docs/CONFORMANCE.md); the reference kernels write this one.
FOREIGN = ("reference.json",)


def sources() -> Iterator[tuple[str, bytes]]:
    """Path below tests/vectors and content of every generated file but conformance.json."""
    yield "primitives.json", cases_text(primitives())
    yield "ops.json", cases_text(operations())
    yield "constants.json", cases_text(derived_constants())
    yield "digests.json", cases_text({"digests": digests()})
    yield "formats.json", cases_text(format_cases())
    for architecture in ARCHITECTURES:
        for profile in profiles_of(architecture):
            name = f"{architecture.name}-{profile.name}"
            contents = directory(architecture, profile)
            yield f"models/{name}.json", json_text(expected(contents, architecture.name))
            yield from ((f"models/{name}/{file}", data) for file, data in contents.items())


def files() -> Iterator[tuple[str, bytes]]:
    """Path below tests/vectors and content of every generated file."""
    written = {}
    for name, data in sources():
        written[name] = data
        yield name, data
    yield "conformance.json", conformance(written)


def main() -> int:
    """Runs the command; the status is 1 where a file differs."""
    parser = argparse.ArgumentParser(prog="python -m tests.oracle", description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare with the files instead of writing them")
    check = parser.parse_args().check
    published = check_numerics(ROOT / "docs" / "NUMERICS.md") + check_formats(ROOT / "docs" / "FORMATS.md")
    print(f"docs: {published} published vectors agree")

    generated = {VECTORS / name for name in FOREIGN}
    differing = []
    for name, data in files():
        path = VECTORS / name
        generated.add(path)
        if check:
            differing += [] if path.is_file() and path.read_bytes() == data else [name]
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    surplus = [str(path.relative_to(VECTORS)) for path in sorted(VECTORS.rglob("*")) if path.is_file()]
    differing += [name for name in surplus if VECTORS / name not in generated]
    for name in differing:
        print(f"tests/vectors/{name}: differs from what the oracle writes", file=sys.stderr)
    print(f"tests/vectors: {len(generated) - len(FOREIGN)} files {'compared' if check else 'written'}")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
