"""Changes of layers, terms of a loss and presets meet: they train, or say why they do not."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robust_jax import methods, serialization
from robust_jax.attacks import PGD, ThreatModel, bind
from robust_jax.data import DataConfig, Digits, eval_batches, open_data
from robust_jax.methods import MethodConfig
from robust_jax.models import CNNConfig, Conv, EnsembleConfig

KEY = jax.random.key(0)
NETWORK = CNNConfig(widths=(9,), strides=(2,))
ENSEMBLE = EnsembleConfig(NETWORK, 2)
BOUNDED = dataclasses.replace(NETWORK, norm=False)
ATTACK = PGD(ThreatModel("l2", 0.5), num_steps=1, start_sigma=0.01, keep="last")
POOL = methods.KernelPooling(methods.KernelPool())

CHANGES: dict[str, tuple[methods.LayerChange, ...]] = {
    "none": (),
    "pool": (POOL,),
    "noise": (methods.ActivationNoise(0.1),),
    "kap": (POOL, methods.ActivationNoise(0.1)),
    "before_conv": (methods.NoiseBeforeConv(),),
    "pruning": (methods.Pruning(draws="independent"),),
    "dropout": (methods.Dropout(0.2),),
    "input": (methods.InputNoise(0.1), methods.Dropout(0.2, "activations")),
}
TERMS: dict[str, tuple[methods.Term, ...]] = {
    "none": (),
    "trades": (methods.Divergence(attack=dataclasses.replace(ATTACK, loss="kl")),),
    "mart": (methods.MisclassificationAware(attack=ATTACK),),
    "adp": (methods.Diversity(),),
    "gal": (methods.Coherence(),),
    "parl": (methods.PairwiseAdversarial(num_layers=1),),
    "parl_parameters": (methods.ParameterGradientCosines(num_layers=1),),
    "trs": (methods.SmoothDissimilarity(num_steps=1),),
    "dverge": (methods.Distillation(num_steps=1),),
    "concentration": (methods.Concentration(),),
    "adp_parl": (methods.Diversity(), methods.PairwiseAdversarial(num_layers=1)),
}
OF_ENSEMBLES = {*TERMS} - {"none", "trades", "mart"}
NAMED: dict[str, MethodConfig] = {
    "TRADES of a KAP network": methods.TRADES(
        network=NETWORK, changes=CHANGES["kap"], attack=dataclasses.replace(ATTACK, loss="kl")
    ),
    "PARL with KAP's pool": methods.PARL(network=ENSEMBLE, num_layers=1, changes=(POOL,)),
    "KAP + PARL": methods.KAP(network=ENSEMBLE, terms=TERMS["parl"]),
    "ADP + LPD": methods.PriorityDropout(network=ENSEMBLE, terms=TERMS["adp"]),
    "REGroup on KAP": methods.REGroup(
        network=NETWORK,
        num_layers=1,
        changes=(POOL, methods.ActivationNoise(0.1, when=("training",))),
    ),
    "SAP on KAP": methods.StochasticActivationPruning(
        network=NETWORK, num_draws=2, changes=CHANGES["kap"]
    ),
    "KAP + RLS": methods.RandomLayerSampling(
        network=NETWORK, num_draws=2, frozen=(), changes=CHANGES["kap"]
    ),
    "dropout + KAP": methods.MonteCarloDropout(
        network=NETWORK, num_draws=2, changes=CHANGES["kap"]
    ),
    "GradDiv + pool": methods.GradDiv(network=NETWORK, num_samples=2, changes=(POOL,)),
    "BatchEnsemble + TRADES": methods.BatchEnsemble(
        network=NETWORK, num_members=2, terms=TERMS["trades"]
    ),
    "IBP + pool + TRADES": methods.IBP(
        network=dataclasses.replace(ENSEMBLE, member=BOUNDED),
        warmup_steps=0,
        ramp_steps=0,
        changes=(POOL,),
        terms=TERMS["trades"],
    ),
    "LPD + PARL + noise": methods.PriorityDropout(
        network=ENSEMBLE, terms=TERMS["parl"], changes=CHANGES["noise"]
    ),
}


WAYS = list(itertools.product(CHANGES, TERMS, ("network", "ensemble"), ("plain", "pgd_at")))
ALLOWED = [way for way in WAYS if way[2] == "ensemble" or way[1] not in OF_ENSEMBLES]


def covering() -> list[tuple[str, ...]]:
    """Returns twenty ways in which every change meets, and every term, both kinds of training."""
    chosen = []
    for number in range(20):
        change = list(CHANGES)[number % len(CHANGES)]
        term = list(TERMS)[number % len(TERMS)]
        kind = "ensemble" if term in OF_ENSEMBLES or number % 2 else "network"
        chosen.append((change, term, kind, ("plain", "pgd_at")[(number // 2) % 2]))
    return chosen


def made(change: str, term: str, kind: str) -> MethodConfig:
    network = ENSEMBLE if kind == "ensemble" else NETWORK
    return methods.Standard(network=network, changes=CHANGES[change], terms=TERMS[term])


@pytest.fixture(scope="module")
def data():
    return open_data(DataConfig(Digits()))


@pytest.fixture(scope="module")
def batch(data):
    return next(eval_batches(data.train, 8))


def step_of(config: MethodConfig, task, *, adversarial: bool):
    """Returns a function of variables and a batch: gradients, moved collections, what is told."""
    method = config.make(task)

    def step(variables, batch):
        if adversarial:
            view = bind(method.view("train"), variables)
            images = ATTACK(view, batch.image, batch.label, key=jax.random.key(2))
            batch = batch._replace(image=images)

        def loss(params):
            key = jax.random.key(1)
            return method.loss({**variables, "params": params}, batch, key=key, step=0)

        (value, (moved, told)), slopes = jax.value_and_grad(loss, has_aux=True)(variables["params"])
        return value, slopes, moved, told

    return method, step


@pytest.mark.nightly
def test_everything_that_is_allowed_can_be_built(data, batch):
    for change, term, kind, training in ALLOWED:
        method, step = step_of(made(change, term, kind), data.task, adversarial=training != "plain")
        variables = jax.eval_shape(lambda key, method=method: method.init(key=key), KEY)
        value, slopes, moved, _ = jax.eval_shape(step, variables, batch)
        assert value.shape == ()
        assert jax.tree.structure(slopes) == jax.tree.structure(variables["params"])
        assert jax.tree.structure(moved["batch_stats"]) == jax.tree.structure(
            variables["batch_stats"]
        )


@pytest.mark.nightly
@pytest.mark.parametrize("way", covering(), ids="-".join)
def test_one_step(way, data, batch):
    *parts, training = way
    check_step(made(*parts), data, batch, adversarial=training != "plain")


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.nightly] * (i % 3 > 0)) for i, n in enumerate(NAMED)],
)
def test_presets_meet(name, data, batch):
    """A step moves every parameter; what is deployed is random as it says."""
    config = NAMED[name]
    check_step(config, data, batch, adversarial=False)
    method = config.make(data.task)
    variables = method.init(key=KEY)
    if method.fit is not None:  # asks for a network that has learned: tests/test_digits.py
        assert not method.stochastic
        return

    @jax.jit
    def scores(key):
        return method.predict(variables, batch.image, key=key)

    first, again, other = (scores(jax.random.key(seed)) for seed in (1, 1, 2))
    assert bool(jnp.all(first == again))
    assert bool(jnp.any(first != other)) == method.stochastic
    view = method.view("deployed")
    slope = jax.grad(lambda x: jnp.sum(view(variables, x, key=KEY)[:, 0]))(batch.image)
    assert float(jnp.max(jnp.abs(slope))) > 0


def check_step(config, data, batch, *, adversarial):
    method, step = step_of(config, data.task, adversarial=adversarial)
    variables = jax.jit(lambda key: method.init(key=key))(KEY)
    value, slopes, moved, told = jax.jit(step)(variables, batch)
    assert np.isfinite([value, *told.values()]).all()
    for path, slope in jax.tree_util.tree_leaves_with_path(slopes):
        assert bool(jnp.all(jnp.isfinite(slope))), path
        if path[-1].key != "bias":  # of a convolution before BatchNorm it has none
            assert float(jnp.max(jnp.abs(slope))) > 0, path
    statistics = [jax.tree.structure(each.get("batch_stats")) for each in (moved, variables)]
    assert statistics[0] == statistics[1]
    stored = serialization.from_json(MethodConfig, serialization.to_json(config))
    assert stored == config


def test_two_terms_share_a_pass(batch, data):
    """PARL + ADP: what the network runs is what PARL runs, and ADP's arithmetic on the logits."""

    def cost(*names):
        config = methods.Standard(network=ENSEMBLE, terms=sum((TERMS[n] for n in names), ()))
        method, step = step_of(config, data.task, adversarial=False)
        variables = jax.eval_shape(lambda key: method.init(key=key), KEY)
        jaxpr = jax.make_jaxpr(step)(variables, batch)
        return str(jaxpr).count("conv_general_dilated") + str(jaxpr).count("dot_general")

    plain, parl, both = cost(), cost("parl"), cost("parl", "adp")
    assert both - parl == cost("adp") - plain


@pytest.mark.slow
def test_terms_add_up(batch, data):
    """The loss of terms is the sum of theirs, each with the same draws."""

    @jax.jit
    def losses(variables):
        return [
            made("none", name, "ensemble")
            .make(data.task)
            .loss(variables, batch, key=jax.random.key(1), step=0)[0]
            for name in ("none", "adp", "parl", "adp_parl")
        ]

    variables = made("none", "none", "ensemble").make(data.task).init(key=KEY)
    plain, adp, parl, both = losses(variables)
    assert float(both - plain) == pytest.approx(float(adp + parl - 2 * plain), rel=1e-4)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: made("none", "parl", "network"), "network=CNNConfig to be an EnsembleConfig"),
        (lambda: made("none", "dverge", "network"), "network=CNNConfig to be an EnsembleConfig"),
        (lambda: methods.KAP(changes=(POOL,)), "to have KernelPooling once"),
        (
            lambda: methods.Standard(changes=(methods.ActivationNoise(0.1, when=()),)),
            "ActivationNoise.* to name a phase",
        ),
        (lambda: methods.BatchEnsemble(changes=(POOL,)), "whose layers are its own"),
        (lambda: methods.REGroup(changes=CHANGES["noise"]), "that do not draw at prediction"),
        (lambda: methods.PARL(network=ENSEMBLE, terms=TERMS["parl"]), "PairwiseAdversarial once"),
        (
            lambda: methods.RandomLayerSampling(
                changes=(methods.KernelPooling(order="conv_norm_pool"),)
            ),
            "order='conv_norm_pool' to be 'conv_pool'",
        ),
    ],
)
def test_what_does_not_go_together(make, words):
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (
            methods.Standard(network=NETWORK, terms=(methods.Divergence(view="nowhere"),)),
            "view='nowhere'",
        ),
        (
            methods.Standard(network=NETWORK, changes=(methods.ActivationNoise(only=("conv9",)),)),
            "only='conv9'",
        ),
        (
            methods.RandomLayerSampling(
                network=NETWORK, changes=(methods.KernelPooling(only=("conv9",)),)
            ),
            "only='conv9'",
        ),
        (methods.PriorityDropout(network=ENSEMBLE, terms=TERMS["dverge"]), "Distillation to ask"),
        (methods.Standard(network=NETWORK, terms=(methods.WorstCase(),)), "without BatchNorm"),
    ],
)
def test_what_a_network_does_not_have(config, words, data):
    with pytest.raises(ValueError, match=words):
        config.make(data.task)


@pytest.mark.slow
@pytest.mark.parametrize("side", [16, 2])  # of the larger kernels are pooled, of the smaller not
def test_changes_act_in_their_order(side):
    """A pool after the noise averages it: a third of its deviation, or less, is left."""
    x = jnp.zeros((8, side, side, 32))
    spread = {}
    for name, changes in {"pool last": (methods.ActivationNoise(1.0), POOL),
                          "noise last": (POOL, methods.ActivationNoise(1.0))}.items():  # fmt: skip
        layer = Conv(features=36, kernel_size=(3, 3), changes=changes)
        keys = {"params": KEY, "sample": jax.random.key(1)}
        y, _ = layer.init_with_output(keys, x, train=True, deterministic=False)
        spread[name] = float(jnp.std(y))
    assert spread["noise last"] == pytest.approx(1.0, abs=0.05)
    assert spread["pool last"] < 0.5


@pytest.mark.slow
def test_adversarial_passes_have_the_draws_of_the_clean_one(data, batch):
    """In a ball of next to nothing the divergence is nothing, whatever else is asked."""
    still = methods.Divergence(attack=PGD(ThreatModel("l2", 1e-9), num_steps=1, keep="last"))
    for others in ((), TERMS["gal"], TERMS["parl"]):
        config = methods.Standard(network=ENSEMBLE, changes=CHANGES["kap"], terms=(still, *others))
        method, step = step_of(config, data.task, adversarial=False)
        *_, told = jax.jit(step)(method.init(key=KEY), batch)
        assert abs(float(told["divergence"])) < 1e-5


@pytest.mark.slow
def test_distilled_images_are_changed_too(data, batch):
    config = methods.DVERGE(network=ENSEMBLE, num_steps=1, changes=(methods.InputNoise(0.5),))
    method = config.make(data.task)
    loss = jax.jit(lambda v, key: method.loss(v, batch, key=key, step=0)[0])
    variables = method.init(key=KEY)
    assert float(loss(variables, KEY)) != float(loss(variables, jax.random.key(1)))


def test_noise_without_a_key_is_an_error(data, batch):
    """In every way that a pass runs: whole, member by member, with factors of features."""
    changes = (methods.InputNoise(0.1),)
    for config in (
        methods.Standard(network=ENSEMBLE, changes=changes),
        methods.PARL(network=ENSEMBLE, num_layers=1, changes=changes),
        methods.PriorityDropout(network=ENSEMBLE, changes=changes),
    ):
        method = config.make(data.task)
        variables = jax.eval_shape(lambda key, method=method: method.init(key=key), KEY)
        with pytest.raises(ValueError, match="Expected key=None to be a key"):
            jax.eval_shape(lambda v, m=method: m.loss(v, batch, key=None, step=0), variables)


def test_what_terms_report_does_not_collide(data, batch):
    config = methods.PARL(network=ENSEMBLE, num_layers=1, terms=TERMS["gal"])
    method, step = step_of(config, data.task, adversarial=False)
    *_, told = jax.eval_shape(step, jax.eval_shape(lambda key: method.init(key=key), KEY), batch)
    assert {"gradient_cosine", "Coherence.gradient_cosine"} <= told.keys()
