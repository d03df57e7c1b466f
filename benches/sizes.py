"""Size against KL divergence: directories of Intact at given sizes, and llama.cpp's files, all from one source.

    .venv/bin/python benches/sizes.py SOURCE.gguf --imatrix FILE --work DIRECTORY [--sizes 90 82 …] [--requantized 74 …]
        [--llama PYTHON [--llama-imatrix FILE]] [--windows 24] [--record NAME]

`--sizes` are MiB of directories made with `--target-size`, `--requantized` of such that keep none of the source's own
codes, both by the calibration `--imatrix`. PYTHON is an interpreter whose environment has the package
`llama-cpp-python`; its llama.cpp makes a file of each type of TYPES, and with `--llama-imatrix`, a diagonal calibration
of the same source, another one with the importance in it. `intact eval` measures all of them on benches/data/prose.txt
against the source's weights in floats. What is in DIRECTORY already, models, files and their figures
(NAME.json), is not made again, so that a run that was stopped goes on.

`--record NAME` also writes the figures, with machine, commit and date, to benches/record/NAME.json, NAME.md, NAME.svg.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))
from benches.end_to_end import RECORD, commit, machine

TYPES = {"Q4_K_M": 15, "Q4_0": 2, "IQ4_NL": 25, "IQ4_XS": 30, "Q3_K_M": 12, "Q2_K": 10}
"""Those of llama.cpp, with their numbers in its enumeration llama_ftype."""
PROSE = Path(__file__).parent / "data" / "prose.txt"
GGUF_NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
SHARE = 0.8
"""Of a peer's size, which a directory has at most that is set beside it."""


class Row(NamedTuple):
    """A measured file or directory."""

    name: str
    bytes: int
    kld: float
    error: float | None
    top1: float
    peer: bool

    @property
    def mebibytes(self) -> float:
        return self.bytes / 2**20


def gguf_name(matrix: str) -> str | None:
    """What a GGUF file calls a matrix, without ".weight"."""
    if matrix == "model.embed_tokens":
        return "token_embd"
    if matrix == "lm_head":
        return "output"
    match = re.fullmatch(r"model\.layers\.(\d+)\.(.*)", matrix)
    return f"blk.{match[1]}.{GGUF_NAMES[match[2]]}" if match and match[2] in GGUF_NAMES else None


def importance(calibration: str) -> dict[str, list[float]]:
    """The mean squares of inputs by llama.cpp's names of tensors, up to a factor for each."""
    from intact._native import Calibration

    read = Calibration.read(calibration)
    out = {}
    for matrix in read.matrices():
        name, sums = gguf_name(matrix), read.importance(matrix)
        if name is not None and sums is not None:
            mean = float(sums.mean()) or 1.0
            out[f"{name}.weight"] = [float(value) / mean for value in sums]
    return out


def run_llama(source: str, file: str, type: int, weights: dict[str, list[float]]) -> None:
    """Lets llama.cpp make one file, in a process of its own."""
    import ctypes

    import llama_cpp

    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.allow_requantize = type, True
    if weights:
        entry = llama_cpp.llama_cpp.llama_model_imatrix_data
        arrays = {name: (ctypes.c_float * len(values))(*values) for name, values in weights.items()}
        entries = [
            entry(name.encode(), ctypes.cast(values, ctypes.POINTER(ctypes.c_float)), len(values))
            for name, values in arrays.items()
        ]
        params.imatrix = (entry * (len(entries) + 1))(*entries, entry(None, None, 0))
    if llama_cpp.llama_model_quantize(source.encode(), file.encode(), params):
        raise SystemExit(f"{file}: llama.cpp cannot make it")


def make_peers(options: argparse.Namespace) -> list[Path]:
    """The files of llama.cpp."""
    variants: dict[str, dict[str, list[float]]] = {"": {}}
    if options.llama_imatrix:
        variants["-imatrix"] = importance(options.llama_imatrix)
    made = []
    for suffix, weights in variants.items():
        for name, type in TYPES.items():
            file = options.work / f"{name}{suffix}.gguf"
            if not file.exists():
                with tempfile.NamedTemporaryFile("w", suffix=".json", dir=options.work) as child:
                    json.dump([options.source, f"{file}.part", type, weights], child)
                    child.flush()
                    run([options.llama, __file__, "--child", child.name], quiet=True)
                Path(f"{file}.part").rename(file)
            made.append(file)
    return made


def make_models(options: argparse.Namespace) -> list[Path]:
    """The model directories."""
    wanted = [(size, []) for size in options.sizes] + [(size, ["--requantize"]) for size in options.requantized]
    made = []
    for size, how in wanted:
        directory = options.work / f"{size}MiB{'-requantized' * bool(how)}"
        if not directory.exists():
            own = ["--target-size", f"{size}MiB", "--imatrix", options.imatrix, *how]
            run([*intact(), "quantize", options.source, "-o", str(directory), *own])
        made.append(directory)
    return made


def intact() -> list[str]:
    """The command line of this tree."""
    return [sys.executable, "-m", "intact"]


def run(command: list[str], quiet: bool = False) -> str:
    """What a command prints; its errors are shown unless `quiet`."""
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE, stderr=subprocess.PIPE if quiet else None)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: failed with {done.returncode}")
    return done.stdout.decode()


def measure(options: argparse.Namespace, models: list[Path], peers: list[Path]) -> dict[str, Any]:
    """A report of `intact eval --json` on all of them, of which those without figures are evaluated."""
    figures = {path: options.work / f"{path.name}.{options.windows}.json" for path in (*models, *peers)}
    new = [path for path, file in figures.items() if not file.exists()]
    if new:
        # A run needs a model, be it one that was evaluated before.
        evaluated = [path for path in new if path in models] or models[:1]
        command = ["eval", *map(str, evaluated), "--reference", options.source, "--text", str(PROSE), "--json"]
        command += ["--windows", str(options.windows)]
        for peer in (path for path in new if path in peers):
            command += ["--peer", str(peer)]
        report = json.loads(run([*intact(), *command]))
        for row in report["rows"]:
            figures[Path(row["model"])].write_text(json.dumps({**report, "rows": [row]}), encoding="utf-8")
    reports = [json.loads(file.read_text("utf-8")) for file in figures.values()]
    return {**reports[0], "rows": [row for report in reports for row in report["rows"]]}


def rows_of(report: dict[str, Any]) -> list[Row]:
    """The rows of `intact eval --json`, the smallest first."""
    rows = [
        Row(
            Path(row["model"]).name.removesuffix(".gguf"),
            row["bytes"],
            row["kld"]["value"],
            row["kld"]["error"],
            row["top1_agreement"]["value"],
            row["model_digest"] is None,
        )
        for row in report["rows"]
    ]
    return sorted(rows, key=lambda row: (row.peer, row.bytes))


def rival(peer: Row, rows: list[Row]) -> Row | None:
    """The best of ours that has at most SHARE of a peer's size."""
    small = [row for row in rows if not row.peer and row.bytes <= SHARE * peer.bytes]
    return min(small, key=lambda row: row.kld, default=None)


def table(rows: list[Row]) -> str:
    """Markdown: ours, then theirs with the best of ours beside each."""

    def cells(row: Row) -> list[str]:
        error = "" if row.error is None else f" ± {row.error:.2g}"
        best = rival(row, rows) if row.peer else None
        beside = "–" if best is None else f"{best.mebibytes:.1f} MiB, {best.kld / row.kld:.2f} of its KLD"
        name = f"llama.cpp {row.name}" if row.peer else f"Intact {row.name}"
        return [name, f"{row.mebibytes:.1f}", f"{row.kld:.3g}{error}", f"{row.top1:.1f}", beside if row.peer else ""]

    head = ["", "MiB", "KL divergence, nats", "same top token, %", f"Intact in at most {SHARE} of the size"]
    lines = [head, ["---"] * len(head), *map(cells, rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def record(name: str, report: dict[str, Any]) -> None:
    """Writes NAME.json, NAME.md and NAME.svg."""
    from intact.plot import Point, size_against_divergence

    date = datetime.now(timezone.utc).strftime("%Y-%m-%d")
    facts = {"date": date, "commit": commit(), "machine": machine()}
    shared = {field: report[field] for field in ("windows", "predictions", "reference_perplexity")}
    figures = [{**row, "model": Path(row["model"]).name, "tokens_per_second": None} for row in report["rows"]]
    RECORD.mkdir(exist_ok=True)
    source = Path(report["reference"]).name
    text = json.dumps({**facts, "source": source, **shared, "rows": figures}, indent=2, ensure_ascii=False)
    (RECORD / f"{name}.json").write_text(text + "\n", encoding="utf-8")
    note = (
        f"{source}; commit {facts['commit']}; {date}. {report['predictions']} predictions in {report['windows']} "
        "windows of benches/data/prose.txt, against the source's weights in float32."
    )
    (RECORD / f"{name}.md").write_text(f"# {name}\n\n{note}\n\n{table(rows_of(report))}\n", encoding="utf-8")
    points = [Point(row.name, row.mebibytes, row.kld, row.error, row.peer) for row in rows_of(report)]
    (RECORD / f"{name}.svg").write_text(size_against_divergence(points), encoding="utf-8")


def main() -> None:
    """Makes what is missing, measures everything, prints the table."""
    if sys.argv[1:2] == ["--child"]:
        run_llama(*json.loads(Path(sys.argv[2]).read_text("utf-8")))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", metavar="SOURCE.gguf")
    parser.add_argument("--imatrix", required=True, metavar="FILE")
    parser.add_argument("--work", required=True, type=Path, metavar="DIRECTORY")
    # As they are written: "69.34" is a part of a name.
    parser.add_argument(
        "--sizes", nargs="+", default=["90", "82", "80", "74", "71.3", "69.9", "69.34", "66", "58", "50"]
    )
    parser.add_argument("--requantized", nargs="*", default=["74", "58", "50"])
    parser.add_argument("--llama", metavar="PYTHON")
    parser.add_argument("--llama-imatrix", metavar="FILE")
    parser.add_argument("--windows", type=int, default=24)
    parser.add_argument("--record", metavar="NAME")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    models, peers = make_models(options), make_peers(options) if options.llama else []
    report = measure(options, models, peers)
    print(table(rows_of(report)))
    if options.record:
        record(options.record, report)


if __name__ == "__main__":
    main()
