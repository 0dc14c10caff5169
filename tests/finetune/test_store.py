"""What is kept on disk, by content."""

from __future__ import annotations

import numpy as np
import torch

from longtail.finetune.store import Store, content_hashes, weights_hash


def test_values_are_found_by_content(cache):
    store = Store({"network": "a"})
    store.add(np.array([3, 1], np.int64), torch.tensor([[30.0], [10.0]]))
    store.add(np.array([2], np.int64), torch.tensor([[20.0]]))
    values, known = store.read(np.array([1, 9, 2, 1, 3], np.int64))
    assert known.tolist() == [True, False, True, True, True]
    assert values[torch.from_numpy(known)].tolist() == [[10.0], [20.0], [10.0], [30.0]]
    again, known = Store({"network": "a"}).read(np.array([3], np.int64))
    assert again.tolist() == [[30.0]]
    assert Store({"network": "b"}).read(np.array([3], np.int64))[0] is None


def test_damaged_shard_is_computed_again(cache):
    store = Store({"network": "a"})
    store.add(np.array([1], np.int64), torch.tensor([[1.0]]))
    (shard,) = store.folder.iterdir()
    shard.write_bytes(shard.read_bytes()[:20])
    values, known = store.read(np.array([1], np.int64))
    assert values is None
    assert not known.any()
    assert not shard.exists()


def test_hashes_are_of_the_content(photos):
    from longtail.data.sources import open_source

    images = open_source(str(photos)).train
    hashes = content_hashes(images)
    assert len(set(hashes.tolist())) == len(images)
    assert (content_hashes(images.select([3, 0])) == hashes[[3, 0]]).all()


def test_hash_of_a_network_is_of_its_weights():
    torch.manual_seed(0)
    network = torch.nn.Linear(2, 3)
    before = weights_hash(network)
    assert weights_hash(network) == before
    with torch.no_grad():
        network.bias[0] += 1e-6
    assert weights_hash(network) != before
