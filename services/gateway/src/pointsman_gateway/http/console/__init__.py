"""The console: a web page, and the JSON API that it uses."""
