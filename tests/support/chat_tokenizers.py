"""Small tokenizers with chat templates, and the same templates with their answers marked."""

import json
from pathlib import Path

from tokenizers import AddedToken

from runtime.data.tokenizer import train_tokenizer
from tests.support.data_strategies import words

SPECIAL = ("<|im_start|>", "<|im_end|>")
# As in Qwen2: a default system message, a generation prompt.
CHATML = (
    "{% for message in messages %}"
    "{% if loop.first and message.role != 'system' %}<|im_start|>system\nhelp<|im_end|>\n{% endif %}"
    "{{ '<|im_start|>' + message.role + '\n' }}{{ message.content + '<|im_end|>' }}{{ '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CHATML_MARKED = CHATML.replace(
    "{{ message.content + '<|im_end|>' }}{{ '\n' }}",
    "{% if message.role == 'assistant' %}{% generation %}{{ message.content + '<|im_end|>' }}{{ '\n' }}"
    "{% endgeneration %}{% else %}{{ message.content + '<|im_end|>' }}{{ '\n' }}{% endif %}",
)
# As in Qwen3: an empty thought in the last answer, and none in those before it.
THOUGHTS = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' }}"
    "{% if message.role == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}"
    "{{ message.content.strip() + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# Without a generation prompt; the answer ends with the end of text.
PLAIN = (
    "{{ bos_token }}{% for message in messages %}{{ message.role }}: {{ message.content }}"
    "{% if message.role == 'assistant' %}{{ eos_token }}{% endif %} {% endfor %}"
)


def save_chat_tokenizer(folder: Path, template: str | None, vocab_size: int = 320) -> Path:
    """A byte-level BPE of `vocab_size` entries and two special tokens, with a configuration beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = train_tokenizer([words(400)], vocab_size).tokenizer
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    tokenizer.encode_special_tokens = False
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|endoftext|>",
        "bos_token": {"content": "<|im_start|>", "__type": "AddedToken"},
    }
    if template is not None:
        config["chat_template"] = template
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder
