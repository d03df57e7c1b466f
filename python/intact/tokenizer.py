"""Text to token ids and back, by the tokenizer files of a Hugging Face model directory.

Encoding is Hugging Face `tokenizers`. Decoding is done here, from one view that holds for every tokenizer of a
generative model: a token is a string of bytes, and a text is the UTF-8 reading of the bytes of its tokens. Whole texts
and streams decode by the same rule, so a stream's parts always join to the whole.
"""

from __future__ import annotations

import codecs
import functools
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import tokenizers

from intact.chat import ChatTemplate
from intact.errors import TokenizerError

MAX_FILE_BYTES = 1 << 28
_BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")
_SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_Result = TypeVar("_Result")


class Tokenizer:
    """The tokenizer of one model. Instances may be shared between threads."""

    def __init__(self, files: Mapping[str, Any]) -> None:
        """Builds the tokenizer from file name → content: parsed JSON for names ending in `.json`, text otherwise.

        `tokenizer.json` may be its bytes as well: parsing a large vocabulary here would only take time and memory.

        Read are `tokenizer.json` (required), `tokenizer_config.json`, `special_tokens_map.json`,
        `generation_config.json` and `chat_template.jinja`. Raises TokenizerError.
        """
        source = files.get("tokenizer.json")
        if not isinstance(source, bytes):
            content = _object(files, "tokenizer.json")
            if not content:
                raise TokenizerError("tokenizer.json: missing; save the model with its fast tokenizer")
            source = json.dumps(content, ensure_ascii=False).encode("utf-8", "surrogatepass")
        serialized: bytes = source
        self._backend = _guarded(lambda: tokenizers.Tokenizer.from_buffer(serialized), "tokenizer.json")
        self._backend.no_padding()
        self._backend.no_truncation()
        decoder = self._backend.decoder
        self._decoder = _Decoder(json.loads(decoder.__getstate__()) if decoder is not None else None)
        added = self._backend.get_added_tokens_decoder()
        self._special_ids = frozenset(id for id, token in added.items() if token.special)
        self._added_ids = frozenset(added)
        self._bytes: dict[int, bytes] = {}

        config = {**_object(files, "special_tokens_map.json"), **_object(files, "tokenizer_config.json")}
        special_tokens = {name: text for name in _SPECIAL_TOKENS if (text := _token_text(config, name)) is not None}
        self._bos_id = self._id(special_tokens.get("bos_token"))
        self._eos_ids = self._read_eos_ids(_object(files, "generation_config.json"), special_tokens.get("eos_token"))
        templates = _read_templates(config.get("chat_template"), files.get("chat_template.jinja"))
        self._chat = ChatTemplate(templates, special_tokens) if templates else None

    @classmethod
    def from_directory(cls, path: str | Path) -> Tokenizer:
        """Reads the tokenizer files of a model directory. Raises TokenizerError."""
        directory = Path(path)
        files: dict[str, Any] = {}
        for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json"):
            if (content := _read(directory / name)) is not None:
                files[name] = content if name == "tokenizer.json" else _parse(content, name)
        if (template := _read(directory / "chat_template.jinja")) is not None:
            files["chat_template.jinja"] = _text(template, "chat_template.jinja")
        if "tokenizer.json" not in files:
            raise TokenizerError(f"{directory / 'tokenizer.json'}: not found; save the model with its fast tokenizer")
        return cls(files)

    @property
    def eos_ids(self) -> frozenset[int]:
        """The ids that end a generation: those of generation_config.json and the `eos_token`."""
        return self._eos_ids

    @property
    def bos_id(self) -> int | None:
        """The id of the `bos_token`, or None. `encode` puts it in front where the model's tokenizer.json says so."""
        return self._bos_id

    @functools.cached_property
    def vocabulary_size(self) -> int:
        """One more than the highest id. A model's logits may have more rows, for padding."""
        return max(self._backend.get_vocab(with_added_tokens=True).values(), default=-1) + 1

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """The token ids of `text`.

        `add_special_tokens` adds what the model expects around a text (`<s>`, …): leave it out for the result of
        `apply_chat_template`, which writes them itself. Special tokens spelled out in `text` are read as such. Raises
        TokenizerError.
        """
        _check_text(text)
        encoding = _guarded(lambda: self._backend.encode(text, add_special_tokens=add_special_tokens), "text")
        return list(encoding.ids)

    def decode(self, ids: Iterable[int], skip_special_tokens: bool = True) -> str:
        """The text of `ids`.

        Bytes that are not UTF-8 become U+FFFD; ids without a token are no text, since a model's vocabulary may be
        padded. Raises TokenizerError.
        """
        stream = self.stream(skip_special_tokens)
        return "".join([stream.push(id) for id in ids]) + stream.flush()

    def stream(self, skip_special_tokens: bool = True) -> TokenStream:
        """A decoder that takes token ids one at a time."""
        return TokenStream(self, skip_special_tokens)

    def apply_chat_template(
        self,
        messages: Sequence[Mapping[str, Any]],
        add_generation_prompt: bool = True,
        *,
        now: datetime | None = None,
        **extra: Any,
    ) -> str:
        """The prompt text for a conversation; see `ChatTemplate.render`. Raises TokenizerError."""
        if self._chat is None:
            raise TokenizerError(
                "the model has no chat template: use a chat model, add chat_template.jinja to it, or give it plain text"
            )
        return self._chat.render(messages, add_generation_prompt, now=now, **extra)

    def token_bytes(self, id: int, skip_special_tokens: bool) -> bytes:
        """The bytes that one token adds to a text; nothing for an unknown id. Raises TokenizerError."""
        if isinstance(id, bool) or not hasattr(id, "__index__") or id < 0:
            raise TokenizerError(f"token ids: expected integers from 0 on, not {id!r}")
        if skip_special_tokens and id in self._special_ids:
            return b""
        known = self._bytes.get(id)
        if known is None:
            token = self._backend.id_to_token(id) if id < 1 << 32 else None
            known = b"" if token is None else self._decoder.token_bytes(token, id in self._added_ids)
            if token is not None:
                self._bytes[id] = known
        return known

    def _id(self, token: str | None) -> int | None:
        return None if token is None else self._backend.token_to_id(token)

    def _read_eos_ids(self, generation_config: Mapping[str, Any], eos_token: str | None) -> frozenset[int]:
        ids = generation_config.get("eos_token_id")
        found = ids if isinstance(ids, list) else [] if ids is None else [ids]
        for id in found:
            if isinstance(id, bool) or not isinstance(id, int) or id < 0:
                raise TokenizerError(f"generation_config.json: eos_token_id: expected ids from 0 on, not {id!r}")
        eos = self._id(eos_token)
        return frozenset(found if eos is None else [*found, eos])


class TokenStream:
    """Decodes token ids as they come. Characters that are spread over tokens are held back until they are whole."""

    def __init__(self, tokenizer: Tokenizer, skip_special_tokens: bool = True) -> None:
        self._tokenizer = tokenizer
        self._skip_special_tokens = skip_special_tokens
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._strip = tokenizer._decoder.strip

    def push(self, id: int) -> str:
        """The text that `id` completes: often one word, nothing within a character. Raises TokenizerError."""
        return self._emit(self._utf8.decode(self._tokenizer.token_bytes(id, self._skip_special_tokens)))

    def flush(self) -> str:
        """Ends the text: an unfinished character becomes U+FFFD. The stream is then as new."""
        text = self._emit(self._utf8.decode(b"", True))
        self._utf8.reset()
        self._strip = self._tokenizer._decoder.strip
        return text

    def _emit(self, text: str) -> str:
        if self._strip and text:
            kept = text.lstrip(" ")
            removed = min(len(text) - len(kept), self._strip)
            # Only spaces at the very start are the tokenizer's own.
            self._strip = self._strip - removed if removed == len(text) else 0
            return text[removed:]
        return text


class _Decoder:
    """What the `decoder` of a tokenizer.json does to one token, and how many leading spaces it takes from a text."""

    def __init__(self, spec: object) -> None:
        self.strip = 0
        self._byte_level = False
        self._byte_fallback = False
        self._replacements: list[tuple[str, str]] = []
        fused = False
        for step in _decoder_steps(spec):
            kind = step.get("type")
            if kind == "ByteLevel":
                self._byte_level = True
            elif kind == "ByteFallback":
                self._byte_fallback = True
            elif kind == "Fuse":
                fused = True
            elif kind == "Replace" and not fused:
                self._replacements.append(_replacement(step))
            elif kind == "Metaspace":
                self._replacements.append((str(step.get("replacement", "▁")), " "))
                # Files of older versions say add_prefix_space for what prepend_scheme says now.
                scheme = step.get("prepend_scheme", "always" if step.get("add_prefix_space", True) else "never")
                self.strip = 0 if scheme == "never" else 1
            elif kind == "Strip" and fused and step.get("content") == " " and step.get("stop") == 0:
                self.strip = _count(step.get("start"))
            else:
                raise TokenizerError(f"tokenizer.json: decoder: {_show(step)} is not supported for generative models")

    def token_bytes(self, token: str, added: bool) -> bytes:
        if self._byte_fallback and (match := _BYTE_TOKEN.fullmatch(token)):
            return bytes.fromhex(match[1])
        for old, new in self._replacements:
            token = token.replace(old, new)
        if self._byte_level and not added:  # an added token is matched in the text, so it is spelled as there
            try:
                return bytes([_BYTE_OF[char] for char in token])
            except KeyError:
                pass
        return token.encode("utf-8", "replace")


def _byte_alphabet() -> dict[str, int]:
    """Byte-level BPE writes each byte as a printable character: itself where it is one, else from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(0x100) if byte not in printable]
    return {**{chr(byte): byte for byte in printable}, **{chr(0x100 + i): byte for i, byte in enumerate(others)}}


_BYTE_OF = _byte_alphabet()


def _decoder_steps(spec: object) -> list[Mapping[str, Any]]:
    if isinstance(spec, Mapping) and spec.get("type") == "Sequence":
        steps = spec.get("decoders")
        if isinstance(steps, list) and all(isinstance(step, Mapping) for step in steps):
            return steps
    elif isinstance(spec, Mapping):
        return [spec]
    raise TokenizerError(f"tokenizer.json: decoder: expected a decoder or a sequence of them, not {_show(spec)}")


def _replacement(step: Mapping[str, Any]) -> tuple[str, str]:
    pattern, content = step.get("pattern"), step.get("content")
    old = pattern.get("String") if isinstance(pattern, Mapping) else None
    if not isinstance(old, str) or not old or not isinstance(content, str):
        raise TokenizerError(f"tokenizer.json: decoder: {_show(step)}: only the replacement of a string is supported")
    return old, content


def _count(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 64:
        raise TokenizerError(f"tokenizer.json: decoder: Strip: start: expected 0…64, not {_show(value)}")
    return value


def _read(path: Path) -> bytes | None:
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise TokenizerError(f"{path}: larger than {MAX_FILE_BYTES} bytes, which no tokenizer file is")
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise TokenizerError(f"{path}: cannot be read: {error}") from error


def _text(content: bytes, name: str) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise TokenizerError(f"{name}: is not UTF-8 text: {error}") from error


def _parse(content: bytes, name: str) -> Any:
    text = _text(content, name)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise TokenizerError(f"{name}: not valid JSON: {error}") from error


def _object(files: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    content = files.get(name)
    if content is None:
        return {}
    if not isinstance(content, Mapping):
        raise TokenizerError(f"{name}: expected a JSON object, not {type(content).__name__}")
    return content


def _token_text(config: Mapping[str, Any], name: str) -> str | None:
    """A special token is given as its text, or as an object that holds the text and how to match it."""
    token = config.get(name)
    if isinstance(token, Mapping):
        token = token.get("content")
    if token is not None and not isinstance(token, str):
        raise TokenizerError(f"tokenizer_config.json: {name}: expected a string, not {type(token).__name__}")
    return token


def _read_templates(configured: object, own_file: object) -> dict[str, str]:
    if isinstance(own_file, str):
        return {"default": own_file}
    if configured is None:
        return {}
    if isinstance(configured, str):
        return {"default": configured}
    if isinstance(configured, list):
        named = {entry.get("name"): entry.get("template") for entry in configured if isinstance(entry, Mapping)}
        if len(named) == len(configured) and all(isinstance(text, str) for pair in named.items() for text in pair):
            return named  # type: ignore[return-value]
    raise TokenizerError("tokenizer_config.json: chat_template: expected a string or a list of {name, template}")


def _check_text(text: object) -> None:
    if not isinstance(text, str):
        raise TokenizerError(f"text: expected str, not {type(text).__name__}")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise TokenizerError(
            f"text: a lone surrogate at character {error.start} is not Unicode text; decode the input as UTF-8"
        ) from error


def _guarded(action: Callable[[], _Result], what: str) -> _Result:
    """Runs the library, with every failure as a TokenizerError.

    A malformed tokenizer.json can make its Rust code panic, at load or later; that reaches Python as a BaseException,
    past every handler for errors.
    """
    try:
        return action()
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:
        raise TokenizerError(f"{what}: the tokenizer refuses it: {_show(error)}") from error


def _show(value: object) -> str:
    text = str(value)
    return text if len(text) <= 200 else text[:200] + "…"
