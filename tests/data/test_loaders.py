"""Both loaders: same batches, any step, any number of processes, and clear errors."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from longtail.data.augment import POLICIES
from longtail.data.decode import decode
from longtail.data.images import ArraySet, ImageSet
from longtail.data.loaders import build_loader
from longtail.data.squares import SquareReader, squares, stored_size, to_square
from longtail.data.streams import Stream
from longtail.errors import LongtailError, UsageError

MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
STREAMS = {
    "main": Stream(("crop:2,flip", "resized_crop,flip,jitter:0.4:0.4:0.4:0.1,cutout:4")),
    "other": Stream(("randaugment:2:5",), "power", q=0.5),
}


def arrays(count=23, height=16, width=16):
    pixels = np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)
    return ArraySet("toy", ("a", "b", "c"), np.arange(count) % 3, pixels, "train")


class Encoded(ImageSet):
    """Image files of any size, some of them corrupt."""

    def __init__(self, shapes, corrupt=(), kind="png"):
        super().__init__("photos", ("a", "b"), np.arange(len(shapes)) % 2)
        rng = np.random.default_rng(1)
        self.files = []
        for i, (height, width) in enumerate(shapes):
            file = io.BytesIO()
            y, x = np.mgrid[:height, :width]
            ramp = np.stack((255 * y / height, 255 * x / width, np.full((height, width), rng.integers(256))), 2)
            Image.fromarray(ramp.astype(np.uint8)).save(file, kind)
            self.files.append(file.getvalue()[: 60 if i in corrupt else None])

    def key(self, i):
        return f"photo{i}.{i}"

    def read(self, i):
        return self.files[i]


def build(images, **options):
    defaults = {"device": "cpu", "channels": 3, "image_size": None, "mean": MEAN, "std": STD, "budget_bytes": 10**9}
    return build_loader(images, **(defaults | options))


def batches(loader, streams=STREAMS, batch_size=8, seed=3, epoch=1, start=0):
    return list(loader.batches(streams, batch_size=batch_size, seed=seed, epoch=epoch, start=start))


def assert_same(first, second):
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            assert torch.equal(a[name].index, b[name].index)
            assert torch.equal(a[name].labels, b[name].labels)
            for x, y in zip(a[name].views, b[name].views, strict=True):
                assert torch.equal(x, y)


@pytest.mark.parametrize("together", [2, 3, 16])
@pytest.mark.parametrize("start", [0, 2])
def test_steps_augmented_together_are_those_augmented_one_by_one(monkeypatch, together, start):
    """As on a GPU: every operation, from any step on, with a last span that is shorter."""
    streams = STREAMS | {"policies": Stream(("autoaugment_cutout", "simaugment", "crop:1,flip,grey:0.5,blur"))}
    one, several = build(arrays(70)), build(arrays(70))
    monkeypatch.setattr(several, "_together", lambda batch: together)
    assert_same(batches(one, streams, start=start), batches(several, streams, start=start))
    for name in ("labels", "index"):
        assert torch.equal(*(torch.cat([getattr(b, name) for b in loader.evaluation(8)]) for loader in (one, several)))
    assert torch.equal(*(torch.cat([b.views[0] for b in loader.evaluation(8)]) for loader in (one, several)))
    assert len(next(several.evaluation(8)).labels) == min(8 * together, 70)


@pytest.mark.parametrize("policy", POLICIES)
def test_no_policy_waits_for_the_device(policy):
    """On the meta device there is nothing to wait for: asking for a value, or for how many are true, is an error."""
    loader = build(arrays(40, 70, 70), device="meta", image_size=66)
    for epoch in (batches(loader, {"main": Stream((policy,))}), [{"main": batch} for batch in loader.evaluation(8)]):
        for batch in epoch:
            (view,) = batch["main"].views
            assert view.shape == (len(batch["main"].labels), 3, 66, 66)
            assert {view.device.type, batch["main"].labels.device.type, batch["main"].index.device.type} == {"meta"}


@pytest.mark.parametrize("workers", [0, 2])
def test_both_loaders_give_the_same_batches(workers):
    resident, streaming = (build(arrays(), mode=mode, workers=workers) for mode in ("resident", "streaming"))
    assert_same(batches(resident), batches(streaming))
    for a, b in zip(resident.evaluation(5), streaming.evaluation(5), strict=True):
        assert torch.equal(a.views[0], b.views[0])
        assert torch.equal(a.index, b.index)


@pytest.mark.parametrize("mode", ["resident", "streaming"])
def test_batches_are_whole_typed_and_show_what_they_say(mode):
    images = arrays()
    plain = {"main": Stream(("none", "flip:1"))}
    loader = build(images, mode=mode)
    epoch = batches(loader, plain)
    assert len(epoch) == loader.steps(8) == 3
    for batch in epoch:
        main = batch["main"]
        assert [view.dtype for view in main.views] == [torch.float32] * 2
        assert main.views[0].shape == (8, 3, 16, 16)
        assert torch.equal(main.labels, torch.from_numpy(images.labels)[main.index])
        expected = torch.from_numpy(images.images[main.index.numpy()]).permute(0, 3, 1, 2) / 255
        torch.testing.assert_close(main.views[0], (expected - 0.5) / 0.25, rtol=1e-5, atol=1e-5)
        assert torch.equal(main.views[1], main.views[0].flip(3))
    assert set(torch.cat([batch["main"].index for batch in epoch]).tolist()) == set(range(23))


@pytest.mark.parametrize("mode", ["resident", "streaming"])
def test_an_epoch_entered_in_the_middle_is_the_same(mode):
    loader = build(arrays(), mode=mode)
    assert_same(batches(loader)[2:], batches(loader, start=2))


@pytest.mark.parametrize("change", [{"seed": 4}, {"epoch": 2}])
def test_seed_and_epoch_change_order_and_augmentation(change):
    loader = build(arrays())
    first, second = batches(loader)[0]["main"], batches(loader, **change)[0]["main"]
    assert not torch.equal(first.index, second.index)
    same = {"main": Stream(("flip,cutout:4",), "power", q=0.0)}
    assert not torch.equal(
        batches(loader, same)[0]["main"].views[0], batches(loader, same, **change)[0]["main"].views[0]
    )


def test_the_global_random_state_is_left_alone():
    before = torch.get_rng_state()
    batches(build(arrays(), mode="streaming"))
    assert torch.equal(torch.get_rng_state(), before)


def test_processes_share_each_batch_and_the_evaluation():
    whole = batches(build(arrays()))
    parts = [batches(build(arrays(), rank=rank, world_size=2)) for rank in range(2)]
    for step, batch in enumerate(whole):
        for name in batch:
            together = torch.cat([part[step][name].index for part in parts])
            assert torch.equal(together, batch[name].index)
    seen = [torch.cat([b.index for b in build(arrays(), rank=rank, world_size=4).evaluation(3)]) for rank in range(4)]
    assert torch.equal(torch.cat(seen), torch.arange(23))
    with pytest.raises(UsageError, match="does not divide by 2 processes"):
        batches(build(arrays(), world_size=2), batch_size=7)


SHAPES = [(20, 31), (64, 40), (33, 33), (40, 90), (52, 48), (30, 30)]


@pytest.mark.parametrize("mode", ["resident", "streaming"])
@pytest.mark.parametrize("kind", ["png", "jpeg"])
def test_images_of_all_sizes_become_squares(mode, kind):
    photos = Encoded(SHAPES, kind=kind)
    loader = build(photos, image_size=16, mode=mode)
    for batch in batches(loader, {"main": Stream(("resized_crop:0.5:1", "crop:1"))}, batch_size=4):
        assert [view.shape for view in batch["main"].views] == [(4, 3, 16, 16)] * 2
    evaluated = torch.cat([batch.views[0] for batch in loader.evaluation(4)]) * 0.25 + 0.5
    expected = [to_square(decode(photos.read(i), 3, at_least=(16, 16)), 16) for i in range(6)]
    torch.testing.assert_close(evaluated * 255, torch.from_numpy(np.stack(expected)).float())


def test_streaming_crops_the_whole_image_and_again_alike():
    photos = Encoded([(40, 160)] * 8, kind="jpeg")
    stream = {"main": Stream(("resized_crop:0.1:0.4", "resized_crop:0.1:0.4"))}
    loader = build(photos, image_size=16, mode="streaming")
    first = batches(loader, stream, batch_size=8)
    assert_same(first, batches(build(photos, image_size=16, mode="streaming", workers=2), stream, batch_size=8))
    left, right = (first[0]["main"].views[v] * 0.25 + 0.5 for v in range(2))
    assert not torch.equal(left, right)
    columns = torch.cat((left, right))[:, 1].mean((1, 2))  # green rises from left to right
    # The square that the resident loader keeps is columns 60..100, green 0.37..0.63: crops reach further.
    assert columns.min() < 0.35
    assert columns.max() > 0.65


def test_squares_are_the_middle_of_the_resized_image():
    y, x = np.mgrid[:90, :60]
    pixels = np.stack((y, x, 0 * x), 2).astype(np.uint8)
    square = to_square(pixels, 30)
    assert square.shape == (3, 30, 30)
    np.testing.assert_allclose(square[0, 1:-1, 5], np.arange(1, 29) * 2 + 15.5, atol=0.51)
    np.testing.assert_allclose(square[1, 5, 1:-1], np.arange(1, 29) * 2 + 0.5, atol=0.51)
    assert (stored_size(32), stored_size(128), stored_size(224)) == (32, 128, 256)
    assert SquareReader(Encoded(SHAPES), 3, 224).square(0).shape == (3, 256, 256)


@pytest.mark.parametrize("mode", ["resident", "streaming"])
def test_sizes_that_differ_need_a_rule(mode):
    photos = Encoded([(32, 32), (32, 32), (64, 64), (32, 32)], kind="jpeg")
    with pytest.raises(UsageError, match=r"photo2\.2 has 64 x 64 pixels, expected 32 x 32 .* --image-size 224"):
        batches(build(photos, mode=mode), {"main": Stream(("none",))}, batch_size=4)
    with pytest.raises(UsageError, match="20 x 31 pixels, expected squares"):
        build(Encoded(SHAPES), mode=mode)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("mode", ["resident", "streaming"])
def test_corrupt_images_are_fatal_and_named(mode, workers):
    photos = Encoded([(32, 32)] * 8, corrupt=(1, 6))
    with pytest.raises(LongtailError) as caught:
        batches(build(photos, mode=mode, workers=workers), {"main": Stream(("none",))}, batch_size=8)
    message = str(caught.value)
    assert message.startswith("2 corrupt images:")
    assert "photo1.1" in message
    assert "photo6.6" in message
    assert "--skip-corrupt" in message
    assert "Traceback" not in message
    assert caught.value.exit_code == 1


def test_many_corrupt_images_are_counted():
    with pytest.raises(LongtailError, match=r"30 corrupt images:[\s\S]*and 10 more"):
        build(Encoded([(32, 32)] * 40, corrupt=range(5, 35)))


def test_skipping_drops_or_substitutes_and_records():
    photos = Encoded([(32, 32)] * 8, corrupt=(1, 6))
    resident = build(photos, skip_corrupt=True)
    assert resident.skipped == ["photo1.1", "photo6.6"]
    assert resident.labels.tolist() == [0, 0, 1, 0, 1, 1]
    shown = torch.cat([batch["main"].index for batch in batches(resident, {"main": Stream(("none",))}, batch_size=3)])
    assert sorted(shown.tolist()) == [0, 2, 3, 4, 5, 7]

    streaming = build(photos, skip_corrupt=True, mode="streaming")
    assert torch.cat([batch.index for batch in streaming.evaluation(3)]).tolist() == [0, 2, 3, 4, 5, 7]
    (batch,) = batches(streaming, {"main": Stream(("none",))}, batch_size=8)
    assert sorted(batch["main"].index.tolist()) == [0, 0, 2, 3, 3, 4, 5, 7]  # 1 -> 3 and 6 -> 0, of their classes
    assert torch.equal(batch["main"].labels, batch["main"].index % 2)
    assert streaming.skipped == ["photo1.1", "photo6.6"]


@pytest.mark.parametrize("mode", ["resident", "streaming"])
def test_nothing_left_to_show_is_an_error_even_when_skipping(mode):
    photos = Encoded([(32, 32)] * 4, corrupt=range(4))
    with pytest.raises(LongtailError, match="can be read"):
        batches(build(photos, skip_corrupt=True, mode=mode, image_size=16), {"main": Stream(("none",))}, batch_size=4)


def test_without_a_readable_image_there_are_no_statistics():
    with pytest.raises(LongtailError, match="None of the 4 training images looked at can be read"):
        build(Encoded([(32, 32)] * 4, corrupt=range(4)), mode="streaming", image_size=16, mean=None, std=None)


def test_the_choice_follows_the_budget_and_is_logged():
    lines = []
    sizes = 23 * 3 * 16 * 16
    names = [
        type(build(arrays(), log=lines.append, budget_bytes=budget, mode=mode)).__name__
        for budget, mode in ((sizes, "auto"), (sizes - 1, "auto"), (0, "resident"))
    ]
    assert names == ["ResidentLoader", "StreamingLoader", "ResidentLoader"]
    assert "23 images of 3x16x16" in lines[0]
    assert "streaming" in lines[1]
    with pytest.raises(UsageError, match="Unknown loader 'residant'"):
        build(arrays(), mode="residant")


def test_progress_reaches_the_end():
    seen = []
    build(arrays(200), progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (200, 200)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


@pytest.mark.parametrize("mode", ["resident", "streaming"])
@pytest.mark.parametrize("channels", [1, 3])
def test_statistics_are_numpys(channels, mode):
    images = arrays()
    pixels = np.stack([decode(array, channels) for array in images.images]) / 255
    loader = build(images, channels=channels, mode=mode, mean=None, std=None)
    np.testing.assert_allclose(loader.mean, pixels.mean((0, 1, 2)), rtol=1e-9)
    np.testing.assert_allclose(loader.std, pixels.std((0, 1, 2)), rtol=1e-6)


@pytest.mark.parametrize(
    ("height", "width", "side"), [(50, 71, 32), (90, 61, 32), (20, 33, 32), (32, 32, 32), (7, 300, 5)]
)
def test_squares_in_pytorch_are_pillows(height, width, side):
    images = np.random.default_rng(side).integers(0, 256, (3, height, width, 3), dtype=np.uint8)
    expected = np.stack([to_square(image, side) for image in images]).astype(float)
    found = squares(torch.from_numpy(images).permute(0, 3, 1, 2), side).numpy()
    assert np.abs(found - expected).max() < 1.5
    assert np.abs(found - expected).mean() < 0.5
