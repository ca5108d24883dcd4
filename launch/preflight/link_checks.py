"""Link checks of preflight: measured exchanges and links against the strategy and against each other."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

from launch.preflight.check import PreflightCheck, failed, passed, unknown
from launch.preflight.outliers import CPU, GPU, Pair, Tolerance, slow_hosts, slow_links, slow_ones
from planner import Plan
from planner.hardware.catalog import device_of
from planner.prediction.link_calibration import MeasuredLinks
from planner.timing.collective_time import Network, network_of
from planner.timing.exchanges import Exchange, exchanges_of, hosts_spanned, predicted_s
from planner.units import format_bytes

# Of the bandwidth that predictions assume (the strategy's link times the device's link_share).
MIN_SHARE = 0.8
_MAX_NAMED = 4


@dataclass(frozen=True, kw_only=True)
class ExchangeTiming:
    """One exchange of the plan, predicted with the strategy's links and measured (slowest group's median)."""

    exchange: Exchange
    num_groups: int
    predicted_s: float
    measured_s: float

    @property
    def ratio(self) -> float:
        return self.measured_s / self.predicted_s


@dataclass(frozen=True, kw_only=True)
class LinkTiming:
    """A link between two ranks: seconds of a large message each way, and of a small one."""

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


def link_timings(plan: Plan, result: Mapping[str, Any]) -> tuple[LinkTiming, ...]:
    """Every pair of ranks that exchanged messages."""
    return tuple(
        LinkTiming(
            hosts=(plan.host_of(pair["ranks"][0]).name, plan.host_of(pair["ranks"][1]).name),
            ranks=(pair["ranks"][0], pair["ranks"][1]),
            latency_s=pair["latency_s"],
            there_s=pair["there_s"],
            back_s=pair["back_s"],
        )
        for pair in result["pairs"]
    )


def exchange_timings(plan: Plan, result: Mapping[str, Any]) -> tuple[ExchangeTiming, ...]:
    """Every exchange of the plan beside its prediction."""
    network = _planned_network(plan)
    return tuple(
        ExchangeTiming(
            exchange=exchange,
            num_groups=len(exchange.groups) or len(exchange.messages),
            predicted_s=predicted_s(plan, exchange, network),
            measured_s=max(trial["median_s"] for trial in result["exchanges"][exchange.title].values()),
        )
        for exchange in exchanges_of(plan)
    )


def measured_links(plan: Plan, result: Mapping[str, Any], source: str) -> MeasuredLinks:
    """Medians over all pairs, for the planner."""
    links = link_timings(plan, result)
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


def link_checks(plan: Plan, result: Mapping[str, Any]) -> tuple[PreflightCheck, ...]:
    """Correct values, links as fast as the strategy says, no host, link, group or rank slower than others."""
    tolerance = CPU if plan.strategy.cluster.gpu.is_cpu else GPU
    links = link_timings(plan, result)
    return (
        *_values(plan, result),
        *_bandwidth(plan, links, result["pair_bytes"]),
        *_slow_hosts_and_links(links, result["pair_bytes"], tolerance),
        *_slow_inside(links, result["pair_bytes"], tolerance),
        *_slow_groups(plan, result, tolerance),
        *_late_ranks(plan, result, tolerance),
    )


def _planned_network(plan: Plan) -> Network:
    """With the strategy's own links, not with earlier measurements of the same links."""
    return network_of(plan, device_of(plan.strategy.cluster.gpu))


def _rate(links: list[LinkTiming], num_bytes: int) -> float | None:
    if not links:
        return None
    return num_bytes / median(seconds for link in links for seconds in (link.there_s, link.back_s))


def _values(plan: Plan, result: Mapping[str, Any]) -> Iterator[PreflightCheck]:
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
        yield passed("values", "every exchange delivered correct values")
        return
    more = [f"and {len(wrong) - _MAX_NAMED} more"] if len(wrong) > _MAX_NAMED else []
    yield failed(
        "SW532",
        "values",
        "; ".join(wrong[:_MAX_NAMED] + more),
        expected="received values equal to the sent ones",
        fix="remove these hosts: a GPU or link that corrupts data ruins a training silently",
    )


def _bandwidth(plan: Plan, links: tuple[LinkTiming, ...], num_bytes: int) -> Iterator[PreflightCheck]:
    network, written = _planned_network(plan), plan.strategy.cluster.links
    share = network.device.link_share
    for name, key, is_inside, planned, nominal in (
        ("links in a host", "intra_host", True, network.intra_bytes_per_s, written.intra_host),
        (
            "links between hosts",
            "inter_host",
            False,
            network.inter_bytes_per_s,
            written.inter_host_rate(plan.host_size),
        ),
    ):
        some = [link for link in links if link.is_inside == is_inside]
        rate = _rate(some, num_bytes)
        if rate is None:
            continue
        slowest = max(some, key=lambda link: link.slowest_s)
        least = num_bytes / slowest.slowest_s
        found = f"{_gb(rate)}, slowest {_gb(least)} ({_ends(slowest)})" if len(some) > 1 else _gb(rate)
        if rate >= MIN_SHARE * planned:
            yield passed(name, found)
            continue
        yield failed(
            "SW533",
            name,
            found,
            expected=f"at least {_gb(MIN_SHARE * planned)}: {MIN_SHARE:.0%} of what the plan assumes, "
            f"{_gb(nominal)} × {share:g}",
            fix=f"set cluster.links.{key} to the measured value, or find the cause: "
            "launch.network_interface, the driver, a cable",
        )


def _slow_hosts_and_links(
    links: tuple[LinkTiming, ...], num_bytes: int, tolerance: Tolerance
) -> Iterator[PreflightCheck]:
    worst: dict[Pair, LinkTiming] = {}
    late: dict[Pair, float] = {}
    for link in links:
        if not link.is_inside:
            known = worst.get(link.hosts)
            worst[link.hosts] = link if known is None or link.slowest_s > known.slowest_s else known
            late[link.hosts] = max(late.get(link.hosts, 0.0), link.latency_s)
    if len(worst) < 3:
        if worst:
            yield unknown("slow hosts", f"{len(worst)} pair of hosts; comparing takes three hosts or more")
        return
    slow = False
    large = {pair: link.slowest_s for pair, link in worst.items()}
    for what, seconds in ((f"{format_bytes(num_bytes)}", large), ("a small message", late)):
        for host, times in slow_hosts(seconds, tolerance).items():
            slow = True
            yield failed(
                "SW534",
                "slow hosts",
                f"{what} takes {times:.1f} times as long to or from this host as between the others",
                expected=f"all hosts within {tolerance.factor:g} times the median",
                fix="check its network card, cable and load, or use a spare host instead",
                host=host,
            )
        for pair, times in slow_links(seconds, tolerance).items():
            slow = True
            link = worst[pair]
            yield failed(
                "SW534",
                "slow hosts",
                f"the link {_ends(link)} takes {times:.1f} times as long as the others for {what}",
                expected=f"all links within {tolerance.factor:g} times the median",
                fix="check the cables and switches between these two hosts",
            )
    if not slow:
        found = f"none of {len({host for pair in worst for host in pair})} hosts and {len(worst)} links"
        yield passed("slow hosts", found)


def _slow_inside(
    links: tuple[LinkTiming, ...], num_bytes: int, tolerance: Tolerance
) -> Iterator[PreflightCheck]:
    inside = {link: link.slowest_s for link in links if link.is_inside}
    slow = slow_ones(inside, tolerance)
    for link, times in slow.items():
        yield failed(
            "SW535",
            "slow links in a host",
            f"{_ends(link)} take {times:.1f} times as long as others for {format_bytes(num_bytes)}",
            expected=f"all pairs within {tolerance.factor:g} times the median",
            fix="check how the two GPUs are connected (`nvidia-smi topo -m`) and what else runs on the host",
            host=link.hosts[0],
        )
    if len(inside) > 2 and not slow:
        yield passed("slow links in a host", f"none of {len(inside)}")


def _slow_groups(plan: Plan, result: Mapping[str, Any], tolerance: Tolerance) -> Iterator[PreflightCheck]:
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
        yield failed(
            "SW536",
            "slow groups",
            f"{exchange.title}: {who} on {where} take {times:.1f} times as long as the other groups",
            expected=f"all groups within {tolerance.factor:g} times the median",
            fix="check the GPUs and links of these ranks; `nvidia-smi topo -m` shows how they are connected",
        )
    if compared and not slow:
        yield passed("slow groups", f"none of {compared}")


def _late_ranks(plan: Plan, result: Mapping[str, Any], tolerance: Tolerance) -> Iterator[PreflightCheck]:
    """Ranks that start their own part late, so that their groups wait for them."""
    compared, late = 0, []
    for exchange in exchanges_of(plan):
        trials = result["exchanges"][exchange.title]
        seconds = {int(rank): trial["issue_s"] for rank, trial in trials.items()}
        compared = max(compared, len(seconds))
        late += [(exchange, rank, seconds[rank]) for rank in slow_ones(seconds, tolerance)]
    for exchange, rank, issue_s in late[: 2 * _MAX_NAMED]:
        yield failed(
            "SW537",
            "late ranks",
            f"{exchange.title}: rank {rank} starts its part after {issue_s * 1e3:.3g} ms",
            expected="all ranks start at once",
            fix="check what else runs on the host, its clock rate and temperature",
            host=plan.host_of(rank).name,
        )
    if compared > 2 and not late:
        yield passed("late ranks", f"none of {compared}")


def _ends(link: LinkTiming) -> str:
    (a, b), (x, y) = link.hosts, link.ranks
    return f"ranks {x} and {y} on {a}" if link.is_inside else f"{a} – {b}, ranks {x} and {y}"


def _gb(rate: float) -> str:
    return f"{rate / 1e9:.3g} GB/s"
