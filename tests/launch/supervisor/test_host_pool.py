"""Where a spare goes, and what remains without one."""

from launch.supervisor.host_pool import HostPool, PoolHost, on_hosts, pool_of
from planner import build_plan, load


def pool(in_use: str, spares: str, **slots: int) -> HostPool:
    """One letter a host, of 2 slots unless `slots` says otherwise."""

    def hosts(names: str) -> tuple[PoolHost, ...]:
        return tuple(PoolHost(name=name, slots=slots.get(name, 2)) for name in names)

    return HostPool(in_use=hosts(in_use), spares=hosts(spares))


def test_a_spare_takes_the_place_of_the_failed_host() -> None:
    after = pool("abcd", "xy").take_out({"b"})
    assert after is not None
    assert (after.names, after.spares, after.out) == (("a", "x", "c", "d"), pool("", "y").spares, ("b",))


def test_a_failed_spare_is_not_used() -> None:
    after = pool("ab", "xy").take_out({"b", "x"})
    assert after is not None
    assert (after.names, after.spares, after.out) == (("a", "y"), (), ("b", "x"))


def test_a_spare_with_too_few_slots_is_left_for_another_place() -> None:
    after = pool("ab", "xy", b=4, y=8).take_out({"b"})
    assert after is not None
    assert after.in_use[1] == PoolHost(name="y", slots=4)  # it runs as many ranks as the place has
    assert [spare.name for spare in after.spares] == ["x"]


def test_without_a_spare_there_is_no_such_pool_but_one_of_what_remains() -> None:
    before = pool("abc", "x")
    assert before.take_out({"a", "b"}) is None
    after = before.shrink({"a", "b"})
    assert (after.names, after.spares, after.out) == (("c", "x"), (), ("a", "b"))


def test_the_references_ranks_stay_where_they_are() -> None:
    strategy = load("ds_configs/ep64_tp2_staged.yaml")
    before = pool_of(build_plan(strategy))
    assert (len(before.in_use), len(before.spares)) == (9, 7)
    after = before.take_out({"host-03"})
    assert after is not None
    old, new = build_plan(strategy), build_plan(on_hosts(strategy, after))
    moved = [rank for rank in range(old.world_size) if old.host_of(rank).name != new.host_of(rank).name]
    assert moved == list(range(24, 32))
    assert {new.host_of(rank).name for rank in moved} == {"host-09"}
    assert new.strategy.cluster.spare_hosts == 6
    assert "host-03" not in new.strategy.cluster.hosts.names
