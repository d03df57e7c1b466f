"""Which run options change the bits of logits, and the text, in llama.cpp and in Intact on the same GGUF file.

    .venv/bin/python benches/reproducibility.py SOURCE.gguf MODEL --llama PYTHON [--llama-build LABEL=PYTHON …]

MODEL is a directory that `intact quantize SOURCE.gguf` made. PYTHON is an interpreter whose environment has the package
`llama-cpp-python`; the one of `--llama-build` has a build for other instructions, such as LABEL "AVX2 only" made with
CMAKE_ARGS="-DGGML_NATIVE=OFF -DGGML_AVX512=OFF -DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON".

The prompts are passages of benches/data/prose.txt. Every option runs in a process of its own and is compared with the
same engine's baseline: two threads, prefill in chunks of 512, one sequence at a time, everything else by default. Each
prompt is continued twice, with the largest logit and at temperature 0.8 with a fixed seed:

* logits: the steps whose logits equal the baseline's in every bit, both continuations together. llama.cpp is given the
  baseline's tokens, so that a step is compared on the same text. Intact's logits are those of a free run, through the
  hash chain of its receipt: after a difference no later step would count as equal.
* greedy, sampled: the texts that differ, and how many tokens are equal before the first difference of all. A token is
  chosen from the logits before it, so that up to its first difference a run on the baseline's tokens is a free run.

Writes OUTPUT.md and OUTPUT.json, anew after every option.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib
import json
import platform
import subprocess
import sys
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, TypedDict

# Like those of users, these are no multiples of a kernel's tile, which would hide what its remainders do.
PROMPT_TOKENS = (9, 18, 35, 70, 130, 250, 390, 500)
REFERENCE_PROMPTS = 2  # for all of them the plain loops of the `reference` kernels take very long
SEED, TEMPERATURE = 42, 0.8
BASELINE = {"threads": 2, "chunk": 512, "parallel": 1}

Settings = dict[str, Any]


class Text(TypedDict):
    """A continuation: chosen tokens, a digest of the logits of each, and Intact's receipt."""

    tokens: list[int]
    logits: list[str]
    receipt: str


class Result(TypedDict):
    """What one process computes: the continuations of all prompts, and what the engine says of itself."""

    greedy: list[Text]
    sampled: list[Text]
    engine: dict[str, str]


class Option(TypedDict):
    """A row of the table: what is changed, and for each engine its interpreter and settings; None if it has none."""

    name: str
    llama: tuple[str, Settings] | None
    intact: tuple[str, Settings] | None


# What a user may set: its name, llama.cpp's settings, Intact's settings; None where an engine has no such option.
RUN_OPTIONS: tuple[tuple[str, Settings | None, Settings | None], ...] = (
    ("none: the same again", {}, {}),
    ("1 thread", {"threads": 1}, {"threads": 1}),
    ("3 threads", {"threads": 3}, {"threads": 3}),
    ("prefill in chunks of 256", {"chunk": 256}, {"chunk": 256}),
    ("prefill in chunks of 64", {"chunk": 64}, {"chunk": 64}),
    ("four sequences at once", {"parallel": 4}, {"parallel": 4}),
    ("continuation read again as a prompt", {"reread": True}, {"reread": True}),
    ("first half of the prompt cached before", {"split": True}, None),
    ("flash attention on", {"flash": 1}, None),
    ("flash attention off", {"flash": 0}, None),
    ("KV cache f32", {"kv": "GGML_TYPE_F32"}, None),
    ("KV cache q8_0", {"kv": "GGML_TYPE_Q8_0"}, None),
    ("cache pages of 16 positions", None, {"page": 16}),
)


class Llama:
    """llama.cpp through the C interface of its Python package."""

    def __init__(self, path: str, settings: Settings, longest: int) -> None:
        self.api: Any = importlib.import_module("llama_cpp")
        self.settings = settings
        self.api.llama_backend_init()
        self.model = self.api.llama_model_load_from_file(path.encode(), self.api.llama_model_default_params())
        parameters = self.api.llama_context_default_params()
        parameters.n_ctx = longest * settings["parallel"]
        parameters.n_seq_max = settings["parallel"]
        parameters.n_batch = parameters.n_ubatch = settings["chunk"]
        parameters.n_threads = parameters.n_threads_batch = settings["threads"]
        if "flash" in settings:
            parameters.flash_attn_type = settings["flash"]
        if "kv" in settings:
            parameters.type_k = parameters.type_v = getattr(self.api, settings["kv"])
        self.context = self.api.llama_init_from_model(self.model, parameters)
        if not self.context:
            raise SystemExit(f"llama.cpp refuses these settings: {settings}")
        self.row_bytes = 4 * self.api.llama_vocab_n_tokens(self.api.llama_model_get_vocab(self.model))

    def about(self) -> dict[str, str]:
        return {"version": self.api.__version__, "system": self.api.llama_print_system_info().decode().strip(" |")}

    def continuations(
        self, prompts: Sequence[list[int]], count: int, sampled: bool, baseline: Sequence[Text]
    ) -> list[Text]:
        """Continues prompts together, on the baseline's tokens where there are any, each with its own sampler."""
        texts = [Text(tokens=[], logits=[], receipt="") for _ in prompts]
        samplers = [self.sampler(sampled) for _ in prompts]
        self.api.llama_memory_clear(self.api.llama_get_memory(self.context), True)
        # What is known from the start, and how much of it is prefilled before the first choice.
        known = [[*p, *b["tokens"]] for p, b in zip(prompts, baseline, strict=True)] if baseline else list(prompts)
        head = [len(p) // 2 if self.settings.get("split") else 0 for p in prompts]
        ends = [len(k) - 1 if self.settings.get("reread") else len(p) for k, p in zip(known, prompts, strict=True)]
        self.decode(known, [range(h) for h in head], prompts, samplers, texts)
        self.decode(known, [range(h, e) for h, e in zip(head, ends, strict=True)], prompts, samplers, texts)
        while len(texts[0]["tokens"]) < count:
            if not baseline:
                known = [[*p, *t["tokens"]] for p, t in zip(prompts, texts, strict=True)]
            positions = [len(p) + len(t["tokens"]) - 1 for p, t in zip(prompts, texts, strict=True)]
            self.decode(known, [range(p, p + 1) for p in positions], prompts, samplers, texts)
        for sampler in samplers:
            self.api.llama_sampler_free(sampler)
        return texts

    def sampler(self, sampled: bool) -> Any:
        chain = self.api.llama_sampler_chain_init(self.api.llama_sampler_chain_default_params())
        if sampled:
            self.api.llama_sampler_chain_add(chain, self.api.llama_sampler_init_temp(TEMPERATURE))
            self.api.llama_sampler_chain_add(chain, self.api.llama_sampler_init_dist(SEED))
        else:
            self.api.llama_sampler_chain_add(chain, self.api.llama_sampler_init_greedy())
        return chain

    def decode(
        self,
        known: Sequence[list[int]],
        ranges: Sequence[range],
        prompts: Sequence[list[int]],
        samplers: Sequence[Any],
        texts: Sequence[Text],
    ) -> None:
        """Runs these positions of all sequences in chunks; from the end of a prompt on, chooses a token after each."""
        items = [(s, position) for s, positions in enumerate(ranges) for position in positions]
        for part in chunks(items, self.settings["chunk"]):
            batch = self.api.llama_batch_init(len(part), 0, 1)
            batch.n_tokens = len(part)
            for i, (s, position) in enumerate(part):
                batch.token[i], batch.pos[i], batch.n_seq_id[i] = known[s][position], position, 1
                batch.seq_id[i][0], batch.logits[i] = s, position >= len(prompts[s]) - 1
            if self.api.llama_decode(self.context, batch) != 0:
                raise SystemExit("llama_decode failed")
            for i, (s, position) in enumerate(part):
                if position >= len(prompts[s]) - 1:
                    row = ctypes.string_at(self.api.llama_get_logits_ith(self.context, i), self.row_bytes)
                    texts[s]["logits"].append(sha256(row).hexdigest())
                    texts[s]["tokens"].append(self.api.llama_sampler_sample(samplers[s], self.context, i))
            self.api.llama_batch_free(batch)


class Intact:
    """Intact through its Python package."""

    def __init__(self, path: str, settings: Settings) -> None:
        from intact import LLM

        self.reread = settings.get("reread", False)
        self.llm = LLM(path, **{k: v for k, v in settings.items() if k not in ("parallel", "reread")})

    def about(self) -> dict[str, str]:
        from intact import _native

        return {"version": _native.__version__, "kernels": self.llm.kernels, "model": self.llm.digest}

    def continuations(
        self, prompts: Sequence[list[int]], count: int, sampled: bool, baseline: Sequence[Text]
    ) -> list[Text]:
        """Continues prompts together; what is read again is the baseline's receipts."""
        from intact import SamplingParams

        if self.reread:
            return [self.read_again(text) for text in baseline]
        temperature = TEMPERATURE if sampled else 0
        params = SamplingParams(temperature=temperature, seed=SEED, max_tokens=count, ignore_eos=True, receipt="logits")
        texts = []
        for output in self.llm.generate(list(prompts), params):
            if output.receipt is None:
                raise SystemExit("Intact made no receipt")
            chain = output.receipt.content["outputs"][0]["chain"]
            text = Text(tokens=output.outputs[0].token_ids, logits=chain, receipt=output.receipt.data.decode())
            texts.append(text)
        return texts

    def read_again(self, text: Text) -> Text:
        """What a check of the receipt confirms: all of it, or the steps before the first that differs."""
        from intact import Receipt

        verdict = self.llm.verify_receipt(Receipt(text["receipt"].encode()))
        count = len(text["tokens"])
        good = count if verdict.status == "equal" else verdict.step or 0
        missing = count - good
        return Text(
            tokens=text["tokens"][:good] + [-1] * missing, logits=text["logits"][:good] + [""] * missing, receipt=""
        )


def chunks(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def work(task: dict[str, Any]) -> Result:
    """Continues all prompts of a task with one engine; this runs in the process of the engine."""
    settings, count = BASELINE | task["settings"], task["tokens"]
    prompts = task["prompts"][: settings.pop("prompts", None)]
    engine: Llama | Intact
    if task["engine"] == "llama":
        engine = Llama(task["path"], settings, max(map(len, prompts)) + count)
    else:
        engine = Intact(task["path"], settings)
    result = Result(greedy=[], sampled=[], engine=engine.about())
    for kind, texts in (("greedy", result["greedy"]), ("sampled", result["sampled"])):
        baseline = task["baseline"][kind] if task["baseline"] else []
        for numbers in chunks(range(len(prompts)), settings["parallel"]):
            group = [prompts[i] for i in numbers]
            texts += engine.continuations(group, count, kind == "sampled", [baseline[i] for i in numbers if baseline])
    return result


def compare(found: Sequence[Text], baseline: Sequence[Text]) -> dict[str, Any]:
    """Steps with equal logits and, for each text, its first token that differs."""
    rows = [a == b for x, y in zip(found, baseline, strict=True) for a, b in zip(x["logits"], y["logits"], strict=True)]
    first = [
        next((i for i, (a, b) in enumerate(zip(x["tokens"], y["tokens"], strict=True)) if a != b), None)
        for x, y in zip(found, baseline, strict=True)
    ]
    return {"steps": len(rows), "equal_steps": sum(rows), "first_differing_token": first}


def outcome(found: Result, baseline: Result, settings: Settings) -> dict[str, Any]:
    """Both comparisons of an option."""
    count = settings.get("prompts")
    return {
        "settings": settings,
        "greedy": compare(found["greedy"], baseline["greedy"][:count]),
        "sampled": compare(found["sampled"], baseline["sampled"][:count]),
        "engine": found["engine"],
    }


def cells(found: dict[str, Any] | None) -> list[str]:
    """Three cells of the table: logits, greedy, sampled."""
    if found is None:
        return ["not a run option", "–", "–"]
    both = (found["greedy"], found["sampled"])
    steps, equal = sum(one["steps"] for one in both), sum(one["equal_steps"] for one in both)
    texts = ["equal" if equal == steps else f"{equal} of {steps} equal"]
    for one in both:
        first = one["first_differing_token"]
        differ = [i for i in first if i is not None]
        texts.append(f"{len(differ)} of {len(first)} differ, first after {min(differ)} tokens" if differ else "equal")
    return texts


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The table in Markdown."""
    heads = [f"{engine}: {what}" for engine in ("llama.cpp", "Intact") for what in ("logits", "greedy", "sampled")]
    lines = [["changed option", *heads], ["---"] * 7]
    lines += [[row["option"], *cells(row["llama"]), *cells(row["intact"])] for row in rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def write(output: Path, report: dict[str, Any]) -> None:
    """Writes OUTPUT.json, and OUTPUT.md with the table and what it was measured with."""
    facts = [report["machine"], *({"engine": name} | about for name, about in report["engines"].items())]
    notes = "".join(f"* {', '.join(f'{key} {value}' for key, value in fact.items())}\n" for fact in facts)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    output.with_suffix(".md").write_text(f"{table(report['rows'])}\n{notes}", encoding="utf-8")


def prompts_of(model: str) -> list[list[int]]:
    """Passages of the prose, one after the other, as token ids."""
    from intact import LLM

    ids = LLM(model).tokenizer.encode((Path(__file__).parent / "data" / "prose.txt").read_text("utf-8")[:20000])
    ends = [sum(PROMPT_TOKENS[: i + 1]) for i in range(len(PROMPT_TOKENS))]
    return [ids[end - length : end] for end, length in zip(ends, PROMPT_TOKENS, strict=True)]


def run(engine: str, python: str, path: str, settings: Settings, shared: dict[str, Any]) -> Result:
    """`work` in a process of that interpreter."""
    task = json.dumps({"engine": engine, "path": path, "settings": settings, **shared})
    done = subprocess.run([python, __file__, "--work"], input=task, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{engine} {settings}: exit status {done.returncode}\n{done.stderr[-2000:]}")
    result: Result = json.loads(done.stdout.splitlines()[-1])
    return result


def plan(llama: str, builds: Sequence[str], kernels: Sequence[str]) -> list[Option]:
    """All rows: the run options, then other builds of llama.cpp, then Intact's other kernel sets."""
    rows = [
        Option(
            name=name,
            llama=None if theirs is None else (llama, theirs),
            intact=None if ours is None else (sys.executable, ours),
        )
        for name, theirs, ours in RUN_OPTIONS
    ]
    for build in builds:
        label, _, python = build.partition("=")
        rows.append(Option(name=f"instructions: {label} build", llama=(python, {}), intact=None))
    for name in kernels:
        settings: Settings = {"cpu": name}
        what = f"instructions: `{name}` kernels"
        if name == "reference":
            settings["prompts"] = REFERENCE_PROMPTS
            what += f", {REFERENCE_PROMPTS} prompts"
        rows.append(Option(name=what, llama=None, intact=(sys.executable, settings)))
    return rows


def machine() -> dict[str, str]:
    """Processor, system, and the commit that the script belongs to."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text("utf-8").splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    return {
        "processor": names[0] if names else platform.processor(),
        "system": platform.platform(),
        "commit": commit or "unknown",
    }


def main() -> None:
    """Runs every option of both engines and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source")
    parser.add_argument("model")
    parser.add_argument("--llama", metavar="PYTHON", required=True)
    parser.add_argument("--llama-build", metavar="LABEL=PYTHON", action="append", default=[])
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--output", type=Path, default=Path("build/reproducibility"))
    arguments = parser.parse_args()
    from intact import _native

    prompts, tokens = prompts_of(arguments.model), arguments.tokens
    paths = {"llama": arguments.source, "intact": arguments.model}
    pythons = {"llama": arguments.llama, "intact": sys.executable}
    shared = {"prompts": prompts, "tokens": tokens, "baseline": None}
    baselines = {engine: run(engine, pythons[engine], paths[engine], {}, shared) for engine in paths}
    # The fastest set is the baseline's.
    others = [entry["name"] for entry in _native.kernels() if entry["available"] and not entry["chosen"]]
    rows: list[dict[str, Any]] = []
    report = {
        "machine": machine(),
        "engines": {engine: result["engine"] for engine, result in baselines.items()},
        "baseline": BASELINE,
        "prompt_tokens": PROMPT_TOKENS,
        "tokens": tokens,
        "temperature": TEMPERATURE,
        "seed": SEED,
        "rows": rows,
    }
    for option in plan(arguments.llama, arguments.llama_build, others):
        row: dict[str, Any] = {"option": option["name"]}
        for engine, setting in (("llama", option["llama"]), ("intact", option["intact"])):
            row[engine] = None
            if setting is not None:
                against = {**shared, "baseline": baselines[engine]}
                found = run(engine, setting[0], paths[engine], setting[1], against)
                row[engine] = outcome(found, baselines[engine], setting[1])
        rows.append(row)
        write(arguments.output, report)
        print(" | ".join([row["option"], *cells(row["llama"]), *cells(row["intact"])]), flush=True)


if __name__ == "__main__":
    if sys.argv[1:] == ["--work"]:
        print(json.dumps(work(json.load(sys.stdin))))
    else:
        main()
