"""The main jobs are run, not only parsed: ImageNet-LT, iNaturalist 2018 and Places-LT for a few iterations.

A miniature tree stands in for the data: real images (scikit-learn's handwritten digits as JPEG files) behind lists in
the official formats, with all K classes, through the configs' own pipelines. Only sizes that the machine decides are
made smaller.
"""
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
LISTS = dict(
    imagenet=('ImageNet_LT_train.txt', 'ImageNet_LT_val.txt', 'ImageNet_LT_test.txt'),
    places=('Places_LT_train.txt', 'Places_LT_val.txt', 'Places_LT_test.txt'),
    inat2018=('train2018.json', 'val2018.json'))
CLASSES = dict(imagenet=1000, places=365, inat2018=8142)

CONFIG = '''
_base_ = '{config}'
small = dict(batch_size={batch_size}, num_workers=0, persistent_workers=False, dataset=dict(data_root='{root}'))
train_dataloader = dict(sampler=dict(_delete_=True, type='InfiniteSampler'), {batch_sampler}**small)
val_dataloader = small
test_dataloader = small
train_cfg = dict(_delete_=True, by_epoch=False, max_iters={iterations}, val_interval={iterations})
param_scheduler = []
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(by_epoch=False, interval={iterations}))
log_processor = dict(by_epoch=False)
custom_hooks = []  # CleanBNHook acts after the last epoch
'''


def make_tree(root, name):
    """Twelve images; a training list that holds every class, class 0 ten times; evaluation lists of eight images."""
    cv2 = pytest.importorskip('cv2')
    from sklearn.datasets import load_digits
    images = load_digits().images[:12]
    paths = []
    for i, image in enumerate(images):
        path = f'images/a class/{i}.jpg'  # a blank in the path
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        big = cv2.resize((image * 15).astype(np.uint8), (260, 300))
        cv2.imwrite(str(root / path), cv2.cvtColor(big, cv2.COLOR_GRAY2BGR))
        paths.append(path)
    labels = [0] * 9 + list(range(CLASSES[name]))
    for number, file in enumerate(LISTS[name]):
        rows = [(paths[i % 12], label) for i, label in enumerate(labels if number == 0 else range(8))]
        if file.endswith('.json'):
            (root / file).write_text(json.dumps(dict(
                images=[dict(id=i, file_name=p) for i, (p, _) in enumerate(rows)],
                annotations=[dict(id=i, image_id=i, category_id=c) for i, (_, c) in enumerate(rows)],
                categories=[dict(id=c, name=str(c)) for c in range(CLASSES[name])])))
        else:
            (root / file).write_text(''.join(f'{p} {c}\n' for p, c in rows))


@pytest.mark.slow
@pytest.mark.parametrize('config, name, ranks', [
    ('allnc/resnet50_imagenet-lt.py', 'imagenet', 1),
    ('allnc/resnet50_imagenet-lt.py', 'imagenet', 2),
    ('allnc/resnet50_places-lt.py', 'places', 1),
    ('allnc/resnet50_places-lt.py', 'places', 2),
    ('allnc/resnet50_inat18.py', 'inat2018', 1),
    ('allnc/resnet50_inat18.py', 'inat2018', 2),
    ('ce/resnet50_imagenet-lt.py', 'imagenet', 1),
    ('etf/resnet50_imagenet-lt.py', 'imagenet', 1),
])
def test_main_job_runs(config, name, ranks, tmp_path):
    make_tree(tmp_path, name)
    iterations = 1 if name == 'inat2018' else 2  # the Gram matrices of 8142 classes take a minute a step on a CPU
    (tmp_path / 'job.py').write_text(CONFIG.format(
        config=ROOT / 'configs' / config, root=tmp_path, batch_size=4 // ranks, iterations=iterations,
        # a progressive sampler moves from epoch to epoch, and two iterations are none
        batch_sampler='batch_sampler=dict(progressive=False), ' if config.startswith('allnc') else ''))
    work_dir = tmp_path / 'work_dir'
    start = [sys.executable, ROOT / 'tools/train.py', tmp_path / 'job.py'] if ranks == 1 else [
        'bash', ROOT / 'tools/dist_train.sh', tmp_path / 'job.py', ranks]
    env = dict(os.environ, OMP_NUM_THREADS='1', PYTHONPATH=str(ROOT), PYTHON=sys.executable)
    run = subprocess.run([str(c) for c in (*start, '--work-dir', work_dir)], cwd=tmp_path, env=env, capture_output=True,
                         text=True, timeout=900)
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]

    logs = [log.read_text().splitlines() for log in work_dir.glob('*/vis_data/scalars.json')]
    scalars = [json.loads(line) for log in logs for line in log]
    steps = [s for s in scalars if 'loss' in s]
    assert [s['iter'] for s in steps] == list(range(1, iterations + 1))
    assert all(np.isfinite(s['loss']) for s in steps)
    if config.startswith('allnc'):
        names = {'loss_uniform', 'loss_rebalanced', 'loss_hycon', 'loss_p2p', 'cos_mean_w', 'std_cos_w'}
        assert names <= set(steps[0])
        assert [s['gbbn_eta'] for s in steps] == [1.0, 0.75][:iterations]
    assert any('long_tail/overall' in s for s in scalars)
    assert (work_dir / f'iter_{iterations}.pth').exists()
