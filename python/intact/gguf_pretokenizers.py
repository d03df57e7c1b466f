"""The pre-tokenizers that a GGUF file names in `tokenizer.ggml.pre`: how text is cut before byte-level BPE.

The patterns of a scheme apply one after the other, each within the pieces that the ones before it left; what a pattern
does not match stays together. They are those the models were trained with, in the syntax of `tokenizers` (Oniguruma);
llama.cpp's own spelling of `tekken` and `gpt-4o` differs from them in where combining marks belong.
"""

from __future__ import annotations

from typing import NamedTuple


class PreTokenizer(NamedTuple):
    """`ignore_merges`: a piece that is a token stays whole. `add_bos`: the default of `add_bos_token`."""

    patterns: tuple[str, ...]
    ignore_merges: bool = False
    add_bos: bool = False


# Spelled out, since case-insensitive matching also takes U+017F for an s.
_CONTRACTION = r"'(?:[sStTmMdD]|[rR][eE]|[vV][eE]|[lL][lL])"
_SPACES = r"\s+(?!\S)|\s+"
_DIGIT = r"\p{N}"

_GPT2 = r"'(?:[stmd]|re|ve|ll)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|" + _SPACES


def _cl100k(digits: str, letter: str = r"\p{L}") -> str:
    """The scheme of GPT-4 and its descendants, which differ in how many digits stay together."""
    return "|".join(
        (
            _CONTRACTION,
            rf"[^\r\n\p{{L}}\p{{N}}]?[{letter}]+",
            digits,
            rf" ?[^\s{letter}\p{{N}}]+[\r\n]*",
            r"\s*[\r\n]+",
            _SPACES,
        )
    )


def _cased_words(digits: str, suffix: str) -> str:
    """Words are also cut where a lower-case letter meets an upper-case one."""
    upper, lower = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
    start = r"[^\r\n\p{L}\p{N}]?"
    return "|".join(
        (
            f"{start}{upper}*{lower}+{suffix}",
            f"{start}{upper}+{lower}*{suffix}",
            digits,
            r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
            r"\s*[\r\n]+",
            _SPACES,
        )
    )


_LLAMA3 = _cl100k(r"\p{N}{1,3}")
_QWEN2 = _cl100k(_DIGIT)
_GPT4O = _cased_words(r"\p{N}{1,3}", f"(?:{_CONTRACTION})?")

# DeepSeek's first models list the letters that have case, as of an older Unicode, and the scripts to keep apart.
_CASED = r"[\p{Lu}\p{Ll}\p{Lt}&&[^\x{A790}-\x{AB68}\x{10570}-\x{105BC}\x{16E40}-\x{16E7F}\x{1D400}-\x{1DF1E}]]"
_SCRIPTS = r"[\x{0800}-\x{9FA5}\x{AC00}-\x{D7FF}]+"
_DEEPSEEK3 = "|".join(
    (
        r"[!-/:-@\[-`{-~][A-Za-z]+",
        r"[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+",
        r" ?[\p{P}\p{S}]+[\r\n]*",
        r"\s*[\r\n]+",
        _SPACES,
    )
)

_SCHEMES: dict[str, PreTokenizer] = {
    "default": PreTokenizer((r"[\p{P}$+<=>^~|]+", _GPT2, r"\p{N}+", "[0-9][0-9][0-9]")),
    "gpt-2 phi-2 mpt olmo jais exaone4 mellum trillion": PreTokenizer((_GPT2,)),
    "smollm starcoder refact command-r codeshell exaone minerva-7b": PreTokenizer((_DIGIT, _GPT2)),
    "falcon": PreTokenizer((r"[\p{P}$+<=>^~|`]+", _GPT2, "[0-9][0-9][0-9]")),
    "llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral lfm2": PreTokenizer((_LLAMA3,), True, True),
    "dbrx smaug-bpe chatglm-bpe glm4": PreTokenizer((_LLAMA3,)),
    "qwen2 deepseek-r1-qwen megrez stablelm2 hunyuan": PreTokenizer((_QWEN2,)),
    "qwen35": PreTokenizer((_cl100k(_DIGIT, r"\p{L}\p{M}"),)),
    "deepseek-llm": PreTokenizer(
        (r"[\r\n]", rf"\s?{_CASED}+", r"\s?[!-/:-~！-／：-～‘-‟\x{3000}-。]+", r"\s+$", _SCRIPTS, r"\p{N}+")
    ),
    "deepseek-coder": PreTokenizer((r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _SCRIPTS, _DIGIT)),
    "deepseek-v3 hunyuan-dense": PreTokenizer((r"\p{N}{1,3}", "[一-龥\u3040-ゟ゠-ヿ]+", _DEEPSEEK3)),
    "tekken": PreTokenizer((_cased_words(_DIGIT, ""),), True, True),
    "gpt-4o llama4 kanana2": PreTokenizer((_GPT4O,)),
}

PRE_TOKENIZERS = {name: scheme for names, scheme in _SCHEMES.items() for name in names.split(" ")}
