"""Damaged content for fuzz tests, and how many cases they take: a few hundred, 10,000 in the slow set."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

FEW, MANY = 200, 10_000
NO_PHASES_BUT = (Phase.explicit, Phase.reuse, Phase.generate)  # a failing case is printed as it was found

_Test = TypeVar("_Test", bound=Callable[..., None])


def cases(number: int) -> Callable[[_Test], _Test]:
    """So many cases of a property test whose fixtures are made once for all of them."""
    return settings(
        max_examples=number,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=NO_PHASES_BUT,
    )


# The same test at two sizes.
def quick_and_slow(few: int = FEW, many: int = MANY) -> list[Any]:
    return [pytest.param(few, id="few"), pytest.param(many, id="many", marks=pytest.mark.slow)]


QUICK_AND_SLOW = quick_and_slow()

JSON_VALUES: st.SearchStrategy[Any] = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.sampled_from([0, 1, -1, 2**31, 2**63, 10**30, 0.5, 1e308, float("nan"), float("inf")]),
        st.sampled_from(["", "0", "step-00000001", "../x", "/dev/zero", "\ud800", "é", "F32", "text"]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=4,
)


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """The content with up to three changes: cut, bytes changed, put in, repeated or taken out."""
    result = bytearray(content)
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(result)))
        change = draw(st.sampled_from(["cut", "change", "insert", "remove", "repeat"]))
        if change == "cut":
            del result[at:]
        elif change == "change" and at < len(result):
            result[at] = draw(st.integers(0, 255))
        elif change == "insert":
            result[at:at] = draw(
                st.binary(max_size=4) | st.sampled_from([b"\n", b"\0", b'"', b"{", b"]", b","])
            )
        elif change == "remove":
            del result[at : at + draw(st.integers(1, 8))]
        else:
            result[at:at] = result[at : at + draw(st.integers(1, 64))]
    return bytes(result)


@st.composite
def changed_json(draw: st.DrawFn, document: Any) -> Any:
    """A JSON document with one value somewhere in it replaced, removed or added."""
    if not isinstance(document, (dict, list)) or not document or draw(st.integers(0, 5)) == 0:
        return draw(JSON_VALUES)
    keys: list[Any] = list(document) if isinstance(document, dict) else list(range(len(document)))
    key = draw(st.sampled_from(keys))
    copy = document.copy()
    change = draw(st.sampled_from(["inside", "inside", "inside", "remove", "add"]))
    if change == "inside":
        copy[key] = draw(changed_json(document[key]))
    elif change == "remove":
        del copy[key]
    elif isinstance(copy, dict):
        copy[draw(st.text(max_size=5))] = draw(JSON_VALUES)
    else:
        copy.append(draw(JSON_VALUES))
    return copy


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Fails what computes for longer, or what takes twelve times as long: other processes need time too."""
    began, computed = time.monotonic(), time.process_time()
    yield
    took, computed = time.monotonic() - began, time.process_time() - computed
    assert computed < seconds, f"{computed:.1f} s of computing"
    assert took < 12 * seconds, f"{took:.1f} s"
