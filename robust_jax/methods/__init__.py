"""The defences: a configuration each, which builds a record of pure functions."""

from robust_jax.methods.adaptive_diversity_promoting import AdaptiveDiversityPromoting
from robust_jax.methods.base import Epochs, Method, MethodConfig
from robust_jax.methods.batch_ensemble import BatchEnsemble
from robust_jax.methods.dropout import MonteCarloDropout
from robust_jax.methods.dverge import DVERGE
from robust_jax.methods.grad_div import GradDiv
from robust_jax.methods.gradient_alignment import GradientAlignment
from robust_jax.methods.kap import KAP
from robust_jax.methods.kap_pool import KernelPool
from robust_jax.methods.laplace_priority_dropout import PriorityDropout
from robust_jax.methods.mart import MART
from robust_jax.methods.parl import PARL
from robust_jax.methods.parl_parameters import ParameterPARL
from robust_jax.methods.priority_rates import LaplaceRates, PriorityRates
from robust_jax.methods.random_layer_sampling import RandomLayerSampling
from robust_jax.methods.random_self_ensemble import RandomSelfEnsemble
from robust_jax.methods.regroup import REGroup
from robust_jax.methods.standard import Standard
from robust_jax.methods.stochastic_activation_pruning import StochasticActivationPruning
from robust_jax.methods.trades import TRADES
from robust_jax.methods.transferability_reduced_smooth import TransferabilityReducedSmooth

__all__ = [
    "DVERGE",
    "KAP",
    "MART",
    "PARL",
    "TRADES",
    "AdaptiveDiversityPromoting",
    "BatchEnsemble",
    "Epochs",
    "GradDiv",
    "GradientAlignment",
    "KernelPool",
    "LaplaceRates",
    "Method",
    "MethodConfig",
    "MonteCarloDropout",
    "ParameterPARL",
    "PriorityDropout",
    "PriorityRates",
    "REGroup",
    "RandomLayerSampling",
    "RandomSelfEnsemble",
    "Standard",
    "StochasticActivationPruning",
    "TransferabilityReducedSmooth",
]
