"""The table, as text and as Markdown."""

from collections.abc import Sequence

from .verdict import Row, Verdict

HEADER = ("target", "CPU model", "back end", "cases", "digest", "seconds")
# Numbers are aligned to the right.
RIGHT = (3, 5)
SHORT = 16


def _cells(row: Row) -> tuple[str, ...]:
    return (row.target, row.cpu, row.backend, str(row.cases), row.digest[:SHORT], f"{row.seconds:.1f}")


def conclusion(verdict: Verdict) -> str:
    """One line: how many configurations there are, and whether they agree."""
    digests = {row.digest for row in verdict.rows}
    found = f"one digest: {verdict.digest}" if digests == {verdict.digest} else f"{len(digests)} digests"
    problems = f"; {len(verdict.problems)} PROBLEMS" if verdict.problems else ""
    return f"{len(verdict.rows)} configurations of contract {verdict.contract}, {found}{problems}"


def _absent(verdict: Verdict) -> list[str]:
    return [f"ran nowhere: {name} ({reason})" for name, reason in sorted(verdict.absent.items())]


def text(verdict: Verdict) -> str:
    """The table with its problems, for a terminal."""
    table = [HEADER, *map(_cells, verdict.rows)]
    widths = [max(len(row[i]) for row in table) for i in range(len(HEADER))]

    def line(row: Sequence[str]) -> str:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        for i in RIGHT:
            cells[i] = row[i].rjust(widths[i])
        return "  ".join(cells)

    problems = [f"PROBLEM  {problem}" for problem in verdict.problems]
    return "\n".join([*map(line, table), *_absent(verdict), *problems, conclusion(verdict)])


def markdown(verdict: Verdict, made_with: Sequence[str]) -> str:
    """The table for docs. `made_with` says in lines what built and ran the programs."""
    rule = ["---:" if i in RIGHT else "---" for i in range(len(HEADER))]
    rows = [HEADER, rule, *(_code(_cells(row)) for row in verdict.rows)]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    notes = [conclusion(verdict), *_absent(verdict), *verdict.problems, *made_with]
    return f"{table}\n\n" + "".join(f"- {note}\n" for note in notes)


def _code(cells: Sequence[str]) -> list[str]:
    return [f"`{cell}`" if i in {1, 2, 4} else cell for i, cell in enumerate(cells)]
