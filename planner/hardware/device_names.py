"""Names of devices as drivers, clouds and shops write them: NVIDIA H100 80GB HBM3, 8xH100, A100 40GB."""

import difflib
import re
from collections.abc import Mapping
from typing import Any

from planner.hardware.hardware_file import find_name
from planner.units import parse_quantity

SAME_MEMORY = 0.15  # a name says 80 GB of 85.5 GB, and 141 GB of 150.8 GB
# What names of drivers, clouds and shops add to a device's name.
_ADDED = re.compile(
    r"(?i)\b(nvidia|amd|tesla|geforce|instinct|hgx|dgx|sxm\d?|pcie|oam|nvl|tensor|core|gpus?|hbm\d?e?|g?ddr\d\w?)\b|"
    r"^\s*\d+\s*[x×*]\s*|[x×*]\s*\d+\s*$|[()]"
)
_MEMORY = re.compile(r"(?i)\b(\d{2,3})\s*(gb|gib|g)\b")


def guess_device(text: str, known: Mapping[str, Mapping[str, Any]]) -> str | dict[str, str] | None:
    """The device that an unknown name seems to mean, with its memory where that is another; None if unclear.

    A name of nvidia-smi or of a cloud (`NVIDIA H100 80GB HBM3`), or one with a typing mistake.
    """
    words = re.sub(r"[\s_-]+", " ", text)
    plain = _ADDED.sub(" ", words)
    memory = _MEMORY.search(plain)
    name = find_name(_MEMORY.sub(" ", plain).strip(), known) or find_name(plain.strip(), known)
    if name is not None and memory is not None:
        written = float(memory[1])
        own = float(parse_quantity(str(known[name]["memory"]), "bytes")) / 1e9
        return name if abs(own / written - 1) < SAME_MEMORY else {"name": name, "memory": f"{memory[1]} GB"}
    if name is not None:
        return name
    close = difflib.get_close_matches(text.lower(), [each.lower() for each in known], n=1, cutoff=0.6)
    guess = next((each for each in known if close and each.lower() == close[0]), None)
    return guess if guess is not None and guess[0].lower() == text.strip()[:1].lower() else None
