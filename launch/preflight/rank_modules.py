"""Packages' modules that ranks import, found in the product's own source, so that the list is never stale."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

from planner import Plan
from planner.paths import PROJECT

_PROGRAM = "train.py"
# Extras of pyproject.toml: which form the data has decides whether rank 0 needs them, and it says so.
EXTRAS = frozenset({"datasets", "pyarrow"})
# torch imports it for the module on the left; nothing else of the product names it.
_BEHIND = {"torch.utils.tensorboard": "tensorboard"}


def modules_of_ranks(plan: Plan, project: Path = PROJECT) -> tuple[str, ...]:
    """Top-level names, sorted, of everything that `train.py` may load for this plan."""
    names = set(_modules_behind(project / _PROGRAM, project))
    if not plan.strategy.operate.tensorboard:
        names.discard(_BEHIND["torch.utils.tensorboard"])
    return tuple(sorted(names - EXTRAS))


def _modules_behind(program: Path, project: Path) -> Iterator[str]:
    """What a program, and every file of the project that it leads to, imports from elsewhere."""
    seen = {program}
    waiting = [program]
    while waiting:
        file = waiting.pop()
        for name in _imported(file, project):
            top = name.partition(".")[0]
            files = list(_files_of(name, project))
            if files:
                waiting += [found for found in files if found not in seen]
                seen.update(files)
            elif top not in sys.stdlib_module_names and not (project / top).is_dir():
                yield _BEHIND.get(name, top)


def _imported(file: Path, project: Path) -> Iterator[str]:
    """Dotted names; `from a import b` gives a and a.b, of which either may be a module."""
    package = file.relative_to(project).parent.parts
    for node in _nodes(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join((*above, *filter(None, [node.module])))
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """All that this version of Python runs: not the other branch of `if sys.version_info >= (3, 11)`."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        test = ast.unparse(node.test) if isinstance(node, ast.If) else ""
        if isinstance(node, ast.If) and test.startswith("sys.version_info >= ("):
            least = ast.literal_eval(test.partition(" >= ")[2])
            waiting += node.body if sys.version_info >= least else node.orelse
        else:
            waiting += ast.iter_child_nodes(node)


def _files_of(name: str, project: Path) -> Iterator[Path]:
    """The files that the import of a module of the project runs: the packages around it, and itself."""
    path = project
    for part in name.split("."):
        path = path / part
        for file in (path / "__init__.py", path.with_name(f"{part}.py")):
            if file.is_file():
                yield file
