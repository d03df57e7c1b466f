"""Vocabularies from GGUF metadata: against pipelines of the `tokenizers` and `sentencepiece` libraries, and hostile."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import models, pre_tokenizers, trainers

from intact import gguf_vocab
from intact.errors import TokenizerError
from intact.gguf_pretokenizers import PRE_TOKENIZERS
from intact.tokenizer import Tokenizer

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
CORPUS = [
    "The quick brown fox jumps over the lazy dog; it's 12345 times quicker than them.",
    "def main(arguments):\n    return [argument for argument in arguments if argument]\n",
    "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich.",
    "日本語のテキストと中文的文本",
    "the theory of the thing that they thought of then and there",
]
TEXT = st.one_of(
    st.text(alphabet=st.characters(exclude_categories=("Cs",), exclude_characters="<")),
    st.text(alphabet=" \n\tthequickbrownöß日本0123'.,;é🙂\u200d\u0301"),
    st.lists(st.sampled_from(["the", " ", "ing", "quick", "  ", "\n", "12", "ö", "日本", "'s", "🙂"])).map("".join),
)


# --- byte-level BPE ---------------------------------------------------------------------------------------------------


def byte_level_bpe(pre: str) -> tuple[tokenizers.Tokenizer, dict[str, Any]]:
    """A trained pipeline with digits apart, and its vocabulary as a GGUF file has it."""
    backend = tokenizers.Tokenizer(models.BPE())
    digits, words = pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([digits, words])
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(CORPUS, trainer)
    model = json.loads(backend.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].__getitem__)
    return backend, {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [CONTROL] * 3 + [NORMAL] * (len(tokens) - 3),
        "tokenizer.ggml.merges": [" ".join(merge) for merge in model["merges"]],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": "{{ bos_token }}{{ messages[0].content }}",
    }


BACKEND, BPE = byte_level_bpe("smollm")
BPE_TOKENIZER = Tokenizer(gguf_vocab.build(BPE))


@given(text=TEXT)
def test_byte_level_bpe_is_the_pipeline_that_was_trained(text: str) -> None:
    ids = BPE_TOKENIZER.encode(text)
    assert ids == BACKEND.encode(text).ids
    assert BPE_TOKENIZER.decode(ids) == text


def test_special_tokens_and_template() -> None:
    assert BPE_TOKENIZER.bos_id == 1
    assert BPE_TOKENIZER.eos_ids == {0, 2}  # <|endoftext|> ends a text whatever the file's one eos is
    assert BPE_TOKENIZER.encode("<|im_start|>the<|im_end|>")[0] == 1
    assert BPE_TOKENIZER.apply_chat_template([{"role": "user", "content": "hi"}]) == "<|im_start|>hi"


def test_files_are_json_and_load_from_a_directory(tmp_path: Path) -> None:
    for name, content in gguf_vocab.build(BPE).items():
        (tmp_path / name).write_text(json.dumps(content), encoding="utf-8")
    tokenizer = Tokenizer.from_directory(tmp_path)
    text = "the quick 日本 🙂"
    assert tokenizer.encode(text) == BPE_TOKENIZER.encode(text)
    assert tokenizer.eos_ids == BPE_TOKENIZER.eos_ids


def test_bos_and_eos_are_added_where_the_file_says() -> None:
    metadata = {**BPE, "tokenizer.ggml.add_bos_token": True, "tokenizer.ggml.add_eos_token": True}
    tokenizer = Tokenizer(gguf_vocab.build(metadata))
    plain = BPE_TOKENIZER.encode("the")
    assert tokenizer.encode("the") == [1, *plain, 2]
    assert tokenizer.encode("the", add_special_tokens=False) == plain


def test_user_defined_tokens_are_text() -> None:
    types = list(BPE["tokenizer.ggml.token_type"])
    types[1] = USER_DEFINED
    tokenizer = Tokenizer(gguf_vocab.build({**BPE, "tokenizer.ggml.token_type": types}))
    ids = tokenizer.encode("<|im_start|>the<|im_end|>")
    assert ids[0] == 1
    assert tokenizer.decode(ids) == "<|im_start|>the"


def test_a_whole_piece_that_is_a_token_needs_no_merges() -> None:
    tokens = [*BPE["tokenizer.ggml.tokens"], "unmerged"]
    types = [*BPE["tokenizer.ggml.token_type"], NORMAL]
    changes = {"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": types}
    llama3 = Tokenizer(gguf_vocab.build({**BPE, **changes, "tokenizer.ggml.pre": "llama-bpe"}))
    smollm = Tokenizer(gguf_vocab.build({**BPE, **changes}))
    assert llama3.encode("unmerged", add_special_tokens=False) == [len(tokens) - 1]
    assert len(smollm.encode("unmerged")) > 1


SAMPLE = "I'LL don't 12345½ x+=1;\r\n\n  中文 über HelloÉCole’s  `a`"
# Where each scheme cuts the sample, as llama.cpp does.
PIECES = {
    pre: cut.split("|")
    for pre, cut in {
        "default": "I|'|LL| don|'|t| |123|45½| x|+=|1|;|\r\n\n | 中文| über| HelloÉCole|’|s| | `|a|`",
        "gpt-2": "I|'|LL| don|'t| 12345½| x|+=|1|;|\r\n\n | 中文| über| HelloÉCole|’|s| | `|a|`",
        "smollm": "I|'|LL| don|'t| |1|2|3|4|5|½| x|+=|1|;|\r\n\n | 中文| über| HelloÉCole|’|s| | `|a|`",
        "falcon": "I|'|LL| don|'|t| |123|45½| x|+=|1|;|\r\n\n | 中文| über| HelloÉCole|’|s|  |`|a|`",
        "llama-bpe": "I|'LL| don|'t| |123|45½| x|+=|1|;\r\n\n| | 中文| über| HelloÉCole|’s| | `|a|`",
        "dbrx": "I|'LL| don|'t| |123|45½| x|+=|1|;\r\n\n| | 中文| über| HelloÉCole|’s| | `|a|`",
        "qwen2": "I|'LL| don|'t| |1|2|3|4|5|½| x|+=|1|;\r\n\n| | 中文| über| HelloÉCole|’s| | `|a|`",
        "qwen35": "I|'LL| don|'t| |1|2|3|4|5|½| x|+=|1|;\r\n\n| | 中文| über| HelloÉCole|’s| | `|a|`",
        "deepseek-llm": "I|'|LL| don|'|t| |12345½| x|+=|1|;|\r|\n|\n|  |中文| ü|ber| Hello|É|Cole|’|s| | `|a|`",
        "deepseek-coder": "I|'|LL| don|'|t| |1|2|3|4|5|½| x|+=|1|;|\r|\n|\n| | |中文| über| HelloÉCole|’|s|  `|a|`",
        "deepseek-v3": "I|'LL| don|'t| |123|45½| x|+=|1|;\r\n\n|  |中文| über| HelloÉCole|’|s| | `|a|`",
        "tekken": "I|'LL| don|'t| |1|2|3|4|5|½| x|+=|1|;\r\n\n| | 中文| über| Hello|ÉCole|’s| | `|a|`",
        "gpt-4o": "I'LL| don't| |123|45½| x|+=|1|;\r\n\n| | 中文| über| Hello|ÉCole|’s| | `|a|`",
    }.items()
}
SAME = {
    "gpt-2": ["mpt", "olmo", "phi-2"],
    "smollm": ["starcoder", "refact", "command-r"],
    "llama-bpe": ["llama3", "llama-v3"],
    "qwen2": ["stablelm2", "deepseek-r1-qwen"],
    "gpt-4o": ["llama4"],
}


@pytest.mark.parametrize("pre", [*PIECES, *(name for names in SAME.values() for name in names)])
def test_pre_tokenizer(pre: str) -> None:
    source = next((known for known, names in SAME.items() if pre in names), pre)
    files = gguf_vocab.build({**BPE, "tokenizer.ggml.pre": pre})
    pieces = tokenizers.Tokenizer.from_str(json.dumps(files["tokenizer.json"])).pre_tokenizer.pre_tokenize_str(SAMPLE)
    assert [SAMPLE[start:end] for _, (start, end) in pieces] == PIECES[source]


@pytest.mark.parametrize("pre", sorted(PRE_TOKENIZERS))
@given(text=TEXT)
def test_every_pre_tokenizer_keeps_the_text(pre: str, text: str) -> None:
    tokenizer = TOKENIZERS[pre]
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False), skip_special_tokens=False) == text


TOKENIZERS = {pre: Tokenizer(gguf_vocab.build({**BPE, "tokenizer.ggml.pre": pre})) for pre in PRE_TOKENIZERS}


def test_without_a_name_the_default_pre_tokenizer_is_taken() -> None:
    unnamed = {key: value for key, value in BPE.items() if key != "tokenizer.ggml.pre"}
    assert gguf_vocab.build(unnamed) == gguf_vocab.build({**BPE, "tokenizer.ggml.pre": "default"})


# --- SentencePiece ----------------------------------------------------------------------------------------------------


def sentencepiece_model(
    directory: Path, kind: str, byte_fallback: bool
) -> tuple[sentencepiece.SentencePieceProcessor, dict[str, Any]]:
    """A trained model, and its vocabulary as a GGUF file has it."""
    prefix = directory / f"{kind}-{byte_fallback}"
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS * 4),
        model_prefix=str(prefix),
        model_type=kind,
        vocab_size=400 if byte_fallback else 140,
        byte_fallback=byte_fallback,
        character_coverage=0.99,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    model = sentencepiece.SentencePieceProcessor(model_file=f"{prefix}.model")
    size = model.get_piece_size()

    def type_of(id: int) -> int:
        kinds = ((model.is_unknown, UNKNOWN), (model.is_control, CONTROL), (model.is_byte, BYTE))
        return next((kind for test, kind in kinds if test(id)), NORMAL)

    return model, {
        "tokenizer.ggml.model": {"bpe": "llama", "unigram": "t5"}[kind],
        "tokenizer.ggml.tokens": [model.id_to_piece(id) for id in range(size)],
        "tokenizer.ggml.scores": [model.get_score(id) for id in range(size)],
        "tokenizer.ggml.token_type": [type_of(id) for id in range(size)],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.ggml.add_eos_token": False,
    }


@pytest.fixture(scope="module", params=[("bpe", True), ("bpe", False), ("unigram", True), ("unigram", False)])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any, Tokenizer]:
    model, metadata = sentencepiece_model(tmp_path_factory.mktemp("sentencepiece"), *request.param)
    return model, metadata, Tokenizer(gguf_vocab.build(metadata))


@given(text=TEXT)
def test_sentencepiece_vocabularies_encode_as_sentencepiece(trained: Any, text: str) -> None:
    model, _, tokenizer = trained
    assert tokenizer.encode(text) == model.encode(text)


@given(text=TEXT)
def test_sentencepiece_vocabularies_decode_as_sentencepiece(trained: Any, text: str) -> None:
    model, _, tokenizer = trained
    ids = [id for id in model.encode(text) if not model.is_unknown(id)]
    assert tokenizer.decode(ids) == model.decode(ids)


def test_space_prefix_is_optional(trained: Any) -> None:
    _, metadata, tokenizer = trained
    bare = Tokenizer(gguf_vocab.build({**metadata, "tokenizer.ggml.add_space_prefix": False}))
    assert bare.encode(" the quick") == tokenizer.encode("the quick")
    assert bare.decode(bare.encode(" the")) == " the"


def test_byte_tokens_spelled_out_are_text(tmp_path: Path) -> None:
    _, metadata = sentencepiece_model(tmp_path, "bpe", byte_fallback=True)
    tokenizer = Tokenizer(gguf_vocab.build(metadata))
    assert tokenizer.decode(tokenizer.encode("<0x41>")) == "<0x41>"


def test_sentencepiece_defaults_are_those_of_llama(tmp_path: Path) -> None:
    _, metadata = sentencepiece_model(tmp_path, "bpe", byte_fallback=True)
    implied = {key: value for key, value in metadata.items() if not key.endswith(("_id", "_bos_token", "_eos_token"))}
    tokenizer = Tokenizer(gguf_vocab.build(implied))
    assert (tokenizer.bos_id, tokenizer.eos_ids) == (1, {2})
    assert tokenizer.encode("the")[0] == 1


# --- hostile metadata -------------------------------------------------------------------------------------------------

TOKENS = "tokenizer.ggml.tokens"
MERGES = "tokenizer.ggml.merges"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokenizer.ggml.model": None}, "tokenizer.ggml.model: missing"),
        ({"tokenizer.ggml.model": 7}, "tokenizer.ggml.model: expected a string"),
        ({"tokenizer.ggml.model": "bert"}, "tokenizer.ggml.model: 'bert' is not supported; known are gpt2, llama, t5"),
        ({"tokenizer.ggml.model": "none"}, "tokenizer.ggml.model: 'none'"),
        ({"tokenizer.ggml.pre": "unheard-of"}, "tokenizer.ggml.pre: 'unheard-of' .*smollm"),
        ({TOKENS: None}, "tokenizer.ggml.tokens: missing"),
        ({TOKENS: "abc"}, "tokenizer.ggml.tokens: expected an array"),
        ({TOKENS: ["a", 3]}, r"tokenizer.ggml.tokens\[1\]: expected str"),
        ({TOKENS: ["a", "b", "a"]}, "tokenizer.ggml.tokens: 'a' is there twice, with ids 0 and 2"),
        ({TOKENS: ["", "[EMPTY_0]"]}, "tokenizer.ggml.tokens: .* is there twice"),
        ({TOKENS: ["\ud800"]}, r"tokenizer.ggml.tokens\[0\]: holds a lone surrogate"),
        ({TOKENS: ["a" * 5000]}, r"tokenizer.ggml.tokens\[0\]: longer"),
        ({TOKENS: range(1 << 40)}, "tokenizer.ggml.tokens: 1099511627776 elements"),
        ({"tokenizer.ggml.token_type": [1]}, "tokenizer.ggml.token_type: 1 types for"),
        ({"tokenizer.ggml.token_type": [1.5]}, "tokenizer.ggml.token_type"),
        ({MERGES: None}, "tokenizer.ggml.merges: missing"),
        ({MERGES: ["ab"]}, r"tokenizer.ggml.merges\[0\]: expected two tokens"),
        ({MERGES: ["a "]}, r"tokenizer.ggml.merges\[0\]: expected two tokens"),
        ({MERGES: ["t h", "t absent"]}, r"tokenizer.ggml.merges\[1\]: .* needs the token 'absent'"),
        ({MERGES: ["x q"]}, r"tokenizer.ggml.merges\[0\]: .* needs the token 'xq'"),
        ({"tokenizer.ggml.bos_token_id": 1 << 32}, "tokenizer.ggml.bos_token_id: expected an id below"),
        ({"tokenizer.ggml.eos_token_id": -1}, "tokenizer.ggml.eos_token_id"),
        ({"tokenizer.ggml.eot_token_id": "2"}, "tokenizer.ggml.eot_token_id"),
        ({"tokenizer.ggml.eos_token_id": True}, "tokenizer.ggml.eos_token_id"),
        ({"tokenizer.ggml.add_bos_token": 1}, "tokenizer.ggml.add_bos_token: expected true or false"),
        ({"tokenizer.ggml.add_bos_token": True, "tokenizer.ggml.bos_token_id": None}, "add_bos_token: is true, but"),
        ({"tokenizer.chat_template": ["x"]}, "tokenizer.chat_template: expected a string"),
        ({"tokenizer.ggml.model": "llama"}, "tokenizer.ggml.scores: 0 scores for"),
        ({"tokenizer.ggml.model": "t5", TOKENS: ["a"], "tokenizer.ggml.token_type": [1]}, "tokenizer.ggml.scores"),
    ],
)
def test_malformed_metadata_is_named(changes: dict[str, Any], message: str) -> None:
    metadata = {key: value for key, value in {**BPE, **changes}.items() if value is not None}
    with pytest.raises(TokenizerError, match=message):
        gguf_vocab.build(metadata)


def small_unigram(**changes: Any) -> dict[str, Any]:
    return {
        "tokenizer.ggml.model": "t5",
        TOKENS: ["<pad>", "</s>", "<unk>", "▁", "a"],
        "tokenizer.ggml.token_type": [CONTROL, CONTROL, UNKNOWN, NORMAL, NORMAL],
        "tokenizer.ggml.scores": [0.0, 0.0, 0.0, -1.0, -2.0],
        **{f"tokenizer.ggml.{key}": value for key, value in changes.items()},
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scores": [0.0, 0.0, 0.0, float("nan"), 0.0]}, "tokenizer.ggml.scores: a score is infinite"),
        ({"scores": ["0"] * 5}, r"tokenizer.ggml.scores\[0\]: expected float"),
        ({"precompiled_charsmap": [1, 2]}, "tokenizer.ggml.precompiled_charsmap: truncated"),
        ({"precompiled_charsmap": [255, 255, 255, 127, 0, 0]}, "tokenizer.ggml.precompiled_charsmap: truncated"),
        ({"precompiled_charsmap": [300]}, "tokenizer.ggml.precompiled_charsmap: expected bytes"),
    ],
)
def test_malformed_unigram_metadata_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(TokenizerError, match=message):
        gguf_vocab.build(small_unigram(**changes))


def test_unigram_collapses_spaces_where_the_file_says() -> None:
    tokenizer = Tokenizer(gguf_vocab.build(small_unigram(remove_extra_whitespaces=True)))
    assert tokenizer.encode("  a   a ") == [3, 4, 3, 4, 1]


@given(
    tokens=st.lists(st.text(max_size=3), max_size=12),
    types=st.none() | st.lists(st.integers(-1, 8), max_size=12),
    scores=st.lists(st.floats(), max_size=12),
    merges=st.lists(st.text(alphabet="ab ", max_size=5), max_size=5),
    model=st.sampled_from(["gpt2", "llama", "t5"]),
    eos=st.none() | st.integers(-2, 14),
    text=TEXT,
)
def test_any_metadata_makes_a_tokenizer_or_one_error(
    tokens: Any, types: Any, scores: Any, merges: Any, model: str, eos: Any, text: str
) -> None:
    metadata = {
        "tokenizer.ggml.model": model,
        TOKENS: tokens,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.scores": scores,
        MERGES: merges,
        "tokenizer.ggml.eos_token_id": eos,
    }
    try:
        tokenizer = Tokenizer(gguf_vocab.build({key: value for key, value in metadata.items() if value is not None}))
        ids = tokenizer.encode(text)
    except TokenizerError:
        return
    assert all(0 <= id < len(tokens) for id in ids)
