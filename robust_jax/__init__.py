"""Defences against adversarial examples in JAX/Flax, with the attacks and evaluation they deserve."""

__version__ = "0.1.0"
