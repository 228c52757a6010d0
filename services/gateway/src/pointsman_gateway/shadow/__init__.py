"""Shadow requests: a sample of the requests is answered again on another path. No caller gets these answers; they serve
to measure the other path.
"""
