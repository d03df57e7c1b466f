"""Trains a small language model whose matrices are ternary, and writes it as a BitNet checkpoint.

    pip install torch tokenizers safetensors
    python examples/train_ternary.py austen.txt -o checkpoint
    intact quantize checkpoint -o model --type T16r --head-type U8r

The matrices of the layers are −1, 0 or 1 times one number: in each step the forward pass sees the ternary weights, and
the gradient goes to float weights behind them ("quantization-aware training"). The checkpoint holds the ternary codes
themselves, four to a byte, as Hugging Face's BitNet models do, so that a conversion finds exactly what was trained.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn
from torch.nn import functional

END = "<|endoftext|>"


@dataclass(frozen=True)
class Shape:
    """The sizes of a model; those of heads and context in elements and tokens."""

    vocabulary: int = 2048
    hidden: int = 256
    intermediate: int = 640
    layers: int = 5
    heads: int = 4
    kv_heads: int = 2
    context: int = 256
    rope_theta: float = 10000.0
    epsilon: float = 1e-5

    @property
    def head_width(self) -> int:
        """Elements of a head."""
        return self.hidden // self.heads


class Ternary(nn.Module):
    """A matrix whose weights are −1, 0 or 1 times the mean magnitude of the float weights behind them."""

    def __init__(self, columns: int, rows: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(rows, columns) / math.sqrt(columns))

    def codes(self) -> tuple[Tensor, Tensor]:
        """The ternary codes, and their scale: a bfloat16 number, so that the checkpoint holds it exactly."""
        scale = self.weight.abs().mean().bfloat16().float()
        return (self.weight / scale).round().clamp(-1, 1), scale

    def forward(self, x: Tensor) -> Tensor:
        """Multiplies by the ternary weights; the gradient passes the rounding as if it were not there."""
        with torch.no_grad():
            codes, scale = self.codes()
            rounding = codes * scale - self.weight
        return functional.linear(x, self.weight + rounding)


class Norm(nn.Module):
    """RMS norm."""

    def __init__(self, width: int, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        """The vectors of the last axis, divided by their root mean square, times the gains."""
        return functional.rms_norm(x.float(), self.weight.shape, self.weight, self.epsilon)


class Attention(nn.Module):
    """Causal attention with rotary positions, and a norm before its output projection."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.q_proj = Ternary(shape.hidden, shape.hidden)
        self.k_proj = Ternary(shape.hidden, shape.kv_heads * shape.head_width)
        self.v_proj = Ternary(shape.hidden, shape.kv_heads * shape.head_width)
        self.o_proj = Ternary(shape.hidden, shape.hidden)
        self.attn_sub_norm = Norm(shape.hidden, shape.epsilon)

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
        """Of shape (batch, tokens, hidden), as `x`."""
        batch, tokens, hidden = x.shape
        query, key, value = (
            projection(x).view(batch, tokens, -1, self.shape.head_width).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        repeats = self.shape.heads // self.shape.kv_heads
        key, value = rotate(key, rotation).repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)
        out = functional.scaled_dot_product_attention(rotate(query, rotation), key, value, is_causal=True)
        return self.o_proj(self.attn_sub_norm(out.transpose(1, 2).reshape(batch, tokens, hidden)))


class FeedForward(nn.Module):
    """down(norm(relu(gate(x))² · up(x)))."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate_proj = Ternary(shape.hidden, shape.intermediate)
        self.up_proj = Ternary(shape.hidden, shape.intermediate)
        self.down_proj = Ternary(shape.intermediate, shape.hidden)
        self.ffn_sub_norm = Norm(shape.intermediate, shape.epsilon)

    def forward(self, x: Tensor) -> Tensor:
        """Of the shape of `x`."""
        return self.down_proj(self.ffn_sub_norm(functional.relu(self.gate_proj(x)).square() * self.up_proj(x)))


class Layer(nn.Module):
    """Attention and feed-forward network, each behind a norm and added to its input."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.input_layernorm = Norm(shape.hidden, shape.epsilon)
        self.self_attn = Attention(shape)
        self.post_attention_layernorm = Norm(shape.hidden, shape.epsilon)
        self.mlp = FeedForward(shape)

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
        """Of the shape of `x`."""
        x = x + self.self_attn(self.input_layernorm(x), rotation)
        return x + self.mlp(self.post_attention_layernorm(x))


class Model(nn.Module):
    """BitNet b1.58 without the rounding of activations; embedding and head are float matrices of their own."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.embed_tokens = nn.Embedding(shape.vocabulary, shape.hidden)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.layers))
        self.norm = Norm(shape.hidden, shape.epsilon)
        self.lm_head = nn.Linear(shape.hidden, shape.vocabulary, bias=False)
        nn.init.zeros_(self.lm_head.weight)
        pairs = shape.head_width // 2
        angles = torch.outer(torch.arange(shape.context), shape.rope_theta ** (-torch.arange(pairs) / pairs))
        self.rotation = angles.cos(), angles.sin()

    def forward(self, ids: Tensor) -> Tensor:
        """The logits after every token: `ids` of shape (batch, tokens) to (batch, tokens, vocabulary)."""
        tokens = ids.shape[1]
        cosine, sine = self.rotation
        x = self.embed_tokens(ids)
        for layer in self.layers:
            x = layer(x, (cosine[:tokens], sine[:tokens]))
        return self.lm_head(self.norm(x))


def rotate(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Rotary embedding of (batch, heads, tokens, head width): element i pairs with the one half a head further."""
    cosine, sine = rotation
    first, second = x.chunk(2, -1)
    return torch.cat([first * cosine - second * sine, second * cosine + first * sine], -1)


def train_tokenizer(text: str, vocabulary: int) -> Tokenizer:
    """Byte-level BPE: any text can be encoded."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=[END], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(text.splitlines(keepends=True), trainer)
    return tokenizer


def split(text: str, held_out: float) -> tuple[str, str]:
    """Each work of a text, without its last part, and those last parts; works lie two lines apart."""
    works = [work.splitlines(keepends=True) for work in text.split("\n\n")]
    parts = []
    for lines in works:
        cut = math.ceil(len(lines) * (1 - held_out))
        parts.append(("".join(lines[:cut]), "".join(lines[cut:])))
    return END.join(first for first, _ in parts), END.join(last for _, last in parts)


def loss_of(model: Model, windows: Tensor) -> Tensor:
    """The mean negative log-likelihood of each window's tokens but the first, in nats."""
    logits = model(windows[:, :-1])
    return functional.cross_entropy(logits.float().flatten(0, 1), windows[:, 1:].flatten())


@torch.no_grad()
def evaluate(model: Model, ids: Tensor) -> tuple[float, float]:
    """The loss over a text cut into windows without overlap, and its standard error, which is that of the windows."""
    size = model.shape.context
    count = len(ids) // size
    losses = torch.stack([loss_of(model, window[None]) for window in ids[: count * size].view(count, size)])
    return float(losses.mean()), float(losses.std() / math.sqrt(count))


def train(model: Model, ids: Tensor, arguments: argparse.Namespace) -> None:
    """Muon for the ternary matrices, AdamW for the rest; the rates fall to 0 at the last step.

    The checkpoint is written every 500 steps, so that a run which is stopped leaves a model.
    """
    matrices = [parameter for name, parameter in model.layers.named_parameters() if parameter.ndim == 2]
    gains = [parameter for parameter in model.parameters() if parameter.ndim == 1]
    optimizers = [
        torch.optim.Muon(matrices, lr=arguments.rate, weight_decay=0.1),
        torch.optim.AdamW(
            [
                {"params": model.embed_tokens.parameters(), "lr": 0.02},
                {"params": model.lm_head.parameters(), "lr": 0.004},
                {"params": gains, "lr": 0.005},
            ],
            betas=(0.9, 0.95),
            weight_decay=0.0,
        ),
    ]
    peaks = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]
    size = model.shape.context + 1
    started = time.monotonic()
    for step in range(arguments.steps):
        left = 1 - step / arguments.steps
        factor = min(1.0, (step + 1) / 50, left / 0.6)
        for optimizer, rates in zip(optimizers, peaks, strict=True):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * factor
        starts = torch.randint(len(ids) - size, (arguments.batch,))
        windows = torch.stack([ids[start : start + size] for start in starts.tolist()])
        with torch.autocast("cpu", torch.bfloat16, enabled=arguments.bfloat16):
            loss = loss_of(model, windows)
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if step % 50 == 0 or step + 1 == arguments.steps:
            print(
                f"step {step} of {arguments.steps}  loss {loss.item():.4f}  {time.monotonic() - started:.0f} s",
                flush=True,
            )
        if step % 500 == 499 or step + 1 == arguments.steps:
            save_file(checkpoint(model), arguments.output / "model.safetensors", {"format": "pt"})


def pack(codes: Tensor) -> Tensor:
    """Codes plus 1, four to a byte: byte r of a column holds rows r, r + n, r + 2n and r + 3n, n the bytes of one."""
    lanes = (codes + 1).to(torch.uint8).chunk(4)
    return lanes[0] | lanes[1] << 2 | lanes[2] << 4 | lanes[3] << 6


def checkpoint(model: Model) -> dict[str, Tensor]:
    """The tensors by their Hugging Face names."""
    tensors = {}
    for name, parameter in model.state_dict().items():
        tensors[name if name.startswith("lm_head") else f"model.{name}"] = parameter.contiguous()
    for name, module in model.named_modules():
        if isinstance(module, Ternary):
            codes, scale = module.codes()
            tensors[f"model.{name}.weight"] = pack(codes)
            tensors[f"model.{name}.weight_scale"] = scale.reshape(1).bfloat16()
    return tensors


def config(shape: Shape) -> dict[str, object]:
    """The content of config.json."""
    return {
        "architectures": ["BitNetForCausalLM"],
        "model_type": "bitnet",
        "vocab_size": shape.vocabulary,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "max_position_embeddings": shape.context,
        "rms_norm_eps": shape.epsilon,
        "rope_theta": shape.rope_theta,
        "hidden_act": "relu2",
        "tie_word_embeddings": False,
        "bos_token_id": None,
        "eos_token_id": 0,
        "quantization_config": {
            "quant_method": "bitnet",
            "linear_class": "autobitlinear",
            "quantization_mode": "offline",
        },
    }


def main() -> None:
    """Trains, measures, writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("text", type=Path, help="UTF-8 text to learn; works lie two lines apart")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the checkpoint")
    parser.add_argument("--steps", type=int, default=2200, help="steps of training (default %(default)s)")
    parser.add_argument("--batch", type=int, default=8, help="windows of a step (default %(default)s)")
    parser.add_argument("--rate", type=float, default=0.02, help="Muon's learning rate (default %(default)s)")
    parser.add_argument("--held-out", type=float, default=0.02, help="last part of each work that is not learnt")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the weights and the windows (default %(default)s)")
    parser.add_argument("--bfloat16", action="store_true", help="multiply in bfloat16, for CPUs that have it")
    arguments = parser.parse_args()

    torch.manual_seed(arguments.seed)
    torch.set_num_threads(arguments.threads)
    torch.use_deterministic_algorithms(True)
    shape = Shape()
    learnt, held_out = split(arguments.text.read_text(encoding="utf-8"), arguments.held_out)
    tokenizer = train_tokenizer(learnt, shape.vocabulary)
    ids, test_ids = (torch.tensor(tokenizer.encode(text).ids) for text in (learnt, held_out))
    model = Model(shape)
    print(f"{len(ids)} tokens to learn, {len(test_ids)} held out, {sum(p.numel() for p in model.parameters())} weights")

    arguments.output.mkdir(parents=True, exist_ok=True)
    (arguments.output / "config.json").write_text(json.dumps(config(shape), indent=2) + "\n", encoding="utf-8")
    tokenizer.save(str(arguments.output / "tokenizer.json"))
    (arguments.output / "tokenizer_config.json").write_text(json.dumps({"eos_token": END}) + "\n", encoding="utf-8")
    (arguments.output / "held_out.txt").write_text(held_out, encoding="utf-8", newline="\n")
    train(model, ids, arguments)
    loss, error = evaluate(model, test_ids)
    print(f"held-out loss {loss:.5f} ± {error:.5f} nats a token, perplexity {math.exp(loss):.3f}")


if __name__ == "__main__":
    main()
