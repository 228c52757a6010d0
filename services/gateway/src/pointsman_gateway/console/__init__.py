"""What an operator sees: the journal, the evidence and the registry of adapters, read back for the console."""
