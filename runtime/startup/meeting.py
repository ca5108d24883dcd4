"""Why ranks have not met: a failure or a stop, before there is a store in which one could tell the others."""

from planner import Problem


class CannotMeet(RuntimeError):
    """The ranks cannot meet; the Problem says why. All ranks of a host see the same."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        super().__init__(str(problem))


class AskedToStop(Exception):
    """The rank was asked to stop while it waited for the store."""
