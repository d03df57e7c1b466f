"""A Llama model of about 1.1 billion random weights, to measure speed and memory where weights do not fit in a cache.

    python benches/synthetic.py DIRECTORY [--hugging-face] [--gguf Q4_0 Q8_0] [--layers 16]

`--hugging-face` writes DIRECTORY/hugging-face (float16 safetensors), `--gguf` one DIRECTORY/TYPE.gguf for each type:
F16, or a type of llama.cpp's quantizer. `intact quantize` takes all of them. Needs numpy; for GGUF also the packages
`gguf` and `llama-cpp-python`. The weights come from one seed and are the same in every file; one matrix is in memory
at a time.
"""

from __future__ import annotations

import argparse
import json
import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

HIDDEN, INTERMEDIATE, HEADS, KV_HEADS, VOCABULARY, CONTEXT = 2048, 8192, 32, 8, 49152, 32768
HEAD_SIZE = HIDDEN // HEADS
ROPE_THETA, EPSILON, SEED = 500000.0, 1e-5, 1
Shape = tuple[int, ...]

# Of the embedding, of a layer, and of the end: Hugging Face name, GGUF name, shape.
EMBEDDING = ("model.embed_tokens", "token_embd", (VOCABULARY, HIDDEN))
LAYER = (
    ("input_layernorm", "attn_norm", (HIDDEN,)),
    ("self_attn.q_proj", "attn_q", (HIDDEN, HIDDEN)),
    ("self_attn.k_proj", "attn_k", (KV_HEADS * HEAD_SIZE, HIDDEN)),
    ("self_attn.v_proj", "attn_v", (KV_HEADS * HEAD_SIZE, HIDDEN)),
    ("self_attn.o_proj", "attn_output", (HIDDEN, HIDDEN)),
    ("post_attention_layernorm", "ffn_norm", (HIDDEN,)),
    ("mlp.gate_proj", "ffn_gate", (INTERMEDIATE, HIDDEN)),
    ("mlp.up_proj", "ffn_up", (INTERMEDIATE, HIDDEN)),
    ("mlp.down_proj", "ffn_down", (HIDDEN, INTERMEDIATE)),
)
NORM = ("model.norm", "output_norm", (HIDDEN,))


def names(layers: int) -> list[tuple[str, str, Shape]]:
    """Every tensor: its Hugging Face name, its GGUF name and its shape. The head is the embedding."""
    tensors: list[tuple[str, str, Shape]] = [EMBEDDING]
    for layer in range(layers):
        tensors += [(f"model.layers.{layer}.{a}", f"blk.{layer}.{b}", shape) for a, b, shape in LAYER]
    return [(f"{a}.weight", f"{b}.weight", shape) for a, b, shape in [*tensors, NORM]]


def weights(layers: int) -> Iterator[np.ndarray[Any, Any]]:
    """The tensors in the order of `names`, float32: gains of 1, matrices that keep the size of what they multiply."""
    for index, (_, _, shape) in enumerate(names(layers)):
        if len(shape) == 1:
            yield np.ones(shape, np.float32)
        else:
            values = np.random.default_rng((SEED, index)).standard_normal(shape, np.float32)
            yield values * np.float32(1 / math.sqrt(shape[1]))


def vocabulary() -> tuple[list[str], list[tuple[str, str]]]:
    """Tokens and merges of a byte-level BPE: an end token, the 256 bytes, and pairs of bytes to fill the rest."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = (chr(256 + i) for i in range(256 - len(printable)))
    characters = [chr(byte) if byte in printable else next(others) for byte in range(256)]
    pairs = [(a, b) for a in characters for b in characters][: VOCABULARY - 257]
    return ["<|endoftext|>", *characters, *(a + b for a, b in pairs)], pairs


def write_hugging_face(directory: Path, layers: int) -> None:
    """A model directory: config.json, the tokenizer and one safetensors file."""
    directory.mkdir(parents=True, exist_ok=True)
    tokens, pairs = vocabulary()
    end = {"id": 0, "content": tokens[0], "special": True, "normalized": False}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    files = {
        "config.json": {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_act": "silu",
            "hidden_size": HIDDEN,
            "intermediate_size": INTERMEDIATE,
            "num_hidden_layers": layers,
            "num_attention_heads": HEADS,
            "num_key_value_heads": KV_HEADS,
            "head_dim": HEAD_SIZE,
            "vocab_size": VOCABULARY,
            "max_position_embeddings": CONTEXT,
            "rms_norm_eps": EPSILON,
            "rope_theta": ROPE_THETA,
            "tie_word_embeddings": True,
            "torch_dtype": "float16",
            "bos_token_id": 0,
            "eos_token_id": 0,
        },
        "tokenizer_config.json": {"eos_token": tokens[0], "tokenizer_class": "PreTrainedTokenizerFast"},
        "tokenizer.json": {
            "version": "1.0",
            "added_tokens": [end | {"single_word": False, "lstrip": False, "rstrip": False}],
            "pre_tokenizer": byte_level,
            "decoder": byte_level,
            "model": {"type": "BPE", "vocab": {token: id for id, token in enumerate(tokens)}, "merges": pairs},
        },
    }
    for name, content in files.items():
        (directory / name).write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")

    header: dict[str, Any] = {}
    offset = 0
    for name, _, shape in names(layers):
        stop = offset + 2 * math.prod(shape)
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [offset, stop]}
        offset = stop
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with (directory / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for values in weights(layers):
            values.astype("<f2").tofile(file)


def for_llama_cpp(name: str, values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Rows of queries and keys in llama.cpp's order: the two that RoPE turns together are neighbours."""
    if ".attn_q." not in name and ".attn_k." not in name:
        return values
    pairs: np.ndarray[Any, Any] = values.reshape(-1, 2, HEAD_SIZE // 2, HIDDEN).swapaxes(1, 2)
    return pairs.reshape(values.shape)


def write_gguf(path: Path, layers: int) -> None:
    """An F16 GGUF file of the same model."""
    import gguf

    tokens, pairs = vocabulary()
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_name("synthetic")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_block_count(layers)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(INTERMEDIATE)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(EPSILON)
    writer.add_rope_freq_base(ROPE_THETA)
    writer.add_rope_dimension_count(HEAD_SIZE)
    writer.add_vocab_size(VOCABULARY)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.CONTROL] + [gguf.TokenType.NORMAL] * (VOCABULARY - 1))
    writer.add_token_merges([f"{a} {b}" for a, b in pairs])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    for _, name, shape in names(layers):
        # llama.cpp computes with gains in float32.
        kind = np.dtype(np.float32 if len(shape) == 1 else np.float16)
        writer.add_tensor_info(name, shape, kind, math.prod(shape) * kind.itemsize)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for (_, name, shape), values in zip(names(layers), weights(layers), strict=True):
        values = for_llama_cpp(name, values)
        writer.write_tensor_data(values if len(shape) == 1 else values.astype(np.float16))
    writer.close()


def quantize_gguf(source: Path, target: Path, type: str) -> None:
    """llama.cpp's own quantizer."""
    import llama_cpp

    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{type}")
    parameters.allow_requantize = True
    if llama_cpp.llama_model_quantize(bytes(source), bytes(target), parameters):
        raise SystemExit(f"llama.cpp could not write {target}")


def main() -> None:
    """Writes what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--hugging-face", action="store_true")
    parser.add_argument("--gguf", nargs="+", metavar="TYPE", default=[], help="such as F16, Q4_0, Q4_K_M, Q8_0")
    parser.add_argument("--layers", type=int, default=16)
    arguments = parser.parse_args()
    directory: Path = arguments.directory
    directory.mkdir(parents=True, exist_ok=True)
    if arguments.hugging_face:
        write_hugging_face(directory / "hugging-face", arguments.layers)
    if arguments.gguf:
        half = directory / "F16.gguf"
        write_gguf(half, arguments.layers)
        for type in arguments.gguf:
            if type != "F16":
                quantize_gguf(half, directory / f"{type}.gguf", type)
        if "F16" not in arguments.gguf:
            half.unlink()


if __name__ == "__main__":
    main()
