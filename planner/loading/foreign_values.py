"""Converters of foreign names, by the names that foreign_names.yaml has for them."""

from collections.abc import Mapping

from planner.loading import foreign_data, foreign_layout, foreign_machine, foreign_model, foreign_recipe
from planner.loading.foreign_meaning import Convert

CONVERTERS: Mapping[str, Convert] = {
    converter.__name__: converter
    for converter in (
        foreign_data.corpora,
        foreign_data.dataset_configuration,
        foreign_data.packing,
        foreign_layout.accumulation,
        foreign_layout.data_parallel,
        foreign_layout.first_stage,
        foreign_layout.last_stage,
        foreign_layout.replicas,
        foreign_layout.stage_layout,
        foreign_layout.zero_stage,
        foreign_machine.devices,
        foreign_machine.fsdp,
        foreign_machine.on_cpu,
        foreign_machine.processes,
        foreign_model.activation,
        foreign_model.capacity,
        foreign_model.expert_width,
        foreign_model.shared_width,
        foreign_recipe.balancing_type,
        foreign_recipe.bf16_section,
        foreign_recipe.bias_speed,
        foreign_recipe.bound_of_steps,
        foreign_recipe.epochs,
        foreign_recipe.first_beta,
        foreign_recipe.hostfile,
        foreign_recipe.hugging_face_balance,
        foreign_recipe.last_checkpoints,
        foreign_recipe.minutes,
        foreign_recipe.samples_as_tokens,
        foreign_recipe.second_beta,
        foreign_recipe.seconds,
        foreign_recipe.share_of_learning_rate,
        foreign_recipe.share_of_steps,
    )
}
