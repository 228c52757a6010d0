"""`pointsman advise --certificate` and `--verify`: a verdict with its evidence in one file that others can check."""
