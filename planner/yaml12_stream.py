"""Stream of several YAML documents, of which a file here is one: whether they are parts of the same."""

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode


def several_documents(loader: yaml.SafeLoader) -> tuple[str, str]:
    """How many documents a stream has, and the fix at the mark before its second one."""
    nodes: list[Node | None] = []
    try:
        while loader.check_node():
            nodes.append(loader.get_node())
    except (yaml.YAMLError, RecursionError):
        return "several", _APART  # what is wrong in them is told once each is a file
    finally:
        loader.dispose()
    filled = [node for node in nodes if not (isinstance(node, ScalarNode) and not node.value)]
    keys = [key.value for node in filled if isinstance(node, MappingNode) for key, _ in node.value]
    are_parts = all(isinstance(node, MappingNode) for node in filled) and len(set(keys)) == len(keys)
    return str(len(nodes)), _TOGETHER if len(filled) < 2 or are_parts else _APART


_TOGETHER = "remove this line: without it what is below belongs to the same document"
_APART = "give each document a file of its own, without the line ---"
