#!/usr/bin/env python3
"""Compares the float reference, `intact.reference`, with `transformers` on tiny random models of each family.

    pip install torch transformers
    python benches/float_reference_check.py

Prints the largest difference of a logit, beside the standard deviation of the logits; exit status 1 where one is more
than float32 rounding explains. The weights are random and large, so that every part of a model weighs in the logits.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import transformers

from intact.reference import FloatModel, Floats

TOKENS = 96
TOLERANCE = 1e-4  # of the logits' standard deviation

SHAPE = {
    "vocab_size": 211,
    "hidden_size": 64,
    "intermediate_size": 112,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.25,
    "attn_implementation": "eager",
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
MIXED = ["full_attention", "sliding_attention", "full_attention"]

CASES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "llama": ("Llama", {}),
    "llama, tied": ("Llama", {"tie_word_embeddings": True}),
    "llama, biases": ("Llama", {"attention_bias": True, "mlp_bias": True}),
    "llama, head_dim": ("Llama", {"head_dim": 24, "rms_norm_eps": 1e-2}),
    "llama, linear": ("Llama", {"rope_scaling": {"rope_type": "linear", "factor": 4.0}}),
    "llama, llama3": ("Llama", {"rope_theta": 500.0, "rope_scaling": LLAMA3}),
    "mistral": ("Mistral", {"sliding_window": None}),
    "mistral, window": ("Mistral", {"sliding_window": 16}),
    "qwen2": ("Qwen2", {"sliding_window": 16, "use_sliding_window": False}),
    "qwen2, window": ("Qwen2", {"sliding_window": 16, "use_sliding_window": True, "max_window_layers": 1}),
    "qwen3": ("Qwen3", {"head_dim": 32}),
    "qwen3, window": ("Qwen3", {"sliding_window": 16, "use_sliding_window": True, "layer_types": MIXED}),
}


def logits_of_both(family: str, options: Mapping[str, Any]) -> tuple[Floats, Floats]:
    """The logits of one random model by transformers and by the reference, each of shape (TOKENS, vocabulary)."""
    torch.manual_seed(1)
    config = getattr(transformers, f"{family}Config")(**{**SHAPE, **options})
    model = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith((".bias", "norm.weight")):  # which transformers leaves at 0 and 1
                parameter.add_(torch.randn_like(parameter) * 0.3)
        ids = torch.randint(config.vocab_size, (TOKENS,)).tolist()
        expected = model(torch.tensor([ids])).logits[0].numpy()
    tensors = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    return expected, FloatModel(config.to_dict(), tensors.__getitem__).logits(ids)


def main() -> int:
    failed = False
    print(f"torch {torch.__version__}, transformers {transformers.__version__}, {TOKENS} tokens")
    for label, (family, options) in CASES.items():
        expected, actual = logits_of_both(family, options)
        difference, spread = float(np.abs(actual - expected).max()), float(expected.std())
        wrong = not difference <= TOLERANCE * spread
        verdict = "WRONG" if wrong else "ok"
        print(f"{label:<16} {verdict:<5} largest difference {difference:.1e}, deviation of the logits {spread:.2f}")
        failed |= wrong
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
