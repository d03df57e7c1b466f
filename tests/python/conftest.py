"""Small models for the tests of `LLM` and the command line, made on the spot."""

from __future__ import annotations

import json
import signal
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from intact import LLM, quantize

# A shell that starts the tests in the background has them, and what they start, ignore the interrupts that they test.
signal.signal(signal.SIGINT, signal.default_int_handler)

VECTORS = Path(__file__).parents[1] / "vectors" / "models"
HIDDEN, INTERMEDIATE, LAYERS, VOCABULARY, CONTEXT = 64, 96, 2, 300, 256
CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CORPUS = ["The quick brown fox jumps over the lazy dog.", "naïve café — 日本語のテキスト 🙂", "user assistant system"]


def random_weights(seed: int = 1) -> dict[str, np.ndarray[Any, Any]]:
    """The tensors of a Llama model by Hugging Face name."""
    rng = np.random.default_rng(seed)

    def matrix(rows: int, columns: int) -> np.ndarray[Any, Any]:
        return (rng.standard_normal((rows, columns)) / 4).astype(np.float32)

    gains = np.linspace(0.5, 1.5, HIDDEN, dtype=np.float32)
    tensors = {"model.embed_tokens.weight": matrix(VOCABULARY, HIDDEN), "model.norm.weight": gains}
    for layer in range(LAYERS):
        name = f"model.layers.{layer}"
        tensors |= {
            f"{name}.input_layernorm.weight": gains,
            f"{name}.post_attention_layernorm.weight": gains,
            f"{name}.self_attn.q_proj.weight": matrix(64, HIDDEN),
            f"{name}.self_attn.k_proj.weight": matrix(32, HIDDEN),
            f"{name}.self_attn.v_proj.weight": matrix(32, HIDDEN),
            f"{name}.self_attn.o_proj.weight": matrix(HIDDEN, 64),
            f"{name}.mlp.gate_proj.weight": matrix(INTERMEDIATE, HIDDEN),
            f"{name}.mlp.up_proj.weight": matrix(INTERMEDIATE, HIDDEN),
            f"{name}.mlp.down_proj.weight": matrix(HIDDEN, INTERMEDIATE),
        }
    return tensors


CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_act": "silu",
    "hidden_size": HIDDEN,
    "intermediate_size": INTERMEDIATE,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": CONTEXT,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
}


def tokenizer_files() -> dict[str, Any]:
    """A byte-level BPE with three special tokens, by file name."""
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=290,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(CORPUS, trainer)
    return {
        "tokenizer.json": json.loads(backend.to_str()),
        "tokenizer_config.json": {"eos_token": "<|im_end|>", "chat_template": CHAT_TEMPLATE},
        "generation_config.json": {"eos_token_id": [0, 2]},
    }


def write_safetensors(path: Path, tensors: Mapping[str, np.ndarray[Any, Any]]) -> None:
    header, data = {}, b""
    for name, values in tensors.items():
        end = len(data) + values.nbytes
        header[name] = {"dtype": "F32", "shape": list(values.shape), "data_offsets": [len(data), end]}
        data += values.astype("<f4").tobytes()
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def write_checkpoint(directory: Path) -> Path:
    """A Hugging Face directory."""
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps(CONFIG))
    for name, content in tokenizer_files().items():
        (directory / name).write_text(json.dumps(content))
    write_safetensors(directory / "model.safetensors", random_weights())
    return directory


def write_gguf(path: Path) -> Path:
    """A GGUF file with a vocabulary and single-precision tensors."""
    files = tokenizer_files()
    vocabulary = files["tokenizer.json"]["model"]["vocab"]
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    merges = [" ".join(merge) for merge in files["tokenizer.json"]["model"]["merges"]]
    metadata: dict[str, tuple[int, bytes]] = {
        "general.architecture": (8, _string("llama")),
        "llama.block_count": (4, struct.pack("<I", LAYERS)),
        "llama.context_length": (4, struct.pack("<I", CONTEXT)),
        "llama.embedding_length": (4, struct.pack("<I", HIDDEN)),
        "llama.feed_forward_length": (4, struct.pack("<I", INTERMEDIATE)),
        "llama.attention.head_count": (4, struct.pack("<I", 4)),
        "llama.attention.head_count_kv": (4, struct.pack("<I", 2)),
        "llama.attention.key_length": (4, struct.pack("<I", 16)),
        "llama.attention.value_length": (4, struct.pack("<I", 16)),
        "llama.attention.layer_norm_rms_epsilon": (6, struct.pack("<f", 1e-5)),
        "llama.rope.freq_base": (6, struct.pack("<f", 10000.0)),
        "tokenizer.ggml.model": (8, _string("gpt2")),
        "tokenizer.ggml.pre": (8, _string("gpt-2")),
        "tokenizer.ggml.tokens": (9, _strings(tokens)),
        "tokenizer.ggml.token_type": (9, struct.pack("<IQ", 5, len(tokens)) + _i32([3] * 3 + [1] * (len(tokens) - 3))),
        "tokenizer.ggml.merges": (9, _strings(merges)),
        "tokenizer.ggml.eos_token_id": (4, struct.pack("<I", 2)),
        "tokenizer.chat_template": (8, _string(CHAT_TEMPLATE)),
    }
    parts = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.o_proj": "attn_output"}
    parts |= {f"self_attn.{name}_proj": f"attn_{name}" for name in "qkv"}
    parts |= {f"mlp.{name}_proj": f"ffn_{name}" for name in ("gate", "up", "down")}
    names = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}
    for layer in range(LAYERS):
        names |= {f"model.layers.{layer}.{k}.weight": f"blk.{layer}.{v}.weight" for k, v in parts.items()}
    weights = {names[name]: values for name, values in random_weights().items()}
    # A file without rows for the padding of the vocabulary: as many as there are tokens.
    weights["token_embd.weight"] = weights["token_embd.weight"][: len(tokens)]

    file, data = b"GGUF" + struct.pack("<IQQ", 3, len(weights), len(metadata)), b""
    for key, (code, value) in metadata.items():
        file += _string(key) + struct.pack("<I", code) + value
    for name, values in weights.items():
        data += bytes(-len(data) % 32)
        file += _string(name) + struct.pack("<I", values.ndim) + struct.pack(f"<{values.ndim}Q", *values.shape[::-1])
        file += struct.pack("<IQ", 0, len(data))
        data += values.astype("<f4").tobytes()
    path.write_bytes(file + bytes(-len(file) % 32) + data)
    return path


def _string(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()


def _strings(texts: list[str]) -> bytes:
    return struct.pack("<IQ", 8, len(texts)) + b"".join(map(_string, texts))


def _i32(values: list[int]) -> bytes:
    return struct.pack(f"<{len(values)}i", *values)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("source") / "tiny")


@pytest.fixture(scope="session")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


@pytest.fixture(scope="session")
def model(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory with a tokenizer."""
    path = tmp_path_factory.mktemp("models") / "tiny"
    quantize(checkpoint, path, progress=False)
    return path


@pytest.fixture(scope="session")
def llm(model: Path) -> LLM:
    return LLM(model, threads=1)


@pytest.fixture(autouse=True)
def _no_mask(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No test depends on the caller's environment, or changes it. Adapters are tested once for all."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
    monkeypatch.delenv("INTACT_CPU", raising=False)
    monkeypatch.delenv("INTACT_TRACEBACK", raising=False)
