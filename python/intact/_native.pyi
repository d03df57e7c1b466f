"""The native module: it converts values and works without the GIL. `LLM` and `intact.numerics` are its faces."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias, TypedDict, final

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "CONTRACT_VERSION",
    "MAX_RECEIPT_BYTES",
    "ROTATION",
    "Calibration",
    "Engine",
    "Model",
    "Source",
    "State",
    "__version__",
    "adapters",
    "attention",
    "blockscale",
    "check_receipt",
    "choose_adapter",
    "conformance",
    "decode",
    "decode_bytes",
    "dynquant",
    "embed",
    "exp2",
    "gated_activation",
    "gelu",
    "greedy",
    "hadamard",
    "kernels",
    "linear",
    "logprobs",
    "matrix_bytes",
    "philox",
    "read_bandwidth",
    "release_free_memory",
    "relu2",
    "requant",
    "residual_add",
    "rmsnorm",
    "rope",
    "router",
    "rsqrt",
    "sample",
    "self_test",
    "sigmoid",
    "sincos",
    "softcap",
    "usable_cpus",
]

__version__: str
CONTRACT_VERSION: int
ROTATION: int
"""Embeddings and heads of a multiple of so many columns may be rotated."""
MAX_RECEIPT_BYTES: int

class _KernelSet(TypedDict):
    name: str
    needs: str
    available: bool
    chosen: bool

class _Adapter(TypedDict):
    name: str
    backend: str
    driver: str
    software: bool
    identity: str

class _Tensor(TypedDict):
    index: int
    part: str
    op: int
    kind: str
    slot: str
    near: str

class _Verdict(TypedDict):
    status: str
    message: str
    checked: int | None
    steps: int | None
    what: str | None
    output: int | None
    step: int | None
    position: int | None
    tensor: _Tensor | None

def release_free_memory() -> None: ...
def check_receipt(receipt: bytes) -> None:
    """Raises ReceiptError unless the bytes are a well-formed receipt."""

def conformance(backends: list[str] | None = None, threads: int = 1) -> str: ...
def decode_bytes(model: Model) -> int:
    """Bytes of weights that a token reads when it is decoded alone: all linear layers and the head."""

def matrix_bytes(format: str, rows: int, columns: int) -> int:
    """Bytes of a matrix in a format, without bias: all planes with their padding. Raises RequestError."""

def read_bandwidth(size: int, threads: int) -> int:
    """Bytes per second at which `threads` threads read a buffer of `size` bytes, each its own part, again and again.

    The best of several periods. Raises RequestError, and MemoryError where there is no room for the buffer.
    """

def kernels() -> list[_KernelSet]:
    """The kernel sets of this build, slowest first; `chosen` is the fastest one that is available."""

def adapters() -> list[_Adapter]:
    """The GPU adapters, the best first; `identity` names everything that a result of the self-test depends on."""

def choose_adapter(wanted: str) -> _Adapter:
    """The adapter that `wanted` names: a back end, a part of an adapter's name, or both; empty for the best.

    Raises DeviceError.
    """

def self_test(adapter: str) -> int:
    """Runs the self-test on the adapter of that name; returns how many programs were equal. Raises DeviceError."""

def usable_cpus() -> int:
    """CPUs that this process may use, by affinity and by a container's quota; at least 1."""

@final
class Model:
    """A model that passed every check of the contract."""

    @staticmethod
    def open(path: str | os.PathLike[str], threads: int | None = None) -> Model:
        """Opens a model directory. Raises ModelError."""

    @staticmethod
    def convert(
        source: str | os.PathLike[str],
        *,
        profile: str = "default",
        body: str | None = None,
        head: str | None = None,
        formats: Mapping[str, str] | None = None,
        calibration: str | os.PathLike[str] | None = None,
        rotate: bool = False,
        threads: int | None = None,
        progress: Callable[[int, int, str], object] | None = None,
    ) -> Model:
        """Converts a source in memory; `formats` names those of single matrices, `calibration` is a file.

        `rotate` says that embedding and head are stored in a rotated basis.

        `progress(done, total, tensor)` is called after every matrix; what it raises stops the conversion. Raises
        ModelError, RequestError.
        """

    @property
    def requantized(self) -> list[str]:
        """Matrices of a converted source that did not keep its codes; empty for a model directory."""

    @property
    def digest(self) -> str:
        """SHA-256 over everything that decides a bit."""

    @property
    def path(self) -> Path:
        """The directory or source."""

    @property
    def fraction_bits(self) -> int:
        """F: logits are integers in units of 2^-F."""

    @property
    def vocabulary(self) -> int:
        """Tokens of the model."""

    @property
    def context(self) -> int:
        """The longest sequence."""

    @property
    def plane_bytes(self) -> int:
        """Bytes of all planes."""

    def manifest(self) -> str:
        """The text of intact.json."""

    def verify(self) -> tuple[int, int]:
        """Compares planes and small files with their recorded hashes; returns how many of each. Raises ModelError."""

    def save(
        self,
        path: str | os.PathLike[str],
        files: Mapping[str, bytes],
        provenance: Mapping[str, str],
        overwrite: bool = False,
    ) -> None:
        """Writes the model as a directory, complete or not at all. Raises ModelError."""

@final
class Source:
    """A GGUF file or Hugging Face directory, opened for reading. Every method may raise ModelError."""

    def __new__(cls, path: str | os.PathLike[str], rotate: bool = False) -> Source:
        """Opens it; with `rotate` its embedding and head stand in a rotated basis. Raises ModelError."""

    @property
    def kind(self) -> str:
        """What it is: "gguf" or "safetensors"."""

    def config(self) -> str:
        """The text of a Hugging Face config.json."""

    def tensor_names(self) -> list[str]:
        """Hugging Face names, sorted."""

    def matrices(self) -> list[tuple[str, str, int, int]]:
        """The matrices of the model that it becomes, in order: name, "body", "head" or "embedding", rows, columns."""

    def own_format(self, matrix: str) -> str | None:
        """The format that keeps the codes of a matrix's tensor; None where there is none."""

    def directory_bytes(
        self,
        files: Mapping[str, bytes],
        provenance: Mapping[str, str],
        *,
        profile: str = "default",
        body: str | None = None,
        head: str | None = None,
        formats: Mapping[str, str] | None = None,
    ) -> int:
        """Bytes of all files of the directory that a conversion with these formats writes, or a few more.

        Raises RequestError.
        """

    def survey(
        self,
        candidates: Mapping[str, Sequence[str]],
        *,
        calibration: str | os.PathLike[str] | None = None,
        threads: int | None = None,
        progress: Callable[[int, int, str], object] | None = None,
    ) -> dict[str, list[float]]:
        """Relative error energies of matrices in formats: ‖ΔW·x‖² / ‖W·x‖² over a calibration's inputs.

        Of a sample of 64 rows of each matrix, quantized as a conversion would. `progress(done, total, matrix)` is
        called after every matrix; what it raises stops the survey. Raises RequestError.
        """

    def tensor_type(self, name: str) -> str:
        """The element type of a tensor, such as "Q4_1"."""

    def tensor_shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, rows first."""

    def tensor(self, name: str) -> NDArray[np.float32]:
        """A tensor as float32."""

    def metadata(self) -> dict[str, object] | None:
        """All metadata of a GGUF file, None for a directory."""

    def tokenizer_files(self) -> dict[str, Path]:
        """The files of a directory that concern text, by name; empty for GGUF."""

@final
class State:
    """Keys and values of the first tokens of a sequence."""

    @staticmethod
    def read(path: str | os.PathLike[str]) -> State:
        """Reads a file. Raises StateError."""

    def write(self, path: str | os.PathLike[str]) -> None:
        """Writes a file, complete or not at all. Raises StateError."""

    @property
    def tokens(self) -> list[int]:
        """The tokens."""

    @property
    def model_digest(self) -> str:
        """The digest of the model."""

    @property
    def bytes(self) -> int:
        """Bytes of keys and values."""

@final
class Engine:
    """One model with its threads, cache and sequences. Calls from several threads take turns."""

    def __new__(
        cls,
        model: Model,
        *,
        device: str | None = None,
        offload: int = 0,
        kernels: str | None = None,
        threads: int | None = None,
        chunk: int = 256,
        page: int = 64,
        kv_tokens: int | None = None,
        max_sequences: int = 256,
    ) -> Engine:
        """An engine on the adapter that `device` names, or on the CPU. Raises DeviceError, RequestError."""

    @property
    def device(self) -> str:
        """The device in use: "cpu", or the name of an adapter."""

    def to(self, device: str | None = None, offload: int = 0) -> None:
        """Goes on on the adapter of that name, or on the CPU for None, with all that is cached.

        The last `offload` layers stay on the CPU.

        Raises DeviceError and RequestError; everything is as before then.
        """

    def start_again(self) -> None:
        """Goes on on the CPU after a device has failed: what was cached is computed again."""

    @property
    def kernels(self) -> str:
        """The kernel set in use."""

    @property
    def threads(self) -> int:
        """Threads in use."""

    def add(
        self,
        prompt: Sequence[int],
        *,
        max_tokens: int,
        temperature: int,
        top_k: int,
        top_p: int,
        min_p: int,
        seed: int,
        n: int,
        stop_ids: Sequence[int],
        logprobs: int | None,
        first_step: int = 0,
        receipt: str | None = None,
        state: State | None = None,
    ) -> int:
        """Takes a request and returns its number; its tokens come from `step`. Settings are the contract's integers.

        `receipt` is "logits", "tensors", or None for no receipt; what `state` knows of the prompt is not computed
        again. Raises RequestError, StateError.
        """

    def take_receipt(self, request: int, lengths: Sequence[int]) -> bytes | None:
        """The receipt of a request that has ended, once; None where it has none.

        Of output i it keeps `lengths[i]` tokens, and all of them where there is no such length.
        """

    def verify_receipt(self, receipt: bytes, spot: int | None = None, spot_seed: int = 0) -> _Verdict:
        """Checks a receipt: all steps, or `spot` steps chosen by `spot_seed`. Raises ReceiptError, RequestError."""

    def cancel(self, request: int, stream: int | None = None) -> None:
        """Ends a request, or one of its continuations; does nothing where it is over."""

    def step(self) -> list[tuple[int, int, int, int | None, list[tuple[int, int]], str | None]]:
        """Runs one batch; returns (request, stream, token, logprob, top, finish) for every token that it generated.

        Raises RequestError when the cache cannot grow, DeviceError when the device failed.
        """

    def state(self, tokens: Sequence[int], state: State | None = None) -> State:
        """What the caches hold after these tokens; what `state` knows of them is not computed again.

        Raises RequestError, StateError, DeviceError.
        """

    def idle(self) -> bool:
        """Whether nothing is left to do."""

    def logits(self, tokens: Sequence[int]) -> NDArray[np.int32]:
        """The logits after every token of one sequence: int32 of shape (tokens, vocabulary), in QF.

        Raises RequestError.
        """

@final
class Calibration:
    """Second moments of what matrices read, over the windows of a text."""

    def __new__(cls, model: Model, text_sha256: str, window: int, weighting: str, full: bool) -> Calibration: ...
    @staticmethod
    def read(path: str | os.PathLike[str]) -> Calibration:
        """Opens a file. Raises ModelError."""

    def resume(self, path: str | os.PathLike[str]) -> None:
        """Goes on from a file of the same model, text and settings. Raises ModelError, RequestError."""

    def add(
        self,
        engine: Engine,
        tokens: Sequence[int],
        gradients: Mapping[str, tuple[NDArray[np.float64], NDArray[np.int32], float]] = ...,
    ) -> None:
        """Runs one window and adds it. Raises ModelError, RequestError.

        The weighting "gradient" needs `gradients`: for each matrix the weights of tokens, other vectors in QF that it
        meets as an embedding, and its sensitivity.
        """

    def try_matrices(
        self,
        model: Model,
        windows: Sequence[Sequence[int]],
        threads: int | None = None,
        progress: Callable[[int, int, str], object] | None = None,
    ) -> None:
        """Measures what a unit of relative error energy of each matrix costs, where that is not known yet."""

    def sensitivity(self, matrix: str) -> float | None:
        """What a unit of relative error energy of a matrix costs, in nats; None where it is not known."""

    def write(self, path: str | os.PathLike[str]) -> None:
        """Writes the file, complete or not at all. Raises ModelError."""

    @property
    def windows(self) -> int:
        """Windows in the sums."""

    @property
    def full(self) -> bool:
        """Whether it holds all second moments."""

    def matrices(self) -> list[str]:
        """All matrices that have moments, sorted."""

    def importance(self, matrix: str) -> NDArray[np.float64] | None:
        """The weighted sum of squares of each column that a matrix reads; None for a matrix without moments."""

    def moments(self, matrix: str) -> NDArray[np.float64] | None:
        """The packed lower triangle of second moments, row j with columns 0…j; None where there is none."""

# Definitions of the contract, for `intact.numerics`, which checks types and ranges.
_I32: TypeAlias = NDArray[np.int32]

def requant(x: _I32, m: _I32, s: _I32) -> _I32: ...
def dynquant(x: _I32, xmax: int, kernels: str | None) -> tuple[_I32, int, int]: ...
def rsqrt(v: NDArray[np.uint64]) -> tuple[_I32, _I32]: ...
def rmsnorm(
    x: _I32, g: NDArray[np.int16], gs: int, epsilon: int, rn: int, rk: int, f: int, kernels: str | None
) -> _I32: ...
def exp2(x: _I32, b: int) -> _I32: ...
def sigmoid(x: _I32, f: int) -> _I32: ...
def sincos(phase: NDArray[np.uint32]) -> tuple[_I32, _I32]: ...
def blockscale(q: _I32) -> tuple[_I32, _I32]: ...
def philox(ctr: Sequence[int], key: Sequence[int]) -> list[int]: ...
def linear(
    x: _I32,
    w: NDArray[np.int16],
    m: _I32,
    sh: _I32,
    a: int,
    mode: str,
    s: int,
    bias: _I32 | None,
    kernels: str | None,
) -> _I32: ...
def embed(w: NDArray[np.int16], m: int, sh: int, f: int) -> _I32: ...
def residual_add(x: _I32, y: _I32) -> _I32: ...
def rope(v: _I32, position: int, freq64: NDArray[np.uint64], interleaved: bool) -> _I32: ...
def hadamard(v: _I32) -> _I32: ...
def attention(
    q: _I32,
    k: _I32,
    v: _I32,
    f: int,
    xq: int,
    xk: int,
    xv: int,
    ca: int,
    cash: int,
    softcap: tuple[int, int, int, int] | None,
    kernels: str | None,
) -> _I32: ...
def gated_activation(kind: str, g: _I32, u: _I32, f: int, kernels: str | None) -> _I32: ...
def relu2(g: _I32, f: int, kernels: str | None) -> _I32: ...
def gelu(x: _I32, f: int) -> _I32: ...
def softcap(x: _I32, constants: tuple[int, int, int, int], f: int) -> _I32: ...
def router(r: _I32, k: int, f: int, renorm: bool, sigmoid: bool) -> list[tuple[int, int]]: ...
def sample(logits: _I32, f: int, tau: int, top_k: int, top_p: int, min_p: int, rnd: int) -> int: ...
def greedy(logits: _I32) -> int: ...
def logprobs(logits: _I32, f: int) -> _I32: ...
def decode(
    format: str,
    payload: bytes | None,
    scale: bytes | None,
    sign: bytes | None,
    offset: bytes | None,
    rows: int,
    columns: int,
    table: Sequence[int] | None,
) -> _I32: ...
