"""The examples that users see first run as they stand."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import pytest

import intact
from intact import LLM

README = (Path(__file__).parents[2] / "README.md").read_text("utf-8")
EXAMPLES = {
    **{
        f"README.md, block {n}": code
        for n, code in enumerate(re.findall(r"^```python\n(.*?)^```$", README, re.M | re.S))
    },
    "intact.__doc__": "".join(example.source for example in doctest.DocTestParser().get_examples(intact.__doc__ or "")),
}


def test_there_are_examples() -> None:
    assert "README.md, block 0" in EXAMPLES
    assert all(EXAMPLES.values())


@pytest.mark.parametrize("name", EXAMPLES)
def test_example(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    scope: dict[str, object] = {}
    exec(compile(EXAMPLES[name], name, "exec"), scope)
    assert isinstance(scope["llm"], LLM)
