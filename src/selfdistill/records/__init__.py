"""Contents of the files of runs, evaluations, studies and ledgers, as frozen dataclasses with a ``format`` version."""
