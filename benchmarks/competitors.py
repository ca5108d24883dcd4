"""Competitors of a step: this program and its peers, each as what one rank holds and runs.

All train the same architecture on the same tokens with AdamW, weights in bf16 or fp32, fp32 masters and
moments, gradients clipped at 1.0, each at the settings that suit it best (`SETTINGS` says which).
"""

from collections.abc import Callable
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from benchmarks import peers
from benchmarks.peers import Forced
from benchmarks.setting import CLIPPING, LEARNING_RATE, OURS, Setting, plan_of, tokens_of, zero_stage
from model.observers import NO_CLOCK
from runtime.data.rows import Rows
from runtime.parallel.groups import make_groups
from runtime.training.engine import make_engine
from runtime.training.micro_batch import MicroBatch
from runtime.training.train_step import train_step
from runtime.training.training_model import build_model


class Competitor(Protocol):
    """One rank of one competitor."""

    def force(self, experts_TK: Tensor) -> None:
        """The experts of this rank's tokens in every layer, from the next step on."""

    def step(self) -> float:
        """One training step. Collective. The mean cross-entropy of this rank's tokens, or of all."""

    def counted_step(self) -> tuple[list[int], float]:
        """One more step: this rank's routes to each expert in one layer, and the share that was dropped."""


class Switchyard:
    """This program: the product's own groups, model, engine and step."""

    def __init__(self, setting: Setting, rank: int, device: torch.device) -> None:
        plan = plan_of(setting)
        self._shape = setting.shape
        self._groups = make_groups(plan, rank)
        self._engine = make_engine(build_model(plan, self._groups, device), plan, self._groups, NO_CLOCK)
        rows = Rows(tokens_BS1=tokens_of(setting))
        mine = slice(rank * setting.shape.num_sequences, (rank + 1) * setting.shape.num_sequences)
        self._totals = rows.totals()
        self._batch = MicroBatch.from_rows(rows.part(mine), device)

    def force(self, experts_TK: Tensor) -> None:
        shape = self._shape
        forced_BSK = experts_TK.view(shape.num_sequences, shape.seq_length, shape.top_k)
        self._batch = MicroBatch(tokens_BS1=self._batch.tokens_BS1, forced_BSK=forced_BSK)

    def step(self) -> float:
        return float(self._step().loss)

    def counted_step(self) -> tuple[list[int], float]:
        result = self._step()
        routes = dist.get_world_size() * int(result.expert_tokens.sum())
        return result.expert_tokens[0].tolist(), result.dropped_tokens / routes

    def _step(self) -> Any:
        return train_step(self._engine, self._groups, [self._batch], self._totals, NO_CLOCK)


class _Peer:
    """transformers' Mixtral, in some form, with a step of its own."""

    def __init__(self, setting: Setting, rank: int, device: torch.device) -> None:
        shape = setting.shape
        self._routes = shape.num_tokens * shape.top_k * shape.num_layers
        self._forced = Forced(shape.num_experts)
        mine = slice(rank * shape.num_sequences, (rank + 1) * shape.num_sequences)
        tokens = torch.from_numpy(tokens_of(setting)[mine]).to(device)
        self._inputs, self._targets = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
        torch.manual_seed(0)
        self._model = peers.mixtral(shape)

    def force(self, experts_TK: Tensor) -> None:
        self._forced.set(experts_TK)

    def step(self) -> float:
        raise NotImplementedError

    def counted_step(self) -> tuple[list[int], float]:
        self._forced.is_counting, self._forced.kept = True, 0
        self.step()
        self._forced.is_counting = False
        return self._forced.rows_E, 1 - self._forced.kept / self._routes

    def _loss(self, model: nn.Module) -> Tensor:
        # labels only say that a loss is wanted: transformers would shift them, these are shifted already.
        loss: Tensor = model(input_ids=self._inputs, labels=self._targets, shift_labels=self._targets).loss
        return loss


class Transformers(_Peer):
    """One process, without DeepSpeed: torch's fused AdamW on fp32 masters."""

    def __init__(self, setting: Setting, rank: int, device: torch.device) -> None:
        super().__init__(setting, rank, device)
        peers.force_transformers(self._model, self._forced)
        self._model.to(device)
        self._masters: list[Tensor] = list(self._model.parameters())
        if setting.precision != "fp32":
            self._masters = [p.detach().float().requires_grad_() for p in self._masters]
            self._model.to(torch.bfloat16)
        self._optimizer = torch.optim.AdamW(
            self._masters, lr=LEARNING_RATE, weight_decay=0.1, betas=(0.9, 0.95), fused=True
        )

    def step(self) -> float:
        loss = self._loss(self._model)
        loss.backward()
        parameters = list(self._model.parameters())
        is_mixed = self._masters[0] is not parameters[0]
        if is_mixed:
            for master, parameter in zip(self._masters, parameters, strict=True):
                assert parameter.grad is not None
                master.grad = parameter.grad.float()
                parameter.grad = None
        torch.nn.utils.clip_grad_norm_(self._masters, CLIPPING)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        if is_mixed:
            with torch.no_grad():
                for master, parameter in zip(self._masters, parameters, strict=True):
                    parameter.copy_(master)
        return float(loss.detach())


class _DeepSpeedPeer(_Peer):
    """A Mixtral in a DeepSpeed engine: ZeRO 1, torch's fused AdamW."""

    def _start(self, setting: Setting, device: torch.device, more: dict[str, Any]) -> None:
        import deepspeed
        from deepspeed.moe.utils import split_params_into_different_moe_groups_for_optimizer

        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # as in runtime.training.engine
        if not deepspeed.comm.is_initialized():
            deepspeed.init_distributed(dist_backend=dist.get_backend(), auto_mpi_discovery=False)
        config = {
            "train_batch_size": setting.shape.num_sequences * setting.num_ranks,
            "train_micro_batch_size_per_gpu": setting.shape.num_sequences,
            "gradient_accumulation_steps": 1,
            "gradient_clipping": CLIPPING,
            "optimizer": {
                "type": "AdamW",
                "params": {
                    "lr": LEARNING_RATE,
                    "betas": [0.9, 0.95],
                    "weight_decay": 0.1,
                    "torch_adam": True,
                    "fused": True,
                },
            },
            "zero_allow_untested_optimizer": True,
            "zero_optimization": {
                "stage": zero_stage(setting),
                "reduce_bucket_size": 200_000_000,
                "overlap_comm": False,
            },
            "bf16": {"enabled": setting.precision != "fp32"},
            "steps_per_print": 10**9,
        } | more
        self._model.to(device)
        parameters: Any = [{"params": list(self._model.parameters()), "name": "all"}]
        if "expert_parallel" not in more:
            parameters = split_params_into_different_moe_groups_for_optimizer(parameters[0])
        self._engine, *_ = deepspeed.initialize(model=self._model, model_parameters=parameters, config=config)

    def step(self) -> float:
        loss = self._loss(self._engine)
        self._engine.backward(loss)
        self._engine.step()
        return float(loss.detach())


class TransformersZero(_DeepSpeedPeer):
    """Several ranks: every one holds all experts, ZeRO 1 shares the optimizer."""

    def __init__(self, setting: Setting, rank: int, device: torch.device) -> None:
        super().__init__(setting, rank, device)
        peers.force_transformers(self._model, self._forced)
        self._start(setting, device, {})


class DeepSpeedNative(_DeepSpeedPeer):
    """deepspeed.moe.layer.MoE for every MoE block."""

    def __init__(self, setting: Setting, rank: int, device: torch.device) -> None:
        super().__init__(setting, rank, device)
        peers.use_deepspeed_layers(
            self._model, setting.shape, setting.num_ranks, setting.capacity_factor, self._forced
        )
        self._start(setting, device, {})


class DeepSpeedAutoEP(_DeepSpeedPeer):
    """DeepSpeed's AutoEP, which replaces transformers' MoE blocks by its own."""

    def __init__(self, setting: Setting, rank: int, device: torch.device) -> None:
        super().__init__(setting, rank, device)
        peers.mend_auto_ep()
        section = {
            "enabled": True,
            "autoep_size": setting.num_ranks,
            "preset_model": "mixtral",
            "gate_up_impl": "fused",
        }
        self._start(setting, device, {"expert_parallel": section})
        peers.force_auto_ep(self._engine.module, self._forced)


COMPETITORS: dict[str, Callable[[Setting, int, torch.device], Competitor]] = {
    OURS: Switchyard,
    "transformers": Transformers,
    "transformers-zero": TransformersZero,
    "deepspeed": DeepSpeedNative,
    "autoep": DeepSpeedAutoEP,
}
SETTINGS = {
    OURS: "the product's own engine and step, ZeRO 1 (0 in fp32 on one rank), as the others",
    "transformers": "grouped_mm, sdpa; no engine, fused AdamW on fp32 masters",
    "transformers-zero": "grouped_mm, sdpa; the same in a DeepSpeed engine: every rank holds all experts",
    "deepspeed": "Mixtral with deepspeed.moe.layer.MoE, ZeRO 1, fused AdamW",
    "autoep": "Mixtral with AutoEP, gate_up_impl fused, ZeRO 1, fused AdamW",
}
