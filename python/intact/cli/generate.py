"""`intact run` and `intact chat`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from intact.cli.common import (
    CpuOption,
    JsonOption,
    ModelArgument,
    ProfileOption,
    ThreadsOption,
    open_model,
    print_json,
    read_text,
)

if TYPE_CHECKING:
    from intact.llm import LLM, Prompt
    from intact.sampling import SamplingParams

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
    profile: ProfileOption = None,
    threads: ThreadsOption = None,
    cpu: CpuOption = None,
    json: JsonOption = False,
) -> None:
    """Continue a prompt, or answer it with --chat."""
    params = _params(temperature, top_k, top_p, min_p, seed, max_tokens, stop)
    text = read_text("-") if prompt is None else prompt
    llm = open_model(model, threads, cpu, profile)
    start: Prompt = llm.chat_prompt(_messages(system, text)) if as_chat else text
    if not json:
        _stream(llm, start, params)
        return
    output = llm.generate(start, params)[0]
    completion = output.outputs[0]
    print_json(
        {
            "model_digest": llm.digest,
            "prompt_token_ids": output.prompt_token_ids,
            "token_ids": completion.token_ids,
            "text": completion.text,
            "finish_reason": completion.finish_reason,
        }
    )


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
    json: JsonOption = False,
) -> None:
    """Talk to a model. Ctrl-C stops an answer, Ctrl-D ends; --json prints the conversation at the end."""
    params = _params(temperature, top_k, top_p, min_p, seed, max_tokens, None)
    llm = open_model(model, threads, cpu, profile)
    messages = [{"role": "system", "content": system}] if system else []
    while (line := _read_line()) is not None:
        if not line.strip():
            continue
        messages.append({"role": "user", "content": line})
        answer = _stream(llm, llm.chat_prompt(messages), params, to=sys.stderr if json else sys.stdout)
        messages.append({"role": "assistant", "content": answer})
    if json:
        print_json({"model_digest": llm.digest, "messages": messages})


def _read_line() -> str | None:
    try:
        import readline  # noqa: F401  (line editing and history)
    except ImportError:
        pass
    prompt = "> " if sys.stdin.isatty() else ""
    try:
        return input(prompt)
    except (EOFError, KeyboardInterrupt):
        return None


def _stream(llm: LLM, prompt: Prompt, params: SamplingParams, to: Any = None) -> str:
    out = to or sys.stdout
    answer = ""
    try:
        for chunk in llm.stream(prompt, params):
            answer += chunk.text
            out.write(chunk.text)
            out.flush()
    except KeyboardInterrupt:
        if not sys.stdin.isatty():
            raise
    out.write("\n")
    out.flush()
    return answer


def _messages(system: str | None, text: str) -> list[dict[str, str]]:
    start = [{"role": "system", "content": system}] if system else []
    return [*start, {"role": "user", "content": text}]


def _params(
    temperature: float, top_k: int, top_p: float, min_p: float, seed: int, max_tokens: int, stop: list[str] | None
) -> SamplingParams:
    from intact.sampling import SamplingParams

    return SamplingParams(
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        seed=seed,
        max_tokens=max_tokens,
        stop=stop or (),
    )
