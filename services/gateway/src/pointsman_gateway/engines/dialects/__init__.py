"""The formats of requests to engines and of their answers, with a folder for each API; `registry` lists them."""
