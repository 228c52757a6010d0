"""What is this request about? Rules first, then a classifier that may abstain."""
