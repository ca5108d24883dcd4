"""Replay of a micro-batch (runtime.replay_every): it is computed a second time from the same weights, and its
loss and gradients must have the same bits, before the optimizer uses them.

Hardware that computes wrongly now and then gives every replica the same wrong sum of gradients: comparing
replicas does not show it. The second pass leaves no trace: its gradients go nowhere, its counts are dropped.
Once one rank is wrong, other ranks' results differ too. Which one it is follows from the log of exchanges:
the one whose own numbers differ although it got the same from the others.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from deepspeed.runtime.engine import DeepSpeedEngine
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from runtime.parallel.bytes_exchange import exchange_json
from runtime.parallel.device import sum_over_world
from runtime.parallel.exchange_log import Entry
from runtime.parallel.fingerprint import bits_of
from runtime.parallel.groups import RankGroups
from runtime.parallel.pipeline_schedule import Action
from runtime.training.corruption import Corrupted, Finding
from runtime.training.corruption_evidence import keep
from runtime.training.training_model import Sums

MAX_NAMED = 3  # parameters of a finding
Pass = Callable[[], tuple[Tensor, Sums]]


class MicroBatchReplay:
    """Of one step. The first pass is watched as it is made (`watch`, `keep`); `compare` makes the second."""

    def __init__(self, engine: DeepSpeedEngine, groups: RankGroups, micro_batch: int) -> None:
        """`micro_batch`: the one that is computed twice."""
        self.micro_batch = micro_batch
        self._engine, self._groups, self._log = engine, groups, groups.log
        self._first: list[Entry] = []
        self._scale: Tensor | None = None
        # Of each parameter: how much was logged before its gradient was there, and the gradient. A GPU's go
        # to the host's memory.
        self._gradients: dict[str, tuple[int, Tensor]] = {}

    @contextmanager
    def watch(self, action: Action) -> Iterator[None]:
        """Around a pass of the step; passes of other micro-batches are not looked at."""
        if action.micro_batch != self.micro_batch:
            yield
            return
        hooks = self._name_places() if action.kind == "forward" else self._hook(self._take_gradient)
        with self._logging(self._first, hooks):
            yield

    def keep(self, action: Action, loss: Tensor, sums: Sums) -> None:
        """The results of a forward pass."""
        if action.micro_batch == self.micro_batch:
            with self._logging(self._first, []):
                self._log_results(loss, sums)
            loss.register_hook(self._take_scale)  # after DeepSpeed's own, which scales

    def compare(self, run: Pass, step: int, folder: Path | None) -> None:
        """The second pass. Collective over the world; between the last backward pass and the update.

        Args:
            run: computes the micro-batch; it returns its loss and sums.
            folder: of the run, for gradients that differ.

        Raises:
            Corrupted: on every rank.
        """
        second: list[Entry] = []
        differing: dict[str, tuple[int, Tensor]] = {}
        channels = self._engine.module.channels
        channels.post_recv([Action("forward", self.micro_batch)])
        with self._logging(second, self._name_places()):
            loss, sums = run()
            self._log_results(loss, sums)
        channels.post_recv([Action("backward", self.micro_batch)])

        def check(name: str, gradient: Tensor) -> Tensor:
            place, first = self._gradients.pop(name)
            if not _are_same(first, gradient):
                differing[name] = place, gradient.to("cpu", copy=True)
                kept[f"first {name}"], kept[f"second {name}"] = first, differing[name][1]
            # What autograd hands back takes no memory.
            return gradient.new_zeros(()).expand_as(gradient)

        kept: dict[str, Tensor] = {}
        with self._logging(second, self._hook(check)):
            torch.autograd.grad(loss, self._leaves(), grad_outputs=self._scale, allow_unused=True)
        channels.finish()
        first_own, first_got = self._first_differences(second, [place for place, _ in differing.values()])
        is_different = bool(differing) or first_own is not None or first_got is not None
        if sum_over_world(int(is_different), self._engine.device) == 0:
            return
        is_suspect = first_own is not None and (first_got is None or first_own[0] <= first_got)
        said = exchange_json(
            {
                "suspect": is_suspect,
                "got": first_got,
                "place": first_own[1] if is_suspect and first_own is not None else "",
                "gradients": list(differing),
            }
        )
        findings = _judge(said, self.micro_batch)
        is_named = any(self._groups.rank in finding.ranks for finding in findings)
        place = keep(kept if is_named else {}, folder, step)
        raise Corrupted("SW908", step=step, findings=findings, folder=place)

    def _first_differences(
        self, second: list[Entry], gradients: list[int]
    ) -> tuple[tuple[int, str] | None, int | None]:
        """Where this rank's own numbers first differ, with the module, and where what it got does."""
        own: tuple[int, str] | None = None
        got: int | None = None
        if min(len(self._first), len(second)):
            pairs = list(zip(self._first, second, strict=False))
            bits = [torch.stack([entry.bits for entry in entries]) for entries in zip(*pairs, strict=True)]
            for index in (bits[0] != bits[1]).nonzero().flatten().tolist():
                entry = pairs[index][0]
                if entry.kind == "own" and own is None:
                    own = index, entry.place
                elif entry.kind == "got" and got is None:
                    got = index
        if own is None and len(self._first) != len(second):
            own = min(len(self._first), len(second)), ""
        if gradients and (own is None or min(gradients) <= own[0]):
            own = min(gradients), ""
        return own, got

    def _leaves(self) -> list[Tensor]:
        """Everything that backward computes a gradient for: without the anchors of what was received, none
        would go to the stage before."""
        channels = self._engine.module.channels
        anchors = [] if channels.incoming is None else [channels.incoming.anchor]
        return [*self._engine.module.parameters(), *anchors]

    def _log_results(self, loss: Tensor, sums: Sums) -> None:
        for value in (loss, *vars(sums).values()):
            self._log.gives(value)

    def _take_scale(self, gradient: Tensor) -> None:
        self._scale = gradient.detach().clone()

    def _take_gradient(self, name: str, gradient: Tensor) -> None:
        self._gradients[name] = len(self._first), gradient.detach().to("cpu", copy=True)

    def _hook(self, take: Callable[[str, Tensor], Tensor | None]) -> list[RemovableHandle]:
        """Of each parameter, before its gradient goes anywhere else."""

        def hook(name: str) -> Callable[[Tensor], Tensor | None]:
            return lambda gradient: take(name, gradient)

        return [p.register_hook(hook(n)) for n, p in self._engine.module.named_parameters()]

    def _name_places(self) -> list[RemovableHandle]:
        """Logs the outputs of modules that have parameters, and which of them is at work."""

        def enter(name: str) -> Callable[..., None]:
            def before(*_: Any) -> None:
                self._log.place = name

            return before

        def leave(module: Any, arguments: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                self._log.gives(output)

        hooks = []
        for name, module in self._engine.module.named_modules():
            if any(True for _ in module.parameters(recurse=False)):
                hooks += [module.register_forward_pre_hook(enter(name)), module.register_forward_hook(leave)]
        return hooks

    @contextmanager
    def _logging(self, entries: list[Entry], hooks: list[RemovableHandle]) -> Iterator[None]:
        self._log.place = ""
        self._log.open(entries)
        try:
            yield
        finally:
            self._log.close()
            for hook in hooks:
                hook.remove()


def _are_same(first: Tensor, second: Tensor) -> bool:
    return torch.equal(bits_of(first), bits_of(second.cpu()))


def _judge(said: list[dict[str, Any]], micro_batch: int) -> list[Finding]:
    """The ranks that went wrong by themselves. Where none did, something was lost on the way to those that
    first got something else."""
    ranks = [rank for rank, one in enumerate(said) if one["suspect"]]
    if not ranks:
        got = {rank: one["got"] for rank, one in enumerate(said) if one["got"] is not None}
        ranks = [rank for rank, place in got.items() if place == min(got.values())]
    findings = []
    for rank in ranks:
        names = [name.removeprefix("model.") for name in said[rank]["gradients"]]
        place = said[rank]["place"].removeprefix("model.")
        if not said[rank]["suspect"]:
            what = "what it got from other ranks"
        elif place:
            what = f"the output of {place}"
        elif names:
            more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
            what = f"the gradient of {', '.join(names[:MAX_NAMED])}{more}"
        else:
            what = "what it computed in the backward pass"
        findings.append(Finding(what=f"{what} in micro-batch {micro_batch}", ranks=(rank,)))
    return findings
