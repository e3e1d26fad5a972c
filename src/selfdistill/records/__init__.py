"""What the files of runs, evaluations and studies hold: one frozen record for each, with a ``format`` version."""
