"""Log of what a rank computes, gives to its peers and gets from them, as fingerprints: of a computation that
is made twice it tells whether the rank went wrong by itself or was given something else."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from runtime.parallel.fingerprint import fingerprint


@dataclass(frozen=True, kw_only=True)
class Entry:
    """kind: computed by this rank, or got from others. place: the module whose forward pass began last."""

    kind: Literal["own", "got"]
    place: str
    bits: Tensor


class FingerprintLog:
    """Of one rank, in the order in which things happen, while it is open."""

    def __init__(self) -> None:
        self.place = ""
        self._entries: list[Entry] | None = None

    def open(self, entries: list[Entry]) -> None:
        """From now on appends to `entries`."""
        self._entries = entries

    def close(self) -> None:
        self._entries = None

    def gives(self, x: Tensor) -> None:
        """What this rank has computed, whether others get it or not."""
        self._append("own", x)

    def gets(self, x: Tensor) -> None:
        self._append("got", x)

    def _append(self, kind: Literal["own", "got"], x: Tensor) -> None:
        if self._entries is not None:
            self._entries.append(Entry(kind=kind, place=self.place, bits=fingerprint(x)))
