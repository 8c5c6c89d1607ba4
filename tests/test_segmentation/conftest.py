"""A tiny CamVid: the folders and the kind of files of the real one, with images of noise."""
import numpy as np
import pytest
from PIL import Image

FRAMES = dict(train=6, val=3, test=4)
HEIGHT, WIDTH = 48, 64


@pytest.fixture(scope='session')
def make_camvid():
    """Function that writes a tiny CamVid into a folder."""

    def make(root, height=HEIGHT, width=WIDTH):
        rng = np.random.default_rng(0)
        for split, amount in FRAMES.items():
            for kind in ('', 'annot'):
                (root / f'{split}{kind}').mkdir(parents=True)
            for i in range(amount):
                # blocks of one class, every class in every label map, some void
                blocks = np.concatenate([rng.permutation(12), rng.choice(5, 12)]).reshape(4, 6)
                label = blocks.repeat(height // 4, 0).repeat(-(-width // 6), 1)[:, :width].astype(np.uint8)
                noise = rng.integers(0, 60, (height, width, 3))
                image = (label[..., None] * np.array([15, 5, 10]) + noise).astype(np.uint8)
                Image.fromarray(image).save(root / split / f'Seq{i % 2}_{i:03}.png')
                Image.fromarray(label).save(root / f'{split}annot' / f'Seq{i % 2}_{i:03}.png')
        return root

    return make


@pytest.fixture(scope='session')
def tiny_camvid(make_camvid, tmp_path_factory):
    """Folder of a tiny CamVid; read it only."""
    return make_camvid(tmp_path_factory.mktemp('camvid') / 'camvid')


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    """Pixel counts are not kept in the home folder of whoever runs the tests."""
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
