"""`pointsman eval`: a labelled set down every path that could answer."""
