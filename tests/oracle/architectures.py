"""Tiny models of the supported architectures: configuration, matrices and program (docs/MODEL.md).

The configuration's real numbers are floats because JSON has no other; arithmetic takes them as the decimals they show.
"""

from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from . import constants

HIDDEN, LAYERS, CONTEXT = 64, 2, 128


@dataclass(frozen=True, eq=False)
class Architecture:
    """What distinguishes one tiny model; the defaults are Llama's."""

    name: str
    hugging_face: str
    model_type: str
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 16
    feed_forward: int = 96
    vocabulary: int = 200
    fraction_bits: int = 12
    tied: bool = False
    attention_bias: bool = False
    head_norms: bool = False
    sub_norms: bool = False
    gain_offset: int = 0
    activation: str = "swiglu"
    gated: bool = True
    windows: tuple[int, ...] = (0, 0)
    rotated: tuple[bool, ...] = (True, True)
    theta: float = 10000.0
    rope_scaling: dict[str, Any] | None = None
    rotary_fraction: Fraction = Fraction(1)
    interleaved: bool = False
    epsilon: float = 1e-05
    attention_softcap: float | None = None
    final_softcap: float | None = None
    score_scale_root: int | None = None
    embedding_multiplier_root: int | None = None
    feed_forward_norm: str = "post_attention_layernorm"
    post_norms: tuple[str, str] | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def rot(self) -> int:
        """Rotated dimensions of a head."""
        return int(self.head_dim * self.rotary_fraction)

    def config(self) -> dict[str, Any]:
        """The Hugging Face configuration."""
        act = {"swiglu": "silu", "geglu": "gelu_pytorch_tanh", "relu2": "relu2"}[self.activation]
        act_key = "hidden_activation" if self.model_type == "gemma2" else "hidden_act"
        config = {
            "architectures": [self.hugging_face],
            "model_type": self.model_type,
            "vocab_size": self.vocabulary,
            "hidden_size": HIDDEN,
            "intermediate_size": self.feed_forward,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            act_key: act,
            "max_position_embeddings": CONTEXT,
            "rms_norm_eps": self.epsilon,
            "rope_theta": self.theta,
            "tie_word_embeddings": self.tied,
            "torch_dtype": "bfloat16",
            "bos_token_id": 1,
            "eos_token_id": 2,
            **self.extra,
            "quantization_config": {"quant_method": "intact"},
        }
        if self.rope_scaling is not None:
            config["rope_scaling"] = self.rope_scaling
        return config

    def frequencies(self) -> list[int]:
        """freq64 of the model's one rotation table."""
        scaling = self.rope_scaling and {k: v if isinstance(v, str) else repr(v) for k, v in self.rope_scaling.items()}
        return constants.freq64(constants.rope_frequencies(exact(self.theta), self.rot, scaling))

    def score_scale(self) -> Fraction:
        """The factor of q . k in the softmax's argument."""
        scale = 1 / constants.sqrt(Fraction(self.score_scale_root or self.head_dim))
        if self.rope_scaling is not None and self.rope_scaling["rope_type"] == "yarn":
            scale *= constants.yarn_attention_factor(exact(self.rope_scaling["factor"])) ** 2
        return scale


def exact(value: float) -> Fraction:
    """The decimal number that JSON shows for a value of the configuration."""
    return Fraction(repr(value))


LLAMA3_SCALING = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN_SCALING = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}

ARCHITECTURES = (
    Architecture("llama", "LlamaForCausalLM", "llama"),
    Architecture(
        "llama3-rope",
        "LlamaForCausalLM",
        "llama",
        heads=2,
        kv_heads=1,
        head_dim=32,
        tied=True,
        theta=500000.0,
        rope_scaling=LLAMA3_SCALING,
    ),
    Architecture(
        "mistral-window",
        "MistralForCausalLM",
        "mistral",
        feed_forward=100,
        vocabulary=203,
        windows=(8, 8),
        extra={"sliding_window": 8},
    ),
    Architecture(
        "qwen2-bias",
        "Qwen2ForCausalLM",
        "qwen2",
        tied=True,
        attention_bias=True,
        theta=1000000.0,
        epsilon=1e-06,
        extra={"use_sliding_window": False},
    ),
    Architecture(
        "qwen3-qknorm",
        "Qwen3ForCausalLM",
        "qwen3",
        kv_heads=1,
        head_dim=32,
        head_norms=True,
        theta=1000000.0,
        epsilon=1e-06,
        extra={"attention_bias": False, "use_sliding_window": False},
    ),
    Architecture(
        "gemma2-softcap",
        "Gemma2ForCausalLM",
        "gemma2",
        fraction_bits=10,
        tied=True,
        feed_forward_norm="pre_feedforward_layernorm",
        post_norms=("post_attention_layernorm", "post_feedforward_layernorm"),
        gain_offset=1,
        activation="geglu",
        windows=(8, 0),
        epsilon=1e-06,
        attention_softcap=50.0,
        final_softcap=30.0,
        score_scale_root=24,
        embedding_multiplier_root=HIDDEN,
        extra={
            "query_pre_attn_scalar": 24,
            "attn_logit_softcapping": 50.0,
            "final_logit_softcapping": 30.0,
            "sliding_window": 8,
            "layer_types": ["sliding_attention", "full_attention"],
        },
    ),
    Architecture(
        "bitnet-subnorm",
        "BitNetForCausalLM",
        "bitnet",
        tied=True,
        sub_norms=True,
        activation="relu2",
        theta=500000.0,
    ),
    Architecture(
        "glm4-partial",
        "Glm4ForCausalLM",
        "glm4",
        attention_bias=True,
        post_norms=("post_self_attn_layernorm", "post_mlp_layernorm"),
        rotary_fraction=Fraction(1, 2),
        interleaved=True,
        extra={"attention_bias": True, "partial_rotary_factor": 0.5},
    ),
    Architecture(
        "arcee-yarn",
        "ArceeForCausalLM",
        "arcee",
        feed_forward=128,
        activation="relu2",
        gated=False,
        rope_scaling=YARN_SCALING,
    ),
    Architecture(
        "smollm3-nope",
        "SmolLM3ForCausalLM",
        "smollm3",
        fraction_bits=11,
        tied=True,
        rotated=(True, False),
        theta=2000000.0,
        extra={"no_rope_layers": [1, 0]},
    ),
)
