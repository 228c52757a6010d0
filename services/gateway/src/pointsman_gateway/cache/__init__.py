"""The answer cache: a backend around the engines that reuses earlier answers."""
