"""The formats in which engines are asked and answer, a folder for each API; `registry` lists them."""
