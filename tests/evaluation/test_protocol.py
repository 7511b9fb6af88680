"""What an evaluation says of itself, without a model: its small budget, a line on each attack."""

import dataclasses

from robust_jax.attacks import APGD, PGD, AutoAttack, Averaged, ThreatModel
from robust_jax.evaluation.protocol import AttackRun, Evaluation
from tests import small


def test_reduced_budget_shrinks_every_attack():
    apgd = APGD(small.THREAT, num_restarts=5)
    suite = AutoAttack(small.THREAT)
    runs = {"apgd": AttackRun(apgd, eot_samples=20), "suite": AttackRun(suite)}
    runs["averaged"] = AttackRun(Averaged(small.THREAT, apgd))
    found = Evaluation(attacks=runs).reduced()
    averaged = found.attacks["averaged"].attack
    assert (averaged.num_samples, averaged.attack.num_restarts) == (4, 1)
    assert found.attacks["apgd"] == AttackRun(
        dataclasses.replace(apgd, num_restarts=1), eot_samples=4
    )
    members = found.attacks["suite"].attack.members()
    assert [type(a) for a in members] == [type(a) for a in suite.members()]
    assert members[-1].num_queries == 200
    assert (found.selection.num_examples, found.budget) == (64, "reduced")


def test_description_names_what_matters():
    wanted = Evaluation(
        attacks={"p": AttackRun(PGD(ThreatModel("linf", 8 / 255)), view="noise_off", eot_samples=4)}
    )
    assert wanted.descriptions == {
        "p": "PGD, linf eps 0.03137, num_steps 10, num_restarts 1, on noise_off, EOT 4"
    }
