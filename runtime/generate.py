"""Text generation from a run's newest intact checkpoint, in one process, without DeepSpeed.

python -m runtime.generate RUN [--prompt TEXT] [--tokens N] [--temperature T] [--seed N]
    [--fp8]
"""

from __future__ import annotations

import logging
import sys
import traceback
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.text import Text
from transformers import PreTrainedTokenizerFast

from model.float8_weights import hold_in_float8
from model.modeling_switchyard import SwitchyardForCausalLM
from planner import Problem, Strategy, StrategyError, load
from planner.exit_codes import ExitCode
from planner.standard_streams import run_program
from planner.terminal_text import make_console
from runtime.checkpoint.commit import FOLDER_NAME as CHECKPOINTS_NAME
from runtime.checkpoint.manifest import CheckpointError, CheckpointInfo
from runtime.checkpoint.reader import read_weights
from runtime.checkpoint.store import newest
from runtime.data.cache import TOKENIZER_NAME
from runtime.data.tokenizer import TextCoder, TokenizerUnusable, load_tokenizer, read_coder
from runtime.training.training_model import model_config

app = typer.Typer(add_completion=False, context_settings={"help_option_names": ["-h", "--help"]})

# Common in the default corpus, the Python standard library.
DEFAULT_PROMPT = "def "


class CannotGenerate(Exception):
    """The run cannot generate; carries the Problem."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        super().__init__(str(problem))


def continuation(
    run_folder: Path,
    prompt: str,
    num_tokens: int,
    *,
    temperature: float = 0.0,
    seed: int = 1,
    fp8: bool = False,
) -> str:
    """What the run's newest intact checkpoint writes after `prompt`: at most `num_tokens` tokens.

    Args:
        prompt: may be empty, to begin a new text.
        temperature: 0 always takes the most likely token; above 0 samples, reproducibly for a `seed`.
        fp8: see `load_model`.

    Raises:
        CannotGenerate: if the folder holds no run, no checkpoint, no tokenizer, or another model.
        StrategyError: if the run's strategy.yaml is not valid.
        CheckpointError: if it has checkpoints and none is intact.
    """
    strategy = _strategy(run_folder)
    info = newest(run_folder / CHECKPOINTS_NAME)
    if info is None:
        raise _problem(
            "SW982", run_folder, "the run has no checkpoint yet", "wait for the first one, or train it again"
        )
    file = _tokenizer_file(info)
    if file is None:
        found = f"no {TOKENIZER_NAME} in it or in the run"
        raise _problem("SW983", info.folder, found, "copy the tokenizer there")
    coder = _read_tokenizer(file, info)
    model = load_model(strategy, info, fp8=fp8)

    ids = coder.tokenizer.encode(prompt, add_special_tokens=False).ids
    # An empty prompt begins like a document in the packed data: after the end of the previous one.
    given = torch.tensor([ids or [coder.end_of_text]])
    sampling = {"do_sample": True, "temperature": temperature} if temperature > 0 else {"do_sample": False}
    torch.manual_seed(seed)
    with torch.inference_mode():
        made = model.generate(  # type: ignore[misc]  # transformers types self as a protocol of its own
            given,
            attention_mask=torch.ones_like(given),
            max_new_tokens=num_tokens,
            **sampling,
        )
    # Decoded together with the prompt: a character may be split between two tokens.
    full = coder.tokenizer.decode([*ids, *made[0, given.shape[1] :].tolist()], skip_special_tokens=True)
    start = coder.tokenizer.decode(ids, skip_special_tokens=True)
    return full[len(start) :]


def default_prompt(run_folder: Path) -> str:
    """A prompt that fits the run's data: "def " for the standard library's sources, else empty.

    Raises:
        CannotGenerate, StrategyError: as `continuation`.
    """
    data = _strategy(run_folder).data
    return DEFAULT_PROMPT if data.path is None and data.mix is None else ""


def load_model(strategy: Strategy, info: CheckpointInfo, *, fp8: bool = False) -> SwitchyardForCausalLM:
    """The full model in one process, with the checkpoint's weights, to evaluate and to generate.

    In fp32; `fp8`: linear layers and experts hold a byte a parameter and multiply in FP8, the rest is bf16.

    Where the run has a tokenizer, its end-of-text token is the model's eos and pad, and `save_pretrained`
    writes the tokenizer too, in transformers' form.

    Raises:
        CannotGenerate: if the checkpoint does not hold exactly this model's tensors.
        TokenizerUnusable: if the tokenizer has no end-of-text token that is known.
    """
    config = model_config(strategy)
    # Dispatch only matters in training; `deepspeed` would import DeepSpeed here.
    config.dispatch, config.capacity_factor = "dropless", None
    file = _tokenizer_file(info)
    coder = None if file is None else _read_tokenizer(file, info)
    if coder is not None:
        config.eos_token_id = config.pad_token_id = coder.end_of_text
    with torch.device("meta" if fp8 else "cpu"):
        model = SwitchyardForCausalLM(config)
    if coder is not None:
        end = coder.tokenizer.id_to_token(coder.end_of_text)
        model.tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(file), eos_token=end, pad_token=end)
    model.eval()  # type: ignore[no-untyped-call]
    wrong = _give_weights(model, info, fp8=fp8)
    if wrong:
        raise _problem(
            "SW984",
            info.folder,
            f"{len(wrong)} tensors do not match the run's strategy.yaml: {', '.join(wrong[:3])}",
            "restore the strategy.yaml that the run was trained with",
        )
    return model


def _give_weights(model: SwitchyardForCausalLM, info: CheckpointInfo, *, fp8: bool) -> list[str]:
    """The names of which model and checkpoint do not have the same tensor."""
    targets, wrong = model.state_dict(), []
    for name, tensor in read_weights(info):
        target = targets.pop(name, None)
        if target is None or target.shape != tensor.shape:
            wrong.append(name)
        elif fp8:
            hold_in_float8(model, name, tensor)
        else:
            target.copy_(tensor)
    return [*wrong, *targets]


def _strategy(run_folder: Path) -> Strategy:
    path = run_folder / "strategy.yaml"
    if not path.is_file():
        found = "no strategy.yaml in it" if run_folder.is_dir() else "no such folder"
        raise _problem("SW981", run_folder, found, "pass the folder of a run, such as runs/tiny_cpu")
    return load(path)


def _tokenizer_file(info: CheckpointInfo) -> Path | None:
    """The tokenizer stored in the checkpoint, or in the run's folder."""
    folders = [info.folder]
    if info.folder.parent.name == "checkpoints":
        folders.append(info.folder.parent.parent)
    files = (folder / TOKENIZER_NAME for folder in folders)
    return next((file for file in files if file.is_file()), None)


def _read_tokenizer(file: Path, info: CheckpointInfo) -> TextCoder:
    end_of_text = info.meta.extra.get("end_of_text")
    return load_tokenizer(file) if end_of_text is None else read_coder(file, end_of_text)


def _problem(code: str, folder: Path, found: str, fix: str) -> CannotGenerate:
    expected = f"a run with strategy.yaml, {TOKENIZER_NAME} and an intact checkpoint"
    problem = Problem(code=code, file=str(folder), found=found, expected=expected, fix=fix)
    return CannotGenerate(problem)


@app.command()
def main(
    run: Annotated[Path, typer.Argument(help="the folder of a run")],
    prompt: Annotated[str | None, typer.Option(help="the text to continue")] = None,
    tokens: Annotated[int, typer.Option(min=1, help="maximum number of tokens to write")] = 60,
    temperature: Annotated[float, typer.Option(min=0.0, help="0: always the most likely token")] = 0.0,
    seed: Annotated[int, typer.Option(help="for a temperature above 0")] = 1,
    fp8: Annotated[bool, typer.Option("--fp8", help="hold the weights in FP8: a byte a parameter")] = False,
) -> None:
    """Continue a text with the newest checkpoint of RUN."""
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    try:
        given = default_prompt(run) if prompt is None else prompt
        written = continuation(run, given, tokens, temperature=temperature, seed=seed, fp8=fp8)
    except CheckpointError as error:
        print(error, file=sys.stderr)
        raise typer.Exit(ExitCode.NEGATIVE) from error
    except (CannotGenerate, StrategyError, TokenizerUnusable) as error:
        print(error, file=sys.stderr)
        raise typer.Exit(ExitCode.WRONG_INPUT) from error
    except Exception as error:
        traceback.print_exc()
        raise typer.Exit(ExitCode.INTERNAL_ERROR) from error
    make_console(highlight=False, soft_wrap=True).print(Text(given, style="bold") + Text(written))


if __name__ == "__main__":
    run_program(app)
