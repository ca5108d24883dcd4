"""Loading, saving, resizing and gradient checkpointing: what transformers' tools ask of a model's class."""

from __future__ import annotations

from collections.abc import Callable
from os import PathLike
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel, PreTrainedTokenizerBase, initialization

from .collectives import ModelGroups
from .configuration_switchyard import SwitchyardConfig
from .moe import MoELayer

# Arguments of save_pretrained that say where on the Hub the files go, the tokenizer's as the weights'.
_HUB = ("push_to_hub", "repo_id", "token", "private", "revision", "create_pr", "commit_message", "tags")


class SwitchyardPreTrainedModel(PreTrainedModel):
    """Base of the models here; `groups` and `is_complete` tell a complete model from a shard of one.

    `tokenizer`: save_pretrained writes it beside the weights; None: nothing is written.
    """

    config_class = SwitchyardConfig
    config: SwitchyardConfig
    groups: ModelGroups
    is_complete: bool
    tokenizer: PreTrainedTokenizerBase | None = None
    base_model_prefix = "model"
    main_input_name = "input_ids"
    _no_split_modules = ("DecoderLayer",)  # type: ignore[assignment]  # transformers reads it only
    _supports_sdpa = True
    _skip_keys_device_placement = ("past_key_values",)  # type: ignore[assignment]  # the same
    _keep_in_fp32_modules_strict = ("router.bias",)  # type: ignore[assignment]  # model/router.py says why
    supports_gradient_checkpointing = True

    def _init_weights(self, module: nn.Module) -> None:
        """For rows that resize_token_embeddings adds; a new model draws all by name, in `init_weights`."""
        if isinstance(module, nn.Embedding):
            initialization.normal_(module.weight, 0.0, self.config.embedding_std)
        elif isinstance(module, nn.Linear):
            initialization.normal_(module.weight, 0.0, self.config.initializer_range)

    def _set_gradient_checkpointing(
        self,
        enable: bool = True,
        gradient_checkpointing_func: Callable[..., Any] = checkpoint,
        every_n_layers: int = 1,
    ) -> None:
        settings = getattr(gradient_checkpointing_func, "keywords", {})
        if enable and settings.get("use_reentrant", True):
            # A reentrant checkpoint cuts what a layer returns beside its hidden states from the graph.
            raise ValueError(
                "gradient checkpointing with use_reentrant=True would give the router logits no gradient; "
                "legal: gradient_checkpointing_kwargs={'use_reentrant': False}"
            )
        for module in self.modules() if enable else ():
            if isinstance(module, MoELayer):
                module.check_replay()
        # transformers 5.17 checkpoints every layer and does not know every_n_layers.
        more = {"every_n_layers": every_n_layers} if every_n_layers != 1 else {}
        super()._set_gradient_checkpointing(enable, gradient_checkpointing_func, **more)

    @classmethod
    def from_pretrained(cls, *args: Any, output_loading_info: bool = False, **kwargs: Any) -> Any:
        """As in transformers, but a tensor that is missing, unexpected or of another shape is an error.

        Raises:
            ValueError: naming those tensors.
        """
        loaded: Any = super().from_pretrained(*args, output_loading_info=True, **kwargs)
        model, info = loaded
        faults = {key: info.get(key) for key in ("missing_keys", "unexpected_keys", "mismatched_keys")}
        if any(faults.values()):
            details = "; ".join(f"{key}: {sorted(map(str, keys))}" for key, keys in faults.items() if keys)
            raise ValueError(f"the checkpoint does not match the model: {details}")
        return (model, info) if output_loading_info else model

    def save_pretrained(self, save_directory: str | PathLike[str], *args: Any, **kwargs: Any) -> None:
        """As in transformers, for a model that is complete on this rank; with its `tokenizer`, if it has one.

        Raises:
            ValueError: for a shard, which could be mistaken for a complete model.
        """
        if not self.is_complete or self.groups.tp is not None or self.groups.ep is not None:
            raise ValueError("save_pretrained needs the complete model; this rank holds a shard of it")
        super().save_pretrained(save_directory, *args, **kwargs)
        if self.tokenizer is not None and kwargs.get("is_main_process", True):
            hub = {name: kwargs[name] for name in _HUB if name in kwargs}
            self.tokenizer.save_pretrained(save_directory, **hub)

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> nn.Embedding:
        """As in transformers, for a model that is complete on this rank.

        Raises:
            ValueError: for a shard.
        """
        if not self.is_complete or self.groups.tp is not None:
            raise ValueError(
                "resize_token_embeddings needs the complete model; this rank holds a shard of it"
            )
        return super().resize_token_embeddings(*args, **kwargs)
