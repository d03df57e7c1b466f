"""From a checkpoint to a model directory."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from intact import allocation, gguf_vocab, recipes
from intact._native import CONTRACT_VERSION, ROTATION, Calibration, Model, Source, __version__
from intact.errors import ModelError, RequestError
from intact.progress import progress_bar
from intact.tokenizer import MAX_FILE_BYTES, Tokenizer

ROTATED = {"rotated": "embedding and head"}
"""What provenance says of a rotation."""


def quantize(
    source: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    *,
    profile: str = "default",
    type: str | None = None,
    head_type: str | None = None,
    tensor_types: Mapping[str, str] | None = None,
    preset: str | None = None,
    recipe: str | os.PathLike[str] | dict[str, Any] | None = None,
    target_size: int | str | None = None,
    requantize: bool = False,
    rotate: bool = False,
    calibration: str | os.PathLike[str] | None = None,
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
        tensor_types: Formats by regular expressions, found anywhere in a matrix's name; of those that are found the
            last decides, before `type` and `head_type`.
        preset: A mix of formats for all matrices: "2bit", "3bit", "4bit", "6bit" or "8bit".
        recipe: A recipe file, or a mapping in LLM Compressor's words (docs/RECIPES.md).
        target_size: Bytes of the directory at most, such as 64_000_000 or "64MiB": formats are chosen by what each
            costs by the calibration. Of `preset`, `recipe` and this one may be given; `type`, `head_type` and
            `tensor_types` go before all three.
        requantize: With `target_size`, keep none of a quantized source's own codes.
        rotate: Store embedding and head rotated (docs/RECIPES.md), which helps them at 4 and 5 bits; `target_size`
            decides by itself.
        calibration: A file of `intact imatrix`: whatever does not keep its codes is quantized by it, with error
            feedback where it holds all second moments.
        threads: CPU threads, 1…1024; by default all that this process may use.
        overwrite: Replace a model directory that exists; anything else stays.
        progress: Show a progress bar on stderr.

    Returns:
        The model digest ("digest"), the destination ("path"), the size of the weights in bytes ("plane_bytes"),
        and the matrices of a quantized source that did not keep its codes ("requantized").

    Raises:
        ModelError: The source cannot be read or converted, or the destination cannot be written.
        TokenizerError: The vocabulary of a GGUF file is damaged or of an unknown kind.
        RequestError: A setting is out of its range.
    """
    path, target = os.fspath(source), os.fspath(destination)
    if os.path.lexists(target):
        if not overwrite:
            raise ModelError(f"{target}: already exists; choose another directory or allow overwriting")
        if not (Path(target) / "intact.json").is_file():
            raise ModelError(f"{target}: is no model directory, so it is not overwritten; choose another directory")
    if sum(choice is not None for choice in (preset, recipe, target_size)) > 1:
        raise RequestError("preset, recipe, target_size: give one of them")
    if requantize and target_size is None:
        raise RequestError("requantize: goes with target_size only")
    # Before the weights, which take long.
    opened = Source(path, rotate)
    files = _companion_files(opened, profile)
    rules = _read_recipe(opened, recipe, calibration) if recipe is not None else None
    kinds = {"body": type, "head": head_type, "embedding": head_type}
    formats = _formats(opened, kinds, tensor_types or {}, preset, rules)
    settings = {
        "type": type,
        "head_type": head_type,
        "tensor_types": " ".join(f"{pattern}={name}" for pattern, name in (tensor_types or {}).items()) or None,
        "preset": preset,
        "recipe": rules.name if rules else None,
        "recipe_sha256": rules.sha256 if rules else None,
        "target_size": None if target_size is None else str(allocation.parse_size(target_size)),
        "own_codes": "none" if requantize else None,
        "calibration": None if calibration is None else _sha256(os.fspath(calibration)),
    }
    provenance = {"profile": profile, "source": Path(path).resolve().name, "version": __version__}
    provenance |= {name: value for name, value in settings.items() if value is not None}
    if target_size is not None:
        if calibration is None:
            raise RequestError("target_size: what formats cost is not known; pass a calibration of `intact imatrix`")
        free = [matrix for matrix in opened.matrices() if matrix[0] not in formats and kinds[matrix[1]] is None]
        longest = provenance | {"requantized": f"{len(opened.matrices())} matrices"} | ROTATED
        sources = [opened]
        ends = [matrix for matrix in opened.matrices() if matrix[1] != "body"]
        if not rotate and all(matrix in free and matrix[3] % ROTATION == 0 for matrix in ends):
            sources.append(Source(path, True))

        def request(source: Source) -> allocation.Request:
            def size(chosen: Mapping[str, str]) -> int:
                return source.directory_bytes(
                    files, longest, profile=profile, body=type, head=head_type, formats=formats | dict(chosen)
                )

            return allocation.Request(free, allocation.parse_size(target_size), size)

        best, chosen = allocation.allocate(
            [(source, request(source)) for source in sources],
            calibration,
            own_codes=not requantize,
            threads=threads,
            progress=progress,
        )
        formats |= chosen
        rotate = rotate or best > 0
    with progress_bar("converting", "tensor", progress) as report:
        model = Model.convert(
            path,
            profile=profile,
            body=type,
            head=head_type,
            formats=formats,
            calibration=calibration,
            rotate=rotate,
            threads=threads,
            progress=report,
        )
    if rotate:
        provenance |= ROTATED
    requantized = model.requantized
    if requantized:
        provenance["requantized"] = f"{len(requantized)} matrices"
    model.save(target, files, provenance, overwrite)
    return {
        "digest": model.digest,
        "path": target,
        "plane_bytes": model.plane_bytes,
        "requantized": requantized,
    }


def _formats(
    source: Source,
    kinds: Mapping[str, str | None],
    tensor_types: Mapping[str, str],
    preset: str | None,
    recipe: recipes.Recipe | None,
) -> dict[str, str]:
    """The formats of single matrices, where `kinds` are those of "body", "head" and "embedding".

    Raises:
        RequestError: There is no such preset, or a pattern is no regular expression or matches no matrix.
    """
    matrices = source.matrices()
    formats = recipes.preset_formats(preset, matrices) if preset is not None else {}
    if recipe is not None:
        formats |= recipe.formats
    formats = {name: formats[name] for name, role, *_ in matrices if name in formats and kinds[role] is None}
    for pattern, format in tensor_types.items():
        formats.update(dict.fromkeys(recipes.matched(pattern, matrices, "tensor_types"), format))
    return formats


def _read_recipe(
    source: Source,
    recipe: str | os.PathLike[str] | dict[str, Any],
    calibration: str | os.PathLike[str] | None,
) -> recipes.Recipe:
    """A recipe for a source.

    Raises:
        ModelError: It, or the calibration, cannot be read.
        RequestError: It is malformed, fits no matrix, or needs another calibration.
    """
    found = recipes.read(recipe, source.matrices())
    if found.feedback and (calibration is None or not Calibration.read(calibration).full):
        raise RequestError("recipe: GPTQModifier feeds errors back; pass a calibration of `intact imatrix --full`")
    return found


def _sha256(path: str) -> str:
    try:
        with open(path, "rb") as file:
            digest = hashlib.sha256()
            while chunk := file.read(1 << 20):
                digest.update(chunk)
            return digest.hexdigest()
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from error


def source_tokenizer(path: str) -> Tokenizer | None:
    """The tokenizer of a checkpoint, None for one that has none.

    Raises:
        ModelError: The checkpoint cannot be read.
        TokenizerError: The tokenizer cannot be read.
    """
    source = Source(path)
    metadata = source.metadata()
    if metadata is not None:
        return Tokenizer(gguf_vocab.build(metadata))
    file = source.tokenizer_files().get("tokenizer.json")
    return Tokenizer.from_directory(Path(file).parent) if file is not None else None


def _companion_files(source: Source, profile: str) -> dict[str, bytes]:
    """The small files of a model directory: configuration, tokenizer, generation defaults."""
    config = json.loads(source.config())
    config["quantization_config"] = {
        "quant_method": "intact",
        "contract_version": CONTRACT_VERSION,
        "profile": profile,
    }
    files = {"config.json": _json_bytes(config)}
    metadata = source.metadata()
    if metadata is not None:
        tokenizer_files = gguf_vocab.build(metadata).items()
        return files | {name: _json_bytes(content, name == "tokenizer.json") for name, content in tokenizer_files}
    for name, path in source.tokenizer_files().items():
        files[name] = _read(Path(path))
    return files


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ModelError(f"{path}: larger than {MAX_FILE_BYTES} bytes, which no tokenizer file is")
        return path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from error


def _json_bytes(content: object, compact: bool = False) -> bytes:
    layout: dict[str, Any] = {"separators": (",", ":")} if compact else {"indent": 1}
    return (json.dumps(content, ensure_ascii=False, sort_keys=True, **layout) + "\n").encode()
