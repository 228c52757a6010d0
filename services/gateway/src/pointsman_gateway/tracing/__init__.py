"""The wrappers that trace the line; `wiring` puts them around the stages where traces are wanted."""
