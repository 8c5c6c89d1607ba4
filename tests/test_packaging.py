"""The wheel, installed away from the checkout: configs of all three styles, and the tools."""
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from mmengine.config import Config

import allnc_mm  # noqa: F401

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.slow


def run(*command, cwd, **env):
    done = subprocess.run([str(part) for part in command], cwd=cwd, text=True, capture_output=True,
                          env={**os.environ, 'OMP_NUM_THREADS': '1', **env})
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
    """Built by way of the source distribution, from a copy without what git ignores."""
    folder = tmp_path_factory.mktemp('build')
    ignored = shutil.ignore_patterns('.*_cache', '.git', '.venv*', '*.egg-info', '__pycache__', 'build', 'dist',
                                     'data', 'work_dirs')
    shutil.copytree(ROOT, folder / 'copy', symlinks=True, ignore=ignored)
    source = 'from setuptools import build_meta; build_meta.build_sdist("../dist")'
    run(sys.executable, '-c', source, cwd=folder / 'copy')
    run(sys.executable, '-m', 'pip', 'wheel', '--no-deps', '--no-index', '--no-build-isolation', '--wheel-dir',
        folder / 'dist', next((folder / 'dist').glob('*.tar.gz')), cwd=folder)
    return next((folder / 'dist').glob('*.whl'))


@pytest.fixture(scope='module')
def installed(wheel, tmp_path_factory):
    target = tmp_path_factory.mktemp('site')
    run(sys.executable, '-m', 'pip', 'install', '--no-deps', '--no-index', '--quiet', '--target', target, wheel,
        cwd=target)
    return target


def test_the_wheel_holds_every_config_and_tool_once(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    for folder in ('configs', 'tools'):
        here = {str(path.relative_to(ROOT)) for path in (ROOT / folder).rglob('*')
                if path.is_file() and '__pycache__' not in path.parts}
        there = {name.split('.mim/')[1] for name in names if name.startswith(f'allnc_mm/.mim/{folder}/')}
        assert here == there
    assert 'allnc_mm/.mim/model-index.yml' in names
    assert 'allnc_mm/configs/allnc/resnet20_digits_lt.py' in names
    assert not [name for name in names if name.endswith('.pyc') or name.startswith(('tests', 'configs', 'tools'))]


CONFIGS = {
    'package.py': "_base_ = 'allnc_mm::allnc/resnet20_digits-lt.py'\n",
    'relative.py': "_base_ = './configs/allnc/resnet20_digits-lt.py'\n",
    'lazy.py': 'from mmengine.config import read_base\n\nwith read_base():\n'
               '    from allnc_mm.configs.allnc.resnet20_digits_lt import *\n',
}
TRAIN = '''
import sys
import allnc_mm
from mmengine.config import Config
from mmengine.runner import Runner

assert allnc_mm.__file__.startswith(sys.argv[1]), allnc_mm.__file__
for name in sys.argv[2:]:
    cfg = Config.fromfile(name)
    cfg.work_dir = 'work_dirs/' + name
    cfg.train_cfg.max_epochs = cfg.train_cfg.val_interval = 1
    cfg.experiment_name = name.replace('.', '_')
    runner = Runner.from_cfg(cfg)
    runner.train()
    print('TRAINED', name, type(runner.model).__module__, type(runner.model).__name__, runner.iter)
'''


def test_configs_of_all_three_styles_train_in_an_empty_folder(installed, tmp_path):
    for name, text in CONFIGS.items():
        (tmp_path / name).write_text(text)
    (tmp_path / 'train.py').write_text(TRAIN)
    shutil.copytree(installed / 'allnc_mm' / '.mim' / 'configs', tmp_path / 'configs')
    printed = run(sys.executable, 'train.py', installed, *CONFIGS, cwd=tmp_path, PYTHONPATH=str(installed))
    trained = [line for line in printed.splitlines() if line.startswith('TRAINED')]
    assert trained == [f'TRAINED {name} allnc_mm.models.classifiers.allnc AllNC 9' for name in CONFIGS]
    for name in CONFIGS:
        assert (tmp_path / 'work_dirs' / name / 'epoch_1.pth').exists()


def test_an_installed_tool_trains_an_inherited_config(installed, tmp_path):
    (tmp_path / 'mine.py').write_text(CONFIGS['package.py'])
    tools = installed / 'allnc_mm' / '.mim' / 'tools'
    run(sys.executable, tools / 'train.py', 'mine.py', '--cfg-options', 'train_cfg.max_epochs=1', cwd=tmp_path,
        PYTHONPATH=str(installed))
    assert (tmp_path / 'work_dirs' / 'mine' / 'epoch_1.pth').exists()


def plain(value):
    if isinstance(value, dict):
        return {key: plain(value[key]) for key in value}  # an item, because lazy objects are resolved by access
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return getattr(value, '__name__', value)


@pytest.mark.parametrize('method', ['ce', 'allnc'])
def test_lazy_and_text_config_agree(method):
    lazy = plain(Config.fromfile(ROOT / f'allnc_mm/configs/{method}/resnet20_digits_lt.py')._cfg_dict)
    text = plain(Config.fromfile(ROOT / f'configs/{method}/resnet20_digits-lt.py')._cfg_dict)
    lazy = {key: value for key, value in lazy.items() if key != value}  # without the imported names
    assert lazy == text
