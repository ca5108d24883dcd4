"""transformers' Trainer: train, evaluate, predict, save and resume."""

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import Trainer, TrainingArguments

from model import SwitchyardForCausalLM
from tests.support.model_cases import KINDS, config_of, make_model, relative, tokens

pytest.importorskip("accelerate")


def rows(num_masked: int = 0) -> list[dict[str, torch.Tensor]]:
    """Eight sequences of ten tokens; the first `num_masked` labels of every second one are -100."""
    ids, _ = tokens(8, 10)
    labels = ids.clone()
    labels[1::2, :num_masked] = -100
    return [{"input_ids": i, "labels": target} for i, target in zip(ids, labels, strict=True)]


def trainer(folder, model, data, **settings) -> Trainer:
    settings = {"max_steps": 4, "per_device_train_batch_size": 2, "learning_rate": 1e-2, **settings}
    arguments = TrainingArguments(
        str(folder), report_to=[], use_cpu=True, disable_tqdm=True, logging_steps=1, seed=3, **settings
    )
    return Trainer(model=model, args=arguments, train_dataset=data, eval_dataset=data)


def losses(done: Trainer) -> list[float]:
    return [entry["loss"] for entry in done.state.log_history if "loss" in entry]


def test_evaluate_and_predict_equal_the_model(tmp_path):
    model = make_model(config_of(**KINDS["swiglu_top2"]))
    data = rows(num_masked=4)
    tool = trainer(tmp_path, model, data)
    measured = tool.evaluate()
    ids, labels = (torch.stack([row[key] for row in data]) for key in ("input_ids", "labels"))
    with torch.no_grad():
        logits = model.eval()(ids).logits
    expected = cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    assert measured["eval_loss"] == pytest.approx(float(expected), rel=1e-5)
    predicted = tool.predict(data)
    assert relative(torch.tensor(predicted.predictions), logits) < 1e-6
    assert torch.equal(torch.tensor(predicted.label_ids), labels)


def test_a_resumed_training_equals_one_without_a_pause(tmp_path):
    full = trainer(tmp_path, make_model(config_of(**KINDS["capacity"])), rows(), save_steps=2)
    full.train()
    again = trainer(tmp_path, make_model(config_of(**KINDS["capacity"])), rows(), save_steps=2)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert losses(again) == losses(full)
    assert len(losses(full)) == 4
    assert losses(full)[0] != losses(full)[2]
    pairs = list(zip(full.model.parameters(), again.model.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in pairs)
    full.save_model(str(tmp_path / "saved"))
    saved = SwitchyardForCausalLM.from_pretrained(tmp_path / "saved")
    assert all(torch.equal(a, b) for a, b in zip(full.model.parameters(), saved.parameters(), strict=True))


@pytest.mark.filterwarnings("ignore:.*is deprecated and will be removed in v6:FutureWarning")
@pytest.mark.parametrize("settings", [{"gradient_accumulation_steps": 2}, {"gradient_checkpointing": True}])
def test_accumulation_and_checkpointing_give_the_same_steps(settings, tmp_path):
    """Sequences have different numbers of labels, so that a mean of means would differ."""
    batch = 2 if "gradient_accumulation_steps" in settings else 4
    runs = []
    for changes in ({"per_device_train_batch_size": 4}, {"per_device_train_batch_size": batch, **settings}):
        made = trainer(
            tmp_path,
            make_model(config_of(**KINDS["swiglu_top2"])),
            rows(num_masked=7),
            max_steps=2,
            **changes,
        )
        made.train()
        runs.append(made)
    assert losses(runs[1]) == pytest.approx(losses(runs[0]), rel=1e-6)
    for a, b in zip(runs[1].model.parameters(), runs[0].model.parameters(), strict=True):
        assert relative(a, b) < 1e-4  # Adam, with gradients near zero
