"""Dead and overloaded experts."""

from launch.run_folder.experts import add, expert_health


def test_an_expert_is_judged_by_the_mean_of_its_layer():
    health = expert_health([[100, 100, 100, 100], [0, 150, 50, 200], [1, 0, 0, 399]])
    assert [(e.layer, e.expert) for e in health.dead] == [(1, 0), (2, 1), (2, 2)]
    assert [(e.layer, e.expert, e.share) for e in health.overloaded] == [(2, 3, 3.99)]


def test_few_tokens_say_nothing():
    assert expert_health([[0, 198, 198, 0]]).dead == ()  # 99 each, on average
    assert len(expert_health([[0, 200, 200, 0]]).dead) == 2


def test_a_layer_without_tokens_has_nobody_to_name():
    health = expert_health([[0, 0]])
    assert health.dead == health.overloaded == ()


def test_sums_begin_again_with_another_shape():
    assert add([[1.0, 2.0]], [[3.0, 4.0]]) == [[4.0, 6.0]]
    assert add([[1.0, 2.0]], [[3.0, 4.0, 5.0]]) == [[3.0, 4.0, 5.0]]
