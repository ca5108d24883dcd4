"""Causal language model of Hugging Face's interface: complete, or one pipeline stage of it."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, GenerationMixin
from transformers.cache_utils import Cache
from transformers.modeling_outputs import MoeCausalLMOutputWithPast
from transformers.utils.generic import can_return_tuple

from .attention import rotation_rows, rotations
from .attention_mask import causal_mask, explicit_mask, real_tokens
from .collectives import ModelGroups, Shard, gather_from_tp
from .configuration_switchyard import SwitchyardConfig
from .decoder import Decoder, RoutingSums, StageContents, sum_routings
from .document_attention import Documents, find_documents
from .fused import RegionName
from .initialization import initialize_parameters
from .lm_head import (
    IGNORED,
    Aggregation,
    CrossEntropy,
    chunked_cross_entropy,
    make_aggregation,
    make_lm_head,
    next_token_loss,
)
from .pretrained import SwitchyardPreTrainedModel
from .recompute import RoutingReplay
from .router import Routing

# B sequences, S tokens of each now, L tokens of each with those in the cache, D hidden, E experts


class SwitchyardForCausalLM(SwitchyardPreTrainedModel, GenerationMixin):
    """A Mixture-of-Experts causal language model, or this rank's shard of one.

    `groups`: the tensor and expert parallel groups; this rank then holds its shards only. `contents`: the
    modules of its pipeline stage; None: all. Parameters have the names of the complete model. Weights are
    drawn from torch's current seed, by name (see `initialize_parameters`).
    """

    def __init__(
        self,
        config: SwitchyardConfig,
        groups: ModelGroups | None = None,
        contents: StageContents | None = None,
    ) -> None:
        super().__init__(config)
        self.groups = groups if groups is not None else ModelGroups()
        layers = tuple(range(config.num_hidden_layers))
        complete = StageContents(layers=layers, embedding=True, norm=True, output=True)
        contents = complete if contents is None else contents
        assert set(contents.layers) <= set(layers), f"{contents.layers} of a model of {len(layers)} layers"
        self.is_complete = contents == complete
        # Tokens whose logits exist at once in `cross_entropy`; None: all. The same on all tp ranks.
        self.head_chunk_tokens: int | None = None
        self.fused: frozenset[RegionName] = frozenset()  # regions with kernels of their own (`use_fused`)
        self.model = Decoder(config, self.groups, contents)
        if contents.output:
            if config.aggregation == "linear":
                self.aggregation = make_aggregation(config.hidden_size, self.groups)
            self.lm_head = make_lm_head(config.hidden_size, config.vocab_size, self.groups)
        self.post_init()

    # What training calls, stage by stage.

    def embed(self, input_ids_BS: Tensor) -> Tensor:
        """[B, S, D]."""
        return self.model.embed_tokens(input_ids_BS)

    def run_layers(
        self,
        x_BSD: Tensor,
        mask_BS: Tensor | None = None,
        positions_BS: Tensor | None = None,
        forced_BSK: Tensor | None = None,
    ) -> tuple[Tensor, RoutingSums]:
        """This stage's layers, in order. `mask_BS` is true for real tokens; None: all are.

        `positions_BS` that restart pack several documents into a sequence (see `find_documents`); padding
        must then be in a document of its own. None: every sequence is one document.

        `forced_BSK`, int64: each token's experts in every MoE layer; None: those that its router prefers.
        """
        num_tokens, documents = x_BSD.shape[1], None
        if positions_BS is None:
            positions_BS = torch.arange(num_tokens, device=x_BSD.device)[None]
        else:
            documents = find_documents(positions_BS)
        mask = documents or causal_mask(mask_BS, num_tokens, 0, num_tokens, x_BSD.device)
        x_BSD, routings = self._run_layers(x_BSD, positions_BS, mask, mask_BS, None, [], forced_BSK)
        return x_BSD, sum_routings(routings, self.config.num_experts, x_BSD.device)

    def cross_entropy(self, x_BSD: Tensor, targets_BS: Tensor, mask_BS: Tensor | None = None) -> CrossEntropy:
        """Final norm, aggregation, head and loss, summed over the valid tokens.

        `targets_BS` are not shifted here; a target of -100 is ignored, as a masked token is.
        """
        return self._entropy(self._before_head(x_BSD), targets_BS, mask_BS)

    def normalize(self, x_BSD: Tensor) -> Tensor:
        """The final norm alone, for a stage that sends its result to the ranks of the output."""
        return self.model.norm(x_BSD)

    def cross_entropy_of_share(
        self, x_BSC: Tensor, targets_BS: Tensor, mask_BS: Tensor | None = None
    ) -> CrossEntropy:
        """As `cross_entropy`, from this rank's share of normalized vectors: [B, S, C], C its columns of D."""
        if self.config.aggregation == "linear":
            project = self.aggregation
            x_BSD = project.of_share(x_BSC) if isinstance(project, Aggregation) else project(x_BSC)
        else:
            groups = self.groups
            x_BSD = gather_from_tp(x_BSC, self.config.hidden_size, groups.tp, dim=-1)
        return self._entropy(x_BSD, targets_BS, mask_BS)

    def shards(self) -> dict[str, Shard]:
        """The slice of its global tensor that each parameter of this rank is, by global name."""
        found = {
            f"{prefix}.{name}": shard
            for prefix, module in self.named_modules()
            if module is not self and hasattr(module, "shards")
            for name, shard in module.shards().items()
        }
        return {
            name: found.get(name, Shard(tuple(parameter.shape), (0,) * parameter.dim()))
            for name, parameter in self.named_parameters()
        }

    # What Hugging Face calls.

    @can_return_tuple  # type: ignore[untyped-decorator]  # transformers gives it no types
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        output_router_logits: bool | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        num_items_in_batch: Tensor | int | None = None,
        cache: Cache | None = None,
        **kwargs: Any,
    ) -> MoeCausalLMOutputWithPast:
        """`loss` is the cross-entropy alone: its mean over labels other than -100, or, with
        `num_items_in_batch`, its sum over that number.

        `position_ids` that restart, without attention_mask and cache, pack several documents into a sequence,
        as in transformers: attention stays inside each. The first label of each should be -100.

        `attention_mask` is 2-D, [B, L], 0 for padding on either side, or 4-D, [B, 1, S, L], and then complete
        (see `explicit_mask`): with 4-D, padding is unknown and is routed as any token. `cache` is what
        transformers 5.24 calls `past_key_values`: its generate() hands over the first, that of 5.23 the
        second. The output takes the old name in both.

        A padding position's prediction has no meaning: transformers' own classes give one loss with eager
        attention and another with sdpa where left padding is asked for one. Here such labels count too, with
        a warning; -100 leaves them out, also for the first token after left padding.

        Raises:
            ValueError: for inputs that contradict each other or that this model does not have.
            TypeError: for an argument that this model does not know and that is not None.
        """
        if not self.is_complete:
            raise ValueError("forward needs the complete model; a stage has embed, run_layers, cross_entropy")
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give either input_ids or inputs_embeds")
        if output_attentions:
            raise ValueError("output_attentions is not supported: fused attention forms no weights")
        unknown = [name for name, value in kwargs.items() if value is not None]
        if unknown:
            raise TypeError(f"forward() does not know {', '.join(unknown)}; leave it out")
        x_BSD = inputs_embeds if input_ids is None else self.embed(input_ids)
        assert x_BSD is not None
        past_key_values = past_key_values if cache is None else cache
        num_new = x_BSD.shape[1]
        documents = None
        if position_ids is not None and attention_mask is None and past_key_values is None:
            documents = find_documents(position_ids.expand(x_BSD.shape[0], -1))
        if documents is not None and use_cache:
            raise ValueError("position_ids that restart pack documents, which have no cache: use_cache=False")
        if use_cache is None:
            use_cache = self.config.use_cache and not self.training and documents is None
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        is_checkpointing = any(layer.attends_twice for layer in self.model.layers.values())
        if past_key_values is not None and self.training and is_checkpointing:
            raise ValueError(
                "gradient checkpointing would extend the cache twice; legal in training: use_cache=False"
            )
        num_cached, num_keys = 0, num_new
        if past_key_values is not None:
            num_cached = int(past_key_values.get_seq_length())
            num_keys = int(past_key_values.get_mask_sizes(num_new, 0)[0])
        mask: tuple[Tensor | None, bool] | Documents
        mask_BS = None
        if attention_mask is not None and attention_mask.dim() == 4:
            num_heads = self.config.num_attention_heads
            mask = explicit_mask(attention_mask, len(x_BSD), num_heads, num_new, num_keys, x_BSD.dtype)
        else:
            mask_BL = real_tokens(attention_mask, len(x_BSD), num_cached + num_new)
            mask_BS = None if mask_BL is None else mask_BL[:, num_cached:]
            mask = documents or causal_mask(mask_BL, num_new, num_cached, num_keys, x_BSD.device)
        if position_ids is None:
            position_ids = torch.arange(num_cached, num_cached + num_new, device=x_BSD.device)[None]
        hidden_states: list[Tensor] = []
        x_BSD, routings = self._run_layers(x_BSD, position_ids, mask, mask_BS, past_key_values, hidden_states)
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        loss = None
        if labels is None:
            logits = self.lm_head(self._before_head(x_BSD[:, kept]))
        else:
            _warn_of_padding(labels, mask_BS)
            # From the logits: an adapter or a hook of the head has its part in them, not in its weight.
            logits = self.lm_head(self._before_head(x_BSD))
            loss = next_token_loss(logits, labels, num_items_in_batch)
            logits = logits[:, kept]
        if output_router_logits is None:
            output_router_logits = self.config.output_router_logits
        logits_of_layers = tuple(routing.logits_TE for routing in routings)  # transformers types it as one
        return MoeCausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=past_key_values if use_cache else None,
            hidden_states=(*hidden_states, x_BSD) if output_hidden_states else None,
            router_logits=logits_of_layers if output_router_logits else None,  # type: ignore[arg-type]
        )

    def init_weights(self) -> None:
        if not any(parameter.is_meta for parameter in self.parameters()):
            initialize_parameters(self, torch.initial_seed())

    def _valid_auto_compile_criteria(self, model_kwargs: dict[str, Any], generation_config: Any) -> bool:
        """Generation with a static cache is compiled only where a compile_config asks for it.

        transformers compiles it by itself on GPUs; the experts' sizes depend on the data, so that every layer
        breaks the graph.
        """
        if generation_config.compile_config is None:
            return False
        return super()._valid_auto_compile_criteria(model_kwargs, generation_config)  # type: ignore[misc]

    def _run_layers(
        self,
        x_BSD: Tensor,
        positions_BS: Tensor,
        mask: tuple[Tensor | None, bool] | Documents,
        mask_BS: Tensor | None,
        cache: Cache | None,
        hidden_states: list[Tensor],
        forced_BSK: Tensor | None = None,
    ) -> tuple[Tensor, list[Routing]]:
        head_dim = self.config.head_dim
        assert head_dim is not None, "SwitchyardConfig fills it in"
        rotation = rotations(positions_BS, head_dim, self.config.rope_theta, x_BSD.dtype)
        if "rope" in self.fused:
            rotation = rotation_rows(rotation, len(x_BSD))
        routings = []
        for layer in self.model.layers.values():
            hidden_states.append(x_BSD)
            replay = RoutingReplay(forced_BSK)
            x_BSD, routing = layer(x_BSD, rotation, mask, mask_BS, cache, replay)
            if routing is not None:
                routings.append(routing)
        return x_BSD, routings

    def _entropy(self, x_BSD: Tensor, targets_BS: Tensor, mask_BS: Tensor | None) -> CrossEntropy:
        mask_T = None if mask_BS is None else mask_BS.reshape(-1)
        x_TD, targets_T = x_BSD.flatten(0, 1), targets_BS.reshape(-1)
        return chunked_cross_entropy(
            self.lm_head,
            x_TD,
            targets_T,
            mask_T,
            self.head_chunk_tokens,
            is_fused="cross_entropy" in self.fused,
        )

    def _before_head(self, x_BSD: Tensor) -> Tensor:
        x_BSD = self.model.norm(x_BSD)
        return self.aggregation(x_BSD) if self.config.aggregation == "linear" else x_BSD


def _warn_of_padding(labels_BS: Tensor, mask_BS: Tensor | None) -> None:
    if mask_BS is None:
        return
    asks_BS = (labels_BS[:, 1:] != IGNORED).to(mask_BS.device) & ~mask_BS[:, :-1]
    num_asked = int(asks_BS.sum())
    if num_asked:
        warnings.warn(
            f"{num_asked} labels ask a padding position for a prediction, which has no meaning; "
            f"set them to {IGNORED}",
            stacklevel=2,
        )
