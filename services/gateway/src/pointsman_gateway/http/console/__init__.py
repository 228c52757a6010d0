"""The console: a page, and the small JSON API that it reads."""
