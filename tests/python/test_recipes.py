"""Presets, recipe files and sizes: what is asked for is done the same way everywhere, and faults are named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from intact import LLM, ModelError, RequestError, allocation, calibrate, quantize, recipes
from intact._native import Source, matrix_bytes
from intact.allocation import Option
from intact.cli import main

TEXT = "The quick brown fox jumps over the lazy dog, and user and assistant look on. " * 12
LAYER = "model.layers.0"
HEAD = "model.embed_tokens"


@pytest.fixture(scope="module")
def moments(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("calibration") / "moments"
    calibrate(model, TEXT, file, full=True, windows=2, window=64, progress=False)
    return file


@pytest.fixture(scope="module")
def diagonal(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("calibration") / "diagonal"
    calibrate(model, TEXT, file, windows=2, window=64, progress=False)
    return file


def formats(directory: Path) -> dict[str, str]:
    manifest = json.loads((directory / "intact.json").read_text())
    return {name: matrix["format"] for name, matrix in manifest["model"]["matrices"].items()}


def bytes_of(directory: Path) -> int:
    return sum(file.stat().st_size for file in directory.iterdir())


def applied(checkpoint: Path, recipe: str | dict[str, Any], name: str, tmp_path: Path) -> dict[str, str]:
    """The formats that a recipe decides, by the last part of names of the first layer."""
    if isinstance(recipe, str):
        path = tmp_path / name
        path.write_text(recipe)
        found = recipes.read(path, Source(str(checkpoint)).matrices())
    else:
        found = recipes.read(recipe, Source(str(checkpoint)).matrices())
    return {n.removeprefix(f"{LAYER}."): f for n, f in found.formats.items() if "layers.1" not in n}


@pytest.mark.parametrize("preset", recipes.PRESETS)
def test_presets_are_mixes(checkpoint: Path, tmp_path: Path, preset: str) -> None:
    quantize(checkpoint, tmp_path / "model", preset=preset, progress=False)
    found = formats(tmp_path / "model")
    expected = dict.fromkeys(found, "")
    for pattern, format in recipes.PRESETS[preset]:
        for name in expected:
            if name.endswith(tuple(part.strip("\\.$") for part in pattern.replace("[vk]", "v").split("|"))):
                expected[name] = format
    assert found[f"{LAYER}.self_attn.v_proj"] == expected[f"{LAYER}.self_attn.v_proj"]
    assert found[f"{LAYER}.mlp.gate_proj"] == recipes.PRESETS[preset][0][1]
    assert found[HEAD] == expected[HEAD]
    llm = LLM(tmp_path / "model")
    assert llm.manifest["provenance"]["preset"] == preset
    assert len(llm.generate("The quick")[0].outputs) == 1


def test_presets_grow_with_their_bits(checkpoint: Path, tmp_path: Path) -> None:
    sizes = [
        quantize(checkpoint, tmp_path / name, preset=name, progress=False)["plane_bytes"] for name in recipes.PRESETS
    ]
    assert sizes == sorted(sizes, reverse=True) and next(iter(recipes.PRESETS)) == "8bit"


def test_what_is_more_special_decides(checkpoint: Path, tmp_path: Path) -> None:
    def run(name: str, **options: Any) -> dict[str, str]:
        quantize(checkpoint, tmp_path / name, progress=False, **options)
        return formats(tmp_path / name)

    found = run("head", preset="3bit", head_type="U8r")
    assert (found[HEAD], found[f"{LAYER}.self_attn.v_proj"]) == ("U8r", "N4b8")
    found = run("type", preset="3bit", type="U4b8")
    assert (found[HEAD], found[f"{LAYER}.self_attn.v_proj"]) == ("U5b8", "U4b8")
    found = run("tensor", preset="3bit", type="U4b8", tensor_types={"v_proj": "U6b8", "0.*v_proj": "U8b8"})
    assert {n: found[f"model.layers.{n}.self_attn.v_proj"] for n in (0, 1)} == {0: "U8b8", 1: "U6b8"}
    (tmp_path / "lines").write_text("v_proj = U5b8\nk_proj = U5b8\n")
    found = run("recipe", recipe=tmp_path / "lines", tensor_types={"k_proj": "U6b8"})
    kept = [found[f"{LAYER}.{n}"] for n in ("self_attn.v_proj", "self_attn.k_proj", "mlp.up_proj")]
    assert kept == ["U5b8", "U6b8", "U8b8"]
    provenance = LLM(tmp_path / "recipe").manifest["provenance"]
    assert provenance["recipe"] == "lines" and len(provenance["recipe_sha256"]) == 64


def test_lines(checkpoint: Path, tmp_path: Path) -> None:
    text = "# all\n _proj$ = P30b4  # a comment\n\n\\.[vk]_proj = N4b8\nlm_head=U6b8\n(?=.*v)x?.*0 = U5b8\n"
    found = applied(checkpoint, text, "recipe.txt", tmp_path)
    assert found["mlp.up_proj"] == "P30b4" and found["self_attn.k_proj"] == "N4b8"
    assert found["self_attn.v_proj"] == "U5b8" and found[HEAD] == "U6b8"


STAGES = """
first_stage:
  run_type_modifiers:
    QuantizationModifier:
      targets: ["Linear"]
      scheme: P30b4
      ignore: ["lm_head", "re:.*down_proj"]
second_stage:
  quantization_modifiers:
    GPTQModifier:
      targets: "re:.*[kv]_proj$"
      scheme: "N4b8"
"""
FLAT = """
modifiers:
- QuantizationModifier: {scheme: P30b4, ignore: [lm_head, 're:.*down_proj']}
- QuantizationModifier: {scheme: N4b8, targets: ['re:.*[kv]_proj$']}
"""


def test_stages_and_modifiers(checkpoint: Path, tmp_path: Path) -> None:
    staged = applied(checkpoint, STAGES, "r.yaml", tmp_path)
    assert staged == applied(checkpoint, FLAT, "r.yml", tmp_path)
    assert staged["self_attn.v_proj"] == "N4b8" and staged["mlp.up_proj"] == "P30b4"
    assert HEAD not in staged and "mlp.down_proj" not in staged
    mapping = {
        "modifiers": {"QuantizationModifier": {"targets": ["Embedding", f"{LAYER}.mlp.up_proj"], "scheme": "U5b8"}}
    }
    assert applied(checkpoint, mapping, "", tmp_path) == {HEAD: "U5b8", "mlp.up_proj": "U5b8"}


def test_error_feedback_needs_all_moments(checkpoint: Path, moments: Path, diagonal: Path, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(STAGES)
    for calibration in (None, diagonal):
        with pytest.raises(RequestError, match="imatrix --full"):
            quantize(checkpoint, tmp_path / "m", recipe=tmp_path / "r.yaml", calibration=calibration, progress=False)
    quantize(checkpoint, tmp_path / "m", recipe=tmp_path / "r.yaml", calibration=moments, progress=False)
    assert formats(tmp_path / "m")[f"{LAYER}.mlp.down_proj"] == "U8b8"


MODIFIER = "modifiers:\n- QuantizationModifier:\n    "
FAULTS = [
    ("r.txt", "v_proj = U5b8\nk_proj U5b8\n", "line 2: .*is no REGEX = FORMAT"),
    ("r.txt", "= U5b8\n", "line 1: .*is no REGEX = FORMAT"),
    ("r.txt", "# nothing\n", "no line"),
    ("r.txt", "v_proj = Q4_K\n", "line 1: .*Q4_K. is not one of"),
    ("r.txt", "( = U5b8\n", "line 1: .*no regular expression"),
    ("r.txt", "nowhere = U5b8\n", "line 1: .*found in no matrix"),
    ("r.yaml", "", "empty"),
    ("r.yaml", "v_proj = U5b8\n", "no mapping"),
    ("r.yaml", "a: [1\n", "line 2: no YAML"),
    ("r.yaml", "a: \x01\n", "no YAML"),
    ("r.yaml", "other: {}\n", "line 1: other: .*stage"),
    ("r.yaml", "a_stage:\n  b: {}\n", "line 2: a_stage.b: .*modifiers"),
    ("r.yaml", "modifiers:\n- SparseGPTModifier: {scheme: U5b8}\n", r"line 2: .*SparseGPTModifier is no modifier"),
    ("r.yaml", MODIFIER + "scheme: U5b8\n    bits: x\n", r"line 4: .*bits is no key"),
    ("r.yaml", MODIFIER + "targets: Linear\n", "line 3: .*scheme is missing"),
    ("r.yaml", MODIFIER + "scheme: W4A16\n", "line 3: .*W4A16. is not one of"),
    ("r.yaml", MODIFIER + "scheme: 4\n", "line 3: .*'4' is no text"),
    ("r.yaml", MODIFIER + "scheme: U5b8\n    scheme: U6b8\n", "line 4: scheme: the key occurs twice"),
    ("r.yaml", MODIFIER + "scheme: U5b8\n    targets: [nothing]\n", r"line 4: .*targets\[0\]: 'nothing' fits no"),
    ("r.yaml", MODIFIER + "scheme: U5b8\n    ignore: ['re:(']\n", r"line 4: .*ignore\[0\]: .*no regular"),
    ("r.yaml", MODIFIER + "scheme: U5b8\n    ignore: [typo]\n", "'typo' fits no"),
    ("r.yaml", MODIFIER + "scheme: U5b8\n    targets: {a: b}\n", "is no text"),
    ("r.yaml", "a: &x [b]\nc: *x\n", "line 1: anchors"),
    ("r.yaml", "a: !!python/object/apply:os.system [ls]\n", "stage"),
    ("r.yaml", "? [a]\n: b\n", "is no text"),
    ("r.yaml", "[" * 200_000, "line 1: more than 16 levels"),
    ("r.yaml", "a: " + "{a: " * 20 + "}" * 20, "more than 16 levels"),
    ("r.yaml", "a: b\n---\nc: d\n", "no YAML"),
    ("r.yaml", "#" * (1 << 20) + "#", "larger than"),
    ({"modifiers": 3}, "", "recipe: modifiers: 3 is no text"),
    ({3: {}}, "", "no text, list or mapping"),
    ({"modifiers": []}, "", "recipe: there is no modifier"),
]


@pytest.mark.parametrize(("name", "text", "message"), FAULTS)
def test_faults_are_named(checkpoint: Path, tmp_path: Path, name: Any, text: str, message: str) -> None:
    with pytest.raises(RequestError, match=message) as fault:
        applied(checkpoint, text if isinstance(name, str) else name, name if isinstance(name, str) else "", tmp_path)
    assert not isinstance(name, str) or str(fault.value).startswith(str(tmp_path / name))


def test_a_cycle_is_refused(checkpoint: Path) -> None:
    cycle: dict[str, Any] = {}
    cycle["modifiers"] = cycle
    with pytest.raises(RequestError, match="levels"):
        recipes.read(cycle, Source(str(checkpoint)).matrices())


def test_files_that_cannot_be_read(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="missing: cannot be read"):
        quantize(checkpoint, tmp_path / "m", recipe=tmp_path / "missing", progress=False)
    (tmp_path / "r").write_bytes(b"v_proj = \xff")
    with pytest.raises(RequestError, match="byte 9 is not UTF-8"):
        quantize(checkpoint, tmp_path / "m", recipe=tmp_path / "r", progress=False)
    with pytest.raises(RequestError, match="preset: '5bit' is not one of"):
        quantize(checkpoint, tmp_path / "m", preset="5bit", progress=False)
    with pytest.raises(RequestError, match="give one of them"):
        quantize(checkpoint, tmp_path / "m", preset="4bit", recipe=tmp_path / "r", progress=False)
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize(
    ("text", "size"),
    [("64MiB", 64 << 20), ("1.5 kb", 1500), ("70000000", 70_000_000), (12, 12), ("2GiB", 2 << 30), ("0.5KiB", 512)],
)
def test_sizes(text: str | int, size: int) -> None:
    assert allocation.parse_size(text) == size


@pytest.mark.parametrize("text", ["", "0", "-5", "64 apples", "1e6", "MiB", "0.1B", "１MB", "9" * 30, "1" * 5000])
def test_no_sizes(text: str) -> None:
    with pytest.raises(RequestError, match="target_size"):
        allocation.parse_size(text)


def test_the_hull_and_the_choice() -> None:
    def option(bytes: int, loss: float) -> Option:
        return Option(bytes, loss, f"{bytes}")

    options = [option(30, 1.0), option(10, 9.0), option(20, 8.0), option(40, 2.0), option(50, 0.0), option(50, 0.5)]
    assert [step.bytes for step in allocation.hull(options)] == [10, 30, 50]
    assert allocation.hull([option(10, 0.0), option(20, 0.0)]) == [option(10, 0.0)]
    steps = {name: [option(10, 8.0), option(20, 4.0), option(40, 0.0)] for name in "ba"}
    assert allocation.choose(steps, 20) == {"b": "10", "a": "10"}
    assert allocation.choose(steps, 39) == {"b": "10", "a": "20"}
    assert allocation.choose(steps, 60) == {"b": "20", "a": "40"}


def test_what_is_large_is_not_crowded_out() -> None:
    small = {f"{i}": [Option(10, 2.0, "low"), Option(20, 0.5, "high")] for i in range(8)}
    large = {"head": [Option(100, 11.0, "low"), Option(190, 0.0, "high")]}
    # The small ones gain more for a byte, and then 30 are left.
    chosen = allocation.choose(small | large, 290)
    assert chosen.pop("head") == "high"
    assert sorted(chosen.values()) == ["high"] * 2 + ["low"] * 6
    assert allocation.choose(small | large, 180) == dict.fromkeys(small, "low") | {"head": "low"}


def test_the_first_and_the_last_layers_count_more() -> None:
    for layers, ends in ((1, set()), (2, set()), (6, {0, 5}), (30, {*range(5), *range(25, 30)})):
        names = [f"model.layers.{layer}.self_attn.q_proj" for layer in range(layers)]
        least = allocation.sensitivity("other.q_proj", "body", layers)
        assert {n for n, name in enumerate(names) if allocation.sensitivity(name, "body", layers) > least} == ends
    head, embedding = (allocation.sensitivity(HEAD, role, 6) for role in ("head", "embedding"))
    assert head == allocation.SENSITIVITY[0][1] > embedding


@pytest.mark.parametrize(("kind", "threads"), [("moments", [1, 2, 3]), ("diagonal", [2])])
def test_a_size_is_met(
    checkpoint: Path, tmp_path: Path, kind: str, threads: list[int], request: pytest.FixtureRequest
) -> None:
    calibration = request.getfixturevalue(kind)
    quantize(checkpoint, tmp_path / "least", type="P10b4", head_type="P25b4", progress=False)
    quantize(checkpoint, tmp_path / "most", progress=False)
    least, most = bytes_of(tmp_path / "least"), bytes_of(tmp_path / "most")
    digests = []
    for share, number in zip((0.5, 0.5, 0.8), threads, strict=False):
        target = int(least + share * (most - least))
        result = quantize(
            checkpoint,
            tmp_path / "model",
            target_size=target,
            calibration=calibration,
            threads=number,
            overwrite=True,
            progress=False,
        )
        digests.append(result["digest"])
        assert target - 3000 < bytes_of(tmp_path / "model") <= target
        assert LLM(tmp_path / "model").manifest["provenance"]["target_size"] == str(target)
    assert len(digests) == 1 or digests[0] == digests[1] != digests[2]


def test_threads_do_not_decide_formats(checkpoint: Path, diagonal: Path) -> None:
    source = Source(str(checkpoint))
    asked = allocation.Request(
        source.matrices(), 80_000, lambda formats: source.directory_bytes({}, {}, formats=formats)
    )
    one, two, three = (
        allocation.allocate([(source, asked)], diagonal, threads=n, progress=False)[1] for n in (1, 2, 3)
    )
    assert one == two == three and len(set(one.values())) > 2


def test_the_size_of_a_directory_is_foreseen(checkpoint: Path, gguf: Path, tmp_path: Path) -> None:
    for number, (source, profile, types) in enumerate(
        [(checkpoint, "default", {"v_proj": "U4z8"}), (gguf, "fast", {"_proj": "P30b4"}), (checkpoint, "fastest", {})]
    ):
        path = tmp_path / str(number)
        quantize(source, path, profile=profile, tensor_types=types, progress=False)
        names = {"intact.json", "model.safetensors"}
        files = {file.name: file.read_bytes() for file in path.iterdir() if file.name not in names}
        provenance = json.loads((path / "intact.json").read_text())["provenance"]
        foreseen = Source(str(source)).directory_bytes(files, provenance, profile=profile, formats=formats(path))
        assert 0 <= foreseen - bytes_of(path) <= 3 * len(formats(path))


def test_sizes_that_cannot_be_met(checkpoint: Path, moments: Path, tmp_path: Path) -> None:
    def run(target: int | str, **options: Any) -> None:
        options = {"calibration": moments, "progress": False} | options
        quantize(checkpoint, tmp_path / "model", target_size=target, overwrite=True, **options)

    with pytest.raises(RequestError, match="pass a calibration"):
        run("1MiB", calibration=None)
    with pytest.raises(RequestError, match="the least that can be reached is") as fault:
        run(1000)
    assert not (tmp_path / "model").exists()
    least = int(str(fault.value).split()[-1])
    run(least + 10)
    assert bytes_of(tmp_path / "model") <= least + 10
    found = formats(tmp_path / "model")
    assert {found[n] for n in found if n != HEAD} == {"P10b4"} and found[HEAD] == "P25b4"
    run("1GiB", type="U4b8", tensor_types={"v_proj": "U6b8"})
    found = formats(tmp_path / "model")
    assert (found[f"{LAYER}.mlp.up_proj"], found[f"{LAYER}.self_attn.v_proj"]) == ("U4b8", "U6b8")
    assert found[HEAD] == "U8b8"


def test_a_survey_is_what_conversion_loses(checkpoint: Path, moments: Path, diagonal: Path) -> None:
    source = Source(str(checkpoint))
    names = {name: ["P20b4", "U4b8", "U8b8"] for name, *_ in source.matrices()}
    for calibration in (None, moments, diagonal):
        one, three = (source.survey(names, calibration=calibration, threads=n) for n in (1, 3))
        assert one == three
        assert all(1 > low > middle > high > 0 for low, middle, high in one.values())
    assert source.own_format(HEAD) is None
    assert matrix_bytes("U4b8", 17, 33) == 2 * 64 * 8 + 2 * 2 * 16 + 64 + 2 * 64
    with pytest.raises(ModelError, match="no_such"):
        source.survey({"no_such": ["U4b8"]})
    with pytest.raises(ModelError, match="not quantized to U4r"):
        source.survey({HEAD: ["U4r"]})


def test_command_line(checkpoint: Path, moments: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def status(*options: str) -> object:
        arguments = ["quantize", str(checkpoint), "-o", str(tmp_path / "model"), "--overwrite", "--json", *options]
        with pytest.raises(SystemExit) as exit:
            main(arguments)
        return exit.value.code

    assert status("--preset", "4bit") == 0
    assert formats(tmp_path / "model")[HEAD] == "U6b8"
    (tmp_path / "r.yaml").write_text(FLAT)
    assert status("--recipe", str(tmp_path / "r.yaml")) == 0
    assert status("--target-size", "100KiB", "--imatrix", str(moments)) == 0
    assert bytes_of(tmp_path / "model") <= 100 << 10
    capsys.readouterr()
    assert status("--target-size", "1KiB", "--imatrix", str(moments)) == 2
    assert "the least that can be reached" in capsys.readouterr().err


def test_codes_of_the_source_are_candidates_unless_they_are_not_wanted(checkpoint: Path, diagonal: Path) -> None:
    class Quantized:
        """The same source, as if its matrices had codes of their own."""

        def __init__(self) -> None:
            self.source = Source(str(checkpoint))

        def __getattr__(self, name: str) -> Any:
            return getattr(self.source, name)

        def own_format(self, matrix: str) -> str:
            return "U4z8"

    source: Any = Quantized()
    asked = allocation.Request(
        source.matrices(), 1 << 20, lambda formats: source.directory_bytes({}, {}, formats=formats)
    )
    for own_codes, found in ((True, {"U4z8"}), (False, {"U8b8"})):
        _, chosen = allocation.allocate([(source, asked)], diagonal, own_codes=own_codes, progress=False)
        assert set(chosen.values()) == found


def test_requantize_goes_with_a_size(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="goes with target_size"):
        quantize(checkpoint, tmp_path / "m", requantize=True, progress=False)
