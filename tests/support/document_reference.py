"""Reference of packed documents in one process: every document a sequence of its own, torch's own loss."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from model.decoder import RoutingSums
from model.modeling_switchyard import SwitchyardForCausalLM
from runtime.data.rows import Rows
from runtime.training.micro_batch import MicroBatch


def documents_of(rows: Rows) -> list[tuple[int, int, int]]:
    """Row, begin and end of each document: where a position is 0 the next one begins; padding is none."""
    found = []
    num_rows, width = rows.tokens_BS1.shape
    for row in range(num_rows):
        begin = 0
        for t in range(1, width):
            is_end = t == width - 1 or (rows.positions_BS is not None and rows.positions_BS[row, t] == 0)
            if is_end and (rows.mask_BS is None or rows.mask_BS[row, begin]):
                found.append((row, begin, t))
            if is_end:
                begin = t
    return found


def one_by_one(model: SwitchyardForCausalLM, rows: Rows) -> tuple[Tensor, RoutingSums]:
    """The cross-entropy's sum of torch's own loss, each document a sequence; sums of all documents' routing.

    The aux loss is of packed sequences, and without gradient.
    """
    entropies, routings = [], []
    for row, begin, end in documents_of(rows):
        tokens = torch.from_numpy(rows.tokens_BS1[row, begin : end + 1])
        x, routing = model.run_layers(model.embed(tokens[None, :-1]))
        logits = model.lm_head(model._before_head(x))[0]
        asked = torch.ones(end - begin, dtype=torch.bool)
        if rows.has_target_BS is not None:
            asked = torch.from_numpy(rows.has_target_BS[row, begin:end])
        entropies.append(functional.cross_entropy(logits[asked], tokens[1:][asked], reduction="sum"))
        routings.append(routing)
    with torch.no_grad():
        packed = MicroBatch.from_rows(rows, torch.device("cpu"))
        x = model.embed(packed.tokens_BS1[:, :-1])
        aux_loss = model.run_layers(x, packed.mask_BS, packed.positions_BS)[1].aux_loss
    return torch.stack(entropies).sum(), RoutingSums(
        aux_loss=aux_loss,
        z_loss=torch.stack([routing.z_loss for routing in routings]).sum(),
        expert_tokens=torch.stack([routing.expert_tokens for routing in routings]).sum(0),
        dropped=torch.stack([routing.dropped for routing in routings]).sum(),
    )


def count_rows(rows: Rows) -> tuple[int, int, int]:
    """Targets, positions that are not padding, and sequences that have one."""
    valid = np.ones_like(rows.tokens_BS1[:, 1:], bool) if rows.mask_BS is None else rows.mask_BS
    asked = valid if rows.has_target_BS is None else rows.has_target_BS
    return int(asked.sum()), int(valid.sum()), int(valid.any(1).sum())
