"""From a checkpoint to a model directory."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from intact import gguf_vocab
from intact._native import CONTRACT_VERSION, Model, Source, __version__

Progress = Callable[[int, int, str], object]

PROFILES = ("default", "fast", "fastest")


def quantize(
    source: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    *,
    profile: str = "default",
    type: str | None = None,
    head_type: str | None = None,
    threads: int | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Converts a checkpoint to a model directory; the directory appears complete or not at all.

    The same source and settings give the same bytes on every machine.

    Args:
        source: A GGUF file, or a directory with Hugging Face's safetensors.
        destination: The directory to write.
        profile: "default" (16-bit activations), "fast" (8-bit in blocks, 16-bit at the head) or "fastest" (8-bit).
        type: Format of the layers' weights, such as "U4b8". By default a quantized source keeps its own codes, and a
            float source becomes U8b8.
        head_type: Format of embedding and output head; by default as for `type`.
        threads: CPU threads; by default all that this process may use.
        overwrite: Replace a directory that exists.
        progress: Show a progress bar on stderr.

    Returns:
        The model digest, the path, and the size of the weights in bytes.

    Raises:
        ModelError: The source cannot be read or converted, or the destination cannot be written.
        RequestError: A setting is out of its range.
    """
    path = os.fspath(source)
    with progress_bar("converting", progress) as report:
        model = Model.convert(
            path, profile=profile, body=type, head=head_type, threads=threads, progress=report
        )
        provenance = {"profile": profile, "source": Path(path).name, "version": __version__}
        if type is not None:
            provenance["type"] = type
        if head_type is not None:
            provenance["head_type"] = head_type
        files = companion_files(Source(path), profile)
        model.save(os.fspath(destination), files, provenance, overwrite)
    return {"digest": model.digest, "path": os.fspath(destination), "plane_bytes": model.plane_bytes}


def companion_files(source: Source, profile: str) -> dict[str, bytes]:
    """The small files of a model directory: configuration, tokenizer, generation defaults."""
    config = json.loads(source.config())
    config["quantization_config"] = {
        "quant_method": "intact",
        "contract_version": CONTRACT_VERSION,
        "profile": profile,
    }
    files = {"config.json": _json_bytes(config)}
    metadata = source.metadata()
    if metadata is None:
        for name, path in source.tokenizer_files().items():
            files[name] = Path(path).read_bytes()
    else:
        for name, content in gguf_vocab.build(metadata).items():
            files[name] = _json_bytes(content)
    return files


def _json_bytes(content: object) -> bytes:
    return (json.dumps(content, ensure_ascii=False, indent=1, sort_keys=True) + "\n").encode()


@contextmanager
def progress_bar(what: str, show: bool) -> Iterator[Progress | None]:
    """A bar on stderr that a conversion reports to."""
    if not show:
        yield None
        return
    from tqdm import tqdm

    with tqdm(desc=what, unit="tensor", leave=False) as bar:

        def report(done: int, total: int, tensor: str) -> None:
            bar.total = total
            bar.set_postfix_str(tensor, refresh=False)
            bar.update(done - bar.n)

        yield report
