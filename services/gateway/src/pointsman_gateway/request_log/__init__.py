"""What was decided, what came of it, and what people said of it: kept for replay, evidence and learning."""
