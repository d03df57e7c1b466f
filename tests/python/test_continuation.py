"""The text of a continuation, from tokens that are handed to it one by one."""

from __future__ import annotations

import pytest

from intact import SamplingParams
from intact.continuation import Continuation
from intact.outputs import CompletionOutput
from intact.tokenizer import Tokenizer

WORDS = ["</s>", "▁", "▁a", "▁b", "c", "<0xE2>", "<0x82>", "<0xAC>"]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """In the manner of SentencePiece: "▁" is a space, the first one of a text is left out, bytes have tokens."""
    exact = {"normalized": False, "lstrip": False, "rstrip": False, "single_word": False}
    steps = [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0},
    ]
    backend = {
        "version": "1.0",
        "added_tokens": [{"id": 0, "content": "</s>", "special": True, **exact}],
        "normalizer": None,
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": steps},
        "model": {"type": "BPE", "vocab": {word: id for id, word in enumerate(WORDS)}, "merges": []},
    }
    return Tokenizer({"tokenizer.json": backend})


def feed(
    tokenizer: Tokenizer, words: list[str], finish: str = "length", **settings: object
) -> tuple[list[str], CompletionOutput]:
    """The text of every chunk, and the whole."""
    continuation = Continuation(0, SamplingParams(**settings), tokenizer)  # type: ignore[arg-type]
    chunks = []
    for i, word in enumerate(words):
        token = WORDS.index(word)
        logprob, top = (-i, [(token, -i)]) if "logprobs" in settings else (None, [])
        continuation.push((0, 0, token, logprob, top, finish if i == len(words) - 1 else None))
        chunks.append(continuation.take_chunk().text)
        if continuation.finished:
            break
    return chunks, continuation.output()


def test_first_space_is_the_tokenizers(tokenizer: Tokenizer) -> None:
    assert feed(tokenizer, ["▁a", "▁b", "c"])[0] == ["a", " b", "c"]


def test_tokens_keep_their_space_in_logprobs(tokenizer: Tokenizer) -> None:
    _, output = feed(tokenizer, ["▁a", "▁b", "<0xE2>", "</s>"], logprobs=1)
    assert output.logprobs is not None
    decoded = [entry.decoded_token for step in output.logprobs for entry in step.values()]
    assert decoded == [" a", " b", "\ufffd", "</s>"]
    assert output.cumulative_logprob_q16 == -6


def test_characters_come_whole(tokenizer: Tokenizer) -> None:
    chunks, output = feed(tokenizer, ["▁a", "<0xE2>", "<0x82>", "<0xAC>", "<0xE2>"])
    assert chunks == ["a", "", "", "€", "\ufffd"]
    assert output.text == "a€\ufffd"


@pytest.mark.parametrize(
    ("stop", "words", "chunks", "reason"),
    [
        ("c", ["▁a", "c", "▁b"], ["a", ""], "c"),
        ("a b", ["▁a", "▁b", "c"], ["", ""], "a b"),
        ("cc", ["c", "▁a", "c", "c"], ["", "c a", "", ""], "cc"),
        ("ccb", ["c", "c", "c", "▁b"], ["", "", "c", "cc b"], None),
        ([" b", "a b"], ["▁a", "▁b"], ["", ""], "a b"),
        (["x", "b"], ["▁a", "▁b"], ["a", " "], "b"),
        ("€", ["▁a", "<0xE2>", "<0x82>", "<0xAC>"], ["a", "", "", ""], "€"),
        ("\ufffd", ["▁a", "<0xE2>"], ["a", ""], "\ufffd"),
    ],
)
def test_stop_texts(
    tokenizer: Tokenizer, stop: str | list[str], words: list[str], chunks: list[str], reason: str | None
) -> None:
    given, output = feed(tokenizer, words, stop=stop)
    assert given == chunks
    assert output.text == "".join(chunks)
    assert (output.finish_reason, output.stop_reason) == ("length" if reason is None else "stop", reason)


def test_end_token_is_no_text(tokenizer: Tokenizer) -> None:
    shown = {"skip_special_tokens": False}
    assert feed(tokenizer, ["▁a", "</s>"], "stop", **shown)[1].text == "a"
    assert feed(tokenizer, ["▁a", "</s>"], "length", **shown)[1].text == "a</s>"
    chunks, output = feed(tokenizer, ["▁a", "c"], "stop", stop_token_ids=[WORDS.index("c")])
    assert chunks == ["a", ""]
    assert output.stop_reason == WORDS.index("c")
