"""Strategy loader: from the text of a strategy to a Strategy, or to every Problem in it at once.

pydantic stops at form: with one key misspelt there is no Strategy that the rules could read. So the loader
validates in rounds. Each round reports the faulty keys and puts a small legal value (a stand-in) in their
place, until the rest validates; then every rule runs that reads none of the faulty keys. A user sees all
mistakes of a file in one go. The strategy that is returned is the one that validated without a stand-in.
"""

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path as FilePath
from typing import Any

from pydantic import ValidationError

from planner.hardware.catalog import known_devices
from planner.hardware.presets import known_links
from planner.loading.anchors import keep_anchors
from planner.loading.changed_strategy import find_claim_faults
from planner.loading.fault import Fault, dotted
from planner.loading.hf_config import with_model
from planner.loading.merge_config import with_ds_config
from planner.loading.nesting import mend_nesting
from planner.loading.override_faults import find_broken_rules_of, name_overrides
from planner.loading.overrides import apply_overrides
from planner.loading.programs import DEEPSPEED, find_program
from planner.loading.source_file import find_other_config, find_program_file, find_toml
from planner.loading.strategy_text import read_text
from planner.loading.templated_file import find_template, resolved
from planner.loading.validation_messages import MAX_FAULTS, find_faults
from planner.problems import Problem, StrategyError
from planner.rules.partial import DERIVED, STAND_IN, PartialStrategy
from planner.strategy.field_types import AS_TEXT
from planner.strategy.host_names import MAX_SLOTS
from planner.strategy.schema import Strategy
from planner.strategy.sources import Sources
from planner.yaml12 import Document, Entry
from planner.yaml12 import Mapping as YamlMapping

_MAX_ROUNDS = 8  # a stand-in may uncover what its neighbour hid; each round leaves fewer faults


def load(
    path: str | os.PathLike[str],
    overrides: Iterable[str] = (),
    *,
    model_from: str | None = None,
    hardware: str | os.PathLike[str] | None = None,
) -> Strategy:
    """The strategy of a file, with `key=value` overrides applied before anything is checked.

    `model_from` names a folder with a Hugging Face config.json, whose model takes the place of the file's, or
    a DeepSpeed configuration, whose keys do; `hardware` a file whose devices and links may be named too.

    Raises:
        StrategyError: with every malformed key and every broken rule that reads no malformed key.
    """
    file = os.fspath(path)
    return loads(
        read_text(file),
        overrides,
        file=file,
        name=FilePath(file).stem,
        model_from=model_from,
        hardware=hardware,
    )


def loads(
    text: str,
    overrides: Iterable[str] = (),
    *,
    file: str | None = None,
    name: str = "unnamed",
    model_from: str | None = None,
    hardware: str | os.PathLike[str] | None = None,
) -> Strategy:
    """The strategy of a text; `name` is its name unless it writes one, `model_from` and `hardware` as for
    `load`.

    Raises:
        StrategyError: as `load`.
    """
    if isinstance(overrides, str):
        raise TypeError("overrides is a sequence of key=value texts, not one text")
    known = known_names(hardware)
    document = Document(text, file)
    problems = list(document.problems)
    root = document.root
    if problems and (other_form := find_toml(text, file) or find_template(text, file)) is not None:
        raise StrategyError([other_form])
    if root is not None and not isinstance(root.value, YamlMapping):
        not_a_mapping = Problem(
            code="SW103",
            line=root.line,
            file=file,
            found="the top level is not a mapping",
            expected="sections such as cluster: and model:",
            fix="write the sections as in ds_configs/",
        )
        raise StrategyError([*problems, not_a_mapping])
    if root is None:
        raise StrategyError(problems)
    assert isinstance(root.value, YamlMapping)
    other = None if file is None else find_other_config(root.value, file)
    if other is not None and find_program(root.value) != DEEPSPEED:
        raise StrategyError([other])  # its keys have no place in a strategy's top level
    problems += [] if other is None else [other]
    root, misplaced = mend_nesting(root, file)
    problems += misplaced
    source = None if model_from is None else find_program_file(model_from)
    merged = None if source is None else with_ds_config(root, source)
    left_out: tuple[str, ...] = ()
    if merged is not None:
        root, converted = merged
        problems += converted.problems
        left_out = tuple(f"{key}: {why}" for key, why in converted.left_out.items())
    root, taken = with_model(root, file, model_from if merged is None else None)
    texts = tuple(overrides)
    alone = root
    root, override_problems = apply_overrides(root, texts)
    root, templated, unresolved = resolved(root, file)
    alone, *_ = resolved(alone, file)
    problems += (*(taken.problems if taken is not None else ()), *override_problems, *templated)
    assert isinstance(root.value, YamlMapping)
    unknown: set[tuple[str, ...]] = {("model",)} if taken is not None and not taken.section.entries else set()
    unknown |= unresolved
    unwritten = frozenset({"name"}) - set(root.value.entries)
    if unwritten:
        root.value.entries["name"] = Entry(value=name, line=1)
    ignored = () if taken is None else taken.ignored
    sources = Sources(file=file, root=root, ignored_model_keys=ignored, left_out=left_out)
    check = partial(_check, earlier=problems, known=known, unwritten=unwritten, unknown=unknown)
    strategy, found = check(sources)
    if found and texts:  # once more without overrides: which of them the file has alone
        _, in_file = check(replace(sources, root=alone))
        strategy, found = check(sources, overrides=texts, in_file=in_file)
        found = list(name_overrides(found, texts, in_file, file))
    problems += keep_anchors(found, text)
    if problems:
        raise StrategyError(sorted(problems, key=_order))
    assert strategy is not None, "a strategy that does not validate has a Problem"
    return strategy


def known_names(hardware: str | os.PathLike[str] | None = None) -> dict[str, Any]:
    """Devices and links that a strategy may name: shipped ones, the user's, and those of a file."""
    own = None if hardware is None else FilePath(hardware)
    found: dict[str, Any] = {}
    problems: list[Problem] = []
    for kind, read in (("devices", known_devices), ("links", known_links)):
        try:
            found[kind] = read(own)
        except StrategyError as error:
            problems += error.problems
    if problems:
        raise StrategyError(dict.fromkeys(problems))
    return found


def locate_problems(problems: Iterable[Problem], strategy: Strategy) -> tuple[Problem, ...]:
    """Problems found in a loaded strategy, each with the file and line (or override) of its key.

    For what is only known after loading: that this version cannot run a key, that this machine has no GPU.
    """
    return tuple(
        strategy.sources.locate(problem) if problem.path is not None else problem for problem in problems
    )


def _check(
    sources: Sources,
    *,
    earlier: Sequence[Problem],
    known: Mapping[str, Any],
    unwritten: frozenset[str],
    unknown: Collection[tuple[str, ...]],
    overrides: Sequence[str] = (),
    in_file: Sequence[Problem] = (),
) -> tuple[Strategy | None, list[Problem]]:
    """The strategy, and every malformed key and every broken rule that reads none of them.

    Args:
        known: the devices and links that it may name.
        unwritten: top-level keys that nobody wrote.
        unknown: keys (or sections) of which nothing is known, beside those of the earlier Problems.
        overrides: those that may have broken a rule.
        in_file: the Problems of the file without them.

    With Problems the strategy is not to be used: stand-ins may be in it.
    """
    assert sources.root is not None
    data = sources.root.plain()
    problems: list[Problem] = []
    faulty = {tuple(problem.path.split(".")) for problem in earlier if problem.path}
    faulty |= set(unknown)
    strategy = None
    for _ in range(_MAX_ROUNDS):
        try:
            strategy = Strategy.model_validate(data, context={**AS_TEXT, **known, **_usual_slots(data)})
            break
        except ValidationError as error:
            is_hopeless = error.error_count() > MAX_FAULTS
            for fault in find_faults(error, data, unwritten, sources.may_replace):
                if fault.is_derived:
                    continue  # follows once its sources have their stand-ins
                problems += _problems_of(fault, sources)
                faulty.add(_stand_in(data, fault.path))
                meant = {_names(path) for path in fault.meant}
                # The default of a key that seems to be meant is not what was meant.
                faulty |= {path for path in meant if not _is_written(sources.root, path)}
            if is_hopeless:
                break
    if strategy is not None:
        strategy._sources = sources
        faulty |= {key for key, origins in DERIVED.items() if key[1] not in data[key[0]] and origins & faulty}
        for number, problem in find_claim_faults(strategy, known):
            keys = ("claims", number, "with", str(problem.path))
            named = replace(problem, path=f"claims[{number}].with.{problem.path}")
            problems.append(sources.locate(named, keys))
        view = PartialStrategy(strategy, frozenset(faulty))
        problems += find_broken_rules_of(view, sources, overrides, in_file)
    return strategy, problems


def _usual_slots(data: Mapping[str, Any]) -> dict[str, int]:
    """gpus_per_host, for hosts of a hostfile that have no number."""
    cluster = data.get("cluster")
    number = cluster.get("gpus_per_host") if isinstance(cluster, dict) else None
    return {"gpus_per_host": number} if isinstance(number, int) and 1 <= number <= MAX_SLOTS else {}


def _problems_of(fault: Fault, sources: Sources) -> list[Problem]:
    if fault.problems:
        return [sources.locate(problem, fault.path) for problem in fault.problems]
    if fault.found is None:
        return []
    path = dotted(fault.path)
    problem = Problem(
        code=fault.code, path=path, found=fault.found, expected=fault.expected, fix=fault.fix_in_file()
    )
    if (entry := sources.entry(fault.path)) is not None and entry.origin is not None:
        origin = entry.origin
        fix = fault.fix_at_origin(origin)
        return [replace(problem, path=origin.key, line=entry.line, file=origin.file, fix=fix)]
    located = sources.locate(problem, fault.path)
    key = (located.override or "").partition("=")[0].strip()
    if located.override and (key == path or (fault.replaces and key.startswith(f"{path}."))):
        located = replace(located, fix=fault.fix_of_override())
    return [located]


def _names(path: Sequence[str | int]) -> tuple[str, ...]:
    return tuple(str(key) for key in path)


def _stand_in(data: dict[str, Any], path: tuple[str | int, ...]) -> tuple[str, ...]:
    """Replaces what is at a faulty path by something legal; the path that rules may then not read."""
    keys = tuple(key for key in path[: _first_index(path)])
    place: Any = data
    legal: Any = STAND_IN
    for key in keys[:-1]:
        if not isinstance(place.get(key), dict):
            place[key] = {}
        place = place[key]
        legal = legal.get(key, {}) if isinstance(legal, dict) else {}
    last = keys[-1]
    if isinstance(legal, dict) and last in legal:
        place[last] = legal[last]
    else:
        place.pop(last, None)
    return tuple(str(key) for key in keys)


def _first_index(path: tuple[str | int, ...]) -> int:
    return next((i for i, key in enumerate(path) if isinstance(key, int)), len(path))


def _is_written(root: Entry, path: Sequence[str]) -> bool:
    """Whether the key has a value that somebody wrote, be it inside a short name."""
    entry = root
    for key in path:
        if not isinstance(entry.value, YamlMapping):
            return entry.value is not None
        if key not in entry.value.entries:
            return False
        entry = entry.value.entries[key]
    return True


def _order(problem: Problem) -> tuple[bool, int]:
    return problem.override is not None, problem.line or 0
