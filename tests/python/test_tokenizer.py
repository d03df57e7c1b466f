"""The tokenizer: encoding, decoding, streams, and what it says to wrong input."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import decoders, models, pre_tokenizers, trainers

from intact.errors import IntactError, TokenizerError
from intact.tokenizer import Tokenizer

CORPUS = [
    "The quick brown fox jumps over the lazy dog. 0123456789",
    "def main():\n    return 'naïve café — 日本語のテキスト'\n",
    "🙂 👨‍👩‍👧‍👦 🏳️‍🌈 e\u0301 नमस्ते สวัสดี مرحبا שלום",
]
# Text made to break decoders: joined emoji, combining marks, the tokenizers' own spaces, bytes spelled out.
TEXT = st.one_of(
    st.text(alphabet=st.characters(exclude_categories=("Cs",))),
    st.text(alphabet=" \n\t▁Ġaé\u0301\u0308日本🙂👨👩\u200d\ufe0f🏳🌈<0xE2>\ufffd"),
)
IDS = st.lists(st.integers(0, 420), max_size=40)


def byte_level_files() -> dict[str, Any]:
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(CORPUS, trainer)
    return {
        "tokenizer.json": json.loads(backend.to_str()),
        "tokenizer_config.json": {
            "bos_token": {"content": "<|im_start|>", "lstrip": False},
            "eos_token": "<|im_end|>",
            "chat_template": "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}",
        },
        "generation_config.json": {"eos_token_id": 0},
    }


def sentencepiece_files() -> dict[str, Any]:
    """Characters and a few merges with byte fallback, in the manner of Llama."""
    tokens = [
        "<unk>",
        "<s>",
        "</s>",
        *(f"<0x{byte:02X}>" for byte in range(256)),
        *"▁abcdefghilnorstw",
        "▁a",
        "th",
        "the",
    ]
    vocabulary = {token: id for id, token in enumerate(tokens)}
    exact = {"normalized": False, "lstrip": False, "rstrip": False, "single_word": False}
    added = [{"id": id, "content": tokens[id], "special": True, **exact} for id in range(3)]
    steps = [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0},
    ]
    return {
        "tokenizer.json": {
            "version": "1.0",
            "added_tokens": added,
            "normalizer": {
                "type": "Sequence",
                "normalizers": [
                    {"type": "Prepend", "prepend": "▁"},
                    {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
                ],
            },
            "pre_tokenizer": None,
            "post_processor": None,
            "decoder": {"type": "Sequence", "decoders": steps},
            "model": {
                "type": "BPE",
                "vocab": vocabulary,
                "merges": [["▁", "a"], ["t", "h"], ["th", "e"]],
                "byte_fallback": True,
                "fuse_unk": True,
                "unk_token": "<unk>",
            },
        }
    }


BYTE_LEVEL_FILES = byte_level_files()
BYTE_LEVEL = Tokenizer(BYTE_LEVEL_FILES)
SENTENCEPIECE = Tokenizer(sentencepiece_files())
BOTH = pytest.mark.parametrize("tokenizer", [BYTE_LEVEL, SENTENCEPIECE], ids=["byte-level", "sentencepiece"])


def reference(files: dict[str, Any]) -> tokenizers.Tokenizer:
    return tokenizers.Tokenizer.from_str(json.dumps(files["tokenizer.json"]))


@given(text=TEXT)
def test_byte_level_text_survives(text: str) -> None:
    assert BYTE_LEVEL.decode(BYTE_LEVEL.encode(text), skip_special_tokens=False) == text


@given(text=TEXT)
def test_sentencepiece_text_survives_but_for_its_space_symbol(text: str) -> None:
    assert SENTENCEPIECE.decode(SENTENCEPIECE.encode(text), skip_special_tokens=False) == text.replace("▁", " ")


@given(ids=IDS, skip=st.booleans())
def test_byte_level_decoding_is_that_of_the_library_for_any_ids(ids: list[int], skip: bool) -> None:
    expected = reference(BYTE_LEVEL_FILES).decode(ids, skip_special_tokens=skip)
    assert BYTE_LEVEL.decode(ids, skip_special_tokens=skip) == expected


@given(text=TEXT, skip=st.booleans())
def test_sentencepiece_decoding_is_that_of_the_library_for_text(text: str, skip: bool) -> None:
    ids = SENTENCEPIECE.encode(text)
    assert SENTENCEPIECE.decode(ids, skip) == reference(sentencepiece_files()).decode(ids, skip_special_tokens=skip)


@BOTH
@given(ids=IDS, skip=st.booleans())
def test_stream_joins_to_the_whole(tokenizer: Tokenizer, ids: list[int], skip: bool) -> None:
    stream = tokenizer.stream(skip)
    assert "".join([stream.push(id) for id in ids]) + stream.flush() == tokenizer.decode(ids, skip)


@BOTH
@given(text=TEXT.filter(lambda text: "\ufffd" not in text))
def test_stream_never_shows_half_a_character(tokenizer: Tokenizer, text: str) -> None:
    stream = tokenizer.stream(skip_special_tokens=False)
    shown = ""
    for id in tokenizer.encode(text):
        shown += stream.push(id)
        assert text.replace("▁", " ").startswith(shown.replace("▁", " "))
    assert stream.flush() == ""


def test_stream_holds_bytes_back_until_they_are_a_character() -> None:
    ids = [SENTENCEPIECE._backend.token_to_id(f"<0x{byte:02X}>") for byte in "🙂".encode()]
    stream = SENTENCEPIECE.stream()
    assert [stream.push(id) for id in ids] == ["", "", "", "🙂"]
    assert [stream.push(id) for id in ids[:2]] == ["", ""]
    assert stream.flush() == "\ufffd"
    assert [stream.push(id) for id in ids] == ["", "", "", "🙂"]


def test_stream_shows_invalid_bytes_once_they_are_certain() -> None:
    lead, letter = SENTENCEPIECE._backend.token_to_id("<0xE2>"), SENTENCEPIECE._backend.token_to_id("a")
    stream = SENTENCEPIECE.stream()
    assert [stream.push(lead), stream.push(letter)] == ["", "\ufffda"]


def test_only_the_first_space_of_a_text_is_the_tokenizers_own() -> None:
    space = SENTENCEPIECE._backend.token_to_id("▁")
    assert SENTENCEPIECE.decode([space, space, space]) == "  "
    assert SENTENCEPIECE.decode(SENTENCEPIECE.encode("a  b")) == "a  b"


def test_ids_of_the_model() -> None:
    assert BYTE_LEVEL.eos_ids == {0, 2}
    assert BYTE_LEVEL.bos_id == 1
    assert BYTE_LEVEL.vocabulary_size == reference(BYTE_LEVEL_FILES).get_vocab_size()
    assert SENTENCEPIECE.eos_ids == frozenset()
    assert SENTENCEPIECE.bos_id is None


def test_special_tokens_are_skipped_when_asked() -> None:
    ids = BYTE_LEVEL.encode("<|im_start|>hi<|im_end|>")
    assert (ids[0], ids[-1]) == (1, 2)
    assert BYTE_LEVEL.decode(ids) == "hi"
    assert BYTE_LEVEL.decode(ids, skip_special_tokens=False) == "<|im_start|>hi<|im_end|>"


def test_padding_rows_are_no_text() -> None:
    assert BYTE_LEVEL.decode([BYTE_LEVEL.vocabulary_size, 10**9]) == ""


@pytest.mark.parametrize("text", [b"bytes", None, 3, ["list"]])
def test_text_has_to_be_str(text: Any) -> None:
    with pytest.raises(TokenizerError, match="expected str"):
        BYTE_LEVEL.encode(text)


def test_lone_surrogate_is_named() -> None:
    with pytest.raises(TokenizerError, match="surrogate at character 2"):
        BYTE_LEVEL.encode("ab\ud800")


@pytest.mark.parametrize("id", [-1, "1", 1.0, True, None])
def test_ids_have_to_be_integers(id: Any) -> None:
    with pytest.raises(TokenizerError, match="token ids"):
        BYTE_LEVEL.decode([id])


def test_errors_are_of_one_family() -> None:
    assert issubclass(TokenizerError, IntactError)


def write(directory: Path, files: dict[str, Any]) -> Path:
    for name, content in files.items():
        (directory / name).write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return directory


def test_directory(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_directory(write(tmp_path, BYTE_LEVEL_FILES))
    assert tokenizer.encode("hello 🙂") == BYTE_LEVEL.encode("hello 🙂")
    assert tokenizer.eos_ids == {0, 2}
    assert tokenizer.apply_chat_template([{"role": "user", "content": "hi"}]) == "user: hi\n"


def test_template_file_comes_before_the_configured_one(tmp_path: Path) -> None:
    files = {**BYTE_LEVEL_FILES, "chat_template.jinja": "{{ messages[0].content }}{{ eos_token }}"}
    tokenizer = Tokenizer.from_directory(write(tmp_path, files))
    assert tokenizer.apply_chat_template([{"role": "user", "content": "hi"}]) == "hi<|im_end|>"


def test_named_templates() -> None:
    config = {"chat_template": [{"name": "default", "template": "d"}, {"name": "tool_use", "template": "t"}]}
    tokenizer = Tokenizer({**sentencepiece_files(), "tokenizer_config.json": config})
    messages = [{"role": "user", "content": "hi"}]
    assert tokenizer.apply_chat_template(messages) == "d"
    assert tokenizer.apply_chat_template(messages, tools=[{"name": "f"}]) == "t"


def test_no_template_is_an_error_with_a_remedy() -> None:
    with pytest.raises(TokenizerError, match=r"chat_template\.jinja"):
        SENTENCEPIECE.apply_chat_template([{"role": "user", "content": "hi"}])


def test_a_malformed_template_is_named_when_it_is_used() -> None:
    tokenizer = Tokenizer(changed("tokenizer_config.json", chat_template="{% if %}"))
    with pytest.raises(TokenizerError, match="chat template `default`"):
        tokenizer.apply_chat_template([{"role": "user", "content": "hi"}])


def changed(name: str, **fields: Any) -> dict[str, Any]:
    files = BYTE_LEVEL_FILES
    return {**files, name: {**files[name], **fields}}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "tokenizer.json: missing"),
        ({"tokenizer.json": []}, "tokenizer.json: expected a JSON object"),
        ({"tokenizer.json": {"version": "1.0"}}, "tokenizer.json"),
        (changed("tokenizer.json", model={"type": "BPE", "vocab": {"a": 0}, "merges": [["a", "b"]]}), "tokenizer.json"),
        (changed("tokenizer.json", decoder=None), "decoder"),
        (changed("tokenizer.json", decoder={"type": "WordPiece", "prefix": "##", "cleanup": True}), "WordPiece"),
        (changed("tokenizer_config.json", eos_token=3), "tokenizer_config.json: eos_token"),
        (changed("tokenizer_config.json", chat_template=3), "tokenizer_config.json: chat_template"),
        (changed("generation_config.json", eos_token_id=["x"]), "generation_config.json: eos_token_id"),
        (changed("generation_config.json", eos_token_id=-5), "generation_config.json: eos_token_id"),
    ],
)
def test_malformed_files_are_named(files: dict[str, Any], message: str) -> None:
    with pytest.raises(TokenizerError, match=message):
        Tokenizer(files)


@pytest.mark.parametrize("content", ["{", "[" * 100_000, '{"a": ' + "9" * 10_000 + "}"])
def test_files_that_are_not_json_are_named(tmp_path: Path, content: str) -> None:
    write(tmp_path, {"tokenizer.json": content})
    with pytest.raises(TokenizerError, match=r"tokenizer\.json"):
        Tokenizer.from_directory(tmp_path)


def test_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match="absent"):
        Tokenizer.from_directory(tmp_path / "absent")


def test_a_panic_of_the_library_is_an_error() -> None:
    # A normalizer table whose trie points outside of itself.
    table = (4).to_bytes(4, "little") + b"\xff" * 4 + b"x\0"
    files = sentencepiece_files()
    files["tokenizer.json"]["normalizer"] = {
        "type": "Precompiled",
        "precompiled_charsmap": base64.b64encode(table).decode("ascii"),
    }
    tokenizer = Tokenizer(files)
    with pytest.raises(TokenizerError, match="text"):
        tokenizer.encode("abc")
