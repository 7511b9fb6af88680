"""What an evaluation says of itself: which model, which data, which protocol."""

import dataclasses
from collections.abc import Mapping

from robust_jax import serialization
from robust_jax.data import Split, fingerprint
from robust_jax.evaluation import claims
from robust_jax.evaluation.claims import Description
from robust_jax.evaluation.model import Model
from robust_jax.evaluation.protocol import Evaluation


def describe(
    model: Model, sources: Mapping[str, Model], split: Split, wanted: Evaluation
) -> Description:
    """Returns the description by which the files of an evaluation are known: see `claims`."""
    return {
        **model.described(split),
        "data": fingerprint(split),
        "evaluation": of_evaluation(wanted),
        "sources": of_sources(sources, split),
    }


def of_evaluation(wanted: Evaluation) -> Description:
    """Returns what a description says of an evaluation."""
    # What a paper prints, and what else is asked, changes no record.
    return serialization.to_json(dataclasses.replace(wanted, printed=None, measures=None))


def of_sources(sources: Mapping[str, Model], split: Split) -> Description:
    """Returns what a description says of the models that attacks are transferred from."""
    return {name: one.described(split) for name, one in sources.items()}


def networks(sources: Description) -> dict[str, str]:
    """Returns what tells the networks of described sources apart, by name.

    Twelve hex digits of their arrays; of functions, which have none, those of what they answer.
    """
    kept = {name: claims.part(sources, name) for name in sources}
    return {
        name: str(claims.part(one, "method").get("answers", one["weights"]))
        for name, one in kept.items()
    }
