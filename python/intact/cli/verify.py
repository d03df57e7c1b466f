"""`intact verify`: whether a receipt is true, or, with `--machine`, whether this machine computes the contract."""

from __future__ import annotations

import dataclasses
import sys
from typing import Annotated

import typer

from intact.cli.common import CpuOption, DeviceOption, JsonOption, ProfileOption, ThreadsOption, print_json
from intact.cli.machine import verify_machine

_STATUS = {"equal": 0, "different": 1, "refused": 2}


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("verify")(verify)


def verify(
    receipt: Annotated[
        str | None, typer.Argument(help="The file that `intact run --receipt` wrote.", show_default=False)
    ] = None,
    model: Annotated[
        str | None,
        typer.Argument(help="A model directory, a GGUF file or a Hugging Face directory.", show_default=False),
    ] = None,
    machine: Annotated[
        bool, typer.Option("--machine", help="Run the conformance suite on this machine instead.")
    ] = False,
    spot: Annotated[int | None, typer.Option("--spot", min=1, help="Check this many steps, chosen by chance.")] = None,
    spot_seed: Annotated[
        int | None, typer.Option("--spot-seed", help="Choose them by this, to repeat a check.")
    ] = None,
    profile: ProfileOption = None,
    threads: ThreadsOption = None,
    cpu: CpuOption = None,
    device: DeviceOption = "cpu",
    json: JsonOption = False,
) -> None:
    """Compute again what a receipt says; exit with 1 where something differs."""
    if machine:
        if receipt is not None or spot is not None or spot_seed is not None or profile is not None or device != "cpu":
            raise typer.BadParameter("goes with --cpu, --threads and --json only", param_hint="--machine")
        raise typer.Exit(verify_machine(cpu, threads, json))
    if receipt is None or model is None:
        raise typer.BadParameter("a receipt and its model are needed, or --machine", param_hint="RECEIPT MODEL")
    if spot_seed is not None and spot is None:
        raise typer.BadParameter("goes with --spot", param_hint="--spot-seed")
    options = {"profile": profile, "threads": threads, "cpu": cpu, "device": device}
    raise typer.Exit(_verify_receipt(receipt, model, spot, spot_seed, json, **options))


def _verify_receipt(
    path: str, model: str, spot: int | None, spot_seed: int | None, json: bool, **options: str | int | None
) -> int:
    from intact.receipts import Receipt, verify_receipt

    receipt = Receipt.load(path)  # before the model, which takes long
    verdict = verify_receipt(receipt, model, spot=spot, spot_seed=spot_seed, progress=sys.stderr.isatty(), **options)
    if json:
        print_json(dataclasses.asdict(verdict))
    else:
        print(verdict.message if verdict.spot_seed is None else f"{verdict.message}, spot seed {verdict.spot_seed}")
    return _STATUS[verdict.status]
