"""What a run has written: steps, ranks, experts, attempts, outcome, as whoever watches it reads them."""
