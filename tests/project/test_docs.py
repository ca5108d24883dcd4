"""What the documents name exists: files, modules, commands, keys; and what they show printed is printed."""

import importlib.util
import io
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path

import pytest
from typer.main import get_command

from launch.__main__ import app, main
from planner import StrategyError, build_plan, load, loads
from planner.errors.catalog import error_catalog
from planner.loading.json_schema import list_paths
from planner.rules.not_implemented import _RULES, find_unimplemented
from tests.support.examples import TEXT, strategy

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
SPAN = re.compile(r"`([^`\n]+)`")
# Files of a run or of a reader's own; what stands for a name; files of DeepSpeed, which have their own test.
NOT_OURS = re.compile(
    r"^(~|deepspeed|transformers|megatron|torchtitan|runs|texts|checkpoints|attempts|ranks|heartbeats|tensorboard|logs)/"
    r"|^\w+://|NAME|RUN|NNNN|FOLDER|…"
)
# Endings alone (`.py`) are spoken of, too.
ENDINGS = (".py", ".md", ".yaml", ".json", ".txt", ".toml", ".png")
FILES_OF_A_RUN = re.compile(
    r"(strategy\.yaml|plan\.json|launch\.kubernetes\.yaml|ds_config\.json|manifest\.json|timeline\.json|timeline\.png|tokenizer\.json|done\.json|failed\.json"
    r"|loss\.png|wagons\.yaml|five\.yaml)$"
)
# <!-- printed: COMMAND, DATE --> and the block below it
PRINTED = re.compile(
    r"<!-- printed: (python -m launch [^\n]*?), \d{4}-\d\d-\d\d -->\n```\n(.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
FIGURE = re.compile(
    r"[-−]?\d[\d,.]*(e[-+]?\d+)?( ?(ns|µs|us|ms|s|min|h|([kMGTP]i?)?B(/s)?|[kMGT]?bps|[GTP]?FLOPS?))?\b"
)
pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def spans_of(page: Path) -> list[str]:
    return SPAN.findall(FENCE.sub("", text_of(page)))


def commands_of(page: Path, program: str) -> list[str]:
    """Every command line that begins with `program`, in spans and blocks, without its comment."""
    lines = [*spans_of(page), *(line.strip() for line in text_of(page).splitlines())]
    return [line.partition("  #")[0].strip() for line in lines if line.startswith(program)]


def anchor_of(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")


@pages
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in LINK.findall(text_of(page)):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), f"{target} is not there"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", FENCE.sub("", text_of(linked)), re.MULTILINE)
            assert anchor in map(anchor_of, headings), f"{target}: no such heading"


@pages
def test_every_file_in_a_code_span_exists(page: Path) -> None:
    deepspeed = [f"{place}:{line}" for place, line, _ in upstream_rows()]
    for span in spans_of(page):
        is_file = ("/" in span or span[1:].endswith(ENDINGS)) and not re.search(r"[ =×<>{}*|]", span)
        if (
            is_file
            and not NOT_OURS.search(span)
            and not FILES_OF_A_RUN.search(span)
            and span not in deepspeed
        ):
            assert (ROOT / span.rstrip("/")).exists(), f"{span} is not there"


@pages
def test_every_name_that_follows_a_file_is_in_it(page: Path) -> None:
    for file, name in re.findall(r"`([\w/]+\.py)`[,:]? `(\w+)`", text_of(page)):
        assert re.search(rf"\b{name}\b", text_of(ROOT / file)), f"{file} has no {name}"


@pages
def test_every_error_code_has_an_entry(page: Path) -> None:
    """But for those that an example gives as unknown."""
    codes = set(re.findall(r"\bSW[1-9]\d\d\b", text_of(page)))
    assert codes - set(error_catalog()) <= {"SW999"}


@pages
def test_every_module_that_is_started_exists(page: Path) -> None:
    for module in re.findall(r"python -m ([\w.]+)", text_of(page)):
        if module in ("pytest", "torch.distributed.launch") or module in sys.stdlib_module_names:
            continue
        place = ROOT / module.replace(".", "/")
        assert place.with_suffix(".py").exists() or (place / "__main__.py").exists(), module


@pages
def test_every_make_target_exists(page: Path) -> None:
    targets = re.findall(r"^([\w.-]+):", text_of(ROOT / "Makefile"), re.MULTILINE)
    for target in re.findall(r"\bmake ([a-z][\w-]*)", " ".join(commands_of(page, "make "))):
        assert target in targets, f"make {target}"


@pages
def test_every_launch_command_parses(page: Path) -> None:
    """Its options are read, and its strategies planned; `search` and the like are not run."""
    commands = get_command(app)
    for command in commands_of(page, "python -m launch "):
        words = command.split()[3:]
        if len(words) < 2 or re.search(r"STRATEGY|FOLDER|CODE|wagons\.yaml|five\.yaml|…", command):
            continue
        found = commands.commands.get(words[0])  # type: ignore[attr-defined]
        assert found is not None, command
        found.make_context(words[0], words[1:])
        overrides = tuple(word for word in words if "=" in word)
        for file in (word for word in words if word.endswith(".yaml")):
            if (ROOT / file).exists():
                build_plan(load(ROOT / file, overrides))


@pages
def test_every_override_names_a_key(page: Path) -> None:
    keys = set(list_paths())
    for key in re.findall(r"\b([a-z_]+(?:\.[a-z_]+)+)=", text_of(page)):
        assert key in keys, f"{key} is no key of a strategy"


@pages
def test_every_printed_answer_has_the_shape_that_is_shown(page: Path) -> None:
    """Words and their order, not figures: those of the cost model change with its constants."""
    for command, block in PRINTED.findall(text_of(page)):
        assert_shown(block, answer_of(command), of=command, reduce=skeleton)


def test_every_printed_block_says_when() -> None:
    for page in PAGES:
        assert len(re.findall(r"^<!-- printed:", text_of(page), re.M)) == len(
            PRINTED.findall(text_of(page))
        ), page


def test_the_readme_shows_the_reference_plan() -> None:
    """Ranks, stages, hosts and groups depend on no constant: to the letter."""
    ((command, block),) = PRINTED.findall(text_of(ROOT / "README.md"))
    facts = block.partition("\nnote:")[0]
    assert "68 of 128 GPUs" in facts
    assert_shown(facts, answer_of(command), of=command, reduce=lambda line: line)


def test_the_readme_states_the_matrix_and_the_number_of_claims() -> None:
    readme, matrix = " ".join(text_of(ROOT / "README.md").split()), text_of(ROOT / "docs/matrix.md")
    fp32 = matrix.partition("## fp32")[2].partition("\n## ")[0]
    worst = max(float(cell) for cell in re.findall(r"\d\.\de-\d\d", fp32.partition("| --- |")[2]))
    assert f"relative error of any tensor is {worst:.1e}".replace("e-0", "e-") in readme
    assert re.search(r"\*\*all ([\d,]+) cases in fp32\*\*", matrix)[1] in readme  # type: ignore[index]
    claims = load(ROOT / "ds_configs/ep64_tp2_staged.yaml").claims
    assert f"of its {len(claims)} figures" in readme


def test_the_python_example_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = [body for language, body in FENCE.findall(text_of(ROOT / "docs/api.md")) if language]
    assert len(re.findall(r"^.", example, re.MULTILINE)) == 4
    monkeypatch.chdir(ROOT)
    exec(compile(example, "docs/api.md", "exec"), {})
    printed = capsys.readouterr().out
    # 68 ranks in blocks of 8: rank 66 is on the ninth host
    assert re.fullmatch(
        r"68 \['embedding', 'experts', 'aggregation'\] host-08\n[\d,]+ tokens/s\n", printed
    ), printed


def test_make_plan_shows_five_mistakes() -> None:
    example = text_of(ROOT / "docs/examples/five_mistakes.yaml")
    (on_the_page,) = [
        body
        for language, body in FENCE.findall(text_of(ROOT / "docs/how-to/errors.md"))
        if language == "yaml"
    ]
    assert on_the_page.splitlines()[1:] == example.splitlines()[3:], "but for the comment and the name"
    with pytest.raises(StrategyError) as caught:
        load(ROOT / "docs/examples/five_mistakes.yaml")
    assert [(problem.code, problem.path, problem.line) for problem in caught.value.problems] == [
        ("SW116", "cluster.links.intra_host", 8),
        ("SW111", "model.num_expert", 11),
        ("SW209", "parallel.zero_stage", 16),
        ("SW241", "training.global_batch", 19),
        ("SW113", "training.steps", 21),
    ]


@contextmanager
def in_folder(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


@cache
def answer_of(command: str) -> str:
    """What a command of the documents prints, in the repository's folder; each is run once."""
    said = io.StringIO()
    with redirect_stdout(said), in_folder(ROOT):
        code = main(command.split()[3:])
    # An audit that was answered may say no, and so may a plan: of a claim, of a limit.
    assert code in ((0, 1) if command.split()[3] in ("audit", "plan") else (0,)), command
    return said.getvalue()


def assert_shown(block: str, printed: str, *, of: str, reduce: Callable[[str], str]) -> None:
    """Each line of the block is printed, in this order; … stands for what is left out."""
    lines = [" ".join(reduce(line).split()) for line in printed.splitlines()]
    position = 0
    for line in block.splitlines():
        pattern = " ".join(reduce(line).split()).replace("[", "[[]").replace("…", "*")
        if pattern in ("", "*"):
            continue
        while position < len(lines) and not fnmatchcase(lines[position], pattern):
            position += 1
        assert position < len(lines), f"{of} does not print, or not here: {line!r}"


def skeleton(line: str) -> str:
    """A line without its figures: `196 ms` and `1.2 s` are both `#`."""
    line = re.sub(r"\b[0-9a-f]{16}\b", "#", line)
    return re.sub(r"[-−]?\d[\d,.]*\d|[-−]?\d", "#", re.sub(FIGURE, "#", line))


@pages
def test_no_page_names_a_machine(page: Path) -> None:
    found = re.search(
        r"(?<![\w.])/(work|home|root|tmp|opt|usr|mnt)/|\bpypi\b|index-url https?:", text_of(page)
    )
    assert found is None, found


def test_the_strategy_to_start_from_is_legal() -> None:
    blocks = [
        body for language, body in FENCE.findall(text_of(ROOT / "docs/how-to/train.md")) if language == "yaml"
    ]
    assert len(blocks) == 1
    assert build_plan(loads(blocks[0])).world_size == 2
    assert find_unimplemented(loads(blocks[0])) == ()


def test_the_five_mistakes_are_told_as_printed() -> None:
    blocks = FENCE.findall(text_of(ROOT / "docs/how-to/errors.md"))
    (written,) = [body for language, body in blocks if language == "yaml"]
    (printed,) = [body for language, body in blocks if body.startswith("five.yaml")]
    with pytest.raises(StrategyError) as caught:
        loads(written, file="five.yaml")
    told = [*str(caught.value).splitlines(), f"{len(caught.value.problems)} problems"]
    assert len(told) == len(printed.splitlines()) == 16
    for line, shown in zip(told, printed.splitlines(), strict=True):
        assert line.startswith(shown.rstrip("…"))


# What a refused override needs beside it.
_STOCK = ("model.dispatch=deepspeed", "training.balance_loss=0", "training.z_loss=0")
REFUSED_WITH = {
    "runtime.recompute=layer": _STOCK,
    "runtime.all_to_all=hierarchical": _STOCK,
    "runtime.overlap_reduce=true": ("training.precision=fp32",),
}


def test_the_readme_lists_what_is_refused_and_nothing_else() -> None:
    section = (
        text_of(ROOT / "README.md").partition("<!-- refused:")[2].partition("<!-- end of refused -->")[0]
    )
    overrides = re.findall(r"^\| `(\S+)` \|", section, re.MULTILINE)
    refusing = set()
    for override in overrides:
        changed = strategy(override, *REFUSED_WITH.get(override, ()))
        problems = find_unimplemented(changed)
        assert [problem.path for problem in problems] == [override.partition("=")[0]], override
        refusing |= {rule for rule in _RULES if tuple(rule(changed))}
    assert refusing == set(_RULES), "a rule of planner/rules/not_implemented.py has no line in the README"
    assert find_unimplemented(loads(TEXT)) == ()


def upstream_rows() -> list[tuple[str, int, str]]:
    """File, line and code of DeepSpeed that docs/how-to/upstream.md quotes."""
    rows = re.findall(
        r"^\| `([\w/.]+\.py):(\d+)` \| `(.*?)` \|", text_of(ROOT / "docs/how-to/upstream.md"), re.M
    )
    return [(place, int(line), code) for place, line, code in rows]


@pytest.mark.torch  # DeepSpeed is not in the planner's environment
def test_deepspeed_has_the_quoted_lines() -> None:
    spec = importlib.util.find_spec("deepspeed")
    assert spec is not None
    assert spec.origin is not None
    package = Path(spec.origin).parent
    if '"0.19.8"' not in text_of(package / "git_version_info_installed.py").replace("'", '"'):
        pytest.skip("the lines are those of DeepSpeed 0.19.8")
    rows = upstream_rows()
    assert len(rows) > 15
    for place, line, code in rows:
        assert code in text_of(package / place).splitlines()[line - 1], f"{place}:{line} is not {code}"
