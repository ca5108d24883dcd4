"""Style of a report: light and dark as the reader has it, light and without backgrounds cut off on paper."""

import re

from planner.report.plan_svg import STYLE as PLAN_STYLE

# A rule of the plan's own style: it must not reach the other pictures of the page.
_RULE = re.compile(r"([^{}@]+)\{([^{}]*)\}")

CSS = """\
:root{color-scheme:light dark;--ink:#1f2328;--quiet:#59636e;--page:#fff;--panel:#f6f8fa;--line:#d1d9e0;
--bad:#a40e26;--good:#116329}
@media screen and (prefers-color-scheme:dark){:root{--ink:#f0f6fc;--quiet:#9198a1;--page:#0d1117;
--panel:#151b23;--line:#3d444d;--bad:#ff9492;--good:#72f088}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:1000px;padding:24px 20px 60px;background:var(--page);color:var(--ink);
font:15px/1.5 system-ui,sans-serif}
h1{font-size:26px;margin:0 0 4px}h2{font-size:21px;margin:44px 0 8px;border-bottom:1px solid var(--line)}
h3{font-size:16px;margin:28px 0 6px}p{margin:6px 0}.quiet,.empty{color:var(--quiet)}
.facts{display:grid;grid-template-columns:repeat(auto-fill,minmax(150px,1fr));gap:8px;margin:14px 0}
.facts div{background:var(--panel);border:1px solid var(--line);border-radius:6px;padding:7px 10px}
.facts dt{font-size:12px;color:var(--quiet)}
.facts dd{margin:0;font-size:17px;overflow-wrap:anywhere;font-variant-numeric:tabular-nums}
.wide{overflow-x:auto}table{border-collapse:collapse;margin:8px 0;font-variant-numeric:tabular-nums}
th,td{text-align:left;padding:4px 14px 4px 0;border-bottom:1px solid var(--line);vertical-align:top}
th{font-weight:600}td.n,th.n{text-align:right}
ul{margin:6px 0;padding-left:20px}.bad{color:var(--bad);font-weight:600}.good{color:var(--good)}
svg{max-width:100%;height:auto;display:block;margin:6px 0}
.chart text{font:13px system-ui,sans-serif;fill:var(--ink)}.chart text.small{font-size:11.5px}
.chart text.number{font-size:8px;fill:#fff}
.grid{stroke:var(--line);stroke-width:1}.mark{stroke:var(--quiet);stroke-width:1;stroke-dasharray:3 3}
.line{fill:none;stroke-width:1.8}.dead{stroke:#fff;stroke-width:1.2;fill:none}.over{fill:#000}
.pass{stroke:#fff;stroke-width:.4}
@media print{body{max-width:none;padding:0;-webkit-print-color-adjust:exact;print-color-adjust:exact}
h2{break-after:avoid}svg,table,.facts{break-inside:avoid}}
"""


def style() -> str:
    """Of the entire page."""
    return CSS + scoped(PLAN_STYLE, ".plan")


def scoped(css: str, scope: str) -> str:
    """The rules for what is inside `scope`; dark on a screen only: paper is white."""
    screen = css.replace("@media (", "@media screen and (")
    return _RULE.sub(
        lambda rule: ",".join(f"{scope} {one.strip()}" for one in rule[1].split(",")) + "{" + rule[2] + "}",
        screen,
    )
