"""`LLM`: a model with its tokenizer, ready to generate."""

from __future__ import annotations

import json
import operator
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from intact import devices, errors, hub
from intact._native import CONTRACT_VERSION, Engine, Model, release_free_memory, usable_cpus
from intact._native import State as NativeState
from intact.continuation import Continuation
from intact.conversion import source_tokenizer
from intact.dispatch import Dispatcher, Session, start
from intact.outputs import RequestOutput, StreamChunk
from intact.progress import progress_bar
from intact.receipts import Receipt, Verdict
from intact.sampling import SamplingParams
from intact.state import State
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
        model: A model directory; a source (GGUF file, Hugging Face directory) that is converted in memory; or "tiny",
            the small model inside this package, where there is no such path.
        profile: How a source is converted, see `intact.quantize`; a model directory has its own.
        type: Format of a source's layers, see `intact.quantize`.
        head_type: Format of a source's embedding and head.
        device: "cpu"; "gpu" for the best GPU adapter; "auto" for the best one that is no software, or else the CPU,
            with a `DeviceWarning`; or an adapter by its back end ("vulkan", "metal", "dx12", "gl"), a part of its name,
            or both ("vulkan:NAME"), see `intact kernels` and docs/GPU.md.
        offload: Layers that stay on the CPU, the last ones and the head with them, where a GPU lacks memory for all.
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
        device: str = "cpu",
        offload: int = 0,
        threads: int | None = None,
        cpu: str | None = None,
        chunk: int = 256,
        page: int = 64,
        kv_tokens: int | None = None,
        max_sequences: int = 256,
        progress: bool = False,
    ) -> None:
        offload = _layers(offload)
        adapter = devices.adapter(device)  # before the model, which takes long
        threads = usable_cpus() if threads is None else _count("threads", threads, 1024)
        path = Path(hub.local(model))
        self._tokenizer: Tokenizer | None
        if (path / "intact.json").is_file():
            # At the same time, in this order: only `Model.open` lets other threads run Python.
            opened = start(lambda: Model.open(str(path), threads))
            try:
                self._tokenizer = Tokenizer.from_directory(path) if (path / "tokenizer.json").is_file() else None
            finally:
                self._model = opened()
            _check_directory(self._model, profile, type, head_type)
        else:
            self._tokenizer = source_tokenizer(str(path))
            with progress_bar("converting", "tensor", progress) as report:
                self._model = Model.convert(
                    str(path), profile=profile or "default", body=type, head=head_type, threads=threads, progress=report
                )
        release_free_memory()  # what parsing the tokenizer left behind
        self._engine = Engine(
            self._model,
            kernels=cpu or os.environ.get("INTACT_CPU") or None,
            threads=threads,
            chunk=_count("chunk", chunk, 1 << 16),
            page=_count("page", page, 1 << 16),
            kv_tokens=None if kv_tokens is None else _count("kv_tokens", kv_tokens, 1 << 32),
            max_sequences=_count("max_sequences", max_sequences, 1 << 16),
        )
        self._dispatcher = Dispatcher(self._engine)
        if adapter is not None:
            self._move(device, adapter, offload)

    @classmethod
    def from_pretrained(cls, name: str | os.PathLike[str], *, revision: str | None = None, **options: Any) -> LLM:
        """A model as for `LLM`, or else one of the Hugging Face hub (needs the extra `hub`).

        Args:
            name: A path or "tiny"; "OWNER/MODEL", of which the safetensors are fetched; or "OWNER/MODEL/FILE.gguf".
            revision: A branch, tag or commit of the hub's repository.
            options: As for `LLM`.

        Raises:
            ModelError: No such path, and the hub cannot be reached or does not have it.
        """
        return cls(hub.fetch(name, revision), **options)

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
    def device(self) -> str:
        """The device in use: "cpu", or the name of a GPU adapter."""
        return self._engine.device

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

    def to(self, device: str, *, offload: int = 0) -> LLM:
        """Goes on on another device, as for `LLM`, also in the middle of what is being generated; returns self.

        What is cached moves along, so that nothing is computed again and no bit changes.

        Raises:
            DeviceError: The device is not there, fails the self-test, or is short of memory. Everything is as before.
        """
        self._move(device, devices.adapter(device), _layers(offload))
        return self

    def _move(self, device: str, adapter: str | None, offload: int) -> None:
        automatic = device == "auto"
        try:
            self._dispatcher.move(adapter, offload, devices.fall_back if automatic else None)
        except errors.DeviceError as error:
            if not automatic or adapter is None:
                raise
            devices.fall_back(str(error))

    def verify(self) -> tuple[int, int]:
        """Compares planes and small files with their recorded hashes; returns how many of each.

        Raises:
            ModelError: One of them differs.
        """
        return self._model.verify()

    def verify_receipt(self, receipt: Receipt, *, spot: int | None = None, spot_seed: int | None = None) -> Verdict:
        """Checks a receipt against this model, whose planes are taken to be those of its digest; see `verify`.

        Args:
            receipt: The receipt.
            spot: Compute this many steps again, chosen by chance; by default all.
            spot_seed: Decides which, 0…2^64 - 1; by default drawn from the system.

        Raises:
            ReceiptError: It is not well formed, or of an unknown version.
            RequestError: An option is out of its range, or the cache is too small.
        """
        seed = None
        if spot is not None:
            spot = _count("spot", spot, 2**32 - 1)
            seed = secrets.randbits(64) if spot_seed is None else spot_seed
            if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 1 << 64:
                raise errors.RequestError(f"spot_seed: {seed!r:.80} is not an integer within 0…2^64 - 1")
        found = self._dispatcher.call(lambda engine: engine.verify_receipt(receipt.data, spot, seed or 0))
        return Verdict(**found, spot_seed=seed)

    def logits(self, token_ids: Sequence[int]) -> npt.NDArray[np.int32]:
        """The logits after every token of one sequence: int32 (tokens, vocabulary), in units of 2^-fraction_bits.

        Raises:
            RequestError: No tokens, a token id out of range, or more tokens than the context or cache.
        """
        ids = _token_ids(token_ids)
        return self._dispatcher.call(lambda engine: engine.logits(ids))

    def state(self, prompt: Prompt, *, state: State | None = None) -> State:
        """What the cache holds after a prompt: with it, prompts that begin alike are not computed from the start.

        Args:
            prompt: A text, or token ids.
            state: What it knows of the prompt is not computed again.

        Raises:
            RequestError: A prompt that the model or the cache cannot take.
            StateError: The state is of another model.
            TokenizerError: A text, but no tokenizer.
        """
        ids, known = self._encode(prompt), _native_state(state)
        return State(self._dispatcher.call(lambda engine: engine.state(ids, known)))

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        state: State | None = None,
        use_tqdm: bool = False,
    ) -> list[RequestOutput]:
        """Continues one or more prompts.

        Args:
            prompts: A text, a list of token ids, or a list of either.
            params: One for all prompts, or one for each; by default `SamplingParams()`.
            state: What it knows of a prompt is not computed again.
            use_tqdm: Show a progress bar on stderr.

        Returns:
            An output for each prompt, in order.

        Raises:
            RequestError: A prompt or setting that the model cannot take.
            StateError: The state is of another model.
            TokenizerError: A text, but no tokenizer.
        """
        batch = _prompts(prompts)
        settings = _settings(params, len(batch))
        ids = [self._encode(prompt) for prompt in batch]
        done: list[list[Continuation]] = [self._continuations(p) for p in settings]
        total = sum(map(len, done))
        with self._dispatcher.session() as session, progress_bar("generating", "sequence", use_tqdm) as report:
            numbers = session.add([self._request(i, p, state) for i, p in zip(ids, settings, strict=True)])
            by_number = dict(zip(numbers, done, strict=True))
            for finished in range(1, total + 1):
                while not self._advance(session, by_number).finished:
                    pass
                report(finished, total, "")
            receipts = [
                self._receipt(session, number, p, by_number[number])
                for number, p in zip(numbers, settings, strict=True)
            ]
        return [
            RequestOutput(
                prompt=prompt if isinstance(prompt, str) else None,
                prompt_token_ids=prompt_ids,
                outputs=[continuation.output() for continuation in continuations],
                receipt=receipt,
            )
            for prompt, prompt_ids, continuations, receipt in zip(batch, ids, done, receipts, strict=True)
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

        Raises:
            RequestError: A conversation or setting that the model cannot take.
            TokenizerError: The model has no chat template, or the template refuses the messages.
        """
        many = len(messages) > 0 and not isinstance(messages[0], Mapping)
        conversations: Sequence[Any] = messages if many else [messages]
        prompts = [self.chat_prompt(conversation, **template) for conversation in conversations]
        return self.generate(prompts, params, use_tqdm=use_tqdm)

    def chat_prompt(self, messages: Sequence[Message], **template: Any) -> list[int]:
        """The token ids of a conversation, ready for the model's answer."""
        text = self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, **template)
        return self.tokenizer.encode(text, add_special_tokens=False)

    def stream(
        self, prompt: Prompt, params: SamplingParams | None = None, *, state: State | None = None
    ) -> Iterator[StreamChunk]:
        """Continues a prompt and yields text as it comes, a chunk for every token.

        The request starts with the first chunk that is asked for; closing the iterator ends it. What `state` knows of
        the prompt is not computed again.

        Raises:
            RequestError: A prompt or setting that the model cannot take.
            StateError: The state is of another model.
            TokenizerError: A text, but no tokenizer.
        """
        [settings] = _settings(params, 1)
        continuations = self._continuations(settings)
        with self._dispatcher.session() as session:
            [number] = session.add([self._request(self._encode(prompt), settings, state)])
            left = len(continuations)
            while left:
                continuation = self._advance(session, {number: continuations})
                left -= continuation.finished
                chunk = continuation.take_chunk()
                if not left:
                    chunk = replace(chunk, receipt=self._receipt(session, number, settings, continuations))
                yield chunk

    def _advance(self, session: Session, by_number: dict[int, list[Continuation]]) -> Continuation:
        """Waits for the next token of a continuation that is not over, and pushes it."""
        while True:
            event = session.event()
            number, index, *_, finish = event
            continuation = by_number[number][index]
            if continuation.finished:
                continue  # a token that was on its way when a stop text ended the continuation
            continuation.push(event)
            if continuation.finished and finish is None:
                session.cancel(number, index)
            return continuation

    @staticmethod
    def _receipt(
        session: Session, number: int, params: SamplingParams, continuations: list[Continuation]
    ) -> Receipt | None:
        if params.receipt is None:
            return None
        # The engine may have been ahead of the stop text that ended a continuation.
        data = session.receipt(number, [continuation.length for continuation in continuations])
        return None if data is None else Receipt(data)

    def _encode(self, prompt: Prompt) -> list[int]:
        return self.tokenizer.encode(prompt) if isinstance(prompt, str) else _token_ids(prompt)

    def _request(
        self, prompt: list[int], params: SamplingParams, state: State | None
    ) -> tuple[list[int], dict[str, Any]]:
        if params.stop_texts and self._tokenizer is None:
            raise errors.RequestError("stop: stop texts need a tokenizer, and the model has none; use stop_token_ids")
        eos = self._tokenizer.eos_ids if self._tokenizer and not params.ignore_eos else frozenset()
        stop_ids = sorted(eos | set(params.stop_token_ids or ()))
        settings = {**params.to_contract(), "stop_ids": stop_ids, "receipt": params.receipt}
        return prompt, {**settings, "state": _native_state(state)}

    def _continuations(self, params: SamplingParams) -> list[Continuation]:
        return [Continuation(index, params, self._tokenizer) for index in range(params.n)]


def _native_state(state: State | None) -> NativeState | None:
    if state is not None and not isinstance(state, State):
        raise errors.RequestError(f"state: {state!r:.80} is not a State")
    return None if state is None else state.native


def _check_directory(model: Model, profile: str | None, type: str | None, head_type: str | None) -> None:
    provenance = json.loads(model.manifest())["provenance"]
    wanted = {"profile": profile, "type": type, "head_type": head_type}
    for name, value in wanted.items():
        if value is not None and provenance.get(name) != value:
            raise errors.ModelError(
                f"{model.path}: {name} is {provenance.get(name)!r}, not {value!r}; it was chosen when the model was "
                "converted: convert the source again"
            )


def _prompts(prompts: Prompt | Sequence[Prompt]) -> list[Prompt]:
    if isinstance(prompts, str):
        return [prompts]
    batch: list[Any] = list(_iterable("prompts", prompts))
    if batch and _index(batch[0]) is not None:
        return [batch]
    return batch


def _settings(params: SamplingParams | Sequence[SamplingParams] | None, count: int) -> list[SamplingParams]:
    if params is None or isinstance(params, SamplingParams):
        return [params or SamplingParams()] * count
    settings = list(_iterable("params", params))
    for i, value in enumerate(settings):
        if not isinstance(value, SamplingParams):
            raise errors.RequestError(f"params[{i}]: {value!r:.80} is not a SamplingParams")
    if len(settings) != count:
        raise errors.RequestError(f"params: {len(settings)} settings for {count} prompts; give one, or one for each")
    return settings


def _token_ids(ids: Sequence[int]) -> list[int]:
    out = []
    for i, value in enumerate(_iterable("prompt", ids)):
        token = None if isinstance(value, bool) else _index(value)
        if token is None or not 0 <= token < 1 << 32:
            raise errors.RequestError(f"prompt[{i}]: {value!r:.80} is not a token id")
        out.append(token)
    return out


def _index(value: Any) -> int | None:
    try:
        return operator.index(value)
    except TypeError:
        return None  # also for arrays, which have __index__ whatever they hold


def _iterable(name: str, values: Any) -> Iterator[Any]:
    try:
        if not isinstance(values, (bytes, Mapping)):  # which are iterable, but no lists of tokens or prompts
            return iter(values)
    except TypeError:
        pass
    raise errors.RequestError(f"{name}: {values!r:.80} is not a list")


def _count(name: str, value: int, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise errors.RequestError(f"{name}: {value!r:.80} is not an integer within 1…{most}")
    return value


def _layers(offload: int) -> int:
    if isinstance(offload, bool) or not isinstance(offload, int) or not 0 <= offload < 1 << 32:
        raise errors.RequestError(f"offload: {offload!r:.80} is not a number of layers")
    return offload
