"""`pointsman up`: runs the services that a configuration needs on this machine."""
