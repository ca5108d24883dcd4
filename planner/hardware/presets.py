"""Link presets: bandwidths of links by name (NVLink4, NDR), from links.yaml and the user's files."""

import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from planner.hardware.catalog import user_file
from planner.hardware.device import number
from planner.hardware.hardware_file import LINKS, read_links
from planner.problems import Problem, StrategyError
from planner.yaml12 import Document


@dataclass(frozen=True, kw_only=True)
class LinkPreset:
    """Bandwidth of one GPU's link, one way. is_shipped: in links.yaml, so that every host knows it."""

    name: str
    bytes_per_s: float
    source: str
    is_shipped: bool = False


@lru_cache(maxsize=1)
def shipped_links() -> dict[str, LinkPreset]:
    """Those of links.yaml, by name."""
    path = Path(__file__).parent / "links.yaml"
    root = Document(path.read_text(encoding="utf-8"), path.name).root
    assert root is not None
    return {name: _preset(name, entry, is_shipped=True) for name, entry in root.plain().items()}


def known_links(hardware: Path | None = None) -> dict[str, LinkPreset]:
    """Every link that a strategy may name: the shipped ones, and those under `links:` of the user's files.

    Raises:
        StrategyError: if a file is no hardware file, or one of its links is malformed.
    """
    found: dict[str, LinkPreset] = {}
    for file in (user_file(), hardware):
        if file is not None:
            found |= _of_table(file, read_links(file))
    return found | shipped_links()


def find_link(text: str, known: Mapping[str, LinkPreset]) -> LinkPreset | None:
    """The preset of a name, whatever its case, dashes and spaces."""
    return {_plain(name): preset for name, preset in known.items()}.get(_plain(text))


# kinds of networks whose links are named by their Gbit/s
_NETWORK = re.compile(r"(?i)(ndr|hdr|edr|xdr|fdr|ib|infiniband|roce|eth|ethernet|gbe|efa|connectx|slingshot)")


# Links that are named by a generation, in the spellings of data sheets.
_GENERATION = (
    ("NVLink", re.compile(r"(?i)nv-?link[\s-]*(?:gen(?:eration)?|v)?[\s.-]*(\d)(?:\.0)?(?![\d.])")),
    ("NVLink", re.compile(r"(?i)\b(\d)(?:st|nd|rd|th)?[\s-]*gen(?:eration)?[\s-]*nv-?link")),
    (
        "PCIe",
        re.compile(r"(?i)pci[-\s]?e(?:xpress)?[\s-]*(?:gen(?:eration)?|v)?[\s.-]*(\d)(?:\.0)?(?![\d.])"),
    ),
    (
        "PCIe",
        re.compile(
            r"(?i)\b(?:gen(?:eration)?[\s-]*)?(\d)(?:st|nd|rd|th)?[\s-]*(?:gen(?:eration)?)?[\s-]*pci[-\s]?e"
        ),
    ),
)
# NVIDIA's network adapters: Gbps of a port.
_ADAPTERS = {"5": 100, "6": 200, "7": 400, "8": 800}
# The NVLink of a device (the sources of links.yaml).
NVLINK_OF = {
    **dict.fromkeys(("H100", "H200", "H20"), "NVLink4"),
    **dict.fromkeys(("B200", "GB200", "B300"), "NVLink5"),
    "A100-80GB": "NVLink3",
    "H800": "NVLink4-H800",
}


def suggest_link(text: str, known: Mapping[str, LinkPreset]) -> str | None:
    """What an unknown name seems to mean: a known name in it, a near one, or its Gbps; None if unclear."""
    words = {_plain(word) for word in re.split(r"[\s/,()]+", text)}
    named = [name for name in known if _plain(name) in words]
    if len(named) == 1:
        return named[0]
    for kind, pattern in _GENERATION:
        match = pattern.search(text)
        if match is not None and f"{kind}{match[1]}" in known:
            return f"{kind}{match[1]}"
    adapter = re.search(r"(?i)connect-?x[\s-]?(\d)", text)
    if adapter is not None and adapter[1] in _ADAPTERS:
        return f"{_ADAPTERS[adapter[1]]} Gbps"
    numbers = re.findall(r"\d+", text)
    same_numbers = [name for name in known if re.findall(r"\d+", name) == numbers]
    close = difflib.get_close_matches(_plain(text), [_plain(name) for name in same_numbers], n=1, cutoff=0.75)
    if close:
        return next(name for name in same_numbers if _plain(name) == close[0])
    if len(numbers) == 1 and int(numbers[0]) >= 10 and _NETWORK.search(text):
        return f"{int(numbers[0])} Gbps"
    return None


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter not in " -_.")


def _of_table(file: Path, written: Any) -> dict[str, LinkPreset]:
    if not isinstance(written, dict):
        raise StrategyError([_not_a_link(file, LINKS, "not a table of links")])
    found: dict[str, LinkPreset] = {}
    problems: list[Problem] = []
    for name, entry in written.items():
        wrong = tuple(_faults_of(entry))
        if wrong:
            problems.append(_not_a_link(file, f"{LINKS}.{name}", f"not a link: {'; '.join(wrong)}", entry))
        else:
            found[name] = _preset(name, entry)
    if problems:
        raise StrategyError(problems)
    return found


def _faults_of(entry: Any) -> Iterator[str]:
    """Everything that is wrong with a link."""
    if not isinstance(entry, Mapping):
        yield "not a mapping"
        return
    for key in ("bandwidth", "source"):
        if key not in entry:
            yield f"{key} is missing"
    try:
        number(entry.get("bandwidth", 1), "bytes/s")
    except (TypeError, ValueError) as error:
        yield str(error)
    if isinstance(entry.get("bandwidth"), (int, float)):
        yield f"bandwidth {entry['bandwidth']} has no unit"
    for key in entry:
        if key not in ("bandwidth", "source"):
            yield f"unknown key {key!r}"


def _not_a_link(file: Path, path: str, found: str, entry: Any = None) -> Problem:
    name, given = path.rpartition(".")[2], entry if isinstance(entry, Mapping) else {"bandwidth": entry}
    rate = given.get("bandwidth", given.get("rate"))
    try:
        is_rate = isinstance(rate, str) and number(rate, "bytes/s") > 0
    except ValueError:
        is_rate = False
    written = {"bandwidth": rate if is_rate else "50 GB/s", "source": given.get("source", "data sheet")}
    hint = "" if is_rate else ", with the figure of the link"
    return Problem(
        code="SW141",
        file=str(file),
        path=path,
        found=found,
        expected="NAME: {bandwidth: 50 GB/s, source: where the figure is from}",
        fix=f"write {name}: {{bandwidth: {written['bandwidth']}, source: {written['source']}}}{hint}"
        if path != LINKS
        else "write links: {NAME: {bandwidth: 50 GB/s, source: data sheet}}",
    )


def _preset(name: str, entry: Mapping[str, Any], *, is_shipped: bool = False) -> LinkPreset:
    return LinkPreset(
        name=name,
        bytes_per_s=number(entry["bandwidth"], "bytes/s"),
        source=str(entry["source"]),
        is_shipped=is_shipped,
    )
