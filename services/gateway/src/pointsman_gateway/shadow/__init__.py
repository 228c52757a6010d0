"""What would another path have made of it? A share of requests is answered twice; nobody waits for the second."""
