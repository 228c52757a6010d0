"""`pointsman up`: runs all services on one machine."""
