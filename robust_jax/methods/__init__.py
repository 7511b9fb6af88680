"""The defences: a configuration each, which builds a record of pure functions."""

from robust_jax.methods.adaptive_diversity_promoting import AdaptiveDiversityPromoting, Diversity
from robust_jax.methods.base import Epochs, Method, MethodConfig
from robust_jax.methods.batch_ensemble import BatchEnsemble
from robust_jax.methods.cross_entropy import CrossEntropy
from robust_jax.methods.deployment import Deployment
from robust_jax.methods.dropout import Dropout, MonteCarloDropout
from robust_jax.methods.dverge import DVERGE, Distillation
from robust_jax.methods.grad_div import Concentration, GradDiv
from robust_jax.methods.gradient_alignment import Coherence, GradientAlignment
from robust_jax.methods.interval_bound_propagation import IBP, WorstCase
from robust_jax.methods.kap import KAP
from robust_jax.methods.kap_layers import ActivationNoise, KernelPooling
from robust_jax.methods.kap_pool import KernelPool
from robust_jax.methods.laplace_priority_dropout import PriorityDropout
from robust_jax.methods.mart import MART, MisclassificationAware
from robust_jax.methods.parl import PARL, PairwiseAdversarial
from robust_jax.methods.parl_parameters import ParameterGradientCosines, ParameterPARL
from robust_jax.methods.priority_rates import LaplaceRates, PriorityRates
from robust_jax.methods.random_layer_sampling import RandomLayerSampling
from robust_jax.methods.random_self_ensemble import NoiseBeforeConv, RandomSelfEnsemble
from robust_jax.methods.regroup import REGroup
from robust_jax.methods.runs import Quantity
from robust_jax.methods.standard import Standard
from robust_jax.methods.stochastic_activation_pruning import Pruning, StochasticActivationPruning
from robust_jax.methods.terms import Pass, Term, Value
from robust_jax.methods.trades import TRADES, Divergence
from robust_jax.methods.transferability_reduced_smooth import (
    SmoothDissimilarity,
    TransferabilityReducedSmooth,
)
from robust_jax.models import InputNoise, LayerChange

__all__ = [
    "DVERGE",
    "IBP",
    "KAP",
    "MART",
    "PARL",
    "TRADES",
    "ActivationNoise",
    "AdaptiveDiversityPromoting",
    "BatchEnsemble",
    "Coherence",
    "Concentration",
    "CrossEntropy",
    "Deployment",
    "Distillation",
    "Divergence",
    "Diversity",
    "Dropout",
    "Epochs",
    "GradDiv",
    "GradientAlignment",
    "InputNoise",
    "KernelPool",
    "KernelPooling",
    "LaplaceRates",
    "LayerChange",
    "Method",
    "MethodConfig",
    "MisclassificationAware",
    "MonteCarloDropout",
    "NoiseBeforeConv",
    "PairwiseAdversarial",
    "ParameterGradientCosines",
    "ParameterPARL",
    "Pass",
    "PriorityDropout",
    "PriorityRates",
    "Pruning",
    "Quantity",
    "REGroup",
    "RandomLayerSampling",
    "RandomSelfEnsemble",
    "SmoothDissimilarity",
    "Standard",
    "StochasticActivationPruning",
    "Term",
    "TransferabilityReducedSmooth",
    "Value",
    "WorstCase",
]
