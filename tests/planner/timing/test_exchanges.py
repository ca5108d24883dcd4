"""Which exchanges a plan has: groups and bytes by hand, pairs of hosts, what is predicted."""

from itertools import combinations

import pytest

from planner import Plan, build_plan, load
from planner.hardware.catalog import device_of
from planner.timing.collective_time import network_of
from planner.timing.exchanges import exchanges_of, host_pairs, neighbours, predicted_s, rank_pairs
from tests.support.examples import plan

STAGED = build_plan(load("ds_configs/ep64_tp2_staged.yaml"))


def found(built: Plan) -> dict[str, tuple[str, int]]:
    return {exchange.title: (exchange.kind, exchange.num_bytes) for exchange in exchanges_of(built)}


def test_the_references_exchanges_are_those_of_its_stages() -> None:
    # 64 sequences a micro-step, 1024 tokens, hidden 1024, 2 bytes; an expert rank has one sequence of them.
    whole = 64 * 1024 * 1024 * 2
    assert found(STAGED) == {
        "TP all-reduce, embedding": ("all_reduce", whole),
        "EP all-to-all, experts": ("all_to_all", 1024 * 1024 * 2),
        "gradient reduce, experts": ("all_reduce", 50_000_000 * 2),  # one bucket of more
        "TP all-reduce, aggregation": ("all_reduce", whole),
        # TP partners share what crosses: half of the columns each.
        "stage P2P, embedding → experts": ("send", whole // 2),
        "stage P2P, experts → aggregation": ("send", whole // 2),
    }


def test_a_transfer_moves_every_element_once() -> None:
    (first, second) = (e for e in exchanges_of(STAGED) if e.kind == "send")
    assert len(first.messages) == len(second.messages) == 2 * 64
    assert sum(message[2] for message in first.messages) == 64 * 1024 * 1024 * 2
    assert {message[:2] for message in first.messages} == {(a, b) for a in (0, 1) for b in range(2, 66)}
    assert {message[:2] for message in second.messages} == {(a, b) for a in range(2, 66) for b in (66, 67)}


def test_degrees_of_one_have_no_exchange() -> None:
    assert found(plan("parallel.ep=1", "training.global_batch=4")) == {}


def test_copies_sum_gradients_of_experts_over_their_own_peers() -> None:
    built = plan("parallel={ep: 4, dp: 2}", "model.num_hidden_layers=1", "model.num_experts=4")
    by_title = {exchange.title: exchange for exchange in exchanges_of(built)}
    experts = by_title["expert gradient reduce, all"]
    assert experts.groups == ((0, 4), (1, 5), (2, 6), (3, 7))
    assert experts.num_bytes == 2 * 1024 * 2048 * 2  # one expert of two matrices a rank, bf16
    assert by_title["gradient reduce, all"].groups == (tuple(range(8)),)


def test_a_bucket_holds_the_largest_tensor() -> None:
    """An embedding of 151,936 × 2,048 elements is reduced in one piece."""
    built = plan(
        "parallel=EP8",
        "model={num_hidden_layers: 1, num_experts: 8, hidden_size: 2048, moe_intermediate_size: 64, "
        "num_attention_heads: 16, vocab_size: 151936}",
    )
    kind, num_bytes = found(built)["gradient reduce, all"]
    assert (kind, num_bytes) == ("all_reduce", 151_936 * 2048 * 2)


def test_eight_bit_payloads_have_rows_with_a_scale() -> None:
    (exchange,) = (
        e
        for e in exchanges_of(
            plan(
                "parallel.ep=8",
                "runtime.fp8_payload=true",
                "training.precision=fp8",
                "cluster.gpu.peak={bf16: 400 TFLOPS, fp8: 400 TFLOPS}",
            )
        )
        if e.kind == "all_to_all"
    )
    assert (exchange.element_bytes, exchange.num_bytes) == (1, 1024 * (1024 + 4))


@pytest.mark.parametrize("num_hosts", [1, 2, 3, 6, 9])
def test_every_two_hosts_meet_once_and_none_twice_in_a_round(num_hosts: int) -> None:
    names = [f"n{i}" for i in range(num_hosts)]
    hosts = f"cluster.hosts=[{', '.join(names)}]"
    built = plan(
        hosts, "cluster.gpus_per_host=1", f"parallel.dp={num_hosts}", f"training.global_batch={num_hosts}"
    )
    rounds = host_pairs(built)
    for pairs in rounds:
        there = [host for pair in pairs for host in pair]
        assert len(set(there)) == len(there)
    met = [frozenset(pair) for pairs in rounds for pair in pairs]
    assert sorted(map(sorted, met)) == sorted(map(sorted, combinations(names, 2)))
    assert len(rounds) == {1: 0, 2: 1, 3: 3, 6: 5, 9: 9}[num_hosts]


def test_hosts_talk_rank_by_rank_and_a_short_one_with_what_it_has() -> None:
    assert rank_pairs(STAGED, ("host-07", "host-08")) == ((56, 64), (57, 65), (58, 66), (59, 67))
    inside = neighbours(STAGED)
    assert inside[:5] == ((0, 1), (2, 3), (4, 5), (6, 7), (8, 9))
    assert len(inside) == 34


def test_the_prediction_is_that_of_the_plan() -> None:
    network = network_of(STAGED, device_of(STAGED.strategy.cluster.gpu))
    seconds = {e.title: predicted_s(STAGED, e, network) for e in exchanges_of(STAGED)}
    # Two ranks on a host sum 134 MB: half of it out and in again, at 12.5 GB/s.
    assert seconds["TP all-reduce, embedding"] == pytest.approx(2 * 67_108_864 / 12.5e9, rel=0.01)
    # 67 MB leave each of two ranks, at 12.5 GB/s, in 64 messages: 63 us after the first.
    expected = 67_108_864 / 12.5e9 + 20e-6 + 63e-6
    assert seconds["stage P2P, embedding → experts"] == pytest.approx(expected, rel=0.001)
