"""Models by name: local paths, the models inside this package, and the Hugging Face hub where it is installed."""

from __future__ import annotations

import os
import re
from pathlib import Path

from intact.errors import ModelError

_NAME = re.compile(r"(?P<model>\w[\w.-]*/\w[\w.-]*)(?:/(?P<file>.+\.gguf))?")
_PACKAGED = Path(__file__).parent / "models"  # a model directory for each name
_FILES = ("*.json", "*.safetensors", "*.jinja", "tokenizer.model")


def local(name: str | os.PathLike[str]) -> str:
    """The path of a model, without the network.

    What exists at a path comes first, so that "./tiny" and "tiny" are the same where there is such a directory; then
    the models inside this package, such as "tiny"; any other name is taken for a path.
    """
    path = os.fspath(name)
    if not os.path.lexists(path) and path in packaged():
        return os.fspath(_PACKAGED / path)
    return path


def packaged() -> list[str]:
    """The names of the models inside this package."""
    return sorted(place.parent.name for place in _PACKAGED.glob("*/intact.json"))


def fetch(name: str | os.PathLike[str], revision: str | None = None) -> str:
    """The local path of a model, as `local` finds it, or else after fetching it from the hub.

    Raises:
        ModelError: There is no such path, and the hub is not installed, not reachable, or does not have it.
    """
    path = local(name)
    if os.path.lexists(path):
        return path
    match = _NAME.fullmatch(path)
    if match is None:
        raise ModelError(f"{path}: there is no such file or directory")
    try:
        import huggingface_hub
    except ImportError:
        raise ModelError(f"{path}: there is no such path, and the hub needs `pip install intact[hub]`") from None
    try:
        if match["file"]:
            return huggingface_hub.hf_hub_download(match["model"], match["file"], revision=revision)
        return huggingface_hub.snapshot_download(match["model"], revision=revision, allow_patterns=list(_FILES))
    except Exception as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ModelError(f"{path}: there is no such path, and the hub does not give it: {reason[0]}") from error
