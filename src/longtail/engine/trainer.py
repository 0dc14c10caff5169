"""The one training loop: stages of epochs of steps, saved so that it can stop anywhere and go on as if it had not."""

from __future__ import annotations

import logging
import math
import os
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from itertools import chain
from typing import Any, cast

import torch
from lightning_fabric import Fabric
from lightning_fabric.loggers import TensorBoardLogger
from lightning_fabric.strategies import DDPStrategy
from torch import Tensor

from ..config import Config, TrainConfig, flat, merge, validate
from ..errors import LongtailError, UsageError, unknown_name
from ..memory import keep_freed_memory
from ..methods.base import Batch, Clock, Method, Stage
from ..models import check_image_size, count_parameters
from ..seeding import derive_seed, generator, seed_layers
from .average import WeightAverage
from .evaluate import evaluate, evaluate_flipped
from .prepare import Subset, build_loaders, build_method, choose_images, images_of
from .reporter import Reporter
from .results import deployed_parameters, write_results
from .run import Run, device_name, environment, write_json
from .schedule import build_optimizer, learning_rate, use_bf16
from .shards import own, own_weights, whole
from .signals import StopRequest

logger = logging.getLogger("longtail")

# Steps between looks at the losses' values: each look makes the host wait for the device.
CHECK_EVERY = 50
# Evaluations during a run, where the config does not say.
EVALUATIONS = 20
# Seconds between checkpoints at the ends of epochs, which may be shorter than it takes to write one.
SAVE_EVERY = 30


class Interrupted(LongtailError):  # noqa: N818
    """Training was asked to stop, and saved its state first. The exit code is the shell's: 128 + signal."""

    def __init__(self, number: int, run: Run) -> None:
        super().__init__(f"Stopped by {signal.Signals(number).name}. Continue with: longtail train --resume {run.path}")
        self.exit_code = 128 + number


@dataclass
class Progress:
    """How far a run is. `finished` names the stages that need not be run (again); `epoch` and `step` are the next to do;
    `lines` of metrics are written; `totals` are the loss terms summed over the steps of an epoch that was interrupted;
    `best` belongs to the authors' protocol."""

    finished: list[str] = field(default_factory=list)
    epoch: int = 0
    step: int = 0
    lines: int = 0
    seconds: float = 0.0
    totals: dict[str, float] = field(default_factory=dict)
    best: dict[str, dict[str, Any]] = field(default_factory=dict)


class Trainer:
    """Trains one run from its config, or goes on with one that was stopped."""

    def __init__(self, config: Config, run: Run, reporter: Reporter | None = None) -> None:
        self.config, self.run, self.reporter = config, run, reporter or Reporter()
        torch.use_deterministic_algorithms(config.train.deterministic)
        # Batches are of one shape: it pays to try which of a GPU's convolutions is fastest.
        torch.backends.cudnn.benchmark = not config.train.deterministic
        if config.train.deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without which cuBLAS refuses
        accelerator, devices = config.train.accelerator, config.train.devices
        try:
            self.fabric = Fabric(
                accelerator=accelerator,
                devices=devices,
                # Methods skip parts in some epochs (BCE3S its projector in the first), which DDP must be told to expect.
                strategy=DDPStrategy(find_unused_parameters=True) if devices > 1 else "auto",
            )
        except (RuntimeError, ValueError) as error:
            raise UsageError(f"Cannot use {devices} device(s) of train.accelerator={accelerator}: {error}") from error
        if self.fabric.device.type == "cpu":
            keep_freed_memory()

    @property
    def is_main(self) -> bool:
        """Whether this is the process, of all that train the run together, that writes its folder."""
        return self.fabric.is_global_zero

    def fit(self, resume: bool = False) -> dict[str, Any]:
        """Train to the end and return the results.

        Raises `Interrupted` after saving when asked to stop, `LongtailError` when a loss is not finite.
        """
        state = self._load_state() if resume else None
        self.progress = self._progress(state) if state else Progress(finished=self._finished_before())
        self.saved = -math.inf  # when the state last was
        subset = images_of(self.run) if state else choose_images(self.config.data, self.config.seed)
        # Built once for nothing: a wrong backbone or stage is better told before a million images are decoded.
        self._stages(build_method(self.config, subset.classes, channels=3))
        self.fabric.launch()
        if not self.is_main:
            self.reporter = Reporter()
        self.loaders = build_loaders(self.config.data, subset, self.fabric)
        self.method = self._build_method()
        self._describe(subset)
        stages = self._stages(self.method)
        if self.is_main:
            self.run.truncate_metrics(self.progress.lines)
        if state:
            self._restore(state["method"])
        elif self.config.start_from is not None:
            load_weights(self.method, Run.open(self.config.start_from))
        self.board = TensorBoardLogger(
            self.run.path, name="", version="tensorboard", purge_step=self.progress.lines if resume else None
        )
        try:
            with StopRequest() as self.stop, _telling_why_nothing_compiles(self.config.train.compile):
                for stage in stages:
                    self._fit_stage(stage, state)
                    state = None
        finally:
            with suppress(OSError):  # a full disk, which something that matters more will tell or has told
                self.board.finalize("success")
        return write_results(self.config, self.run, self.method, self.loaders, subset, asdict(self.progress))

    def _load_state(self) -> dict[str, Any]:
        state = self.run.load_checkpoint()
        if state["method_name"] != self.config.method:
            raise UsageError(
                f"{self.run.checkpoint_file} is a checkpoint of '{state['method_name']}', "
                f"not of '{self.config.method}', which {self.run.config_file.name} beside it names."
            )
        return state

    def _progress(self, state: Mapping[str, Any]) -> Progress:
        try:
            return Progress(**state["progress"])
        except TypeError:
            raise UsageError(
                f"{self.run.checkpoint_file} was written by another version of longtail, which alone can go on with it. "
                "Its weights can still start a new run: --from."
            ) from None

    def _restore(self, weights: Mapping[str, Tensor]) -> None:
        try:
            self.method.load_state_dict(own_weights(weights, self.method))
        except RuntimeError as error:
            raise UsageError(
                f"{self.run.checkpoint_file} does not fit {self.run.config_file.name} and the data: were they changed "
                f"since the run started? {error}"
            ) from error

    def _finished_before(self) -> list[str]:
        """The stages that the run to start from has finished, where it is of this method and none were asked for."""
        if self.config.start_from is None or self.config.stages is not None:
            return []
        source = Run.open(self.config.start_from).load_checkpoint()
        return source["progress"]["finished"] if source["method_name"] == self.config.method else []

    def _build_method(self) -> Method:
        pixels = self.loaders.preprocessing
        method = build_method(self.config, self.loaders.classes, pixels.channels, pixels.image_size)
        check_image_size(method.backbone, self.config.backbone, pixels.channels, pixels.image_size, pixels.image_size)
        if use_bf16(self.config.train, self.fabric.device):
            method.backbone.precision = torch.bfloat16
        method.to(self.fabric.device)
        if self.config.train.channels_last:
            method.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if self.config.train.compile:
            logger.info("compiled: the first steps, and the first evaluation, take up to a minute or two to compile")
            method.compile()
        return method

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

    def _stages(self, method: Method) -> list[Stage]:
        """The stages still to run. Raises `UsageError` for an unknown one, one with impossible settings, or where a new run
        would have none."""
        stages = {stage.name: stage for stage in method.stages()}
        wanted = self.config.stages or tuple(stages)
        if unknown := [name for name in wanted if name not in stages]:
            raise unknown_name(f"stage of {self.config.method} with these options", unknown[0], stages)
        left = [stage for name, stage in stages.items() if name in wanted and name not in self.progress.finished]
        for stage in left:
            self._settings(stage)
        if not left and not self.progress.lines:
            raise UsageError(
                f"{self.config.start_from} has finished every stage of {self.config.method}: {', '.join(stages)}. "
                "Say which to run again with --stages, or change an option that adds a stage."
            )
        return left

    def _settings(self, stage: Stage) -> TrainConfig:
        """The run's training configuration with the stage's own laid over it."""
        overridden = merge(self.config.train.model_dump(), stage.optim)
        return validate(TrainConfig, overridden, f"stage {stage.name} of {self.config.method}")

    def _fit_stage(self, stage: Stage, state: Mapping[str, Any] | None) -> None:
        self.train = self._settings(stage)
        resumed = state if state is not None and "optimizer" in state else None
        if resumed is None:
            self.method.before_stage(stage, lambda: self.loaders.train.evaluation(self.train.batch_size))
        parts = [self.method.get_submodule(name) for name in stage.trains] if stage.trains else [self.method]
        self.method.requires_grad_(False)
        for part in parts:
            part.requires_grad_(True)
        module = self.fabric.setup_module(self.method)
        learning = [parameter for parameter in self.method.parameters() if parameter.requires_grad]
        optimizer: Any = self.fabric.setup_optimizers(build_optimizer(self.train, learning))
        averaged = None
        if self.train.ema is not None:
            averaged = WeightAverage(self.method, self.train.ema)
        if resumed is not None:
            resumed = own(resumed, self.method)
            optimizer.load_state_dict(resumed["optimizer"])
            if averaged is not None:
                averaged.load_state_dict(resumed["averaged"])
        self.module, self.optimizer, self.averaged = module, optimizer, averaged

        steps = self.loaders.train.steps(self.train.batch_size)
        done = self.progress.epoch * steps + self.progress.step
        self.reporter.begin(f"{self.config.method} {stage.name}", self.train.epochs * steps, done)
        while self.progress.epoch < self.train.epochs:
            self.method.eval()
            for part in parts:
                part.train()
            self._fit_epoch(stage, steps)
        self.reporter.end()
        if averaged is not None:
            self.method.load_state_dict(averaged.module.state_dict())
        self.progress.finished.append(stage.name)
        self.progress.epoch = 0
        self._save(between_stages=True)

    def _fit_epoch(self, stage: Stage, steps: int) -> None:
        progress, seed = self.progress, self.config.seed
        epoch, start = progress.epoch, progress.step
        begun = time.perf_counter()
        totals = {name: torch.tensor(value, device=self.fabric.device) for name, value in progress.totals.items()}
        self.unchecked: list[dict[str, Tensor]] = []  # the loss terms of the steps since the last look at them
        batches = self.loaders.train.batches(
            stage.streams,
            batch_size=self.train.batch_size,
            seed=derive_seed(seed, stage.name),
            epoch=epoch,
            start=start,
        )
        for step, batch in enumerate(batches, start):
            clock = self._clock(stage, step, steps)
            seed_layers(
                derive_seed(seed, "layers", stage.name, epoch, step, self.fabric.global_rank), self.fabric.device
            )
            rate = learning_rate(self.train, epoch, step, steps)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            terms = self._step(batch, clock)
            terms = {name: value.detach() for name, value in terms.items()}
            self.unchecked.append(terms)
            for name, value in terms.items():
                totals[name] = totals[name] + value if name in totals else value.clone()
            self.method.after_step(clock)
            self.reporter.advance()
            if (step + 1) % CHECK_EVERY == 0:
                self._check_finite(totals, step)
            if number := self._stop_signal(step, steps):
                self._check_finite(totals, step, weights=True)
                progress.seconds += time.perf_counter() - begun
                progress.step = step + 1
                progress.totals = self._mean_over_processes(totals)
                self._save()
                raise Interrupted(number, self.run)
        self._check_finite(totals, steps - 1, weights=True)
        seconds = time.perf_counter() - begun
        self.method.after_epoch(self._clock(stage, steps - 1, steps))
        self._share_buffers()
        images = (steps - start) * self.train.batch_size
        record = {
            "stage": stage.name,
            "epoch": epoch,
            "lr": learning_rate(self.train, epoch, steps - 1, steps),
            "seconds": round(seconds, 3),
            "images_per_second": round(images / seconds, 1),
            "loss": {name: value / steps for name, value in self._mean_over_processes(totals).items()},
            **self._evaluate(epoch),
        }
        progress.epoch, progress.step, progress.totals, progress.lines = epoch + 1, 0, {}, progress.lines + 1
        if self.is_main:
            self.run.append_metrics(record)
            numbers = {name: value for name, value in flat(record, "/") if isinstance(value, (int, float))}
            self.board.log_metrics(numbers, progress.lines - 1)
        self.reporter.epoch(record)
        progress.seconds += time.perf_counter() - begun
        if self.fabric.broadcast(time.monotonic() - self.saved >= SAVE_EVERY):  # on every process, or on none
            self._save()

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
        return Clock(stage.name, epoch, self.train.epochs, step, steps, shared)

    def _step(self, batch: Mapping[str, Batch], clock: Clock) -> dict[str, Tensor]:
        terms: dict[str, Tensor] = self.module(batch, clock)
        self.optimizer.zero_grad(set_to_none=True)
        self.fabric.backward(torch.stack(list(terms.values())).sum())
        if self.train.clip is not None:
            self.fabric.clip_gradients(self.module, self.optimizer, max_norm=self.train.clip, error_if_nonfinite=False)
        self.optimizer.step()
        if self.averaged is not None:
            self.averaged.update_parameters(self.method)
        return terms

    def _share_buffers(self) -> None:
        """Give every process the buffers of the main one, which are saved: batch norm's are of the images each has seen."""
        if self.fabric.world_size > 1:
            models = [self.method] if self.averaged is None else [self.method, self.averaged.module]
            for name, buffer in chain.from_iterable(model.named_buffers() for model in models):
                if name not in self.method.sharded:
                    torch.distributed.broadcast(buffer, src=0)

    def _mean_over_processes(self, totals: Mapping[str, Tensor]) -> dict[str, float]:
        means = cast("dict[str, Tensor]", self.fabric.all_reduce(dict(totals)))
        return {name: value.item() for name, value in means.items()}

    def _check_finite(self, totals: Mapping[str, Tensor], step: int, weights: bool = False) -> None:
        """Raise `LongtailError` unless the losses so far, and before a checkpoint the weights too, are finite."""
        bad = [f"loss term '{name}'" for name, value in totals.items() if not torch.isfinite(value)]
        # One term that is not finite soon makes the others so: name the first.
        for first, terms in enumerate(self.unchecked, step + 1 - len(self.unchecked)):
            if bad and (culprits := [name for name, value in terms.items() if not torch.isfinite(value)]):
                bad, step = [f"loss term '{name}'" for name in culprits], first
                break
        if weights and not bad:
            bad = [f"weight '{name}'" for name, value in self.method.named_parameters() if not value.isfinite().all()]
        self.unchecked.clear()
        if bad:
            path = self.run.checkpoint_file
            kept = f"The last good checkpoint is {path}. " if path.exists() else ""
            raise LongtailError(
                f"In epoch {self.progress.epoch + 1}, step {step + 1}, {bad[0]} is not finite. "
                f"{kept}Try a lower train.lr, train.clip=1 or train.precision=fp32."
            )

    def _evaluate(self, epoch: int) -> dict[str, Any]:
        """Scores of this epoch's weights on the split that is watched, where they are due."""
        train, held_out = self.train, self.loaders.held_out
        every = train.eval_every or max(1, train.epochs // EVALUATIONS)
        due = (epoch + 1) % every == 0 or epoch + 1 == train.epochs
        model = cast(Method, self.averaged.module) if self.averaged is not None else self.method
        watched = [name for name in ("val", "test") if name in held_out][:1] if due else []
        authors = train.authors_protocol and "test" in held_out
        scores: dict[str, Any] = {}
        for name in watched:
            if not (authors and name == "test"):
                scores[name] = _summary(evaluate(model, held_out[name], train.batch_size))
        if authors:
            both = evaluate_flipped(model, held_out["test"], train.batch_size)
            for name, metrics in zip(("test", "test_flip"), both, strict=True):
                scores[name] = _summary(metrics)
                if scores[name]["top1"] > self.progress.best.get(name, {"top1": -1.0})["top1"]:
                    self.progress.best[name] = {"top1": scores[name]["top1"], "line": self.progress.lines}
        return scores

    def _save(self, between_stages: bool = False) -> None:
        state = {
            "method_name": self.config.method,
            "method": self.method.state_dict(),
            "progress": asdict(self.progress),
        }
        if not between_stages:
            state["optimizer"] = self.optimizer.state_dict()
            if self.averaged is not None:
                state["averaged"] = self.averaged.state_dict()
        state = whole(state, self.method)
        if self.is_main:
            self.run.save_checkpoint(state)
        self.fabric.barrier()
        self.saved = time.monotonic()


@contextmanager
def _telling_why_nothing_compiles(compiled: bool) -> Iterator[None]:
    """Raise `LongtailError` where `torch.compile` fails within."""
    if not compiled:
        yield
        return
    from torch._dynamo.exc import TorchDynamoException  # takes a second to import

    try:
        yield
    except TorchDynamoException as error:
        reason = " ".join(str(error).strip().split("\n\n")[0].split())
        raise LongtailError(
            f"train.compile=true, but torch.compile failed: {reason}. It needs a C++ compiler, such as g++: install one, "
            "or train with train.compile=false."
        ) from error


def _summary(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The scalars of an evaluation: what a line of metrics.jsonl holds."""
    return {name: value for name, value in metrics.items() if isinstance(value, float)}


def load_weights(method: Method, source: Run) -> None:
    """Start from another run's weights: every part that both have, by name and shape; the backbone must be among them.

    Raises `UsageError` where the two runs' backbones differ.
    """
    theirs = own_weights(source.load_checkpoint()["method"], method)
    ours = method.state_dict()
    shared = {name: value for name, value in theirs.items() if name in ours and ours[name].shape == value.shape}
    absent = [name for name in ours if name.startswith("backbone.") and name not in shared]
    if absent:
        raise UsageError(
            f"{source.path} has another backbone ({source.config().backbone}): '{absent[0]}' does not fit."
        )
    method.load_state_dict(shared, strict=False)
    fresh = sorted({name.split(".")[0] for name in ours if name not in shared})
    logger.info("started from %s%s", source.path, f"; newly initialised: {', '.join(fresh)}" if fresh else "")
