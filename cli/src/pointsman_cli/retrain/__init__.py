"""`pointsman retrain`: builds data, trains, evaluates and rolls out the next version of a task's adapter."""
