"""Second stages after any method: what they compute, what they leave alone, how they go on from a run, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from method_cases import CLASSES, COUNTS, SIZE, B, RandomPasses
from test_second_stages import few_images

import longtail
from longtail import api
from longtail.cli import app
from longtail.engine.reporter import Reporter
from longtail.engine.run import Run
from longtail.engine.setup import built_to_learn, freeze_all_but
from longtail.engine.trainer import Trainer
from longtail.errors import UsageError
from longtail.methods import METHODS, SECOND_STAGES, method_class
from longtail.methods.base import Batch, Clock, Method
from longtail.methods.second_stage import second_stage
from longtail.models import build_backbone

FOLLOWED = ("ce", "bcl", "glmc", "bce3s", "bbn", "isda")


def build(name: str, stages: int = 99, **options: Any) -> Any:
    """The method after `before_stage` of its first `stages` stages, in evaluation mode."""
    torch.manual_seed(0)
    cls = method_class(name)
    method = cls(build_backbone("resnet8"), CLASSES, cls.Options.model_validate(options)).eval()
    for stage in cls.stages(method.hp)[:stages]:
        method.before_stage(stage, RandomPasses(torch.float32))
    return method


def images() -> torch.Tensor:
    return torch.randn(B, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("name", FOLLOWED)
@pytest.mark.parametrize("stage", SECOND_STAGES)
def test_stages_follow_methods_and_leave_the_first_stage_as_it_was(name: str, stage: str) -> None:
    linear = name in ("ce", "glmc", "bbn", "isda")
    if stage in ("tau_norm", "risda", "metasaug") and not linear:
        with pytest.raises(UsageError, match="linear classifier"):
            build(f"{name}+{stage}")
        return
    if name == "isda" and stage in ("risda", "metasaug"):
        with pytest.raises(UsageError, match="augments already"):
            build(f"isda+{stage}")
        return
    alone, together = build(name, 1), build(f"{name}+{stage}", 1)
    together.load_state_dict(alone.state_dict(), strict=False)
    with torch.no_grad():
        torch.testing.assert_close(together.logits(images()), alone.logits(images()))
    first, last = together.stages(together.hp)[0], together.stages(together.hp)[-1]
    assert last.name == stage
    before = set(freeze_all_but(alone, alone.stages(alone.hp)[0], built_to_learn(alone)))
    assert set(freeze_all_but(together, first, built_to_learn(together))) == before


def clock(stage: str) -> Clock:
    return Clock(stage, 1, 4, 0, 1, torch.Generator().manual_seed(0), lr=0.1)


def main_batch(*streams: str) -> dict[str, Batch]:
    labels = torch.arange(B) % len(COUNTS)
    return {name: Batch((images(),), labels, labels) for name in streams}


def test_crt_starts_anew_and_lws_multiplies() -> None:
    before, after = build("ce+crt", 1), build("ce+crt")
    assert not torch.equal(before.classifier.weight, after.classifier.weight)
    method = build("ce+lws")
    method.lws_scales.data = torch.linspace(0.5, 2, 6)
    scores = method.classifier(method.features(images()))
    torch.testing.assert_close(method.logits(images()), scores * method.lws_scales)
    (loss,) = method.losses(main_batch("main"), clock("lws")).values()
    torch.testing.assert_close(loss, F.cross_entropy(scores * method.lws_scales, torch.arange(B) % 6))
    rows, bias = method.classifier_rows()
    torch.testing.assert_close(method.features(images()) @ rows.T + bias, method.logits(images()))


def test_lws_s_scales_take_the_released_step() -> None:
    import numpy as np

    v = {
        key: torch.from_numpy(value).float() if value.dtype.kind == "f" else torch.from_numpy(value)
        for key, value in np.load(Path(__file__).parents[1] / "golden" / "lws.npz").items()
    }
    scales = v["scales"].clone().requires_grad_()
    optimiser = torch.optim.SGD(
        [scales], lr=v["learning_rate"].item(), momentum=0.9, weight_decay=v["weight_decay"].item()
    )
    z = scales * F.linear(v["features"], v["classifier_weight"], v["classifier_bias"])
    F.cross_entropy(z, v["labels"]).backward()
    torch.testing.assert_close(z.detach(), v["logits"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(scales.grad, v["grad_scales"], rtol=1e-4, atol=1e-5)
    optimiser.step()
    torch.testing.assert_close(scales.detach(), v["scales_after_one_step"], rtol=1e-4, atol=1e-5)


def test_ncm_s_centres_are_the_means_of_all_training_images() -> None:
    method = build("bcl+ncm")
    batches = list(RandomPasses(torch.float32).training())
    with torch.no_grad():
        features = torch.cat([method.features(batch.views[0]) for batch in batches])
        labels = torch.cat([batch.labels for batch in batches])
        mean = features.sum(0) / sum(COUNTS)  # the passes are shorter than the counts say
        unit = F.normalize(features - mean)
        centres = torch.stack([unit[labels == c].mean(0) for c in range(6)])
        torch.testing.assert_close(method.ncm_mean, mean)
        torch.testing.assert_close(method.ncm_centres, centres)
        query = F.normalize(method.features(images()) - mean)
        torch.testing.assert_close(method.logits(images()), -torch.cdist(query, centres).square(), atol=1e-5, rtol=1e-4)


def test_tau_is_chosen_on_held_out_images_by_the_mean_over_classes(caplog: pytest.LogCaptureFixture) -> None:
    plain = build("ce", 1)
    with caplog.at_level("INFO", logger="longtail"):
        method = build("ce+logit_adjustment", logit_adjustment={"tau": None})
    log_prior = (torch.tensor(COUNTS) / sum(COUNTS)).log()
    batches = list(RandomPasses(torch.float32).held_out())
    with torch.no_grad():
        scores = torch.cat([plain.logits(batch.views[0]) for batch in batches])
    labels = torch.cat([batch.labels for batch in batches])
    accuracies = []
    for i in range(21):
        hits = ((scores - i / 10 * log_prior).argmax(1) == labels).float()
        accuracies.append(torch.stack([hits[labels == c].mean() for c in range(6)]).mean())
    best = int(torch.stack(accuracies).argmax()) / 10
    torch.testing.assert_close(method.adjustment, -best * log_prior, atol=1e-4, rtol=1e-4)
    assert f"tau = {best:g} is best" in caplog.text


class Recorder:
    """`Update` for the classifier alone, by plain SGD."""

    def __init__(self, method: Any) -> None:
        self.method = method
        self.optimizer = torch.optim.SGD(method.classifier.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)

    def gradients(self, batch: Any, clock: Clock) -> dict[str, torch.Tensor]:
        self.optimizer.zero_grad()
        terms = self.method.losses(batch, clock)
        sum(terms.values()).backward()
        return terms

    def apply(self) -> None:
        self.optimizer.step()


def test_balms_steps_move_rates_by_adam_and_the_classifier_as_without_them() -> None:
    method, plain = build("ce+balms"), build("ce+balms")
    freeze_all_but(method, method.stages(method.hp)[-1], built_to_learn(method))
    freeze_all_but(plain, plain.stages(plain.hp)[-1], built_to_learn(plain))
    ours, theirs = Recorder(method), Recorder(plain)
    rates = method.rates.clone()
    for _ in range(3):
        batch = main_batch("balms", "meta")
        terms = method.step(batch, clock("balms"), ours)
        theirs.gradients(batch, clock("balms"))
        theirs.apply()
        assert {"balanced_softmax", "meta"} == terms.keys()
    torch.testing.assert_close(method.classifier.weight, plain.classifier.weight)
    moved = (method.rates - rates).abs()
    assert (moved > 0).all()
    assert moved.max() <= 3 * 0.01 * 1.01  # Adam's step is at most its learning rate
    torch.testing.assert_close(method.sampling("balms"), torch.tensor(COUNTS) * method.rates.sigmoid())


def test_adam_in_buffers_is_torch_s() -> None:
    method, stage = build("ce+balms"), build("ce+balms").then["balms"]
    rates = torch.nn.Parameter(method.rates.clone())
    adam = torch.optim.Adam([rates], lr=0.01)
    for seed in range(4):
        gradient = torch.randn(6, generator=torch.Generator().manual_seed(seed))
        stage._move(method, gradient)
        rates.grad = gradient.clone()
        adam.step()
    torch.testing.assert_close(method.rates, rates.detach())


@pytest.mark.parametrize("name", ["ce+metasaug", "bbn+metasaug"])
def test_metasaug_corrects_covariances_by_the_slope_of_the_class_balanced_loss(name: str) -> None:
    """Against finite differences of that loss after a step of plain SGD, in float64."""
    method = build(name, metasaug={"strength": 4.0}).double()
    freeze_all_but(method, method.stages(method.hp)[-1], built_to_learn(method))
    stage = method.then["metasaug"]
    batch = {
        stream: Batch((images().double(),), labels.labels, labels.index)
        for stream, labels in main_batch("main", "meta").items()
    }
    now = clock("metasaug")
    method.losses(batch, now)  # so that there are covariances
    started, state = method.covariances.clone(), {key: value.clone() for key, value in method.state_dict().items()}

    def class_balanced_loss(covariances: torch.Tensor) -> torch.Tensor:
        method.load_state_dict(state)
        method.covariances.copy_(covariances)
        method.correction.zero_()
        learning = [p for p in method.parameters() if p.requires_grad]
        (loss,) = method.losses(batch, now).values()
        for parameter, gradient in zip(learning, torch.autograd.grad(loss, learning, allow_unused=True), strict=True):
            if gradient is not None:
                parameter.data -= now.lr * gradient
        with torch.no_grad():
            return F.cross_entropy(method.logits(batch["meta"].views[0]), batch["meta"].labels)

    expected = class_balanced_loss(started)
    method.load_state_dict(state)
    meta = stage._correct(method, batch, now)
    torch.testing.assert_close(meta, expected)
    assert all(torch.equal(value, state[key]) for key, value in method.state_dict().items())
    slope = method.correction / stage.meta_lr
    assert slope.abs().max() > 1e-7
    for place in ((0, 0, 0), (1, 2, 3), (3, 5, 5)):
        change = torch.zeros_like(started)
        change[place] = 1e-3
        difference = class_balanced_loss(started + change) - class_balanced_loss(started - change)
        torch.testing.assert_close(slope[place], difference / 2e-3, rtol=1e-4, atol=1e-10)


def test_metasaug_s_held_out_images_are_those_held_out(begun: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    step = second_stage("metasaug").step
    monkeypatch.setattr(second_stage("metasaug"), "step", lambda *told: drawn.append(told[2]) or step(*told))
    options = {"augment": "", "metasaug": {"epochs": 1, "meta_images": "held_out"}}
    told = SMALL | {"data": {"source": str(begun / "few.npz"), "validation": 0.2}, "options": options}
    longtail.train("metasaug", out=begun / "meta", **told)
    shown = {stream: {tuple(x.flatten().tolist()) for b in drawn for x in b[stream].views[0]} for stream in drawn[0]}
    assert shown["meta"]
    assert not shown["meta"] & shown["main"]
    assert all(len(batch["meta"].labels) == len(batch["main"].labels) for batch in drawn)


@pytest.mark.parametrize("freeze_from", [0.5, 1.0])
def test_risda_freezes_all_but_the_classifier_late(begun: Path, freeze_from: float) -> None:
    options = {"risda": {"epochs": 2, "lr": 0.1, "milestone": 1.0, "freeze_from": freeze_from}}
    train = SMALL["train"] | {"momentum": 0.9, "weight_decay": 0.1}
    told = SMALL | {"data": {"source": str(begun / "few.npz")}, "options": options, "train": train}
    config = api.resolved(api.make_config("risda", None, told))
    states: list[dict[str, torch.Tensor]] = []

    class Watch(Reporter):
        def epoch(self, record: Any) -> None:
            states.append({name: value.detach().clone() for name, value in trainer.method.named_parameters()})

    trainer = Trainer(config, Run(begun / f"risda-{freeze_from}"), Watch())
    trainer.run.create(config)
    trainer.fit()
    moved = {name for name, value in states[-1].items() if not torch.equal(value, states[-2][name])}
    classifier = {"classifier.weight", "classifier.bias"}
    assert moved == classifier if freeze_from < 1 else moved > classifier


REFUSED = {
    "cosface+crt": "cosface predicts in another way",
    "ride+maxnorm": "ride predicts in another way",
    "ce+crt+crt": "go on with crt twice",
    "crt+crt": "go on with crt twice",
    "ce+maxnrm": "Did you mean 'maxnorm'",
    "bcl+tau_norm": "nothing to do",
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_makes_no_sense_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match=REFUSED[name]):
        build(name)


def test_two_ways_of_asking_for_one_stage_are_refused() -> None:
    cls = method_class("glmc+maxnorm")
    with pytest.raises(UsageError, match="by --then and by an option"):
        cls.stages(cls.Options(finetune="maxnorm"))


def test_scores_for_balanced_classes_are_not_adjusted_twice() -> None:
    cls = method_class("balanced_softmax+logit_adjustment")
    with pytest.raises(UsageError, match="overshoot"):
        cls.check(cls.Options(), CLASSES, 8)


def test_risda_s_head_leaves_a_tail() -> None:
    cls = method_class("risda")
    with pytest.raises(UsageError, match="leaves none that borrow"):
        cls.check(cls.Options.model_validate({"risda": {"head": 6}}), CLASSES, 8)


@pytest.mark.parametrize(
    ("name", "exponent"),
    [
        ("ce", 1.0), ("balanced_softmax", 0.0), ("ce+crt", 0.0), ("ce+logit_adjustment", 0.0), ("ce+ncm", None),
        ("ldam", None), ("bcl+balanced_softmax", 0.0), ("cmo", None),
    ],
)  # fmt: skip
def test_for_which_class_mix_the_scores_are(name: str, exponent: float | None) -> None:
    assert build(name, 0).prior_exponent() == exponent


SMALL: dict[str, Any] = {"backbone": "resnet8", "train": {"epochs": 1, "batch_size": 64, "eval_every": 2}}


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with few.npz and a finished run of BCL on it."""
    folder: Path = tmp_path_factory.mktemp("begun")
    few_images(folder / "few.npz")
    longtail.train("bcl", data=str(folder / "few.npz"), out=folder / "bcl", seed=3, options={"hidden": None}, **SMALL)
    return folder


def test_a_run_goes_on_in_one_command(begun: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = begun / "gone-on"
    command = [
        "train",
        "--from",
        str(begun / "bcl"),
        "--then",
        "maxnorm",
        "--set",
        "maxnorm.epochs=1",
        "--out",
        str(out),
    ]
    app(command, standalone_mode=False)
    config, source = Run(out).config(), Run(begun / "bcl").config()
    assert (config.method, config.seed, config.data, config.train) == ("bcl+maxnorm", 3, source.data, source.train)
    assert config.options == source.options | {"maxnorm": config.options["maxnorm"]}
    assert [(line["stage"], line["epoch"]) for line in Run(out).metrics()] == [("maxnorm", 0)]
    assert "changes no score" in (out / "log.txt").read_text()
    before, after = (Run(run).load_checkpoint()["method"] for run in (begun / "bcl", out))
    learned = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert {name for name in learned if "running" not in name and "num_batches" not in name} == {"classifier.weight"}
    longtail.load(out)


def test_features_of_any_run_will_do_but_not_any_classifier(begun: Path) -> None:
    settings = SMALL | {"data": str(begun / "few.npz"), "start_from": str(begun / "bcl")}
    results = longtail.train("crt", out=begun / "crt", options={"crt": {"epochs": 1}}, **settings)
    assert results["stages"] == ["crt"] if "stages" in results else True
    assert [line["stage"] for line in Run(begun / "crt").metrics()] == ["crt"]
    with pytest.raises(UsageError, match="has no classifier to go on with"):
        longtail.train("lws", out=begun / "lws", **settings)
    assert not (begun / "lws").exists()


def test_choosing_tau_needs_held_out_images_that_the_run_was_not_trained_on(begun: Path) -> None:
    options = {"logit_adjustment": {"tau": None}}
    with pytest.raises(UsageError, match="there are none: hold some out"):
        longtail.train("ce+logit_adjustment", data=str(begun / "few.npz"), out=begun / "x", options=options, **SMALL)
    told = api.go_on_from(begun / "bcl", ["logit_adjustment"], {"options": options, "data": {"validation": 0.2}})
    with pytest.raises(UsageError, match="was trained on other images, and maybe on these"):
        longtail.train(**told, out=begun / "x")
    assert not (begun / "x").exists()


def test_recipes_of_the_method_before_the_stage_are_taken() -> None:
    config = api.make_config("bcl+crt", "cifar100-lt-100")
    assert (config.method, config.train.lr, config.options["dim"]) == ("bcl+crt", 0.15, 128)


def test_options_of_a_stage_are_set_by_its_name(begun: Path) -> None:
    from longtail.cli.shared import settings_of

    assert settings_of("ce+crt", ["crt.epochs=3", "epochs=7", "crt.sampler=balanced"]) == {
        "options": {"crt": {"epochs": 3, "sampler": "balanced"}},
        "train": {"epochs": 7},
    }
    with pytest.raises(UsageError, match=r"Did you mean 'crt.epochs'"):
        settings_of("ce+crt", ["crt.epoch=3"])


def test_every_method_that_can_go_on_does() -> None:
    """What is refused is what predicts in another way, and nothing else."""
    refused = set()
    for name in METHODS:
        try:
            method_class(f"{name}+crt" if name != "crt" else "crt+ncm")
        except UsageError:
            refused.add(name)
    assert refused == {name for name in METHODS if not _ends_in_one_classifier(method_class(name))}


def _ends_in_one_classifier(cls: type[Method]) -> bool:
    """Whether its scores are its classifier's of its features, as far as one can see, or those of second stages."""
    if hasattr(cls, "second_stages"):
        return True
    try:
        method: Any = cls(build_backbone("resnet8"), CLASSES, cls.Options()).eval()
        with torch.no_grad():
            for parameter in method.parameters():  # away from where factors are still 1
                parameter += 0.1 * torch.randn_like(parameter)
            return torch.allclose(method.logits(images()), method.classifier(method.features(images())))
    except (AttributeError, NotImplementedError, UsageError, TypeError, RuntimeError):
        return False
