"""The defences: a configuration each, which builds a record of pure functions."""

from robust_jax.methods.base import Method, MethodConfig
from robust_jax.methods.kap import KAP, KernelPool
from robust_jax.methods.standard import Standard

__all__ = ["KAP", "KernelPool", "Method", "MethodConfig", "Standard"]
