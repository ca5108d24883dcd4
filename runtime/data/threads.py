"""Messages of conversations as records of their own, each with the one that it answers (Open Assistant)."""

from typing import Any

from runtime.data.conversion import conversion_command
from runtime.data.corpus import Source
from runtime.data.form import Form
from runtime.data.shape_fix import converted_fix

KEYS = frozenset({"message_id", "parent_id", "role", "text"})
ROLES = ("prompter", "assistant")


def is_thread(record: Any) -> bool:
    """Whether the record is a message that names the one before it."""
    return isinstance(record, dict) and record.keys() >= KEYS and record["role"] in ROLES


def thread_fix(source: Source, form: Form, name: str, format: str = "text") -> str | None:
    """The command that makes conversations of the messages, one for each last answer; None for no way.

    Args:
        name: the field that should hold the text, or the messages.
        format: data.format as it is written.
    """
    message = '{"role": {"prompter": "user"}.get(m["role"], m["role"]), "content": m["text"]}'
    walk = f'lambda f, m: (f(f, d[m["parent_id"]]) if m["parent_id"] in d else []) + [{message}]'
    # The last message of a branch may be a question that nobody answered.
    ends = 'for e in [m if m["role"] == "assistant" else d.get(m["parent_id"])] if e'
    loops = [
        'for d in [{m["message_id"]: m for m in t}]',
        'for u in [{m["parent_id"] for m in d.values()}]',
        f'for r in {{e["message_id"]: e for m in d.values() if m["message_id"] not in u {ends}}}.values()',
    ]
    converted = f'{{"messages": (lambda f, m: f(f, m))({walk}, r)}}'
    command = None if form.csv else conversion_command(source.file, form, converted, loops, rows=True)
    if command is None:
        return None
    return converted_fix(
        source, command, "join its messages to conversations", "data.format=chat ", name, format
    )
