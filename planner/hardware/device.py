"""Device: rates of a GPU or a CPU as the prediction reads them, made from an entry of devices.yaml."""

import difflib
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from math import log
from typing import Any

from planner.units import Dimension, QuantityError, parse_quantity

CPU = "cpu"


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A rate by size: linear in the logarithm of the size between its points, constant beyond them."""

    points: tuple[tuple[float, float], ...]

    def at(self, size: float) -> float:
        points = self.points
        index = bisect_left(points, (size,))
        if index == 0:
            return points[0][1]
        if index == len(points):
            return points[-1][1]
        (x0, y0), (x1, y1) = points[index - 1], points[index]
        return y0 + (y1 - y0) * log(size / x0) / log(x1 / x0)


@dataclass(frozen=True, kw_only=True)
class MeasuredCollective:
    """Seconds of one collective of gloo by the bytes of a rank, on a host that carries `ranks_on_host`."""

    kind: str
    ranks_on_host: int
    group: int
    points: tuple[tuple[float, float], ...]

    def seconds(self, num_bytes: float) -> float:
        """Linear between the points and beyond the last; below the first it is the first's."""
        points = self.points
        index = min(max(bisect_left(points, (num_bytes,)), 1), len(points) - 1)
        (x0, y0), (x1, y1) = points[index - 1], points[index]
        return max(y0 + (y1 - y0) * (max(num_bytes, points[0][0]) - x0) / (x1 - x0), points[0][1])


@dataclass(frozen=True, kw_only=True)
class MeasuredContention:
    """What ranks cost each other on a host that carries `ranks_on_host`.

    compute: the clock's time for work over what primitives take, beyond cores that are shared. waits: (a
    core's seconds of work between two collectives, seconds that ranks then wait for the last of them).
    """

    ranks_on_host: int
    compute: float
    waits: tuple[tuple[float, float], ...]

    def wait_s(self, work_s: float) -> float:
        """Linear between the points, constant beyond them."""
        points = self.waits
        index = min(max(bisect_left(points, (work_s,)), 1), len(points) - 1)
        (x0, y0), (x1, y1) = points[index - 1], points[index]
        share = min(1.0, max(0.0, (work_s - x0) / (x1 - x0)))
        return y0 + (y1 - y0) * share


@dataclass(frozen=True, kw_only=True)
class Device:
    """Rates of a device; devices.yaml explains each number.

    `peak` FLOP/s, `gemm`, `grouped` and `attention` shares of it by precision, `elementwise` bytes/s, times
    in seconds.
    `fresh_bytes_per_s`: extra cost of touching memory for the first time; None: not known.
    `is_calibrated`: from a file of measurements, not shipped.
    """

    name: str
    is_cpu: bool
    is_calibrated: bool
    peak: Mapping[str, float]
    gemm: Mapping[str, Curve]
    grouped: Mapping[str, Curve]
    attention: Mapping[str, Curve]
    tile_rows: int
    elementwise: Curve
    fresh_bytes_per_s: float | None
    operation_s: float
    intra_latency_s: float
    inter_latency_s: float
    message_s: float
    link_share: float
    cores: int | None
    collectives: tuple[MeasuredCollective, ...]
    contention: tuple[MeasuredContention, ...] = ()
    sources: tuple[str, ...]
    # Measured bytes/s of a rank, one way; they replace the strategy's links.
    intra_bytes_per_s: float | None = None
    inter_bytes_per_s: float | None = None

    def contention_of(self, ranks_at_work: float) -> MeasuredContention | None:
        """Of the measured numbers of ranks the nearest; None if nothing was measured."""
        return min(self.contention, key=lambda each: abs(each.ranks_on_host - ranks_at_work), default=None)


KEYS = {
    *("aliases", "like", "memory", "memory_bandwidth", "peak", "source", "sources"),
    *("gemm", "grouped", "tile_rows", "attention", "elementwise", "fresh", "operation"),
    *("latency", "message", "links", "link_share", "cores", "contention", "collectives"),
}


class EntryError(ValueError):
    """What is wrong with an entry, at which of its keys."""

    def __init__(self, key: str, found: str) -> None:
        super().__init__(found)
        self.key = key


def make_device(name: str, entry: Mapping[str, Any], calibration: str | None) -> Device:
    """The device of an entry without `like`; `calibration`: the file that it is from, if it is not shipped.

    Raises:
        EntryError: at the first key that is missing or wrong.
    """
    latency = _mapping(entry, "latency")
    sources = [f"{key}: {text}" for key, text in _mapping(entry, "sources").items()]
    links = _mapping(entry, "links", {})
    elementwise = read_key(entry, "elementwise", lambda points: curve(points, "bytes", "bytes/s"))
    return Device(
        name=name,
        is_cpu=name == CPU,
        is_calibrated=calibration is not None,
        peak=peaks_of(entry),
        gemm=curves_of(entry, "gemm"),
        grouped=curves_of(entry, "grouped", {}),
        attention=curves_of(entry, "attention", {}),
        tile_rows=read_key(entry, "tile_rows", lambda value: int(value or 1), 1),
        elementwise=elementwise,
        fresh_bytes_per_s=read_key(entry, "fresh", lambda value: number(value, "bytes/s"), None),
        operation_s=read_key(entry, "operation", lambda value: number(value, "seconds")),
        intra_latency_s=read_key(latency, "intra_host", lambda value: number(value, "seconds")),
        inter_latency_s=read_key(latency, "inter_host", lambda value: number(value, "seconds")),
        message_s=read_key(entry, "message", lambda value: number(value, "seconds")),
        link_share=read_key(entry, "link_share", float),
        cores=entry.get("cores"),
        collectives=read_key(entry, "collectives", lambda items: tuple(map(_collective, items or ())), ()),
        contention=read_key(entry, "contention", lambda items: tuple(map(_contention, items or ())), ()),
        sources=(f"{name}: {read_key(entry, 'source', str)}", *sources)
        + ((f"from {calibration}",) if calibration else ()),
        intra_bytes_per_s=read_key(links, "intra_host", lambda value: number(value, "bytes/s"), None),
        inter_bytes_per_s=read_key(links, "inter_host", lambda value: number(value, "bytes/s"), None),
    )


def unknown_keys(entry: Mapping[str, Any]) -> Iterator[EntryError]:
    """Keys of an entry that are not in KEYS; a misspelt one would be a rate that nothing uses."""
    for key in entry:
        if key not in KEYS:
            close = difflib.get_close_matches(str(key), KEYS, n=1)
            hint = f"; did you mean {close[0]}?" if close else f"; known: {', '.join(sorted(KEYS))}"
            yield EntryError(key, f"unknown key {key!r}{hint}")


def peaks_of(entry: Mapping[str, Any]) -> dict[str, float]:
    """FLOP/s by precision."""
    found, wrong = {}, []
    for key, text in _mapping(entry, "peak").items():
        try:
            found[key] = number(text, "FLOP/s")
        except (TypeError, ValueError) as error:
            wrong.append(f"{key}: {error}")
    if wrong:
        raise EntryError("peak", f"peak: {'; '.join(wrong)}")
    return found


def curves_of(entry: Mapping[str, Any], key: str, *default: Any) -> dict[str, Curve]:
    """Shares of the peak by precision."""
    read = read_key({key: _mapping(entry, key, *default)}, key, _curves)
    assert isinstance(read, dict)
    return read


def _curves(value: Mapping[str, Any]) -> dict[str, Curve]:
    return {name: curve(points) for name, points in value.items()}


def curve(points: Any, x: Dimension = "count", y: Dimension = "count") -> Curve:
    """A curve of at least two points in ascending order."""
    read = tuple((number(size, x), number(rate, y)) for size, rate in points)
    if len(read) < 2 or any(a[0] >= b[0] for a, b in pairwise(read)):
        raise ValueError("a curve needs at least two points in ascending order of size")
    return Curve(points=read)


def number(value: Any, dimension: Dimension) -> float:
    """A quantity above 0 in base units."""
    try:
        found = float(parse_quantity(value, dimension) if isinstance(value, str) else value)
    except QuantityError as error:
        raise ValueError(str(error)) from None
    if not found > 0:
        raise ValueError(f"{value!r} is not above 0")
    return found


def _collective(item: Mapping[str, Any]) -> MeasuredCollective:
    return MeasuredCollective(
        kind=item["kind"],
        ranks_on_host=item["ranks_on_host"],
        group=item["group"],
        points=curve(item["points"], "bytes", "seconds").points,
    )


def _contention(item: Mapping[str, Any]) -> MeasuredContention:
    return MeasuredContention(
        ranks_on_host=int(number(item["ranks_on_host"], "count")),
        compute=number(item["compute"], "count"),
        waits=curve(item["waits"], "seconds", "seconds").points,
    )


def _mapping(entry: Mapping[str, Any], key: str, *default: Any) -> Mapping[str, Any]:
    if default and not entry.get(key):
        return dict(default[0])
    if key not in entry:
        raise EntryError(key, f"{key} is missing")
    value = entry[key]
    if not isinstance(value, Mapping):
        raise EntryError(key, f"{key} has the wrong type: not a mapping")
    return value


def read_key(entry: Mapping[str, Any], key: str, read: Any, *default: Any) -> Any:
    """What `read` makes of a key's value; the default where the key is missing.

    Raises:
        EntryError: if the value is wrong, or missing without a default.
    """
    if key not in entry:
        if default:
            return default[0]
        raise EntryError(key, f"{key} is missing")
    try:
        return read(entry[key])
    except EntryError:
        raise
    except ValueError as error:
        raise EntryError(key, f"{key}: {error}") from None
    except (TypeError, KeyError, AttributeError) as error:
        raise EntryError(key, f"{key}: a value has the wrong type ({error})") from None
