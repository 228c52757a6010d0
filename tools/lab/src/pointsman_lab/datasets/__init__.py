"""Data sets for the next adapter, from answers that were kept, and what people said of them."""
