"""Examples of legal values of a strategy's keys, from the schema."""

from collections.abc import Mapping, Sequence
from typing import Any

from planner.loading.json_schema import field_schema, find_section
from planner.strategy.claim_quantities import CLAIM_QUANTITIES
from planner.units import EXAMPLES

# Sections without a required key of their own that are still worth nothing when empty.
_SECTIONS: Mapping[tuple[str, ...], Any] = {
    ("cluster", "gpu"): "H100",
    ("cluster", "gpu", "peak"): {"bf16": "400 TFLOPS"},
    ("cluster", "links"): {"intra_host": "NVLink4", "inter_host": "NDR"},
    ("parallel",): {"ep": 1, "tp": 1, "pp": 1, "dp": 1},
    ("claims",): [{"quantity": "forward_latency", "value": "12.5 ms", "where": "Latency Analysis"}],
    ("data", "mix"): [{"path": "texts/prose", "weight": 0.7}, {"path": "texts/code", "weight": 0.3}],
}
_KEYS: Mapping[tuple[str, ...], Any] = {
    ("cluster", "mtbf"): "50000 h",
    ("cluster", "links", "intra_host"): "NVLink4",
    ("cluster", "links", "inter_host"): "NDR",
    ("data", "path"): "texts",
    ("launch", "environment"): {},
    ("launch", "slurm"): {},
    ("launch", "srun"): {},
    ("launch", "kubernetes", "resources"): {},
    ("launch", "kubernetes", "labels"): {},
}
# Mappings of any names to texts.
TEXT_MAPPINGS = (("launch", "environment"), ("launch", "kubernetes", "labels"))
_IN_MAPPING = "1"


def example_of(path: Sequence[str | int], data: Mapping[str, Any] | None = None) -> Any:
    """A legal value of a key or section, as it is written; null for keys that are derived or off by default.

    data: the document, in which a claim's quantity decides the unit of its value.
    """
    names = tuple(key for key in path if isinstance(key, str))
    if names[:-1] in TEXT_MAPPINGS:
        return _IN_MAPPING
    if names in _KEYS:
        return _KEYS[names]
    if names in _SECTIONS and not isinstance(path[-1], int):
        return _SECTIONS[names]
    section = find_section(path)
    if section is not None:
        # What has an example is required, or one of a few of which one is (steps, tokens).
        return {
            name: example_of((*names, name))
            for name, field in section.written_keys().items()
            if (field.examples and (field.is_required() or name == "steps"))
            or (*names, name) == ("cluster", "links")
        }
    if names == ("claims", "value"):
        return _claim_value(path, data)
    owner = find_section(names[:-1])
    schema = field_schema(names)
    if owner is None or schema is None:
        return None
    field = owner.written_keys()[names[-1]]
    if field.examples:
        return field.examples[0]
    for branch in (schema, *schema.get("anyOf", ())):
        if "examples" in branch:
            return branch["examples"][0]  # of a quantity, whose default has no unit
    return schema.get("default")


def _claim_value(path: Sequence[str | int], data: Mapping[str, Any] | None) -> Any:
    item: Any = data
    for key in path[:-1]:
        item = item[key] if item is not None else None
    dimension = CLAIM_QUANTITIES.get(str(item.get("quantity"))) if isinstance(item, dict) else None
    if dimension is None:
        return 1
    return int(EXAMPLES[dimension]) if dimension == "count" else EXAMPLES[dimension]
