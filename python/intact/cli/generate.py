"""`intact run` and `intact chat`."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from intact.cli.common import (
    CpuOption,
    DeviceOption,
    JsonOption,
    ModelArgument,
    OffloadOption,
    ProfileOption,
    ThreadsOption,
    open_model,
    print_json,
    read_text,
)
from intact.errors import RequestError, TokenizerError

if TYPE_CHECKING:
    from intact.llm import LLM, Prompt
    from intact.receipts import Receipt
    from intact.sampling import SamplingParams
    from intact.state import State

Temperature = Annotated[float, typer.Option("--temperature", help="0 chooses the most likely token.")]
TopK = Annotated[int, typer.Option("--top-k", help="Keep this many tokens; 0 keeps all.")]
TopP = Annotated[float, typer.Option("--top-p", help="Keep this share of the probability.")]
MinP = Annotated[float, typer.Option("--min-p", help="Keep tokens with this share of the largest probability.")]
Seed = Annotated[int, typer.Option("--seed", help="Key of the random numbers.")]
MaxTokens = Annotated[int, typer.Option("--max-tokens", "-n", help="Tokens to generate at most.")]
Stop = Annotated[list[str] | None, typer.Option("--stop", help="A text that ends the answer; repeatable.")]


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command("run")(run)
    app.command("chat")(chat)


def run(
    model: ModelArgument,
    prompt: Annotated[str | None, typer.Option("--prompt", "-p", help="The prompt; by default stdin.")] = None,
    as_chat: Annotated[bool, typer.Option("--chat", help="Wrap the prompt as a user's message.")] = False,
    system: Annotated[str | None, typer.Option("--system", help="A system message, with --chat.")] = None,
    temperature: Temperature = 0.0,
    top_k: TopK = 0,
    top_p: TopP = 1.0,
    min_p: MinP = 0.0,
    seed: Seed = 0,
    max_tokens: MaxTokens = 256,
    stop: Stop = None,
    logprobs: Annotated[int | None, typer.Option("--logprobs", help="Likely tokens to report; with --json.")] = None,
    receipt: Annotated[str | None, typer.Option("--receipt", help="Write a receipt, for `intact verify`.")] = None,
    receipt_trace: Annotated[
        str | None, typer.Option("--receipt-trace", help="logits, or tensors to name what differs.")
    ] = None,
    prompt_cache: Annotated[
        str | None,
        typer.Option("--prompt-cache", help="A file of what is computed for prompt and answer, used where it fits."),
    ] = None,
    profile: ProfileOption = None,
    threads: ThreadsOption = None,
    cpu: CpuOption = None,
    device: DeviceOption = "cpu",
    offload: OffloadOption = 0,
    json: JsonOption = False,
) -> None:
    """Continue a prompt, or answer it with --chat."""
    if receipt_trace is not None and receipt is None:
        raise typer.BadParameter("goes with --receipt", param_hint="--receipt-trace")
    trace = None if receipt is None else receipt_trace or "logits"
    params = _params(temperature, top_k, top_p, min_p, seed, max_tokens, stop, logprobs, trace)
    if logprobs is not None and not json:
        raise typer.BadParameter("goes with --json", param_hint="--logprobs")
    if system is not None and not as_chat:
        raise typer.BadParameter("goes with --chat", param_hint="--system")
    if receipt is not None:
        from intact.files import check_target

        check_target(receipt)  # before the answer, which takes long
    if prompt_cache is not None:
        from intact.files import check_target

        check_target(prompt_cache)
    text = read_text("-") if prompt is None else prompt
    llm = open_model(model, threads, cpu, profile, device=device, offload=offload)
    start: Prompt = llm.chat_prompt([*_messages(system), {"role": "user", "content": text}]) if as_chat else text
    state = _cached(prompt_cache)
    if not json:
        _, made, tokens = _stream(llm, start, params, state=state)
        _save(made, receipt)
        _cache(llm, start, tokens, state, prompt_cache)
        return
    output = llm.generate(start, params, state=state)[0]
    _save(output.receipt, receipt)
    _cache(llm, start, output.outputs[0].token_ids, state, prompt_cache)
    completion = output.outputs[0]
    result: dict[str, Any] = {
        "model_digest": llm.digest,
        "prompt_token_ids": output.prompt_token_ids,
        "token_ids": completion.token_ids,
        "text": completion.text,
        "finish_reason": completion.finish_reason,
        "stop_reason": completion.stop_reason,
    }
    if completion.logprobs is not None:
        result["cumulative_logprob_q16"] = completion.cumulative_logprob_q16
        result["logprobs"] = [
            {str(id): entry.logprob_q16 for id, entry in step.items()} for step in completion.logprobs
        ]
    print_json(result)


def chat(
    model: ModelArgument,
    system: Annotated[str | None, typer.Option("--system", help="A system message.")] = None,
    temperature: Temperature = 0.0,
    top_k: TopK = 0,
    top_p: TopP = 1.0,
    min_p: MinP = 0.0,
    seed: Seed = 0,
    max_tokens: MaxTokens = 1024,
    profile: ProfileOption = None,
    threads: ThreadsOption = None,
    cpu: CpuOption = None,
    device: DeviceOption = "cpu",
    offload: OffloadOption = 0,
    json: JsonOption = False,
) -> None:
    """Talk to a model. Ctrl-C stops an answer, Ctrl-D ends; --json prints the conversation at the end."""
    params = _params(temperature, top_k, top_p, min_p, seed, max_tokens)
    llm = open_model(model, threads, cpu, profile, device=device, offload=offload)
    messages = _messages(system)
    while (line := _read_line()) is not None:
        if not line.strip():
            continue
        asked = [*messages, {"role": "user", "content": line}]
        try:
            answer, *_ = _stream(llm, llm.chat_prompt(asked), params, to=sys.stderr if json else sys.stdout)
        except (RequestError, TokenizerError) as error:
            # Such as a conversation that has outgrown the model's context: what came before it is still there.
            print(f"intact: {error}", file=sys.stderr)
            continue
        messages = [*asked, {"role": "assistant", "content": answer}]
    if json:
        print_json({"model_digest": llm.digest, "messages": messages})


def _read_line() -> str | None:
    # Line editing and history, where the system has them.
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401
    try:
        return input("> " if sys.stdin.isatty() else "")
    except (EOFError, KeyboardInterrupt):
        return None


def _stream(
    llm: LLM, prompt: Prompt, params: SamplingParams, to: TextIO | None = None, state: State | None = None
) -> tuple[str, Receipt | None, list[int]]:
    """Writes an answer as it comes; returns it with its receipt, if any, and its tokens."""
    out = to or sys.stdout
    answer, receipt, tokens = "", None, []
    try:
        for chunk in llm.stream(prompt, params, state=state):
            answer += chunk.text
            receipt = chunk.receipt
            tokens += chunk.token_ids
            out.write(chunk.text)
            out.flush()
    except KeyboardInterrupt:
        if not sys.stdin.isatty():
            raise
    out.write("\n")
    out.flush()
    return answer, receipt, tokens


def _cached(path: str | None) -> State | None:
    """The state in a file that exists."""
    from intact.state import State

    return State.load(path) if path is not None and os.path.exists(path) else None


def _cache(llm: LLM, prompt: Prompt, answer: list[int], state: State | None, path: str | None) -> None:
    """Writes the state after prompt and answer to a file, if there is one to write."""
    if path is None:
        return
    ids = llm.tokenizer.encode(prompt) if isinstance(prompt, str) else list(prompt)
    known = [*ids, *answer][: llm.context]
    if state is None or state.token_ids != known:
        llm.state(known, state=state).save(path)


def _save(receipt: Receipt | None, path: str | None) -> None:
    if path is None:
        return
    if receipt is None:  # the answer was interrupted
        raise KeyboardInterrupt
    receipt.save(path)


def _messages(system: str | None) -> list[dict[str, str]]:
    return [{"role": "system", "content": system}] if system else []


def _params(
    temperature: float,
    top_k: int,
    top_p: float,
    min_p: float,
    seed: int,
    max_tokens: int,
    stop: list[str] | None = None,
    logprobs: int | None = None,
    receipt: Any = None,
) -> SamplingParams:
    from intact.sampling import SamplingParams

    return SamplingParams(
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        seed=seed,
        max_tokens=max_tokens,
        stop=stop,
        logprobs=logprobs,
        receipt=receipt,
    )
