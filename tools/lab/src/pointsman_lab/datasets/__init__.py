"""Training data sets built from stored answers and the feedback on them."""
