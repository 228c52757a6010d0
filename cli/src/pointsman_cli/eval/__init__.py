"""`pointsman eval`: sends a labelled data set through every path (way to answer) that can answer it."""
