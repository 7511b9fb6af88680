"""Measures of what a network consists of: its filters, its keep rates; no image is asked."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from robust_jax import analysis
from robust_jax.evaluation.measures.base import Found, Measure, Subject
from robust_jax.methods import KernelPool, KernelPooling, LaplaceRates, PriorityDropout


@dataclasses.dataclass(frozen=True)
class FilterSheet(Measure):
    """The filters of the first convolution on the sheet that KAP pools its kernels over.

    Attributes:
        pooled_only: ask networks with kernel pooling alone; others have the sheet that it would be.

    References:
        Figures 3 and A3 of KAP's paper.

    Example:
        >>> from robust_jax.evaluation.measures import FilterSheet
        >>> FilterSheet(pooled_only=False).section  # of the report
        'Inside the network'
    """

    pooled_only: bool = True

    def missing(self, subject: Subject) -> str | None:
        """Returns what the model lacks: kernel pooling, and filters of grey or colour."""
        if self.pooled_only and _pool_of(subject) is None:
            return "kernel average pooling"
        return None if _kernels(subject) else "a convolution of grey or colour images"

    def __call__(self, subject: Subject) -> Found:
        """Returns the picture."""
        kernel, pool = np.asarray(_kernels(subject)[0]), _pool_of(subject) or KernelPool()
        figure = analysis.filter_sheet(kernel, pool.grid(kernel.shape[-1]))
        words = "Filters of the first convolution on the sheet that kernels are pooled over."
        return Found(self.section, {"filters": kernel.shape[-1]}, (), ((figure, words),))


def _pool_of(subject: Subject) -> KernelPool | None:
    changes = () if subject.config is None else subject.config.all_changes
    return next((each.pool for each in changes if isinstance(each, KernelPooling)), None)


def _kernels(subject: Subject) -> list[PyTree]:
    """Returns the kernels of convolutions of grey or colour images, or their shapes."""
    return [
        leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(subject.variables.get("params", {}))
        if getattr(path[-1], "key", None) == "kernel"
        and len(leaf.shape) == 4
        and leaf.shape[2] in (1, 3)
    ]


@dataclasses.dataclass(frozen=True)
class KeepRate(Measure):
    """The keep rate of LPD's dropout against the value of its kernel; no image is asked.

    References:
        Figure 1 of the LPD paper.

    Example:
        >>> from robust_jax.evaluation.measures import KeepRate
        >>> KeepRate().section
        'Inside the network'
    """

    def missing(self, subject: Subject) -> str | None:
        """Returns what the model lacks: rates of Laplace priority dropout."""
        return None if _laplace_rates(subject) else "Laplace priority dropout"

    def __call__(self, subject: Subject) -> Found:
        """Returns the curve."""
        rates = _laplace_rates(subject)
        assert rates is not None
        words = f"alpha {rates.alpha:g}, beta {rates.beta:g}, lambda {rates.laplace_lambda:g}"
        figure = analysis.keep_rate_curves({words: rates})
        ends = {str(z): float(analysis.keep_rate(rates, jnp.asarray(z))) for z in (0.0, 1.0, 3.0)}
        words = "Keep rate of a feature against the value of its kernel."
        return Found(self.section, {"keep_rate": ends}, (), ((figure, words),))


def _laplace_rates(subject: Subject) -> LaplaceRates | None:
    rates = subject.config.rates if isinstance(subject.config, PriorityDropout) else None
    return rates if isinstance(rates, LaplaceRates) else None
