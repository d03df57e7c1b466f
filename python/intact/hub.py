"""Models by name: local paths, and the Hugging Face hub where the package `huggingface_hub` is installed."""

from __future__ import annotations

import os
import re

from intact.errors import ModelError

_NAME = re.compile(r"(?P<model>\w[\w.-]*/\w[\w.-]*)(?:/(?P<file>.+\.gguf))?")
_FILES = ("*.json", "*.safetensors", "*.jinja", "tokenizer.model")


def fetch(name: str | os.PathLike[str], revision: str | None = None) -> str:
    """The local path of a model, after fetching it where `name` is not a path but names a model of the hub.

    Raises:
        ModelError: There is no such path, and the hub is not installed, not reachable, or does not have it.
    """
    path = os.fspath(name)
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
