"""Failure of the ranks to meet, before there is a store in which one could give a reason to the others."""

from planner import Problem


class CannotMeet(RuntimeError):
    """The ranks cannot meet; the Problem says why. All ranks of a host see the same."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        super().__init__(str(problem))
