"""Silent corruption that a check has found, in the same words on all ranks."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that is not what it should be.

    what: for people, a parameter's global name in it. ranks: on which it is, or may be, wrong. others: that
    agree with each other against them; () where two copies differ, or one rank with itself.
    """

    what: str
    ranks: tuple[int, ...]
    others: tuple[int, ...] = ()


class Corrupted(RuntimeError):
    """Hardware, or a bug, has changed the training state; raised on every rank, with the same findings.

    Attributes:
        code: of the Problem that is reported.
        step: in which it was found.
        findings: at least one.
        folder: where the tensors were written; None: nowhere.
    """

    def __init__(self, code: str, *, step: int, findings: Sequence[Finding], folder: Path | None) -> None:
        self.code, self.step, self.findings, self.folder = code, step, tuple(findings), folder
        assert self.findings, "corruption that nobody found"
        super().__init__(f"{code} step {step}: {'; '.join(finding.what for finding in self.findings)}")

    @property
    def ranks(self) -> tuple[int, ...]:
        """All that are named."""
        return tuple(sorted({rank for finding in self.findings for rank in finding.ranks}))
