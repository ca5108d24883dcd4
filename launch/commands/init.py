"""The `init` command: a complete, commented strategy with the best plan, from a model and a machine."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from launch.cli.command import command
from launch.cli.options import HardwareFile
from launch.cli.output import CommandOutput
from launch.cli.progress import counted
from launch.commands.checkpoint_interval import with_checkpoint_interval
from launch.commands.new_machine import Machine, describe_machine, option_problem
from launch.commands.prediction import device_for
from planner import Strategy, build_plan, loads
from planner.exit_codes import ExitCode
from planner.hardware.catalog import CPU
from planner.plan.memory_limit import describe_memory_limit
from planner.plan.serialization import readable_json
from planner.rules.not_implemented import find_unimplemented
from planner.strategy.commented import commented_yaml
from planner.units import format_bytes, format_seconds, plural
from planner.yaml12_writer import section_yaml

if TYPE_CHECKING:
    from planner.search.search import SearchRow

_MORE_HOSTS = (2, 4, 8, 16)


@command
def init(
    output: CommandOutput,
    model: Annotated[
        str,
        typer.Option(
            "--model", metavar="FOLDER", help="Hugging Face model: its folder, or its config.json alone"
        ),
    ] = ".",
    gpu: Annotated[
        str | None,
        typer.Option("--gpu", help="name of the GPU, or cpu; default: this machine's", show_default=False),
    ] = None,
    hosts: Annotated[int, typer.Option("--hosts", help="number of hosts", min=1)] = 1,
    gpus_per_host: Annotated[
        int | None,
        typer.Option("--gpus-per-host", help="default: this machine's, or 8", min=1, show_default=False),
    ] = None,
    links: Annotated[
        str | None,
        typer.Option(
            "--links",
            help="between hosts, per GPU and one way: NDR, 400 Gbps; or inside and between: NVLink4,NDR",
            show_default=False,
        ),
    ] = None,
    tokens: Annotated[
        str | None, typer.Option("--tokens", help="tokens to train on: 1T, 300B", show_default=False)
    ] = None,
    seq_length: Annotated[
        int | None, typer.Option("--seq-length", help="tokens of a sequence", min=1, show_default=False)
    ] = None,
    global_batch: Annotated[
        int | None, typer.Option("--global-batch", help="sequences of a step", min=1, show_default=False)
    ] = None,
    file: Annotated[
        str | None,
        typer.Option("--output", metavar="FILE", help="write the strategy to a new file", show_default=False),
    ] = None,
    hardware: HardwareFile = None,
) -> ExitCode:
    """Write a strategy for a model and a machine, with the fastest plan that fits and trains."""
    if file is not None and Path(file).exists():
        raise option_problem(
            "SW488", f"--output: {file} exists", "a new file", "choose another name, or remove it"
        )
    machine = describe_machine(gpu, gpus_per_host, hosts, links)
    smallest = _smallest(model, machine, tokens, seq_length, global_batch, hardware)
    row, num_rows = _best(smallest, hardware)
    if row is None:
        why_not = _why_nothing(smallest, hardware)
        print(why_not, file=sys.stderr)
        if output.is_json:
            output.print_json(ExitCode.NEGATIVE, {"strategy": None, "why_not": why_not})
        return ExitCode.NEGATIVE
    strategy, notes = with_checkpoint_interval(row.strategy, device_for(row.strategy, hardware))
    text = "\n".join((*_head(model, strategy, row, num_rows, machine, file), "")) + commented_yaml(
        strategy, {**_notes(machine), **notes}, _replaced(model, machine)
    )
    assert loads(text) == strategy, "what is written is what was searched"
    if file is not None:
        _write(file, text)
    if output.is_json:
        return output.print_json(ExitCode.OK, _answer(row, strategy, text, file))
    if file is None:
        print(text, end="")
    else:
        print(f"wrote {file}: {_summary(row)}")
        print("\n".join(("next:", *(f"  {line}" for line in _next(file)))))
    return ExitCode.OK


def _smallest(
    model: str,
    machine: Machine,
    tokens: str | None,
    seq_length: int | None,
    global_batch: int | None,
    hardware: str | None,
) -> Strategy:
    """The strategy with the smallest layout, from which a search starts.

    Raises:
        StrategyError: if the model or an option is wrong.
    """
    is_cpu, size = machine.gpu == CPU, machine.num_gpus
    sections: dict[str, Any] = {
        "name": _run_name(model),
        "cluster": {
            "hosts": machine.hosts,
            "gpus_per_host": machine.gpus_per_host,
            "gpu": machine.gpu,
            "links": {key: value for key, (value, _) in machine.links.items()},
        },
        "training": {
            "precision": "fp32" if is_cpu else "bf16",
            "seq_length": seq_length or (256 if is_cpu else 4096),
            # 8 sequences a GPU accumulate or fill a pipeline; fewer GPUs share at least 64.
            "global_batch": global_batch or size * max(8, -(-64 // size)),
            **({"steps": 1000} if tokens is None else {"tokens": tokens}),
        },
    }
    return loads(readable_json(sections), model_from=model, hardware=hardware)


def _run_name(model: str) -> str:
    path = Path(model).resolve()
    name = path.parent.name if path.suffix == ".json" else path.name
    return re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-")[:100] or "run"


def _best(smallest: Strategy, hardware: str | None) -> "tuple[SearchRow | None, int]":
    """The fastest row that this version trains, and how many there are."""
    from planner.search.search import search

    with counted(sys.stderr, "init", "layouts") as report:
        rows = search(smallest, device_for(smallest, hardware), report=report).rows
    trainable = [row for row in rows if not find_unimplemented(row.strategy)]
    return (trainable[0] if trainable else None), len(trainable)


def _why_nothing(smallest: Strategy, hardware: str | None) -> str:
    """What does not fit, and with how many hosts it would."""
    hosts = smallest.cluster.hosts.count
    found = (
        f"no plan of {smallest.name} that this version trains fits {describe_memory_limit(smallest)} on "
        f"{plural(sum(smallest.cluster.slots), 'rank')}"
    )
    for times in _MORE_HOSTS:
        sections = smallest.model_dump(context={"text": True})
        sections["cluster"]["hosts"] = hosts * times
        sections["training"]["global_batch"] *= times
        if _best(loads(readable_json(sections)), hardware)[0] is not None:
            return f"{found}; it does with --hosts {hosts * times}"
    return f"{found}, nor with {_MORE_HOSTS[-1]} times as many hosts"


def _summary(row: "SearchRow") -> str:
    parallel = row.strategy.parallel
    return (
        f"{parallel.layout_name} {parallel.placement}, {row.tokens_per_s:,.0f} tokens/s predicted on "
        f"{plural(row.gpus, 'rank')}, step {format_seconds(row.step_s)}, "
        f"{format_bytes(row.peak_bytes)} of {format_bytes(row.limit_bytes)}"
    )


def _next(file: str | None) -> tuple[str, ...]:
    name = file or "FILE"
    commands = (
        (f"plan {name}", "what follows from it"),
        (f"search {name}", "the other plans"),
        (f"preflight {name}", "are the hosts and links as it says"),
        (f"generate {name}", "the files of a launch"),
    )
    return tuple(f"python -m launch {command:<24}  # {what}" for command, what in commands)


def _head(
    model: str, strategy: Strategy, row: "SearchRow", num_rows: int, machine: Machine, file: str | None
) -> Iterator[str]:
    where = f"{plural(machine.hosts, 'host')} of {machine.gpus_per_host} {machine.gpu}"
    yield f"# {_on_one_line(model)} on {where}"
    yield f"# {_summary(row)}"
    yield f"# the fastest of {plural(num_rows, 'plan')} that fit and that this version trains; next:"
    yield from (f"#   {line}" for line in _next(file))
    ignored = strategy.sources.ignored_model_keys
    if ignored:
        yield f"# keys of config.json without effect on the model: {_on_one_line(', '.join(ignored))}"


def _on_one_line(text: str) -> str:
    return " ".join(text.split())


def _notes(machine: Machine) -> dict[str, str]:
    rates = "; ".join(
        f"{key.partition('_')[0]}: {why}"
        for key, (_, why) in machine.links.items()
        if key == "intra_host" or machine.hosts > 1
    )
    return {
        "name": "of the run's folder under output.folder",
        "cluster.hosts": "before a launch: a list of names, or {hostfile: FILE}",
        "cluster.links": f"per GPU and one way; {rates}",
        "cluster.cost": "2.5 $/GPU-hour: plan then says what the run costs",
        "cluster.mtbf": "50000 h: plan then says how much of the time failures leave",
        "data.path": "your text: file, folder or glob; null: sources of Python's standard library, to try it",
    }


def _replaced(model: str, machine: Machine) -> dict[str, str]:
    """Links as they were given; weights and a tokenizer, which this version cannot start from yet."""
    folder = Path(model)
    folder = folder.parent if folder.suffix == ".json" else folder
    rates = {key: value for key, (value, _) in machine.links.items()}
    lines = {"cluster.links": section_yaml("_", {"links": rates}).partition("\n")[2].strip()}
    if any(folder.glob("*.safetensors")):
        lines["model.init_from"] = f"# init_from: {readable_json(str(folder)).strip()}  # not implemented yet"
    if any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model")):
        lines["data.tokenizer"] = f"# tokenizer: {readable_json(str(folder)).strip()}  # goes with init_from"
    return lines


def _write(file: str, text: str) -> None:
    try:
        with Path(file).open("x", encoding="utf-8") as opened:
            opened.write(text)
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise option_problem(
            "SW489",
            f"--output: cannot write {file}: {why}",
            "a file in a writable folder",
            "choose another folder",
        ) from None


def _answer(row: "SearchRow", strategy: Strategy, text: str, file: str | None) -> dict[str, Any]:
    plan = build_plan(strategy)
    return {
        "strategy": text,
        "file": file,
        "layout": row.strategy.parallel.short_name,
        "layers_per_stage": row.strategy.parallel.layers_per_stage,
        "placement": row.strategy.parallel.placement,
        "fingerprint": plan.fingerprint,
        "tokens_per_s": row.tokens_per_s,
        "step_s": row.step_s,
        "memory_bytes": row.peak_bytes,
        "memory_limit_bytes": row.limit_bytes,
        "next": list(_next(file)),
    }
