"""`LLM`: a model with its tokenizer, ready to generate."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from intact import conversion, errors, gguf_vocab
from intact._native import CONTRACT_VERSION, Engine, Model, Source
from intact.continuation import Continuation
from intact.dispatch import Dispatcher
from intact.outputs import RequestOutput, StreamChunk
from intact.sampling import SamplingParams
from intact.tokenizer import Tokenizer

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

Prompt = str | Sequence[int]
Message = Mapping[str, Any]


class LLM:
    """A model with its tokenizer.

    Nothing but the model, the prompt and `SamplingParams` changes what is generated: threads, kernels, chunk and page
    sizes, and whatever else runs at the same time, change speed only. Several threads may share one `LLM`.

    Args:
        model: A model directory; or a source (GGUF file, Hugging Face directory) that is converted in memory.
        profile: How a source is converted, see `intact.quantize`; a model directory has its own.
        type: Format of a source's layers, see `intact.quantize`.
        head_type: Format of a source's embedding and head.
        device: "auto" or "cpu".
        threads: CPU threads, 1…1024; by default as many as this process may use.
        cpu: Kernel set, at most what this machine has: "reference", "avx2", …; by default the environment variable
            INTACT_CPU, or the fastest.
        chunk: Tokens per step at most, 1…65536.
        page: Positions per cache page, 1…65536.
        kv_tokens: Positions that all sequences together may cache; by default the model's context or 32768.
        max_sequences: Sequences per step at most, 1…65536.
        progress: Show a progress bar on stderr while a source is converted.

    Raises:
        ModelError: The model cannot be read, or fails a proof of the contract.
        DeviceError: The device or kernel set is not there.
        RequestError: A setting is out of its range.
        TokenizerError: The tokenizer cannot be read.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        *,
        profile: str | None = None,
        type: str | None = None,
        head_type: str | None = None,
        device: str = "auto",
        threads: int | None = None,
        cpu: str | None = None,
        chunk: int = 512,
        page: int = 64,
        kv_tokens: int | None = None,
        max_sequences: int = 256,
        progress: bool = False,
    ) -> None:
        if device not in ("auto", "cpu"):
            raise errors.DeviceError(f"device: {device!r} is not one of 'auto', 'cpu'")
        threads = usable_cpus() if threads is None else threads
        if isinstance(threads, bool) or not isinstance(threads, int) or not 1 <= threads <= 1024:
            raise errors.RequestError(f"threads: {threads!r} is not an integer within 1…1024")
        path = Path(model)
        if (path / "intact.json").is_file():
            self._model = Model.open(str(path), threads)
            _check_directory(self._model, profile, type, head_type)
            self._tokenizer = Tokenizer.from_directory(path) if (path / "tokenizer.json").is_file() else None
        else:
            with conversion.progress_bar("converting", progress) as report:
                self._model = Model.convert(
                    str(path), profile=profile or "default", body=type, head=head_type, threads=threads, progress=report
                )
            self._tokenizer = _source_tokenizer(path)
        self._engine = Engine(
            self._model,
            kernels=cpu or os.environ.get("INTACT_CPU") or None,
            threads=threads,
            chunk=chunk,
            page=page,
            kv_tokens=kv_tokens,
            max_sequences=max_sequences,
        )
        self._dispatcher = Dispatcher(self._engine)

    @classmethod
    def from_pretrained(cls, name: str, *, revision: str | None = None, **options: Any) -> LLM:
        """A local path, or a model of the Hugging Face hub (needs the extra `hub`)."""
        if Path(name).exists():
            return cls(name, **options)
        try:
            from huggingface_hub import snapshot_download
        except ImportError as error:
            raise errors.ModelError(f"{name}: no such path, and the hub needs `pip install intact[hub]`") from error
        patterns = ["*.json", "*.safetensors", "*.gguf", "*.jinja", "tokenizer.model"]
        return cls(snapshot_download(name, revision=revision, allow_patterns=patterns), **options)

    @property
    def digest(self) -> str:
        """SHA-256 over everything that decides a bit of the model."""
        return self._model.digest

    @property
    def contract_version(self) -> int:
        """The version of the numeric contract that the model follows."""
        return CONTRACT_VERSION

    @property
    def fraction_bits(self) -> int:
        """F: a logit x stands for x · 2^-F."""
        return self._model.fraction_bits

    @property
    def vocabulary_size(self) -> int:
        """Tokens of the model."""
        return self._model.vocabulary

    @property
    def context(self) -> int:
        """The longest sequence in tokens, prompt and continuation together."""
        return self._model.context

    @property
    def threads(self) -> int:
        """CPU threads in use."""
        return self._engine.threads

    @property
    def kernels(self) -> str:
        """The kernel set in use."""
        return self._engine.kernels

    @property
    def manifest(self) -> dict[str, Any]:
        """The content of intact.json."""
        content: dict[str, Any] = json.loads(self._model.manifest())
        return content

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer.

        Raises:
            TokenizerError: The model came without one; token ids still work.
        """
        if self._tokenizer is None:
            raise errors.TokenizerError(f"{self._model.path}: there is no tokenizer.json; give token ids")
        return self._tokenizer

    def verify(self) -> tuple[int, int]:
        """Compares planes and small files with their recorded hashes; returns how many of each.

        Raises:
            ModelError: One of them differs.
        """
        return self._model.verify()

    def logits(self, token_ids: Sequence[int]) -> npt.NDArray[np.int32]:
        """The logits after every token of one sequence: int32 (tokens, vocabulary), in units of 2^-fraction_bits.

        Raises:
            RequestError: No tokens, a token id out of range, or more tokens than the context.
        """
        return self._engine.logits(_token_ids(token_ids))

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        use_tqdm: bool = False,
    ) -> list[RequestOutput]:
        """Continues one or more prompts.

        Args:
            prompts: A text, a list of token ids, or a list of either.
            params: One for all prompts, or one for each; by default `SamplingParams()`.
            use_tqdm: Show a progress bar on stderr.

        Returns:
            An output for each prompt, in order.

        Raises:
            RequestError: A prompt or setting that the model cannot take.
            TokenizerError: A text, but no tokenizer.
        """
        batch = _prompts(prompts)
        settings = _settings(params, len(batch))
        with self._dispatcher.session() as session:
            states = [self._start(session, prompt, p) for prompt, p in zip(batch, settings, strict=True)]
            open_streams = sum(len(state) for _, _, state in states)
            by_request = {request: state for request, _, state in states}
            with conversion.progress_bar("generating", use_tqdm) as report:
                total = open_streams
                while open_streams:
                    for event in session.events():
                        continuation = by_request[event[0]][event[1]]
                        continuation.push(event)
                        if continuation.finished:
                            session.end(event[0], event[1])
                            open_streams -= 1
                            if report:
                                report(total - open_streams, total, "")
        return [
            RequestOutput(
                prompt=prompt if isinstance(prompt, str) else None,
                prompt_token_ids=ids,
                outputs=[continuation.output() for continuation in state],
            )
            for prompt, (_, ids, state) in zip(batch, states, strict=True)
        ]

    def chat(
        self,
        messages: Sequence[Message] | Sequence[Sequence[Message]],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        use_tqdm: bool = False,
        **template: Any,
    ) -> list[RequestOutput]:
        """Answers one conversation, or each of several.

        Args:
            messages: `{"role": …, "content": …}` mappings, or a list of such lists.
            params: As for `generate`.
            use_tqdm: As for `generate`.
            template: Variables for the chat template.
        """
        many = bool(messages) and not isinstance(messages[0], Mapping)
        conversations: Sequence[Any] = messages if many else [messages]
        prompts = [self.chat_prompt(conversation, **template) for conversation in conversations]
        return self.generate(prompts, params, use_tqdm=use_tqdm)

    def chat_prompt(self, messages: Sequence[Message], **template: Any) -> list[int]:
        """The token ids of a conversation, ready for the model's answer."""
        text = self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, **template)
        return self.tokenizer.encode(text, add_special_tokens=False)

    def stream(self, prompt: Prompt, params: SamplingParams | None = None) -> Iterator[StreamChunk]:
        """Continues a prompt and yields text as it comes; closing the iterator ends the request.

        Raises:
            RequestError: A prompt or setting that the model cannot take.
        """
        settings = params or SamplingParams()
        with self._dispatcher.session() as session:
            request, _, state = self._start(session, prompt, settings)
            left = len(state)
            while left:
                for event in session.events():
                    continuation = state[event[1]]
                    if continuation.finished:
                        continue
                    continuation.push(event)
                    if continuation.finished:
                        session.end(request, event[1])
                        left -= 1
                    yield continuation.take_chunk()

    def _start(
        self, session: Any, prompt: Prompt, params: SamplingParams
    ) -> tuple[int, list[int], list[Continuation]]:
        ids = self.tokenizer.encode(prompt) if isinstance(prompt, str) else _token_ids(prompt)
        if params.stop and self._tokenizer is None:
            raise errors.RequestError("stop: stop texts need a tokenizer, and the model has none")
        eos = self._tokenizer.eos_ids if self._tokenizer and not params.ignore_eos else frozenset()
        request = session.add(
            ids,
            max_tokens=params.max_tokens,
            temperature=params.temperature_q16,
            top_k=max(0, params.top_k),
            top_p=params.top_p_q16,
            min_p=params.min_p_q16,
            seed=params.seed,
            n=params.n,
            stop_ids=sorted(eos | set(params.stop_token_ids)),
            logprobs=params.logprobs,
        )
        return request, ids, [Continuation(index, params, self._tokenizer) for index in range(params.n)]


def usable_cpus() -> int:
    """CPUs that this process may use, by affinity and by a container's quota."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        if quota != "max":
            count = min(count, -(-int(quota) // int(period)))
    except (OSError, ValueError):
        pass  # no such quota on this system
    return max(1, count)


def _check_directory(model: Model, profile: str | None, type: str | None, head_type: str | None) -> None:
    provenance = json.loads(model.manifest())["provenance"]
    wanted = {"profile": profile, "type": type, "head_type": head_type}
    for name, value in wanted.items():
        if value is not None and provenance.get(name) != value:
            raise errors.ModelError(
                f"{model.path}: {name} is {provenance.get(name)!r}, not {value!r}; it was chosen when the model was "
                "converted: convert the source again"
            )


def _source_tokenizer(path: Path) -> Tokenizer | None:
    metadata = Source(str(path)).metadata()
    if metadata is not None:
        return Tokenizer(gguf_vocab.build(metadata))
    return Tokenizer.from_directory(path) if (path / "tokenizer.json").is_file() else None


def _prompts(prompts: Prompt | Sequence[Prompt]) -> list[Prompt]:
    if isinstance(prompts, str):
        return [prompts]
    batch: list[Any] = list(prompts)
    if batch and not isinstance(batch[0], str) and not isinstance(batch[0], Sequence) and not hasattr(batch[0], "__len__"):
        return [batch]
    return batch


def _settings(params: SamplingParams | Sequence[SamplingParams] | None, count: int) -> list[SamplingParams]:
    if params is None or isinstance(params, SamplingParams):
        return [params or SamplingParams()] * count
    if len(params) != count:
        raise errors.RequestError(f"params: {len(params)} settings for {count} prompts")
    return list(params)


def _token_ids(ids: Sequence[int]) -> list[int]:
    out = []
    for i, value in enumerate(ids):
        if isinstance(value, bool) or not hasattr(value, "__index__"):
            raise errors.RequestError(f"prompt[{i}]: {value!r} is not a token id")
        token = value.__index__()
        if not 0 <= token < 1 << 32:
            raise errors.RequestError(f"prompt[{i}]: {token} is not a token id")
        out.append(token)
    return out
