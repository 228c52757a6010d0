"""`pointsman advise --certificate` writes its recommendations to a file, a certificate; `pointsman advise --verify`
checks such a file.

The certificate has all data from which the recommendations can be computed again.
"""
