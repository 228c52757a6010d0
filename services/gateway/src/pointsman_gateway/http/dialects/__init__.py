"""The dialects of the HTTP API, a folder for each API; `registry` lists them."""
