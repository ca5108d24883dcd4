"""Reaping: the end of what an earlier supervisor of a run, which was killed, has left running."""

from typing import Any

from launch.scripts.template import LaunchPaths
from launch.supervisor.attempt import fence
from launch.supervisor.job_link import links_of_supervisor, remove_link
from launch.supervisor.journal import Journal, read_journal


def reap_earlier(paths: LaunchPaths, journal: Journal) -> bool:
    """Whether there was anything: ranks of its last attempt, or warm parents of the one after."""
    started = [entry for entry in read_journal(paths.run) if entry.event in ("start", "end", "restart")]
    last = next((entry for entry in reversed(started) if entry.event == "start"), None)
    if last is None or started[-1].event == "end":
        return False
    facts: Any = last.facts
    names = (*facts.get("hosts", ()), *facts.get("spares", ()))
    hosts = [name for name in names if isinstance(name, str)]
    links = links_of_supervisor(paths.run, str(facts.get("jobs")))
    left: dict[str, None] = {}
    for link in links:
        unfenced = fence(paths, hosts, link)
        left |= dict.fromkeys(unfenced)
        if not unfenced:
            remove_link(paths, link)
    if not links:
        return False
    text = f"ended what an earlier supervisor left of its last attempt on {', '.join(hosts)}"
    if left:
        text += f"; {', '.join(left)} could not be reached, ranks may still run there"
    journal.write("reap", text, hosts=hosts, unfenced=list(left))
    return True
