"""One step of the model in a layout of forked ranks, with global gradients assembled."""

from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from model.collectives import Group, ModelGroups
from tests.support.model_cases import config_of, make_model, tokens
from tests.support.ranks import run_ranks


@dataclass
class CountingClock:
    """Counts entries into each phase; nested phases would be counted twice by a real clock."""

    entered: dict[str, int]
    depth: int = 0

    @contextmanager
    def phase(self, name: str):
        assert self.depth == 0, "a collective inside a collective"
        self.depth += 1
        self.entered[name] = self.entered.get(name, 0) + 1
        yield
        self.depth -= 1


def group_of(size: int) -> Group | None:
    """This rank's block of `size` consecutive ranks; all ranks make all groups."""
    mine = None
    if size == 1:
        return None
    for start in range(0, dist.get_world_size(), size):
        ranks = tuple(range(start, start + size))
        process_group = dist.new_group(ranks)
        if dist.get_rank() in ranks:
            mine = Group(process_group=process_group, ranks=ranks, rank=dist.get_rank() - start, size=size)
    return mine


@dataclass(frozen=True, kw_only=True)
class Case:
    """A layout, a model, and data: `mask` of all sequences, or None."""

    tp: int = 1
    ep: int = 1
    config: dict
    num_sequences: int = 4
    num_tokens: int = 7
    mask: Tensor | None = None
    has_favourite: bool = False
    dtype: torch.dtype = torch.float32


def step(case: Case, groups: ModelGroups, index: int, num_shares: int) -> tuple[Any, dict[str, Any]]:
    """The model after one backward on share `index` of the sequences, and its sums."""
    model = make_model(config_of(**case.config), case.dtype, groups=groups)
    if case.has_favourite:
        with torch.no_grad():  # one feature is large in every token, and the first expert likes it best
            for name, parameter in model.named_parameters():
                if name.endswith("embed_tokens.weight"):
                    parameter[:, 0] = 30.0
                if name.endswith("router.weight"):
                    parameter[:, 0] = torch.linspace(9.0, 0.0, len(parameter))
    ids, targets = tokens(case.num_sequences, case.num_tokens)
    size = case.num_sequences // num_shares
    mine = slice(index * size, (index + 1) * size)
    mask = None if case.mask is None else case.mask[mine]
    x, sums = model.run_layers(model.embed(ids[mine]), mask)
    entropy = model.cross_entropy(x, targets[mine], mask)
    (entropy.sum + 0.7 * sums.aux_loss + 0.3 * sums.z_loss).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
    values = {
        "loss": entropy.sum.detach(),
        "num_tokens": entropy.num_tokens,
        "balance": sums.aux_loss.detach(),
        "z": sums.z_loss.detach(),
        "expert_tokens": sums.expert_tokens,
        "dropped": sums.dropped,
    }
    return model, values


def one_process(case: Case) -> tuple[dict[str, Tensor], dict[str, Any]]:
    model, values = step(case, ModelGroups(), 0, 1)
    return {name: p.grad for name, p in model.named_parameters()}, values


def in_ranks(world_size: int, cases: list[Case]) -> list[tuple[dict[str, Tensor], dict[str, Any]]]:
    """The global gradients and sums of each case; replicas that differ between tp partners are an error."""
    by_rank = run_ranks(world_size, _all_steps, cases)
    return [_join(case, [results[i] for results in by_rank]) for i, case in enumerate(cases)]


def _all_steps(cases: list[Case]) -> list[dict]:
    torch.set_num_threads(1)
    groups = {size: group_of(size) for size in (1, 2, 3, 4) if dist.get_world_size() % size == 0}
    results = []
    for case in cases:
        clock = CountingClock({})
        timed = {size: group and replace(group, clock=clock) for size, group in groups.items()}
        held = ModelGroups(tp=timed[case.tp], ep=timed[case.ep])
        model, values = step(case, held, dist.get_rank() // case.tp, dist.get_world_size() // case.tp)
        shards = model.shards()
        results.append(
            {
                "values": values,
                "entered": clock.entered,
                "grads": {n: (shards[n], p.grad) for n, p in model.named_parameters()},
            }
        )
    return results


def _join(case: Case, ranks: list[dict]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    grads: dict[str, Tensor] = {}
    for name, (shard, grad) in ranks[0]["grads"].items():
        whole = grads[name] = torch.zeros(shard.global_shape, dtype=grad.dtype)
        is_expert = ".experts." in name
        for rank, result in enumerate(ranks):
            shard, grad = result["grads"][name]
            assert not grad[len(shard.real(grad)) :].any(), f"{name}: padding has a gradient"
            grad = shard.real(grad)
            box = tuple(slice(o, o + n) for o, n in zip(shard.offsets, grad.shape, strict=True))
            if is_expert or tuple(grad.shape) != shard.global_shape or rank % case.tp == 0:
                whole[box] += grad
            else:
                assert torch.equal(grad, ranks[rank - rank % case.tp]["grads"][name][1]), name
    values = {key: ranks[0]["values"][key] * 0 for key in ranks[0]["values"]}
    for rank, result in enumerate(ranks):
        for key, value in result["values"].items():
            if key not in ("loss", "num_tokens") or rank % case.tp == 0:
                values[key] = values[key] + value
    values["entered"] = ranks[0]["entered"]
    return grads, values
