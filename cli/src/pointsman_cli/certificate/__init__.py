"""`pointsman advise --certificate` and `--verify`: writes verdicts and their figures to a file that others
can check.
"""
