"""Before the first step and after the last: consensus of the ranks, resume, attempts, the outcome."""
