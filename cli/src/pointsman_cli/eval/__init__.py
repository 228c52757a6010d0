"""`pointsman eval`: sends a labelled data set through every path that can answer it."""
