"""The picture of a plan: well-formed, each rank once, on its host, in its stage's colour, with its groups."""

import re
import xml.etree.ElementTree as ET
from collections import defaultdict
from pathlib import Path

import pytest

from launch.__main__ import main
from planner import Plan, build_plan, load
from planner.report.plan_svg import COLOURS, plan_svg

ROOT = Path(__file__).parents[3]
STAGED = "ds_configs/ep64_tp2_staged.yaml"
COLOCATED = "ds_configs/ep64_tp2.yaml"
SVG = "{http://www.w3.org/2000/svg}"
PLANS = {
    "staged": (STAGED,),
    "pipeline": (COLOCATED, "parallel={ep: 16, tp: 2, pp: 4, dp: 2}"),
    "processes": ("ds_configs/tiny_cpu.yaml",),
    "many stages": (COLOCATED, "parallel={ep: 8, pp: 16}"),
    "2,048 ranks": (
        COLOCATED,
        "cluster.hosts=300",
        "parallel={ep: 64, tp: 4, pp: 8, dp: 4}",
        "training.global_batch=2048",
        "cluster.spare_hosts=4",
    ),
}


def planned(*words: str) -> Plan:
    return build_plan(load(ROOT / words[0], words[1:]))


def hosts_drawn(svg: str) -> dict[str, list[ET.Element]]:
    """Host (with its note) -> the elements of its ranks."""
    drawn = {}
    for group in ET.fromstring(svg).findall(f"{SVG}g"):
        name = group.findtext(f"{SVG}rect/{SVG}title")
        assert name is not None
        drawn[name] = group.findall(f"{SVG}g[@class='rank']")
    return drawn


def title_of(element: ET.Element) -> str:
    return element.findtext(f"{SVG}title") or ""


def fill_of(element: ET.Element) -> str | None:
    rect = element.find(f"{SVG}rect")
    assert rect is not None
    return rect.get("fill")


@pytest.mark.parametrize("words", PLANS.values(), ids=PLANS)
def test_every_rank_is_drawn_once_on_its_host_in_the_colour_of_its_stage(words: tuple[str, ...]) -> None:
    plan = planned(*words)
    drawn: dict[str, list[int]] = defaultdict(list)
    colours: dict[str, set[str | None]] = defaultdict(set)
    for host, elements in hosts_drawn(plan_svg(plan)).items():
        for element in elements:
            match = re.match(r"rank (\d+) on (\S+)\n(\S+): ", title_of(element))
            assert match is not None
            assert match[2] == host
            assert match[3] == plan.stage_of(int(match[1])).name
            drawn[host].append(int(match[1]))
            colours[match[3]].add(fill_of(element))
    assert {host: tuple(ranks) for host, ranks in drawn.items()} == {
        host.name: host.ranks for host in plan.hosts
    }
    expected = {stage.name: {COLOURS[i % len(COLOURS)][0]} for i, stage in enumerate(plan.stages)}
    assert colours == expected


@pytest.mark.parametrize("words", PLANS.values(), ids=PLANS)
def test_the_bytes_are_the_same_twice(words: tuple[str, ...]) -> None:
    assert plan_svg(planned(*words)) == plan_svg(planned(*words))


def test_a_rank_names_its_groups() -> None:
    drawn = hosts_drawn(plan_svg(planned(COLOCATED, "parallel={ep: 16, tp: 2, pp: 4, dp: 2}")))
    rank_33 = next(element for element in drawn["host-04"] if title_of(element).startswith("rank 33 "))
    # 32 ranks a stage from rank 32 on: tp pairs, 2 expert replicas of 16, 16 data-parallel ranks
    assert title_of(rank_33).splitlines()[2:] == [
        "tp group: 32-33",
        "ep group: 32-47",
        "edp group: 33, 49",
        "data group: 33, 35, 37, …, 63",
    ]


def test_spare_hosts_and_free_slots_are_marked() -> None:
    svg = plan_svg(planned(STAGED))
    names = list(hosts_drawn(svg))
    assert names[8:] == ["host-08", *(f"host-{i:02}, spare" for i in range(9, 16))]
    assert svg.count('class="free"') == 128 - 68


def test_small_cells_have_patterns_instead_of_letters() -> None:
    svg = plan_svg(planned(*PLANS["2,048 ranks"]))
    assert set(re.findall(r"url\(#(p\d)\)", svg)) == {"p1", "p2", "p3"} == set(re.findall(r'id="(\w+)"', svg))
    assert "hosts without ranks are not drawn" in svg
    assert "A0" in plan_svg(planned(STAGED))


def test_the_command_writes_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "plan.svg"
    assert main(["plan", str(ROOT / STAGED), "--svg", str(file), "--plain"]) == 1
    assert file.read_text(encoding="utf-8") == plan_svg(planned(STAGED))
    assert capsys.readouterr().out.startswith("ep64_tp2_staged: ")


def test_the_readme_shows_the_reference() -> None:
    assert (ROOT / "docs/images/plan.svg").read_text(encoding="utf-8") == plan_svg(planned(STAGED))


def test_a_picture_needs_one_plan_and_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    staged, file = str(ROOT / STAGED), str(tmp_path / "missing" / "plan.svg")
    assert main(["plan", staged, "--svg", file]) == 2
    assert main(["plan", staged, str(ROOT / COLOCATED), "--svg", file]) == 2
    assert re.findall(r"^SW\d+", capsys.readouterr().err, re.MULTILINE) == ["SW380", "SW381"]
