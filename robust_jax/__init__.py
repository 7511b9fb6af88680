"""Defences against adversarial examples, with the attacks and the evaluation they deserve."""

__version__ = "0.1.0"
