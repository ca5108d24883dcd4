"""The mathematics of the model, Hugging Face style; importing it registers it with the Auto classes."""

from transformers import AutoConfig, AutoModelForCausalLM

from .configuration_switchyard import SwitchyardConfig
from .modeling_switchyard import SwitchyardForCausalLM

AutoConfig.register(SwitchyardConfig.model_type, SwitchyardConfig, exist_ok=True)
AutoModelForCausalLM.register(SwitchyardConfig, SwitchyardForCausalLM, exist_ok=True)

__all__ = ["SwitchyardConfig", "SwitchyardForCausalLM"]
