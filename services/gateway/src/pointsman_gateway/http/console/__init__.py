"""The console of the HTTP server: its page, its login and `/console/api`, the JSON API that the page uses."""
