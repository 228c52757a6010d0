"""How is it asked? Decision in, Prompt out; strategies compose, prompt texts are files."""
