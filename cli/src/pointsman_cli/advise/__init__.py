"""`pointsman advise`: from which volume an adapter pays, and what to do."""
