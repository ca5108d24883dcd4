"""What the ranks measured, held against the strategy's links and against each other: checks, and a table."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

from launch.preflight.check import Check
from launch.preflight.outliers import CPU, GPU, Pair, Tolerance, slow_hosts, slow_links, slow_ones
from planner import Plan
from planner.hardware.catalog import device_of
from planner.prediction.link_calibration import MeasuredLinks
from planner.timing.collective_time import Network, network_of
from planner.timing.exchanges import Exchange, exchanges_of, hosts_spanned, predicted_s
from planner.units import format_bytes

# Of the bandwidth that a prediction counts with (the strategy's link times the device's link_share).
MIN_SHARE = 0.8
_MAX_NAMED = 4


@dataclass(frozen=True, kw_only=True)
class Row:
    """One exchange: predicted with the strategy's links, and measured, the slowest group's median."""

    exchange: Exchange
    num_groups: int
    predicted_s: float
    measured_s: float

    @property
    def ratio(self) -> float:
        return self.measured_s / self.predicted_s


@dataclass(frozen=True, kw_only=True)
class Link:
    """A pair of ranks. host pair; seconds of a large message each way, and of a small one."""

    hosts: Pair
    ranks: tuple[int, int]
    latency_s: float
    there_s: float
    back_s: float

    @property
    def slowest_s(self) -> float:
        return max(self.there_s, self.back_s)

    @property
    def is_inside(self) -> bool:
        return self.hosts[0] == self.hosts[1]


def links_of(plan: Plan, result: Mapping[str, Any]) -> tuple[Link, ...]:
    """Every pair of ranks that talked."""
    return tuple(
        Link(
            hosts=(plan.host_of(pair["ranks"][0]).name, plan.host_of(pair["ranks"][1]).name),
            ranks=(pair["ranks"][0], pair["ranks"][1]),
            latency_s=pair["latency_s"],
            there_s=pair["there_s"],
            back_s=pair["back_s"],
        )
        for pair in result["pairs"]
    )


def rows_of(plan: Plan, result: Mapping[str, Any]) -> tuple[Row, ...]:
    """Every exchange of the plan beside its prediction."""
    network = _planned_network(plan)
    return tuple(
        Row(
            exchange=exchange,
            num_groups=len(exchange.groups) or len(exchange.messages),
            predicted_s=predicted_s(plan, exchange, network),
            measured_s=max(trial["median_s"] for trial in result["exchanges"][exchange.title].values()),
        )
        for exchange in exchanges_of(plan)
    )


def measured_links(plan: Plan, result: Mapping[str, Any], source: str) -> MeasuredLinks:
    """Medians over all pairs, for the planner."""
    links = links_of(plan, result)
    size = result["pair_bytes"]
    inside = [link for link in links if link.is_inside]
    between = [link for link in links if not link.is_inside]
    return MeasuredLinks(
        intra_bytes_per_s=_rate(inside, size),
        intra_latency_s=median(link.latency_s for link in inside) if inside else None,
        inter_bytes_per_s=_rate(between, size),
        inter_latency_s=median(link.latency_s for link in between) if between else None,
        source=source,
    )


def link_checks(plan: Plan, result: Mapping[str, Any]) -> tuple[Check, ...]:
    """Right values; links as fast as the strategy says; no host, link, group or rank slower than its like."""
    tolerance = CPU if plan.strategy.cluster.gpu.is_cpu else GPU
    links = links_of(plan, result)
    return (
        *_values(plan, result),
        *_bandwidth(plan, links, result["pair_bytes"]),
        *_slow_hosts_and_links(links, result["pair_bytes"], tolerance),
        *_slow_inside(links, result["pair_bytes"], tolerance),
        *_slow_groups(plan, result, tolerance),
        *_late_ranks(plan, result, tolerance),
    )


def _planned_network(plan: Plan) -> Network:
    """With the strategy's own links: what was measured before must not be held against itself."""
    return network_of(plan, device_of(plan.strategy.cluster.gpu))


def _rate(links: list[Link], num_bytes: int) -> float | None:
    if not links:
        return None
    return num_bytes / median(seconds for link in links for seconds in (link.there_s, link.back_s))


def _values(plan: Plan, result: Mapping[str, Any]) -> Iterator[Check]:
    wrong = [
        f"{title}: rank {rank} on {plan.host_of(int(rank)).name}: {trial['wrong']}"
        for title, trials in result["exchanges"].items()
        for rank, trial in trials.items()
        if trial["wrong"]
    ]
    wrong += [
        f"between ranks {pair['ranks'][0]} and {pair['ranks'][1]}: {pair['wrong']}"
        for pair in result["pairs"]
        if pair["wrong"]
    ]
    if not wrong:
        yield Check(name="values", host=None, verdict="passes", found="every exchange gave the right values")
        return
    more = [f"and {len(wrong) - _MAX_NAMED} more"] if len(wrong) > _MAX_NAMED else []
    yield Check(
        name="values",
        host=None,
        verdict="fails",
        found="; ".join(wrong[:_MAX_NAMED] + more),
        expected="what was sent arrives as it was sent",
        fix="take these hosts out: a card or a link that alters data spoils a training silently",
    )


def _bandwidth(plan: Plan, links: tuple[Link, ...], num_bytes: int) -> Iterator[Check]:
    network, written = _planned_network(plan), plan.strategy.cluster.links
    share = network.device.link_share
    for name, key, is_inside, planned, said in (
        ("links in a host", "intra_host", True, network.intra_bytes_per_s, written.intra_host),
        ("links between hosts", "inter_host", False, network.inter_bytes_per_s, written.inter_host),
    ):
        some = [link for link in links if link.is_inside == is_inside]
        rate = _rate(some, num_bytes)
        if rate is None:
            continue
        slowest = max(some, key=lambda link: link.slowest_s)
        least = num_bytes / slowest.slowest_s
        found = f"{_gb(rate)}, the slowest {_gb(least)} ({_ends(slowest)})" if len(some) > 1 else _gb(rate)
        if rate >= MIN_SHARE * planned:
            yield Check(name=name, host=None, verdict="passes", found=found)
            continue
        yield Check(
            name=name,
            host=None,
            verdict="fails",
            found=found,
            expected=f"{_gb(MIN_SHARE * planned)} at least: {MIN_SHARE:.0%} of what the plan counts with, "
            f"{_gb(said)} × {share:g}",
            fix=f"write what was measured under cluster.links.{key}, or look for the cause: "
            "launch.network_interface, the driver, a cable",
        )


def _slow_hosts_and_links(links: tuple[Link, ...], num_bytes: int, tolerance: Tolerance) -> Iterator[Check]:
    worst: dict[Pair, Link] = {}
    late: dict[Pair, float] = {}
    for link in links:
        if not link.is_inside:
            known = worst.get(link.hosts)
            worst[link.hosts] = link if known is None or link.slowest_s > known.slowest_s else known
            late[link.hosts] = max(late.get(link.hosts, 0.0), link.latency_s)
    if len(worst) < 3:
        if worst:
            why = f"{len(worst)} pair of hosts: three hosts or more can be compared"
            yield Check(name="slow hosts", host=None, verdict="unknown", found=why)
        return
    slow = False
    large = {pair: link.slowest_s for pair, link in worst.items()}
    for what, seconds in ((f"{format_bytes(num_bytes)}", large), ("a small message", late)):
        for host, times in slow_hosts(seconds, tolerance).items():
            slow = True
            yield Check(
                name="slow hosts",
                host=host,
                verdict="fails",
                found=f"{what} takes {times:.1f} times as long to or from it as between the others",
                expected=f"all hosts alike, within {tolerance.factor:g} times",
                fix="look at its network card, cable and load; or take it out (spare_hosts has others)",
            )
        for pair, times in slow_links(seconds, tolerance).items():
            slow = True
            link = worst[pair]
            yield Check(
                name="slow hosts",
                host=None,
                verdict="fails",
                found=f"the link {_ends(link)} takes {times:.1f} times as long as the others for {what}",
                expected=f"all links alike, within {tolerance.factor:g} times",
                fix="look at the cables and switches between these two",
            )
    if not slow:
        found = f"none of {len({host for pair in worst for host in pair})} hosts and {len(worst)} links"
        yield Check(name="slow hosts", host=None, verdict="passes", found=found)


def _slow_inside(links: tuple[Link, ...], num_bytes: int, tolerance: Tolerance) -> Iterator[Check]:
    inside = {link: link.slowest_s for link in links if link.is_inside}
    slow = slow_ones(inside, tolerance)
    for link, times in slow.items():
        yield Check(
            name="slow links in a host",
            host=link.hosts[0],
            verdict="fails",
            found=f"{_ends(link)} take {times:.1f} times as long as others for {format_bytes(num_bytes)}",
            expected=f"all pairs alike, within {tolerance.factor:g} times",
            fix="look at how these two are joined: `nvidia-smi topo -m`, and at what else runs there",
        )
    if len(inside) > 2 and not slow:
        yield Check(name="slow links in a host", host=None, verdict="passes", found=f"none of {len(inside)}")


def _slow_groups(plan: Plan, result: Mapping[str, Any], tolerance: Tolerance) -> Iterator[Check]:
    compared, slow = 0, []
    for exchange in exchanges_of(plan):
        trials = result["exchanges"][exchange.title]
        groups = exchange.groups or tuple((message[1],) for message in exchange.messages)
        seconds = {group: max(trials[str(rank)]["median_s"] for rank in group) for group in groups}
        compared += len(seconds) if len(seconds) > 2 else 0
        slow += [(exchange, group, times) for group, times in slow_ones(seconds, tolerance).items()]
    for exchange, group, times in slow[: 2 * _MAX_NAMED]:
        where = ", ".join(hosts_spanned(plan, group))
        who = f"ranks {', '.join(map(str, group[:_MAX_NAMED]))}{' …' if len(group) > _MAX_NAMED else ''}"
        yield Check(
            name="slow groups",
            host=None,
            verdict="fails",
            found=f"{exchange.title}: {who} on {where} take {times:.1f} times as long as the other groups",
            expected=f"all groups alike, within {tolerance.factor:g} times",
            fix="look at the GPUs and links of these ranks; `nvidia-smi topo -m` shows how they are joined",
        )
    if compared and not slow:
        yield Check(name="slow groups", host=None, verdict="passes", found=f"none of {compared}")


def _late_ranks(plan: Plan, result: Mapping[str, Any], tolerance: Tolerance) -> Iterator[Check]:
    """Ranks that take long to begin their own part: the others of their groups wait for them."""
    compared, late = 0, []
    for exchange in exchanges_of(plan):
        trials = result["exchanges"][exchange.title]
        seconds = {int(rank): trial["issue_s"] for rank, trial in trials.items()}
        compared = max(compared, len(seconds))
        late += [(exchange, rank, seconds[rank]) for rank in slow_ones(seconds, tolerance)]
    for exchange, rank, begins in late[: 2 * _MAX_NAMED]:
        yield Check(
            name="late ranks",
            host=plan.host_of(rank).name,
            verdict="fails",
            found=f"{exchange.title}: rank {rank} begins its part after {begins * 1e3:.3g} ms",
            expected="all ranks begin at once",
            fix="look what else runs on that host, at its clock rate and temperature",
        )
    if compared > 2 and not late:
        yield Check(name="late ranks", host=None, verdict="passes", found=f"none of {compared}")


def _ends(link: Link) -> str:
    (a, b), (x, y) = link.hosts, link.ranks
    return f"ranks {x} and {y} on {a}" if link.is_inside else f"{a} – {b}, ranks {x} and {y}"


def _gb(rate: float) -> str:
    return f"{rate / 1e9:.3g} GB/s"
