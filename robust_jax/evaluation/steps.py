"""The steps of an evaluation: a batch is attacked and judged, by compiled functions of one type."""

import functools
from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import jax
from jax.core import Tracer
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Int, Key

from robust_jax import rng
from robust_jax.attacks import Attack, BoundedAttack, Passes, bind, ensemble
from robust_jax.attacks.suite import SuiteAttack
from robust_jax.evaluation.attack_runs import AttackRun
from robust_jax.evaluation.judges import Judge
from robust_jax.evaluation.judging import Judgement, Panel, judge_images, panel, seen_by
from robust_jax.evaluation.targets import random_targets
from robust_jax.methods import Method
from robust_jax.methods.base import MethodView
from robust_jax.runtime.compilation import Precision, at_precision, jitted
from robust_jax.runtime.sharding import batched, local, on_host, replicated, spread
from robust_jax.types import Batch, Variables, View


@runtime_checkable
class StepFn(Protocol):
    """Returns what all judges find on a batch, clean or after an attack; compiled.

    Its arguments are those of every step, used or not: the attack, whose radius and step sizes may
    be others from call to call, arrays of the model and of the sources that the step attacks or
    judges in its place (none where it is the model), clean images to begin at, the batch, the
    labels to move away from, and the batch's key.
    """

    def __call__(
        self,
        attack: Attack | None,
        variables: Variables,
        sources: tuple[Variables, ...],
        starts: Array | None,
        batch: Batch,
        labels: Int[Array, " b"],
        key: Key[Array, ""],
        /,
    ) -> Judgement: ...


def _sharded(step: StepFn, mesh: Mesh, precision: Precision) -> StepFn:
    """Returns a step compiled over the mesh: models on every device, batches split."""
    over_batch, everywhere = batched(mesh), replicated(mesh)
    return jitted(
        at_precision(step, precision),
        in_shardings=(*[everywhere] * 4, over_batch, over_batch, everywhere),
        out_shardings=everywhere,
    )


def clean_step(judges: Panel, mesh: Mesh, precision: Precision) -> StepFn:
    """Returns the step that judges clean images by the model."""

    def step(attack, variables, sources, starts, batch, labels, key):
        del attack, sources, starts, labels  # of attacks alone
        return judge_images(judges, variables, batch, batch.image, key)

    return _sharded(step, mesh, precision)


def source_step(method: Method, mesh: Mesh, precision: Precision, seed: int) -> StepFn:
    """Returns the step that judges clean images by a source, each by its mean prediction."""
    judges = panel(method, {"source": Judge()}, seed, num_submissions=0)

    def step(attack, variables, sources, starts, batch, labels, key):
        del attack, variables, starts, labels
        (source,) = sources
        return judge_images(judges, source, batch, batch.image, key)

    return _sharded(step, mesh, precision)


class _AttackedImages(NamedTuple):
    """What an attack gives.

    Attributes:
        images: the attacked ones.
        passes: that it made; None of a dry run on the host.
        started: which images it found a start for; None where it needs none.
    """

    images: Array
    passes: Passes | None = None
    started: Bool[Array, " b"] | None = None


class _Attacked(NamedTuple):
    """A row of the table with all that its steps close over.

    Attributes:
        name: of the row.
        run: what it is aimed at; its attack is that of a call.
        method_views: what it attacks: the model's, or each source's.
        judges: who judge the images.
        mesh: devices.
        precision: of products of float32.
        seed: root of the targets, and of fixed draws.
    """

    name: str
    run: AttackRun
    method_views: tuple[MethodView, ...]
    judges: Panel
    mesh: Mesh
    precision: Precision
    seed: int

    def view(self, variables: Variables, sources: tuple[Variables, ...]) -> View:
        """Returns the attacked view, of the model, of the source, or of several."""
        if len(sources) != len(self.run.sources):
            raise ValueError(f"Expected source={self.run.source!r} to be given.")
        views = [
            seen_by(self.run, bind(method_view, attacked), self.seed)
            for method_view, attacked in zip(
                self.method_views, sources or (variables,), strict=True
            )
        ]
        return views[0] if len(views) == 1 else ensemble(views, average=self.run.average)

    def attacked(
        self,
        attack: Attack,
        variables: Variables,
        sources: tuple[Variables, ...],
        starts: Array | None,
        batch: Batch,
        labels: Int[Array, " b"],
        key: Key[Array, ""],
    ) -> _AttackedImages:
        """Returns the attacked images, and how the attack came to them."""
        view = self.view(variables, sources)
        key = rng.stream(key, f"attack {self.name}")
        if attack.targeted:
            labels = random_targets(view, batch, self.seed)
        if attack.on_host and isinstance(batch.image, Tracer):
            begin_at = starts if attack.takes_starts else None
            images = attack.dry_run(
                view, batch.image, labels, key=key, index=batch.index, starts=begin_at
            )
            return _AttackedImages(images)
        counted = attack.counted
        if isinstance(attack, SuiteAttack):  # which images are left alone the harness decides
            counted = functools.partial(attack.counted, spare_wrong=False)
        if not attack.takes_starts:
            images, passes = counted(view, batch.image, labels, key=key, index=batch.index)
            return _AttackedImages(images, passes)
        started = attack.started(
            view, batch.image, labels, key=key, index=batch.index, starts=starts
        )
        images, passes = counted(
            view, batch.image, labels, key=key, index=batch.index, starts=starts
        )
        return _AttackedImages(images, passes, started)

    def judge(
        self,
        attack: Attack,
        variables: Variables,
        sources: tuple[Variables, ...],
        batch: Batch,
        images: Array,
        key: Key[Array, ""],
    ) -> Judgement:
        """Returns what all judges find, once the images are inside the ball for sure."""
        if isinstance(attack, BoundedAttack):
            images = attack.threat.project(images, batch.image)
        key, view = rng.stream(key, f"judge {self.name}"), self.view(variables, sources)
        return judge_images(self.judges, variables, batch, images, key, view, attack.success_scores)


def attack_step(
    name: str,
    run: AttackRun,
    attacked: Sequence[Method],
    judges: Panel,
    mesh: Mesh,
    precision: Precision,
    seed: int,
) -> StepFn:
    """Returns the step that attacks a batch and judges it, in one program where it can be.

    Args:
        name: of the row.
        run: the row.
        attacked: the model, or the sources that are attacked in its place.
        judges: who judge the images.
        mesh: devices.
        precision: of products of float32.
        seed: root of the targets, and of fixed draws.
    """
    views = tuple(method.view(run.view) for method in attacked)
    row = _Attacked(name, run, views, judges, mesh, precision, seed)
    return _host_step(row) if run.attack.on_host else _device_step(row)


def _device_step(row: _Attacked) -> StepFn:
    """Returns attack and judgement as one program."""

    def step(attack, variables, sources, starts, batch, labels, key):
        found = row.attacked(attack, variables, sources, starts, batch, labels, key)
        images, passes, started = found
        judgement = row.judge(attack, variables, sources, batch, images, key)
        return judgement._replace(started=started, passes=passes)

    return _sharded(step, row.mesh, row.precision)


def _host_step(row: _Attacked) -> StepFn:
    """Returns an attack that runs on the host over programs of its own, and then the judgement."""

    def judge(attack, variables, sources, starts, batch, images, key):
        del starts  # the images stand where labels do in other steps
        return row.judge(attack, variables, sources, batch, images, key)

    judge_step = _sharded(judge, row.mesh, row.precision)

    def attacked(attack, variables, sources, starts, batch, labels, key):
        if isinstance(batch.image, Tracer):  # a dry run
            return row.attacked(attack, variables, sources, starts, batch, labels, key)
        if jax.process_count() > 1:  # each host attacks the whole batch, on its own copies
            variables, sources, starts = local((variables, sources, starts))
            batch, labels = jax.device_put(on_host((batch, labels)))
        found = row.attacked(attack, variables, sources, starts, batch, labels, key)
        return found._replace(images=spread(found.images, row.mesh))

    def step(attack, variables, sources, starts, batch, labels, key):
        found = attacked(attack, variables, sources, starts, batch, labels, key)
        judgement = judge_step(attack, variables, sources, starts, batch, found.images, key)
        return judgement._replace(started=found.started, passes=found.passes)

    return at_precision(step, row.precision)
