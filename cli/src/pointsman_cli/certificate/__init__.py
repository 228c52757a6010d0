"""`pointsman advise --certificate` and `--verify`: writes its recommendations to a file that others can check.

The file, a certificate, has all figures from which the recommendations can be computed again.
"""
