"""`pointsman doctor`: checks this machine or a running deployment, and says what to fix."""
