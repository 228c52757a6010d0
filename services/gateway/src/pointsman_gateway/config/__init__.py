"""Policy as data: what is written in the configuration folder, checked as a whole."""
