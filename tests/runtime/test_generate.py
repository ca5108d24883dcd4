"""Text generation by one process from a run's folder, without DeepSpeed."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from click.testing import Result
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from model.linear import use_float8
from model.modeling_switchyard import SwitchyardForCausalLM
from planner import loads
from runtime.checkpoint.manifest import CheckpointError, CheckpointInfo, Meta
from runtime.checkpoint.store import newest, write
from runtime.data.tokenizer import train_tokenizer
from runtime.generate import CannotGenerate, continuation, default_prompt, load_model
from runtime.generate import main as command
from runtime.training.training_model import model_config
from tests.support.float8_reference import quantized
from tests.support.states import META, full_piece, slice_piece

ROOT = Path(__file__).parents[2]
STRATEGY = """
name: tiny
cluster:
  {hosts: 1, gpus_per_host: 2, gpu: cpu, links: {intra_host: 1 GB/s, inter_host: 1 GB/s}}
model: {num_hidden_layers: 2, num_experts: 4, num_experts_per_tok: 1, hidden_size: 16,
  moe_intermediate_size: 16, num_attention_heads: 2, head_dim: 8, vocab_size: 300, aggregation: linear}
parallel: {ep: 2}
training: {seq_length: 32, global_batch: 4, steps: 10, precision: fp32}
"""
TEXTS = ["def first(one):\n    return one\n", "def second(two):\n    return two + two\n"] * 20


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run's folder as two ranks would leave it, with untrained weights."""
    (tmp_path / "strategy.yaml").write_text(STRATEGY)
    coder = train_tokenizer(TEXTS, 300)
    tokenizer = tmp_path / "made.json"
    coder.tokenizer.save(str(tokenizer))
    torch.manual_seed(5)
    model = SwitchyardForCausalLM(model_config(loads(STRATEGY)))
    pieces = []
    for name, tensor in model.state_dict().items():
        if ".experts." in name:
            pieces += [slice_piece(name, "weight", tensor, 0, half, 2) for half in range(2)]
        else:
            pieces.append(full_piece(name, "weight", tensor))
    meta = Meta(**{**META.__dict__, "extra": {"end_of_text": coder.end_of_text}})
    write(tmp_path / "checkpoints", 10, pieces, meta, files={"tokenizer.json": tokenizer})
    tokenizer.unlink()
    return tmp_path


def test_the_model_is_the_one_that_was_saved(run: Path) -> None:
    torch.manual_seed(5)
    strategy = loads(STRATEGY)
    expected = SwitchyardForCausalLM(model_config(strategy)).state_dict()
    loaded = load_model(strategy, newest(run)).state_dict()
    assert set(loaded) == set(expected)
    assert all(torch.equal(loaded[name], tensor) for name, tensor in expected.items())


def test_greedy_takes_the_most_likely_token_each_time(run: Path) -> None:
    strategy = loads(STRATEGY)
    model = load_model(strategy, newest(run))
    coder = train_tokenizer(TEXTS, 300)
    ids = coder.tokenizer.encode("def ").ids
    given = len(ids)
    with torch.inference_mode():
        for _ in range(5):  # the whole text again for each token: no cache, no library
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    written = continuation(run, "def ", 5)
    assert written == coder.tokenizer.decode(ids)[len(coder.tokenizer.decode(ids[:given])) :]


def test_sampling_is_reproducible_for_a_seed(run: Path) -> None:
    draws = [continuation(run, "def ", 20, temperature=1.0, seed=seed) for seed in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]


def test_in_fp8_a_parameter_of_a_product_takes_a_byte(run: Path) -> None:
    strategy, info = loads(STRATEGY), newest(run)
    model = load_model(strategy, info, fp8=True)
    held = dict(model.named_parameters()) | dict(model.named_buffers())
    assert not any(tensor.is_meta for tensor in held.values())
    num_scales = 0
    for name, weight in weights(info):
        if any(part in name for part in ("embed_tokens", "norm", "router")):
            assert torch.equal(held[name], weight.bfloat16()), name
        else:
            assert (held[name].shape, held[name].element_size()) == (weight.shape, 1), name
            values = held[name].double() * held[f"{name}_scale"].double()
            assert torch.equal(values, quantized(weight.bfloat16())), name
            num_scales += weight.numel() // weight.shape[-1]
    products = [t for n, t in held.items() if t.dtype == torch.float8_e4m3fn or n.endswith("_scale")]
    held_bytes = sum(tensor.numel() * tensor.element_size() for tensor in products)
    assert held_bytes == sum(t.numel() for t in products if t.element_size() == 1) + 4 * num_scales


def test_in_fp8_it_computes_what_training_in_fp8_computes(run: Path) -> None:
    strategy, info = loads(STRATEGY), newest(run)
    ids = torch.arange(2, 30)[None]
    with torch.inference_mode():
        stored = load_model(strategy, info, fp8=True)(ids).logits
        trained = load_model(strategy, info).bfloat16()
        plain = trained(ids).logits
        use_float8(trained)
        assert torch.equal(stored, trained(ids).logits)
    assert 0 < (stored - plain).norm() < 0.2 * plain.norm()


def test_a_text_is_generated_in_fp8(run: Path) -> None:
    assert continuation(run, "def ", 5, fp8=True) == continuation(run, "def ", 5, fp8=True)
    result = call(run, "--tokens", 3, "--fp8")
    assert result.exit_code == 0, result.output


def test_an_empty_prompt_begins_a_text(run: Path) -> None:
    assert isinstance(continuation(run, "", 5), str)


def test_the_default_prompt_fits_the_data(run: Path) -> None:
    assert default_prompt(run) == "def "
    (run / "strategy.yaml").write_text(STRATEGY + "data: {path: /some/text}\n")
    assert default_prompt(run) == ""


def test_a_tokenizer_in_the_runs_folder_is_used_too(run: Path) -> None:
    with_checkpoint = continuation(run, "def ", 5)
    info = newest(run)
    pieces = [full_piece(name, "weight", tensor) for name, tensor in weights(info)]
    (info.folder / "tokenizer.json").rename(run / "tokenizer.json")
    write(run / "checkpoints", 20, pieces, META)
    assert continuation(run, "def ", 5) == with_checkpoint


def weights(info: CheckpointInfo) -> list[tuple[str, torch.Tensor]]:
    from runtime.checkpoint.reader import read_weights

    return list(read_weights(info))


def test_a_missing_folder_checkpoint_or_strategy_is_a_problem(run: Path, tmp_path: Path) -> None:
    with pytest.raises(CannotGenerate, match="SW981"):
        continuation(tmp_path / "nowhere", "", 1)
    (run / "checkpoints").rename(run / "elsewhere")
    with pytest.raises(CannotGenerate, match="SW982"):
        continuation(run, "", 1)
    (run / "strategy.yaml").unlink()
    with pytest.raises(CannotGenerate, match="SW981"):
        continuation(run, "", 1)


def test_another_model_is_a_problem(run: Path) -> None:
    (run / "strategy.yaml").write_text(STRATEGY.replace("num_experts: 4", "num_experts: 8"))
    for fp8 in (False, True):
        with pytest.raises(CannotGenerate, match=r"SW984 .*: model\."):
            continuation(run, "", 1, fp8=fp8)


def test_an_exported_model_has_eos_pad_and_the_tokenizer(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "exported"
    load_model(loads(STRATEGY), newest(run / "checkpoints")).save_pretrained(folder)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    end = train_tokenizer(TEXTS, 300).end_of_text
    for settings in (model.config, model.generation_config, tokenizer):
        assert (settings.eos_token_id, settings.pad_token_id) == (end, end)
    text = "def first(one):"
    assert tokenizer(text).input_ids == train_tokenizer(TEXTS, 300).tokenizer.encode(text).ids
    made = model.generate(**tokenizer(text, return_tensors="pt"), max_new_tokens=12, do_sample=False)
    assert tokenizer.decode(made[0], skip_special_tokens=True) == text + continuation(run, text, 12)


def test_a_model_without_a_tokenizer_is_exported_without_one(run: Path, tmp_path: Path) -> None:
    info = newest(run / "checkpoints")
    (info.folder / "tokenizer.json").unlink()
    model = load_model(loads(STRATEGY), info)
    model.save_pretrained(tmp_path / "exported")
    assert model.config.eos_token_id is None
    assert not (tmp_path / "exported" / "tokenizer.json").exists()


def test_a_damaged_checkpoint_is_not_used(run: Path) -> None:
    path = run / "checkpoints" / "step-00000010" / "rank-0000.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="SW805"):
        continuation(run, "", 1)
    assert call(run).exit_code == 1


def call(*arguments: object) -> Result:
    import typer

    app = typer.Typer()
    app.command()(command)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_the_command_prints_the_prompt_and_what_follows(run: Path) -> None:
    result = call(run, "--prompt", "def ", "--tokens", 5)
    assert result.exit_code == 0
    assert result.stdout == f"def {continuation(run, 'def ', 5)}\n"


def test_a_wrong_folder_is_wrong_input(tmp_path: Path) -> None:
    result = call(tmp_path)
    assert result.exit_code == 2
    assert "SW981" in result.stderr


def test_it_needs_no_deepspeed(run: Path) -> None:
    program = (
        "import json, sys, pathlib; from runtime.generate import continuation; "
        "text = continuation(pathlib.Path(sys.argv[1]), 'def ', 5); "
        "print(json.dumps([text, 'deepspeed' in sys.modules]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(run)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert json.loads(done.stdout) == [continuation(run, "def ", 5), False]
