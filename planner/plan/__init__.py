"""Plan: hosts, stages, batch, fingerprints, and the files that describe a run."""
