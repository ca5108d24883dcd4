"""Hugging Face config.json as a model section: the names of its keys here, and which have no effect.

One table for each model_type, with the published names and those of transformers 5. A key in none of the
tables is a Problem: it may change the mathematics.
"""

from collections.abc import Mapping as Readable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from planner.loading.hf_unsupported import find_unsupported
from planner.problems import Problem, StrategyError
from planner.yaml12 import MAX_BYTES, Document, Entry, Mapping

_SHARED = (
    "num_hidden_layers",
    "hidden_size",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "hidden_act",
    "num_experts_per_tok",
    "rms_norm_eps",
    "rope_theta",
    "vocab_size",
    "initializer_range",
)


@dataclass(frozen=True, kw_only=True)
class Family:
    """How one model_type is read.

    names: their key -> ours. fixed: values of ours that hold for the family. defaults: of its config class
    (transformers 5.23) for keys that are left out, in our names.
    """

    names: Readable[str, str]
    fixed: Readable[str, Any]
    defaults: Readable[str, Any]


def _family(names: dict[str, str], fixed: dict[str, Any], defaults: dict[str, Any]) -> Family:
    return Family(
        names={**{key: key for key in _SHARED}, **names},
        fixed={"expert": "swiglu", "aggregation": "none", **fixed},
        defaults={"hidden_act": "silu", "initializer_range": 0.02, **defaults},
    )


FAMILIES: dict[str, Family] = {
    "mixtral": _family(
        {"intermediate_size": "moe_intermediate_size", "num_local_experts": "num_experts"},
        {"norm_topk_prob": True},  # it always renormalizes
        {
            "num_hidden_layers": 32,
            "hidden_size": 4096,
            "moe_intermediate_size": 14336,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "num_experts": 8,
            "num_experts_per_tok": 2,
            "rms_norm_eps": 1e-5,
            "rope_theta": 1e6,
            "vocab_size": 32000,
        },
    ),
    "qwen3_moe": _family(
        {
            "intermediate_size": "intermediate_size",
            "moe_intermediate_size": "moe_intermediate_size",
            "num_experts": "num_experts",
            "num_local_experts": "num_experts",
            "norm_topk_prob": "norm_topk_prob",
        },
        {"qk_norm": "head"},
        {
            "num_hidden_layers": 24,
            "hidden_size": 2048,
            "intermediate_size": 6144,
            "moe_intermediate_size": 768,
            "num_attention_heads": 32,
            "num_key_value_heads": 4,
            "num_experts": 128,
            "num_experts_per_tok": 8,
            "norm_topk_prob": False,
            "rms_norm_eps": 1e-6,
            "rope_theta": 1e4,
            "vocab_size": 151936,
        },
    ),
    "olmoe": _family(
        {
            "intermediate_size": "moe_intermediate_size",
            "num_experts": "num_experts",
            "num_local_experts": "num_experts",
            "norm_topk_prob": "norm_topk_prob",
        },
        {"qk_norm": "projection"},
        {
            "num_hidden_layers": 16,
            "hidden_size": 2048,
            "moe_intermediate_size": 2048,
            "num_attention_heads": 16,
            "num_key_value_heads": 16,
            "num_experts": 64,
            "num_experts_per_tok": 8,
            "norm_topk_prob": False,
            "rms_norm_eps": 1e-5,
            "rope_theta": 1e4,
            "vocab_size": 50304,
        },
    ),
}

# Keys of our model section that no Hugging Face config has.
_OURS_ALONE = frozenset({"dispatch", "capacity_factor", "embedding_std", "init_from"})

# Keys without effect on the mathematics: about saving, generation and training of the published model.
HARMLESS = (
    *("architectures", "auto_map", "chunk_size_feed_forward", "dtype", "torch_dtype", "transformers_version"),
    *("bos_token_id", "eos_token_id", "pad_token_id", "id2label", "label2id", "problem_type"),
    *("is_decoder", "is_encoder_decoder", "max_position_embeddings", "max_window_layers", "model_type"),
    *("output_attentions", "output_hidden_states", "output_router_logits", "return_dict", "use_cache"),
    *("pretraining_tp", "router_aux_loss_coef"),
)


@dataclass(frozen=True, kw_only=True)
class ConvertedModel:
    """The model section of a config: its entries in our names, the ignored keys, and problems."""

    model_type: str
    section: Mapping
    ignored: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = field(default=())


def read_config(folder: str) -> ConvertedModel:
    """The config.json of a folder (or that file itself).

    Raises:
        StrategyError: if it is missing, not a config, or the model is not supported.
    """
    path = Path(folder)
    file = path if path.name.endswith(".json") else path / "config.json"
    document = Document(_read(file), str(file))
    problems = list(document.problems)
    root = document.root
    if not problems and (root is None or not isinstance(root.value, Mapping)):
        problems.append(_unreadable(file, "not a config: the top level is not an object"))
    if problems:
        raise StrategyError(problems)
    assert root is not None
    assert isinstance(root.value, Mapping)
    taken = convert_config(root.value, str(file), "", source=f"--from {folder}")
    if taken.problems:
        raise StrategyError(taken.problems)
    return taken


def convert_config(
    config: Mapping, file: str | None, prefix: str, source: str | None = None
) -> ConvertedModel:
    """The entries of a config in our names.

    Args:
        prefix: of the paths in Problems, `model.` for one that is pasted into a strategy.
        source: where later Problems say a value comes from; None: its line.
    """
    entries = config.entries
    kind = entries["model_type"].value if "model_type" in entries else None
    if not isinstance(kind, str) or kind not in FAMILIES:
        line = entries["model_type"].line if "model_type" in entries else None
        found = "is missing" if kind is None else f"{kind} is not supported"
        problem = Problem(
            code="SW152",
            path=f"{prefix}model_type",
            line=line,
            found=found,
            expected=f"one of: {', '.join(FAMILIES)}",
            fix="write the model section by hand, as in ds_configs/",
            file=file,
        )
        return ConvertedModel(model_type=str(kind), section=Mapping(), problems=(problem,))
    family = FAMILIES[kind]
    problems = [
        Problem(
            code=fault.code,
            path=f"{prefix}{fault.key}",
            line=entries[fault.key].line if fault.key in entries else None,
            found=fault.found,
            expected=fault.expected,
            fix=fault.fix,
            file=file,
        )
        for fault in find_unsupported(kind, config, (*family.names, *HARMLESS))
    ]
    section = Mapping()
    for ours, value in family.defaults.items():
        section.entries[ours] = Entry(value=value, line=None, override=source)
    for key, ours in family.names.items():
        entry = entries.get(key)
        # null is a value where it means "derived", and the class's default elsewhere.
        if entry is not None and (entry.value is not None or ours in ("num_key_value_heads", "head_dim")):
            section.entries[ours] = Entry(value=entry.value, line=entry.line, override=source)
    _convert_rope(entries, section, source)
    for ours, value in family.fixed.items():
        section.entries[ours] = Entry(value=value, line=None, override=source)
    _convert_dense_layers(entries, section, source)
    ignored = tuple(key for key in entries if key in HARMLESS or key.startswith("_"))
    return ConvertedModel(model_type=kind, section=section, ignored=ignored, problems=tuple(problems))


def with_model(
    root: Entry, file: str | None, folder: str | None
) -> tuple[Entry, tuple[str, ...], tuple[Problem, ...]]:
    """The strategy with the model of a folder, or of a config that is pasted under `model:`.

    Keys that no config has (dispatch, capacity_factor, embedding_std, init_from) stay as written. Also
    returns the keys of the config that have no effect, and its problems.
    """
    assert isinstance(root.value, Mapping)
    written = root.value.entries.get("model")
    pasted = written.value if written is not None and isinstance(written.value, Mapping) else None
    if folder is not None:
        taken = read_config(folder)
        kept = {key: entry for key, entry in (pasted or Mapping()).entries.items() if key in _OURS_ALONE}
    elif pasted is not None and "model_type" in pasted.entries:
        kept = {key: entry for key, entry in pasted.entries.items() if key in _OURS_ALONE}
        theirs = {key: entry for key, entry in pasted.entries.items() if key not in kept}
        taken = convert_config(Mapping(entries=theirs), file, "model.")
    else:
        return root, (), ()
    if taken.problems:
        return root, (), taken.problems
    model = Entry(
        value=Mapping(entries={**taken.section.entries, **kept}),
        line=written.line if written is not None else None,
    )
    with_it = Entry(value=Mapping(entries={**root.value.entries, "model": model}), line=root.line)
    return with_it, taken.ignored, ()


def _convert_rope(entries: dict[str, Entry], section: Mapping, source: str | None) -> None:
    """transformers 5 writes `rope_parameters: {rope_theta, rope_type}`."""
    rope = entries.get("rope_parameters")
    if rope is not None and isinstance(rope.value, Mapping) and "rope_theta" in rope.value.entries:
        theta = rope.value.entries["rope_theta"]
        section.entries["rope_theta"] = Entry(value=theta.value, line=theta.line, override=source)


def _convert_dense_layers(entries: dict[str, Entry], section: Mapping, source: str | None) -> None:
    """Qwen3-MoE lists its dense layers; here they lead. Without any, intermediate_size has no meaning."""
    dense = entries.get("mlp_only_layers")
    count = len(dense.value) if dense is not None and isinstance(dense.value, tuple) else 0
    if count:
        assert dense is not None
        section.entries["first_dense_layers"] = Entry(value=count, line=dense.line, override=source)
    else:
        section.entries.pop("intermediate_size", None)


def _read(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            # JSON may be indented with tabs, YAML may not; no JSON string contains a bare tab.
            return opened.read(MAX_BYTES).decode("utf-8-sig").replace("\t", " ")
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise StrategyError([_unreadable(file, f"the file cannot be read: {str(why).lower()}")]) from None


def _unreadable(file: Path, found: str) -> Problem:
    return Problem(
        code="SW151",
        found=found,
        expected="the config.json of a Hugging Face model",
        fix="give the folder that holds it",
        file=str(file),
    )
