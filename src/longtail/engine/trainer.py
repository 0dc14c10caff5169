"""The one training loop: stages of epochs of steps, saved so that it can stop anywhere and go on as if it had not."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict
from itertools import chain
from typing import Any, cast

import torch
from torch import Tensor

from ..classes import Classes
from ..config import Config, TrainConfig, flat, merge, save_yaml, validate
from ..data.borders import warn_of_black_padding
from ..data.leaks import warn_of_overlap
from ..data.squares import SquareReader
from ..data.workers import telling_of_dead_workers
from ..errors import UsageError, unknown_name
from ..files import write_text
from ..finetune.modes import by_depth, describe_learning
from ..finetune.start import start
from ..hardware import device_name
from ..methods import method_class
from ..methods.base import Clock, Method, Stage
from ..models import Backbone, check_image_size, count_parameters
from ..seeding import derive_seed, generator, seed_layers
from .average import WeightAverage
from .boards import Boards
from .checkpoint import (
    Progress,
    check_within,
    identity,
    load_state,
    own_state,
    progress_of,
    restore,
    restore_optimizer,
    same_threads,
    stages_done,
    start_from,
    train_on,
)
from .checks import check_plan, check_shares
from .deadline import Deadline
from .evaluate import evaluate, evaluate_flipped, summary
from .frozen import build_feature_loaders, entry_of
from .passes import RunPasses
from .prepare import (
    Subset,
    build_loaders,
    build_method,
    check_method,
    choose_images,
    images_of,
    settle_pixels,
    stages_of,
)
from .reporter import Reporter
from .results import deployed_parameters, write_results
from .run import Run, environment, write_json
from .schedule import learning_rate
from .setup import built_to_learn, freeze_all_but, make_fabric, place, set_train_mode, telling_why_nothing_compiles
from .shards import whole
from .signals import Interrupted, StopRequest
from .step import NoUpdate, StepUpdate
from .teacher import load_teacher
from .watch import CHECK_EVERY, LossWatch

logger = logging.getLogger("longtail")

# Evaluations during a run, where the config does not say.
EVALUATIONS = 20
# Seconds between checkpoints at the ends of epochs, which may be shorter than it takes to write one.
SAVE_EVERY = 30


class Trainer:
    """Trains one run from its config, or goes on with one that was stopped."""

    def __init__(self, config: Config, run: Run, reporter: Reporter | None = None) -> None:
        self.config, self.run, self.reporter = config, run, reporter or Reporter()
        self.fabric = make_fabric(config.train)

    @property
    def is_main(self) -> bool:
        """Whether this is the process, of all that train the run together, that writes its folder."""
        return self.fabric.is_global_zero

    def fit(self, resume: bool = False) -> dict[str, Any]:
        """Train to the end and return the results.

        Raises `Interrupted` after saving when asked to stop, `LongtailError` when a loss is not finite.
        """
        config = self.config
        state = load_state(self.run, config.method) if resume else None
        self.progress = progress_of(self.run, state) if state else Progress(finished=self._finished_before())
        self.saved = -math.inf  # when the state last was
        self.deadline = Deadline(config.train.seconds, self.progress.seconds)
        if state:
            same_threads(self.run)
            epochs = {stage.name: self._settings(stage).epochs for stage in stages_of(config)}
            if train_on(self.progress, self.run, epochs):
                self.run.results_file.unlink(missing_ok=True)  # of the shorter run
        stages = self._stages_left()
        if stages:
            check_within(self.progress, self.run, stages[0].name, self._settings(stages[0]).epochs)
        subset = images_of(self.run) if state else choose_images(config.data, config.seed)
        channels = settle_pixels(config.data, subset)
        size = SquareReader(subset.train, channels, config.data.image_size).size
        check_plan(config, stages, subset, channels, size)
        method = self._build_method(subset, channels, size)  # before a million images are decoded for nothing
        for stage in stages:
            check_shares(method, stage, self._settings(stage).batch_size, self.fabric.world_size)
        self.fabric.launch()
        if config.start_from is not None and not state:
            start_from(method, Run.open(config.start_from), load=False)
        if not self.is_main:
            self.reporter = Reporter()
        elif not state:
            warn_of_overlap(subset.train, subset.held_out, channels)
        if method.backbone.entry:
            self.loaders = build_feature_loaders(config, subset, self.fabric, channels, method, self.reporter)
        else:
            self.loaders = build_loaders(config.data, subset, self.fabric, channels)
            if self.is_main and not state:
                specs = [view for stage in stages for stream in stage.streams.values() for view in stream.views]
                warn_of_black_padding(subset.train, channels, size, self.loaders.train.std, specs)
        if self.loaders.classes != subset.classes:  # unreadable images were left out
            check_method(config, self.loaders.classes)
            method = self._build_method(subset, channels, size, self.loaders.classes)
        place(method, config.train, self.fabric.device)
        method.teacher = load_teacher(config, self.loaders, self.fabric.device)
        if config.train.compile:
            logger.info("compiled: the first steps, and the first evaluation, take up to a minute or two to compile")
            method.compile()
        self.method, self.able = method, built_to_learn(method)
        if self.is_main and self.run.config_file.exists() and self.run.config() != config:  # --epochs with --resume
            write_text(self.run.config_file, save_yaml(config))
        self._describe(subset)
        if self.is_main:
            self.run.truncate_metrics(self.progress.lines)
        if state:
            restore(method, self.run, state["method"])
        elif config.start_from is not None:
            start_from(method, Run.open(config.start_from))
        self.boards = Boards(config, self.run, self.progress.lines if resume else None) if self.is_main else None
        try:
            with StopRequest() as self.stop, telling_why_nothing_compiles(config.train.compile):
                for stage in stages:
                    self._fit_stage(stage, state)
                    state = None
        finally:
            if self.boards is not None:
                self.boards.close()
        return write_results(config, self.run, method, self.loaders, subset, asdict(self.progress))

    def _finished_before(self) -> list[str]:
        """The stages that the run to start from has done for this one, where none were asked for."""
        if self.config.start_from is None or self.config.stages is not None:
            return []
        source = Run.open(self.config.start_from)
        return stages_done(source, self.config.method, method_class(self.config.method).learned_before)

    def _build_method(self, subset: Subset, channels: int, size: int, classes: Classes | None = None) -> Method:
        def entry(backbone: Backbone) -> int:
            return entry_of(self.config, backbone, subset, channels, size)

        method = build_method(self.config, classes or subset.classes, channels, size, entry)
        check_image_size(method.backbone, self.config.backbone, channels, size, size)
        return method

    def _stages_left(self) -> list[Stage]:
        """The stages still to run. Raises `UsageError` for an unknown one, one with impossible settings, or where a new run
        would have none."""
        config = self.config
        stages = {stage.name: stage for stage in stages_of(config)}
        wanted = config.stages or tuple(stages)
        if unknown := [name for name in wanted if name not in stages]:
            raise unknown_name(f"stage of {config.method} with these options", unknown[0], stages)
        left = [stage for name, stage in stages.items() if name in wanted and name not in self.progress.finished]
        for stage in left:
            self._settings(stage)
        if not left and not self.progress.lines:
            raise UsageError(
                f"{config.start_from} has finished every stage of {config.method}: {', '.join(stages)}. "
                "Say which to run again with --stages, or change an option that adds a stage."
            )
        return left

    def _describe(self, subset: Subset) -> None:
        """Log and record what is about to be trained, on what and where."""
        backbone, device = self.method.backbone, self.fabric.device
        facts = environment(device) | {
            "method": self.config.method,
            "backbone": self.config.backbone,
            "backbone_parameters": count_parameters(backbone),
            "deployed_parameters": deployed_parameters(self.method),
            "precision": "bf16" if backbone.precision else "fp32",
            "data": dict(subset.description),
            "skipped_images": self.loaders.skipped,
        }
        if self.is_main:
            write_json(self.run.environment_file, facts)
        logger.info("data: %s", ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in facts["data"].items()))
        logger.info(
            "model: %s with %s parameters, %s, %s",
            self.config.backbone, f"{facts['deployed_parameters']:,}", facts["precision"], device_name(device),
        )  # fmt: skip

    def _settings(self, stage: Stage) -> TrainConfig:
        """The run's training configuration with the stage's own laid over it."""
        overridden = merge(self.config.train.model_dump(), stage.optim)
        return validate(TrainConfig, overridden, f"stage {stage.name} of {self.config.method}")

    @telling_of_dead_workers()
    def _fit_stage(self, stage: Stage, state: Mapping[str, Any] | None) -> None:
        self.train = self._settings(stage)
        method, progress = self.method, self.progress
        resumed = state if progress.epoch or progress.step else None  # it was saved within the stage
        if resumed is None:
            method.eval()
            passes = RunPasses(self.loaders, self.train, stage, self.config.seed)
            if not progress.lines and self.config.start_from is None:
                start(method, self.config.finetune.start, passes)
            # What is drawn there is the same whether the run comes from the stage before, or goes on after a stop.
            seed_layers(derive_seed(self.config.seed, "before", stage.name), self.fabric.device)
            method.before_stage(stage, passes)
            self._share_buffers([method])
        learning = freeze_all_but(method, stage, self.able)
        if self.config.finetune.mode is not None:
            logger.info("%s: %s parameters learn", stage.name, describe_learning(learning, method))
        self.learning: list[str] = []
        self.update: StepUpdate | NoUpdate = NoUpdate(method)
        if learning and self.train.epochs:
            groups = by_depth(method.parameter_groups(learning), method.backbone, self.config.finetune.layer_decay)
            names = {id(parameter): name for name, parameter in learning.items()}
            self.learning = [names[id(parameter)] for group in groups for parameter in group["params"]]
            self.update = StepUpdate(self.fabric, method, self.train, groups)
        self.averaged = WeightAverage(method, self.train.ema) if self.train.ema is not None and learning else None
        if resumed is not None:
            resumed = own_state(self.run, resumed, method, self.learning)
            if self.learning:
                restore_optimizer(self.update.optimizer, self.run, resumed["optimizer"])
            if self.averaged is not None:
                self.averaged.load_state_dict(resumed["averaged"])

        steps = self.loaders.train.steps(self.train.batch_size, self.train.last_batch)
        check_within(progress, self.run, stage.name, self.train.epochs, steps)
        done = progress.epoch * steps + progress.step
        self.reporter.begin(f"{self.config.method} {stage.name}", self.train.epochs * steps, done)
        self.deadline.begin(progress.seconds)
        while progress.epoch < self.train.epochs and not self.deadline.over():
            set_train_mode(method, stage)
            self._fit_epoch(stage, steps)
        if not progress.epoch:
            self._record({"stage": stage.name, "epoch": 0, "loss": {}, **self._evaluate(0)})
        self.reporter.end()
        if self.averaged is not None:
            method.load_state_dict(self.averaged.module.state_dict())
        progress.finished.append(stage.name)
        progress.trained[stage.name], progress.epoch = progress.epoch, 0
        self._save()

    def _fit_epoch(self, stage: Stage, steps: int) -> None:
        progress, train, seed = self.progress, self.train, self.config.seed
        epoch, start = progress.epoch, progress.step
        step = start - 1
        begun = time.perf_counter()
        watch = LossWatch(self.run, epoch, progress.totals, self.fabric.device)
        batches = self.loaders.batches(
            stage.streams,
            batch_size=train.batch_size,
            seed=derive_seed(seed, stage.name),
            epoch=epoch,
            start=start,
            epochs=train.epochs,
            last_batch=train.last_batch,
            sampling=self.method.sampling,
        )
        self.method.before_epoch(self._clock(stage, start, steps))
        with closing(batches):  # and so the processes that decode for them end, whatever happens
            for step, batch in enumerate(batches, start):
                clock = self._clock(stage, step, steps)
                seed_layers(
                    derive_seed(seed, "layers", stage.name, epoch, step, self.fabric.global_rank), self.fabric.device
                )
                self.update.set_rate(clock.lr)
                watch.add(self.method.step(batch, clock, self.update), step)
                if self.averaged is not None:
                    self.averaged.update_parameters(self.method)
                self.method.after_step(clock)
                self.reporter.advance()
                if number := self._stop_signal(step, steps):
                    watch.check(step, self.method)
                    progress.seconds += time.perf_counter() - begun
                    progress.step = step + 1
                    progress.totals = self._mean_over_processes(watch.totals)
                    self._save()
                    raise Interrupted(number, f"Continue with: longtail train --resume {self.run.path}")
                if self.deadline.over():
                    logger.info("%s: out of time in epoch %d, at step %d of %d", stage.name, epoch + 1, step + 1, steps)
                    break
        watch.check(step, self.method)
        seconds = time.perf_counter() - begun
        last = self._clock(stage, step, steps)
        self.method.after_epoch(last)
        self._share_buffers([self.method] if self.averaged is None else [self.method, self.averaged.module])
        images = (step + 1 - start) * train.batch_size
        record = {
            "stage": stage.name,
            "epoch": epoch,
            "lr": last.lr,
            "seconds": round(seconds, 3),
            "images_per_second": round(images / seconds, 1),
            "loss": {name: value / (step + 1) for name, value in self._mean_over_processes(watch.totals).items()},
            **self._evaluate(epoch),
        }
        progress.epoch, progress.step, progress.totals = epoch + 1, 0, {}
        self._record(record)
        progress.seconds += time.perf_counter() - begun
        if self.fabric.broadcast(time.monotonic() - self.saved >= SAVE_EVERY):  # on every process, or on none
            self._save()

    def _record(self, record: dict[str, Any]) -> None:
        """Write an epoch's line of metrics."""
        self.progress.lines += 1
        if self.boards is not None:
            self.run.append_metrics(record)
            numbers = {name: value for name, value in flat(record, "/") if isinstance(value, (int, float))}
            self.boards.log(numbers, self.progress.lines - 1)
        self.reporter.epoch(record)

    def _stop_signal(self, step: int, steps: int) -> int:
        """The signal that asked to stop, 0 where none did. Several processes must agree on it, which they do rarely."""
        number = self.stop.number or 0
        if self.fabric.world_size > 1:
            if (step + 1) % CHECK_EVERY and step + 1 < steps:
                return 0
            agreed = torch.tensor(number, device=self.fabric.device)
            number = int(cast(Tensor, self.fabric.all_reduce(agreed, reduce_op="max")))
        return number

    def _clock(self, stage: Stage, step: int, steps: int) -> Clock:
        epoch = self.progress.epoch
        shared = generator(self.config.seed, "method", stage.name, epoch, step)
        reached, within = self.deadline.position(epoch, step, self.train.epochs, steps)
        rate = learning_rate(self.train, reached, within, steps)
        return Clock(stage.name, reached, self.train.epochs, step, steps, shared, rate)

    def _share_buffers(self, models: list[Any]) -> None:
        """Give every process the buffers of the main one, which are saved: batch norm's are of the images each has seen."""
        if self.fabric.world_size > 1:
            for name, buffer in chain.from_iterable(model.named_buffers() for model in models):
                if name not in self.method.sharded:
                    torch.distributed.broadcast(buffer, src=0)

    def _mean_over_processes(self, totals: Mapping[str, Tensor]) -> dict[str, float]:
        means = cast("dict[str, Tensor]", self.fabric.all_reduce(dict(totals)))
        return {name: value.item() for name, value in means.items()}

    def _evaluate(self, epoch: int) -> dict[str, Any]:
        """Scores of this epoch's weights on the split that is watched, where they are due."""
        train, held_out = self.train, self.loaders.held_out
        every = train.eval_every or max(1, train.epochs // EVALUATIONS)
        due = (epoch + 1) % every == 0 or epoch + 1 >= train.epochs or self.deadline.over()
        model = cast(Method, self.averaged.module) if self.averaged is not None else self.method
        watched = [name for name in ("val", "test") if name in held_out][:1] if due else []
        authors = train.authors_protocol and "test" in held_out
        scores: dict[str, Any] = {}
        for name in watched:
            if not (authors and name == "test"):
                scores[name] = summary(evaluate(model, held_out[name], train.batch_size))
        if authors:
            both = evaluate_flipped(model, held_out["test"], train.batch_size)
            for name, metrics in zip(("test", "test_flip"), both, strict=True):
                scores[name] = summary(metrics)
                if scores[name]["top1"] > self.progress.best.get(name, {"top1": -1.0})["top1"]:
                    self.progress.best[name] = {"top1": scores[name]["top1"], "line": self.progress.lines}
        return scores

    def _save(self) -> None:
        state = {
            **identity(self.config.method, self.method),
            "method": self.method.state_dict(),
            "progress": asdict(self.progress),
            "optimizer": self.update.optimizer.state_dict(),  # at the end too, from where training can go on
        }
        if self.averaged is not None:
            state["averaged"] = self.averaged.state_dict()
        state = whole(state, self.method, self.learning)
        if self.is_main:
            self.run.save_checkpoint(state)
        self.fabric.barrier()
        self.saved = time.monotonic()
