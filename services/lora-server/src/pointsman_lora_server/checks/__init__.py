"""Checks of an adapter before the engine sees it: the engine accepts many adapters that it then computes wrongly."""
