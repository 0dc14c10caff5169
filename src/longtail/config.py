"""What a run can be told, with its defaults, and how files, recipes and command-line options become one checked `Config`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from .errors import UsageError, unknown_name
from .plain_yaml import dump_yaml


class Section(BaseModel):
    """Base of the sections: unknown names, wrong types and NaN are errors, values are never silently converted."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class DataConfig(Section):
    """Which images, how they are carved, and how they are loaded."""

    source: str = Field("fashion-mnist-lt", description="a path, or kind:path (see `longtail data inspect --help`)")
    test: str | None = Field(None, description="the test split, where the source has none of its own")
    root: str | None = Field(None, description="folder that a list file's or CSV's paths are relative to")
    image_column: str | None = Field(None, description="column of the images' paths (default: one of the usual names)")
    label_column: str | None = Field(None, description="column of the labels (default: one of the usual names)")
    suffix: str | None = Field(None, description="what the paths in a list file or CSV lack, such as .jpg")
    classes_at: int | Literal["leaf"] | None = Field(
        None, description="which folder on the way to an image names its class: 1 the uppermost (default), or leaf"
    )
    splits: str | None = Field(
        None, description="which parts are splits, train=NAME,val=NAME,test=NAME, or none (default: by usual names)"
    )
    imbalance: float | None = Field(None, ge=1, description="carve a balanced set to this imbalance factor")
    n_max: int | None = Field(None, ge=1, description="images of the largest class when carving (default: all it has)")
    profile: Literal["exp", "step"] = Field("exp", description="shape of the carved class counts")
    subset: Literal["ldam", "first", "random"] = Field("ldam", description="which images of a class are kept")
    subset_seed: int = Field(0, ge=0, description="seed of the `random` subset rule")
    validation: float | None = Field(
        None, ge=0, lt=1, description="share of training held out (default: 0 with a test split, else 0.2)"
    )
    use_test: bool = Field(True, description="score the test split (off while settings are being chosen)")
    image_size: int | None = Field(None, ge=4, le=8192, description="resize to this many pixels (default: native size)")
    channels: Literal[1, 3] | None = Field(
        None, description="read as grey (1) or RGB (3) (default: grey where no image is in colour)"
    )
    value_range: tuple[float, float] | None = Field(
        None,
        strict=False,
        description="what becomes black and white, of pixels of more than 8 bits (default: measured)",
    )
    mean: tuple[float, ...] | None = Field(None, strict=False, description="channel means in 0..1 (default: measured)")
    std: tuple[float, ...] | None = Field(None, strict=False, description="channel deviations (default: measured)")
    loader: Literal["auto", "resident", "streaming"] = Field("auto", description="decode once, or in workers")
    budget_gb: float = Field(2.0, gt=0, description="decoded sets up to this size are kept resident")
    workers: int = Field(4, ge=0, description="worker processes of the streaming loader, up to the number of cores")
    skip_corrupt: bool = Field(False, description="leave unreadable images out (and record them) instead of stopping")

    @model_validator(mode="after")
    def _range_is_one(self) -> DataConfig:
        if self.value_range is not None and self.value_range[0] >= self.value_range[1]:
            raise ValueError("value_range is the value that becomes black and a larger one that becomes white")
        return self

    @model_validator(mode="after")
    def _normalisation_is_possible(self) -> DataConfig:
        if (self.mean is None) != (self.std is None):
            raise ValueError("mean and std belong together: give both or neither")
        if not all(0 <= m <= 1 for m in self.mean or ()) or not all(0 < s <= 1 for s in self.std or ()):
            raise ValueError(
                "mean and std are shares of full brightness: expected means in 0..1, std above 0 and up to 1"
            )
        return self

    def reading(self) -> dict[str, Any]:
        """How to read the source, as `open_source` takes it."""
        names = ("test", "root", "image_column", "label_column", "suffix", "classes_at", "splits")
        return {name: getattr(self, name) for name in names}


class TrainConfig(Section):
    """How weights are fitted. A method's own defaults and a stage's overrides are laid over these."""

    epochs: int = Field(200, ge=0, description="passes over the training images (0: only what a method does without)")
    seconds: float | None = Field(
        None, gt=0, description="end by then, the schedule with it, where the epochs take longer (features included)"
    )
    batch_size: int = Field(128, ge=1, le=1_000_000, description="images per step, over all processes")
    optimizer: Literal["sgd", "adamw"] = Field("sgd", description="what updates the weights")
    lr: float = Field(0.1, gt=0, description="learning rate at its peak")
    momentum: float = Field(0.9, ge=0, lt=1, description="of SGD")
    nesterov: bool = Field(False, description="of SGD")
    weight_decay: float = Field(5e-4, ge=0, description="on every parameter")
    schedule: Literal["cosine", "step", "constant"] = Field("cosine", description="how the learning rate falls")
    schedule_per: Literal["epoch", "step"] = Field("epoch", description="when the learning rate moves")
    milestones: tuple[float, ...] = Field(
        (0.8, 0.9), strict=False, description="where the step schedule drops, as shares of the epochs"
    )
    drop: float = Field(0.1, gt=0, le=1, description="factor of each drop")
    warmup_epochs: int = Field(0, ge=0, description="epochs of linear warm-up")
    warmup_from: float | None = Field(
        None, ge=0, description="share of lr in the first epoch (default: equal steps that end at warmup_to)"
    )
    warmup_to: float = Field(1.0, gt=0, description="share of lr in the last epoch of warm-up")
    schedule_late: int = Field(0, ge=0, description="epochs at the full rate before the schedule begins")
    schedule_ahead: int = Field(
        0, ge=0, description="epochs by which the fall runs ahead (1 where the scheduler is stepped before the epoch)"
    )
    cosine_longer: int = Field(0, ge=0, description="epochs that the cosine still lacks to 0 at the end")
    last_batch: Literal["fill", "keep", "drop"] = Field(
        "fill", description="an epoch's last, partial batch: filled from another pass, kept small, or dropped"
    )
    clip: float | None = Field(None, gt=0, description="largest gradient norm")
    ema: float | None = Field(None, gt=0, lt=1, description="decay of the averaged weights that are then evaluated")
    precision: Literal["auto", "bf16", "fp32"] = Field("auto", description="auto: bf16 where the device has it")
    channels_last: bool = Field(True, description="memory layout that convolutions run fastest in")
    compile: bool = Field(False, description="torch.compile the backbone and the loss terms")
    deterministic: bool = Field(False, description="only deterministic kernels (CPU runs are deterministic anyway)")
    loggers: tuple[Literal["tensorboard", "wandb", "mlflow"], ...] = Field(
        ("tensorboard",), strict=False, description="where metrics go besides metrics.jsonl (extras wandb, mlflow)"
    )
    eval_every: int | None = Field(None, ge=1, description="epochs between evaluations (default: 20 over the run)")
    authors_protocol: bool = Field(
        False, description="also score the test set every epoch, plain and flipped, and report the best"
    )
    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    devices: int = Field(1, ge=1, le=1024, description="processes, one per device")

    @model_validator(mode="after")
    def _nesterov_has_momentum(self) -> TrainConfig:
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov needs a momentum above 0")
        return self

    @model_validator(mode="after")
    def _one_clock(self) -> TrainConfig:
        if self.seconds is not None and self.devices > 1:
            raise ValueError("seconds is for one process, whose clock it goes by: devices must be 1")
        return self


class FinetuneConfig(Section):
    """What of a trained backbone learns, and where the classifier on it starts."""

    mode: Literal["full", "partial", "head", "adaptformer", "adapter", "lora", "vpt", "bias"] | None = Field(
        None, description="what of the backbone learns (default: all of it, as from scratch)"
    )
    last: int | None = Field(
        None, ge=1, description="of partial: how many stages, from the last (default: those of 3/4 of the parameters)"
    )
    width: int | None = Field(None, ge=1, description="of adapters, LoRA's rank, or prompts in a block")
    layer_decay: float = Field(1.0, gt=0, le=1, description="each stage learns at this share of the rate of the next")
    norms: Literal["frozen", "running"] = Field("frozen", description="statistics of batch norm while fine-tuning")
    start: str = Field(
        "random", description="the classifier starts: random, zero, class_means, discriminant, or a text:FILE.npz"
    )
    cache: bool = Field(True, description="compute what frozen first stages make of each image once, and keep it")
    draws: int | None = Field(
        None, ge=0, le=64, description="augmented versions of each image kept beside the plain one (default: by mode)"
    )

    @model_validator(mode="after")
    def _start_is_known(self) -> FinetuneConfig:
        known = ("random", "zero", "class_means", "discriminant", "text:FILE.npz")
        if self.start not in known[:4] and not self.start.startswith("text:"):
            raise ValueError(f"start is '{self.start}'; expected {', '.join(known)}")
        return self


class Config(Section):
    """One run, whole. This is what `config.yaml` in a run folder holds."""

    method: str = Field(description="see `longtail methods`")
    backbone: str = Field("resnet32", description="network under the method's heads")
    pretrained: bool = Field(False, description="start from published weights, or those of `weights`")
    weights: str | None = Field(None, description="file of the backbone's weights, or hf:OWNER/NAME")
    seed: int = Field(0, ge=0, description="fixes validation split, initialisation, order and augmentation")
    class_names: bool = Field(True, description="keep the names of the classes in the model file")
    report: bool = Field(True, description="write report.html at the end")
    recipe: str | None = Field(None, description="the recipe these settings came from")
    start_from: str | None = Field(None, description="run folder whose weights this run starts from")
    stages: tuple[str, ...] | None = Field(None, strict=False, description="which of the method's stages to run")
    data: DataConfig = DataConfig()
    train: TrainConfig = TrainConfig()
    finetune: FinetuneConfig = FinetuneConfig()
    options: dict[str, Any] = Field(default_factory=dict, description="the method's own hyper-parameters")


def save_yaml(config: BaseModel) -> str:
    return dump_yaml(config.model_dump(mode="json", exclude_none=True))


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` laid on `base`, section by section."""
    merged = dict(base)
    for key, value in over.items():
        nested = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = merge(merged[key], value) if nested else value
    return merged


def flat(nested: Mapping[str, Any], separator: str, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The values of mappings within mappings, each with its path: ("train.epochs", 10)."""
    for key, value in nested.items():
        if isinstance(value, Mapping):
            yield from flat(value, separator, f"{prefix}{key}{separator}")
        else:
            yield prefix + key, value


def validate(model: type[BaseModel], values: Mapping[str, Any], where: str) -> Any:
    """Check `values` against `model`. Raises `UsageError` with one line per wrong field; `where` says whose they are."""
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        raise UsageError("\n".join(_explain(model, detail, where) for detail in error.errors())) from None


def _explain(model: type[BaseModel], detail: Any, where: str) -> str:
    name = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "extra_forbidden":
        fields: Any = model
        for part in detail["loc"][:-1]:
            fields = fields.model_fields[part].annotation
        return f"{where}: {unknown_name('option', str(detail['loc'][-1]), fields.model_fields)}"
    if not name:  # fields that do not go together: the message names them
        return f"{where}: {detail['msg'].removeprefix('Value error, ')}."
    return f"{where}: {name} {detail['msg'].removeprefix('Input ')}; found {_brief(detail['input'])}."


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
