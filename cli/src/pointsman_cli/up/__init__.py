"""`pointsman up`: everything on one machine."""
