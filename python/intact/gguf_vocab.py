"""The vocabulary in a GGUF file's metadata, as the tokenizer files of a Hugging Face model directory.

A GGUF file has the tokens and names the algorithm; what llama.cpp then does with a text is the definition, and the
files built here do the same in the `tokenizers` library.
"""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from intact.errors import TokenizerError
from intact.gguf_pretokenizers import PRE_TOKENIZERS, PreTokenizer

MAX_TOKENS = 1 << 22
MAX_MERGES = 1 << 23
MAX_TOKEN_CHARS = 1 << 12
MAX_MERGED_CHARS = 1 << 9  # of a token that merges have to be found for
MAX_TOTAL_CHARS = 1 << 25
MAX_CHARSMAP_BYTES = 1 << 24

# tokenizer.ggml.token_type
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = range(1, 7)

# Control tokens that end an answer. A GGUF file names one eos token, and many a chat model ends its turns with another.
_END_OF_TURN = frozenset(
    (
        *("</s>", "<eos>", "<EOT>", "<|end|>", "<|eot_id|>", "<|eom_id|>", "<|im_end|>", "<|return|>", "<|call|>"),
        *("<|endoftext|>", "<|end_of_text|>", "<end_of_turn>", "<end_of_utterance>", "<｜end▁of▁sentence｜>"),
    )
)
_SPACE = "▁"


def build(metadata: Mapping[str, object]) -> dict[str, object]:
    """The content of `tokenizer.json`, `tokenizer_config.json` and `generation_config.json`, by file name.

    `metadata` maps a GGUF file's keys to str, int, float, bool and sequences of them. Raises TokenizerError, naming
    the key.
    """
    model = _text(metadata, "tokenizer.ggml.model")
    if model is None:
        raise TokenizerError("tokenizer.ggml.model: missing; the file has no vocabulary")
    if model not in _KINDS:
        raise TokenizerError(f"tokenizer.ggml.model: {model!r} is not supported; known are {', '.join(sorted(_KINDS))}")
    kind = _KINDS[model]
    vocabulary = _Vocabulary(metadata)
    parts = kind.convert(metadata, vocabulary)

    special = {name: vocabulary.special_id(name, default) for name, default in kind.defaults.items()}
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": vocabulary.added_tokens(),
        "normalizer": parts.normalizer,
        "pre_tokenizer": parts.pre_tokenizer,
        "post_processor": _post_processor(
            vocabulary,
            _added_id(metadata, "bos", parts.add_bos, special["bos"]),
            _added_id(metadata, "eos", parts.add_eos, special["eos"]),
        ),
        "decoder": parts.decoder,
        "model": parts.model,
    }
    config: dict[str, object] = {
        f"{key}_token": vocabulary.tokens[id]
        for name, key in (("bos", "bos"), ("eos", "eos"), ("unknown", "unk"), ("padding", "pad"))
        if (id := special[name]) is not None
    }
    template = _text(metadata, "tokenizer.chat_template")
    if template is not None:
        config["chat_template"] = template
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    config["clean_up_tokenization_spaces"] = False
    generation: dict[str, object] = {"eos_token_id": vocabulary.end_ids(special["eos"])}
    if special["bos"] is not None:
        generation["bos_token_id"] = special["bos"]
    return {"tokenizer.json": tokenizer, "tokenizer_config.json": config, "generation_config.json": generation}


class _Vocabulary:
    """The tokens of the file, checked: unique, not empty, not too many."""

    def __init__(self, metadata: Mapping[str, object]) -> None:
        self._metadata = metadata
        key = "tokenizer.ggml.tokens"
        tokens = _array(metadata, key, str, MAX_TOKENS)
        if not tokens:
            raise TokenizerError(f"{key}: missing or empty; the file has no vocabulary")
        self.tokens = [token or f"[EMPTY_{id}]" for id, token in enumerate(tokens)]
        _check_lengths(self.tokens, key)
        self.ids = {token: id for id, token in enumerate(self.tokens)}
        if len(self.ids) < len(self.tokens):
            first = next(id for id, token in enumerate(self.tokens) if self.ids[token] != id)
            second = self.ids[self.tokens[first]]
            raise TokenizerError(f"{key}: {self.tokens[first]!r} is there twice, with ids {first} and {second}")
        self.types = _array(metadata, "tokenizer.ggml.token_type", int, MAX_TOKENS) or [_NORMAL] * len(self.tokens)
        if len(self.types) != len(self.tokens):
            raise TokenizerError(f"tokenizer.ggml.token_type: {len(self.types)} types for {len(self.tokens)} tokens")

    def special_id(self, name: str, default: int | None) -> int | None:
        key = f"tokenizer.ggml.{name}_token_id"
        id = self._metadata.get(key)
        if id is None:
            return default if default is not None and default < len(self.tokens) else None
        if isinstance(id, bool) or not isinstance(id, int) or not 0 <= id < len(self.tokens):
            raise TokenizerError(f"{key}: expected an id below {len(self.tokens)}, not {id!r}")
        return id

    def scores(self) -> list[float]:
        key = "tokenizer.ggml.scores"
        scores = _array(self._metadata, key, float, MAX_TOKENS)
        if len(scores) != len(self.tokens):
            raise TokenizerError(f"{key}: {len(scores)} scores for {len(self.tokens)} tokens")
        if not all(map(math.isfinite, scores)):
            raise TokenizerError(f"{key}: a score is infinite or not a number")
        return scores

    def has_all_bytes(self) -> bool:
        return all(f"<0x{byte:02X}>" in self.ids for byte in range(0x100))

    def added_tokens(self) -> list[dict[str, object]]:
        return [
            {
                "id": id,
                "content": token,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": kind != _USER_DEFINED,
            }
            for id, (token, kind) in enumerate(zip(self.tokens, self.types, strict=True))
            if kind in (_UNKNOWN, _CONTROL, _USER_DEFINED)
        ]

    def end_ids(self, eos: int | None) -> list[int]:
        ids = {eos, self.special_id("eot", None), self.special_id("eom", None)}
        ends = {id for token in _END_OF_TURN if (id := self.ids.get(token)) is not None and self.types[id] == _CONTROL}
        if {"<|return|>", "<|call|>", "<|end|>"} <= self.ids.keys():
            ends.discard(self.ids["<|end|>"])  # in the harmony format it ends a part of an answer
        return sorted(id for id in ids | ends if id is not None)


class _Parts(NamedTuple):
    """What the kinds of tokenizer differ in: fields of tokenizer.json, and the defaults of two flags."""

    model: dict[str, object]
    normalizer: dict[str, object] | None
    pre_tokenizer: dict[str, object] | None
    decoder: dict[str, object]
    add_bos: bool
    add_eos: bool


def _byte_level_bpe(metadata: Mapping[str, object], vocabulary: _Vocabulary) -> _Parts:
    name = _text(metadata, "tokenizer.ggml.pre") or "default"
    pre = PRE_TOKENIZERS.get(name)
    if pre is None:
        raise TokenizerError(
            f"tokenizer.ggml.pre: {name!r} is not a known pre-tokenizer; known are {', '.join(sorted(PRE_TOKENIZERS))}"
        )
    model = _bpe(vocabulary, _read_merges(metadata, vocabulary), ignore_merges=pre.ignore_merges)
    byte_level: dict[str, object] = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": False,
    }
    return _Parts(model, None, _sequence("PreTokenizer", [*_splits(pre), byte_level]), byte_level, pre.add_bos, False)


def _splits(pre: PreTokenizer) -> list[dict[str, object]]:
    return [
        {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
        for pattern in pre.patterns
    ]


def _read_merges(metadata: Mapping[str, object], vocabulary: _Vocabulary) -> list[tuple[str, str]]:
    key = "tokenizer.ggml.merges"
    if key not in metadata:
        raise TokenizerError(f"{key}: missing; byte-level BPE needs it")
    lines = _array(metadata, key, str, MAX_MERGES)
    _check_lengths(lines, key)
    merges: dict[tuple[str, str], None] = {}  # of a merge that is there twice, the first counts
    for index, line in enumerate(lines):
        cut = line.find(" ", 1)
        left, right = line[:cut], line[cut + 1 :]
        if cut < 0 or not right:
            raise TokenizerError(f"{key}[{index}]: expected two tokens with a space between them, not {line!r}")
        for token in (left, right, left + right):
            if token not in vocabulary.ids:
                raise TokenizerError(f"{key}[{index}]: {line!r} needs the token {token!r}, which tokens does not have")
        merges.setdefault((left, right))
    return list(merges)


def _sentencepiece_bpe(metadata: Mapping[str, object], vocabulary: _Vocabulary) -> _Parts:
    model = _bpe(
        vocabulary,
        _merges_from_scores(vocabulary),
        unk_token=_unknown_token(vocabulary),
        fuse_unk=True,
        byte_fallback=vocabulary.has_all_bytes(),
    )
    prefix = _flag(metadata, "tokenizer.ggml.add_space_prefix", True)
    prepend: list[dict[str, object]] = [{"type": "Prepend", "prepend": _SPACE}] if prefix else []
    normalizer = _sequence("Normalizer", [*prepend, _replace({"String": " "}, _SPACE)])
    return _Parts(model, normalizer, None, _sentencepiece_decoder(prefix), True, False)


def _merges_from_scores(vocabulary: _Vocabulary) -> list[tuple[str, str]]:
    """SentencePiece's rule as merges: it joins the neighbours that make the token of the highest score.

    So every way to cut a token in two is a merge of that token's rank.
    """
    scores, ids, types = vocabulary.scores(), vocabulary.ids, vocabulary.types
    mergeable = {_NORMAL, _UNUSED}
    merges: list[tuple[float, str, str]] = []
    for token, score, kind in zip(vocabulary.tokens, scores, types, strict=True):
        if kind not in mergeable or len(token) < 2:
            continue
        if len(token) > MAX_MERGED_CHARS:
            raise TokenizerError(f"tokenizer.ggml.tokens: {token[:50]!r}… has more than {MAX_MERGED_CHARS} characters")
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            if types[ids.get(left, 0)] in mergeable and left in ids and right in ids and types[ids[right]] in mergeable:
                merges.append((score, left, right))
        if len(merges) > MAX_MERGES:
            raise TokenizerError(f"tokenizer.ggml.tokens: they make more than {MAX_MERGES} merges")
    merges.sort(key=lambda merge: -merge[0])
    return [(left, right) for _, left, right in merges]


def _unigram(metadata: Mapping[str, object], vocabulary: _Vocabulary) -> _Parts:
    unknown = vocabulary.ids[_unknown_token(vocabulary)]
    model: dict[str, object] = {
        "type": "Unigram",
        "unk_id": unknown,
        "vocab": [[token, score] for token, score in zip(vocabulary.tokens, vocabulary.scores(), strict=True)],
        "byte_fallback": vocabulary.has_all_bytes(),
    }
    normalizers: list[dict[str, object]] = []
    charsmap = _charsmap(metadata)
    if charsmap:
        normalizers.append({"type": "Precompiled", "precompiled_charsmap": base64.b64encode(charsmap).decode("ascii")})
    if _flag(metadata, "tokenizer.ggml.remove_extra_whitespaces", False):
        normalizers += [_replace({"Regex": "^ +| +$"}, ""), _replace({"Regex": " {2,}"}, " ")]
    prefix = _flag(metadata, "tokenizer.ggml.add_space_prefix", True)
    if prefix:
        normalizers.append({"type": "Prepend", "prepend": _SPACE})
    normalizers.append(_replace({"String": " "}, _SPACE))
    return _Parts(model, _sequence("Normalizer", normalizers), None, _sentencepiece_decoder(prefix), False, True)


def _charsmap(metadata: Mapping[str, object]) -> bytes:
    key = "tokenizer.ggml.precompiled_charsmap"
    values = _array(metadata, key, int, MAX_CHARSMAP_BYTES)
    if not all(-128 <= value <= 255 for value in values):  # GGUF files have it as signed or as unsigned bytes
        raise TokenizerError(f"{key}: expected bytes")
    charsmap = bytes(value & 0xFF for value in values)
    if charsmap:
        trie = int.from_bytes(charsmap[:4], "little")
        if len(charsmap) < 4 or trie % 4 or not 0 < trie < len(charsmap) - 4 or charsmap[-1] != 0:
            raise TokenizerError(f"{key}: truncated or malformed")
    return charsmap


def _unknown_token(vocabulary: _Vocabulary) -> str:
    id = vocabulary.special_id("unknown", None)
    if id is None:
        id = next((id for id, kind in enumerate(vocabulary.types) if kind == _UNKNOWN), 0)
    return vocabulary.tokens[id]


def _bpe(vocabulary: _Vocabulary, merges: Iterable[tuple[str, str]], **options: object) -> dict[str, object]:
    defaults: dict[str, object] = {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
    }
    return {**defaults, **options, "vocab": vocabulary.ids, "merges": _written_merges(list(merges))}


def _written_merges(merges: list[tuple[str, str]]) -> list[str] | list[list[str]]:
    """As "a b" where that is the same: `tokenizers` reads it in two thirds of the time of ["a", "b"]."""
    if any(" " in left or " " in right or left.startswith("#version") for left, right in merges):
        return [list(merge) for merge in merges]
    return [f"{left} {right}" for left, right in merges]


def _sentencepiece_decoder(prefix: bool) -> dict[str, object]:
    steps: list[dict[str, object]] = [_replace({"String": _SPACE}, " "), {"type": "ByteFallback"}, {"type": "Fuse"}]
    strip: list[dict[str, object]] = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if prefix else []
    return {"type": "Sequence", "decoders": steps + strip}


def _replace(pattern: dict[str, str], content: str) -> dict[str, object]:
    return {"type": "Replace", "pattern": pattern, "content": content}


def _sequence(kind: str, steps: list[dict[str, object]]) -> dict[str, object]:
    return {"type": "Sequence", {"PreTokenizer": "pretokenizers", "Normalizer": "normalizers"}[kind]: steps}


def _added_id(metadata: Mapping[str, object], name: str, default: bool, id: int | None) -> int | None:
    """The id that is put around every text, or None."""
    key = f"tokenizer.ggml.add_{name}_token"
    if not _flag(metadata, key, default):
        return None
    if id is None:
        raise TokenizerError(f"{key}: is true, but tokenizer.ggml.{name}_token_id is missing")
    return id


def _post_processor(vocabulary: _Vocabulary, bos: int | None, eos: int | None) -> dict[str, object] | None:
    if bos is None and eos is None:
        return None

    def piece(id: int | None, type_id: int) -> list[dict[str, object]]:
        return [] if id is None else [{"SpecialToken": {"id": vocabulary.tokens[id], "type_id": type_id}}]

    def around(name: str, type_id: int) -> list[dict[str, object]]:
        return [*piece(bos, type_id), {"Sequence": {"id": name, "type_id": type_id}}, *piece(eos, type_id)]

    used = {vocabulary.tokens[id]: id for id in (bos, eos) if id is not None}
    return {
        "type": "TemplateProcessing",
        "single": around("A", 0),
        "pair": around("A", 0) + around("B", 1),
        "special_tokens": {token: {"id": token, "ids": [id], "tokens": [token]} for token, id in used.items()},
    }


class _Kind(NamedTuple):
    convert: Callable[[Mapping[str, object], _Vocabulary], _Parts]
    defaults: dict[str, int | None]  # ids that llama.cpp takes where the file does not name them


_NO_DEFAULTS: dict[str, int | None] = {"bos": None, "eos": None, "unknown": None, "padding": None}
_KINDS = {
    "gpt2": _Kind(_byte_level_bpe, _NO_DEFAULTS),
    "llama": _Kind(_sentencepiece_bpe, {**_NO_DEFAULTS, "bos": 1, "eos": 2, "unknown": 0}),
    "t5": _Kind(_unigram, {**_NO_DEFAULTS, "eos": 1, "unknown": 2, "padding": 0}),
}


def _text(metadata: Mapping[str, object], key: str) -> str | None:
    value = metadata.get(key)
    if value is not None and not isinstance(value, str):
        raise TokenizerError(f"{key}: expected a string, not {type(value).__name__}")
    return value


def _flag(metadata: Mapping[str, object], key: str, default: bool) -> bool:
    value = metadata.get(key, default)
    if not isinstance(value, bool):
        raise TokenizerError(f"{key}: expected true or false, not {type(value).__name__}")
    return value


def _array(metadata: Mapping[str, object], key: str, kind: type, limit: int) -> list[Any]:
    value = metadata.get(key)
    if value is None:
        return []
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, (str, bytes)) or not isinstance(value, Sequence):
        raise TokenizerError(f"{key}: expected an array, not {type(value).__name__}")
    if len(value) > limit:
        raise TokenizerError(f"{key}: {len(value)} elements; at most {limit} are read")
    allowed = (int, float) if kind is float else kind
    for index, element in enumerate(value):
        if isinstance(element, bool) or not isinstance(element, allowed):
            raise TokenizerError(f"{key}[{index}]: expected {kind.__name__}, not {type(element).__name__}")
    return list(value)


def _check_lengths(texts: Sequence[str], key: str) -> None:
    total = 0
    for index, text in enumerate(texts):
        total += len(text)
        if len(text) > MAX_TOKEN_CHARS or total > MAX_TOTAL_CHARS:
            raise TokenizerError(f"{key}[{index}]: longer than the texts of any vocabulary")
        if _SURROGATE.search(text):
            raise TokenizerError(f"{key}[{index}]: holds a lone surrogate, which is not Unicode text")


_SURROGATE = re.compile("[\ud800-\udfff]")
