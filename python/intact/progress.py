"""Progress bars on stderr."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Report = Callable[[int, int, str], object]
"""Told how many of how many are done, and what the last one was."""


@contextmanager
def progress_bar(what: str, unit: str, show: bool) -> Iterator[Report]:
    """A bar that is advanced by calling it; one that does nothing where it is not to be shown."""
    if not show:
        # Native code that calls even this lets Python look for Ctrl-C.
        yield lambda done, total, last: None
        return
    from tqdm import tqdm

    with tqdm(desc=what, unit=unit, leave=False) as bar:

        def report(done: int, total: int, last: str) -> None:
            bar.total = total
            bar.set_postfix_str(last, refresh=False)
            bar.update(done - bar.n)

        yield report
