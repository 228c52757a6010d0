"""Corrects vLLM's LoRA kernels on CPUs, as a plugin of vLLM."""
