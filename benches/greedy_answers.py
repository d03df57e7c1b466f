"""Greedy chat answers of a model beside those of its source's own weights in float32.

    .venv/bin/python benches/greedy_answers.py MODEL SOURCE [--max-tokens 64]

The float reference has no cache and runs the whole text for every token, so this takes minutes.
"""

from __future__ import annotations

import argparse

import numpy as np

from intact import LLM, SamplingParams
from intact.cli.evaluate import float_model

QUESTIONS = (
    "What is gravity? Answer in two sentences.",
    "What is the capital of France?",
    "Give me three tips for sleeping well.",
)


def main() -> None:
    """Prints both answers to every question, and the first token that differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("source")
    parser.add_argument("--max-tokens", type=int, default=64)
    arguments = parser.parse_args()
    llm = LLM(arguments.model)
    floats = float_model(arguments.source)
    params = SamplingParams(temperature=0, max_tokens=arguments.max_tokens)
    for question in QUESTIONS:
        prompt = llm.chat_prompt([{"role": "user", "content": question}])
        integer = llm.generate([prompt], params)[0].outputs[0].token_ids
        reference: list[int] = []
        while len(reference) < arguments.max_tokens and not llm.tokenizer.eos_ids & set(reference[-1:]):
            reference.append(int(np.argmax(floats.logits([*prompt, *reference])[-1])))
        pairs = zip(integer, reference, strict=False)
        differs = next((i for i, (a, b) in enumerate(pairs) if a != b), None)
        print(f"Q: {question}\ninteger: {llm.tokenizer.decode(integer)}\nfloat32: {llm.tokenizer.decode(reference)}")
        print("the same tokens\n" if integer == reference else f"first differing token: {differs}\n", flush=True)


if __name__ == "__main__":
    main()
