import functools
import importlib.util
import os
import pickle
import sys
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import PackageNotFoundError

import pytest
import torch
from mmengine.config import Config
from mmengine.fileio import LocalBackend
from mmengine.hooks import CheckpointHook
from mmengine.model import BaseModel
from mmengine.runner import Runner
from mmengine.runner.checkpoint import load_checkpoint
from torch import nn

from allnc_mm import compat

ONEDL = compat._installed('onedl-mmengine')


# ---------- stack
def pretend(monkeypatch, *names):
    def distribution(name):
        if name not in names:
            raise PackageNotFoundError(name)

    monkeypatch.setattr(compat, 'distribution', distribution)


@pytest.mark.parametrize('names', [compat.FAMILIES['onedl'], compat.FAMILIES['openmmlab'], ('onedl-mmengine', ), ()])
def test_one_family_is_accepted(monkeypatch, names):
    pretend(monkeypatch, *names)
    compat.check_stack()  # also (): modules on PYTHONPATH without a distribution


@pytest.mark.parametrize('names', [('onedl-mmengine', 'mmengine'), ('onedl-mmcv', 'mmcv-lite'),
                                   ('onedl-mmengine', 'onedl-mmpretrain', 'mmsegmentation')])
def test_a_torn_mixture_is_refused_and_says_what_to_uninstall(monkeypatch, names):
    pretend(monkeypatch, *names)
    with pytest.raises(ImportError, match='torn mixture') as info:
        compat.check_stack()
    message = str(info.value)
    assert f'pip uninstall -y {" ".join(names)}' in message and 'pip install "allnc-mm[onedl]"' in message
    assert '\n' not in message


@pytest.mark.parametrize('absent', [['mmengine', 'mmcv', 'mmpretrain'], ['mmpretrain']])
def test_a_missing_stack_says_what_to_install(monkeypatch, absent):
    original = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None if name in absent else original(name))
    with pytest.raises(ImportError, match=f'{", ".join(absent)} cannot be imported.*allnc-mm\\[onedl\\]'):
        compat.check_stack()


def test_mmseg_is_not_needed(monkeypatch):
    original = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None if name == 'mmseg' else original(name))
    compat.check_stack()


# ---------- switch-off conditions
def test_torchvision_is_importable_and_its_patch_is_off_when_it_is_loaded(monkeypatch):
    import torchvision.transforms.v2  # noqa: F401
    monkeypatch.setattr(torch.ops, 'load_library', lambda path: pytest.fail('patched again'))
    compat.torchvision_operators()


def test_torchvision_patch_is_off_when_its_library_loads(monkeypatch):
    for name in [name for name in sys.modules if name.split('.')[0] == 'torchvision']:
        monkeypatch.delitem(sys.modules, name)
    loaded, before = [], list(compat._KEEP_ALIVE)
    monkeypatch.setattr(torch.ops, 'load_library', loaded.append)
    compat.torchvision_operators()
    assert loaded and os.path.basename(loaded[0]).startswith('_C') and compat._KEEP_ALIVE == before


def test_mmcv_stub_is_there_only_where_it_is_needed():
    if ONEDL:
        assert not hasattr(sys.modules.get('mmcv._ext'), 'point_sample')
    else:
        with pytest.raises(RuntimeError, match='mmcv operator ball_query_forward needs the compiled mmcv'):
            sys.modules['mmcv._ext'].ball_query_forward()


def test_allnc_mm_is_a_package_for_bases():
    from mmengine.config.utils import MODULE2PACKAGE
    from mmengine.utils import get_installed_path
    assert MODULE2PACKAGE['allnc_mm'] == 'allnc_mm' and MODULE2PACKAGE['mmpretrain'] == 'mmpretrain'
    from mmengine.utils.package_utils import get_installed_path as patched
    folder = os.path.dirname(os.path.abspath(compat.__file__))
    assert patched('allnc_mm') == patched('allnc-mm') == folder
    assert os.path.basename(get_installed_path('mmpretrain')) == 'mmpretrain'


# ---------- launch
def launch_config(**kwargs):
    return Config(dict(
        model=dict(type='X', norm_cfg=dict(type='SyncBN'), heads=[dict(norm_cfg=dict(type='SyncBN', eps=1e-3))]),
        optim_wrapper=dict(type='AmpOptimWrapper', loss_scale='dynamic', dtype='float16', optimizer=dict(type='SGD')),
        **kwargs))


def test_without_cuda_amp_is_bfloat16(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    cfg = launch_config()
    compat.cpu_launch(cfg)
    assert cfg.optim_wrapper == dict(type='BFloat16OptimWrapper', optimizer=dict(type='SGD'))
    assert 'model_wrapper_cfg' not in cfg and cfg.model.norm_cfg.type == 'SyncBN'  # one process: the Runner reverts it


def test_without_cuda_processes_get_no_device_ids_and_no_syncbn(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    monkeypatch.setattr(torch.distributed, 'is_initialized', lambda: True)
    given = dict(type='X', find_unused_parameters=True, device_ids=[0])
    cfg = launch_config(launcher='pytorch', model_wrapper_cfg=given)
    compat.cpu_launch(cfg)
    assert cfg.model_wrapper_cfg == dict(type='X', find_unused_parameters=True, device_ids=None)
    assert cfg.model.norm_cfg == dict(type='BN') and cfg.model.heads[0].norm_cfg == dict(type='BN', eps=1e-3)
    assert 'SyncBN needs GPUs' in capsys.readouterr().err


@pytest.mark.parametrize('settings', [{}, dict(model_wrapper_cfg=None)])
@pytest.mark.parametrize('unused', [False, True])
def test_without_cuda_the_wrapper_is_mmengines_own(monkeypatch, settings, unused):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    monkeypatch.setattr(torch.distributed, 'is_initialized', lambda: True)
    settings = dict(settings, find_unused_parameters=True) if unused else settings
    cfg = launch_config(launcher='pytorch', **settings)
    compat.cpu_launch(cfg)
    assert cfg.model_wrapper_cfg == dict(type='MMDistributedDataParallel', broadcast_buffers=False,
                                         find_unused_parameters=unused, device_ids=None)


def test_with_cuda_nothing_changes(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    cfg = launch_config(launcher='pytorch')
    compat.cpu_launch(cfg)
    assert cfg.to_dict() == launch_config(launcher='pytorch').to_dict()


# ---------- checkpoints
class Evil:
    """Creates a file when it is unpickled."""

    def __init__(self, target):
        self.target = str(target)

    def __reduce__(self):
        return os.system, (f'touch {self.target}', )


class Attribute:
    """Asks for an attribute that mmengine's own checkpoints never ask for."""

    def __reduce__(self):
        from mmengine.logging import HistoryBuffer
        return getattr, (HistoryBuffer, '__init__')


class Tiny(BaseModel):

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(1, 1)

    def forward(self, inputs, mode):
        return dict(loss=self.fc(torch.stack(list(inputs))).square().mean())


def make_runner(work_dir, name, epochs=2, **kwargs):
    return Runner(
        Tiny(), work_dir=str(work_dir), experiment_name=f'{os.path.basename(str(work_dir))}-{name}',
        train_dataloader=dict(dataset=[dict(inputs=torch.ones(1))] * 4, batch_size=2,
                              sampler=dict(type='DefaultSampler', shuffle=False)),
        train_cfg=dict(by_epoch=True, max_epochs=epochs), log_level='ERROR',
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)), **kwargs)


@pytest.fixture(autouse=True)
def no_force(monkeypatch):
    """The tools set it for their process, and other tests run them in this one."""
    monkeypatch.delenv('TORCH_FORCE_WEIGHTS_ONLY_LOAD', raising=False)


@pytest.fixture
def malicious(tmp_path):
    make_runner(tmp_path / 'sound', 'sound').train()
    checkpoint = torch.load(tmp_path / 'sound' / 'epoch_2.pth', weights_only=False)
    checkpoint['meta']['evil'] = Evil(tmp_path / 'executed')
    path = tmp_path / 'served' / 'evil.pth'
    path.parent.mkdir()
    torch.save(checkpoint, path)
    return path


@pytest.fixture(params=[None, '1'], ids=['', 'forced'])
def environment(request, monkeypatch, malicious):  # malicious is made before anything is forced
    if request.param:
        monkeypatch.setenv('TORCH_FORCE_WEIGHTS_ONLY_LOAD', request.param)
    yield
    assert os.environ.get('TORCH_FORCE_WEIGHTS_ONLY_LOAD') == request.param  # left as it was


REFUSED = r'Checkpoint .*evil\.pth was refused and nothing of it was run.*system'


def test_the_malicious_checkpoint_is_malicious(malicious, tmp_path):
    torch.load(malicious, weights_only=False)
    assert (tmp_path / 'executed').exists()


def test_load_from_runs_no_code(malicious, tmp_path, environment):
    runner = make_runner(tmp_path / 'run', 'load_from', load_from=str(malicious))
    with pytest.raises(pickle.UnpicklingError, match=REFUSED):
        runner.train()
    assert not (tmp_path / 'executed').exists()


def test_resume_runs_no_code(malicious, tmp_path, environment):
    runner = make_runner(tmp_path / 'run', 'resume', epochs=3, load_from=str(malicious), resume=True)
    with pytest.raises(pickle.UnpicklingError, match=REFUSED):
        runner.train()
    assert not (tmp_path / 'executed').exists()


def test_automatic_resume_runs_no_code(malicious, tmp_path):
    (malicious.parent / 'last_checkpoint').write_text(str(malicious))
    runner = make_runner(malicious.parent, 'auto', epochs=3, resume=True)
    with pytest.raises(pickle.UnpicklingError, match=REFUSED):
        runner.train()
    assert not (tmp_path / 'executed').exists()


def test_a_download_runs_no_code(malicious, tmp_path, environment, monkeypatch):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'torch'))

    class Quiet(SimpleHTTPRequestHandler):

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(('127.0.0.1', 0), functools.partial(Quiet, directory=str(malicious.parent)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with pytest.raises(pickle.UnpicklingError, match=REFUSED):
            load_checkpoint(Tiny(), f'http://127.0.0.1:{server.server_port}/evil.pth')
    finally:
        server.shutdown()
        server.server_close()
    assert list((tmp_path / 'torch').rglob('evil.pth'))  # it was fetched
    assert not (tmp_path / 'executed').exists()


def test_getattr_is_limited_to_what_mmengine_writes(tmp_path):
    torch.save(dict(state_dict={}, meta=Attribute()), tmp_path / 'attribute.pth')
    with pytest.raises(pickle.UnpicklingError, match=r"refused.*attribute '__init__' of .*HistoryBuffer"):
        load_checkpoint(Tiny(), str(tmp_path / 'attribute.pth'))


def test_sound_checkpoints_still_load_and_resume(tmp_path):
    first = make_runner(tmp_path / 'run', 'first')
    first.train()
    history = first.message_hub.get_scalar('train/loss').data
    second = make_runner(tmp_path / 'run', 'second', epochs=3, resume=True)
    second.train()
    assert second.epoch == 3 and (tmp_path / 'run' / 'epoch_3.pth').exists()
    resumed = second.message_hub.get_scalar('train/loss')
    assert resumed.data[0][:len(history[0])].tolist() == history[0].tolist()  # the HistoryBuffer came along
    assert resumed.mean(2) == pytest.approx(resumed.data[0][-2:].mean())  # with its statistics


def test_other_code_may_still_load_what_it_trusts(tmp_path):
    torch.save(dict(a=Evil(tmp_path / 'executed')), tmp_path / 'own.pth')
    make_runner(tmp_path / 'run', 'own').train()
    torch.load(tmp_path / 'own.pth', weights_only=False)
    assert (tmp_path / 'executed').exists()


# ---------- atomic checkpoints
def test_a_write_that_does_not_finish_leaves_the_former_file(tmp_path, monkeypatch):
    path = tmp_path / 'new' / 'epoch_1.pth'
    LocalBackend().put(b'old', path)
    monkeypatch.setattr(os, 'replace', lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        LocalBackend().put(b'new', path)
    assert path.read_bytes() == b'old'
    monkeypatch.undo()
    LocalBackend().put(b'new', path)
    assert path.read_bytes() == b'new' and os.listdir(path.parent) == ['epoch_1.pth']


def kept_at_each_write(folder, monkeypatch):
    """A list that gets the checkpoints in a folder whenever a further one is about to be written."""
    kept, put = [], LocalBackend.put

    def spy(self, obj, filepath):
        kept.append(sorted(path.name for path in folder.glob('*.pth')))
        put(self, obj, filepath)

    monkeypatch.setattr(LocalBackend, 'put', spy)
    return kept


def test_the_former_checkpoint_is_removed_after_the_new_one_is_written(tmp_path, monkeypatch):
    kept = kept_at_each_write(tmp_path, monkeypatch)
    runner = make_runner(tmp_path, 'kept', epochs=3, default_hooks=dict(
        checkpoint=dict(type='CheckpointHook', interval=1, max_keep_ckpts=1)))
    runner.train()
    assert kept == [[], ['epoch_1.pth'], ['epoch_2.pth']]
    assert [path.name for path in tmp_path.glob('*.pth')] == ['epoch_3.pth']
    hook = next(hook for hook in runner.hooks if isinstance(hook, CheckpointHook))
    assert isinstance(hook.file_backend, LocalBackend)


def test_the_former_best_checkpoint_is_removed_after_the_new_one_is_written(tmp_path, monkeypatch):
    kept = kept_at_each_write(tmp_path, monkeypatch)
    runner = make_runner(tmp_path, 'best', default_hooks=dict(
        checkpoint=dict(type='CheckpointHook', interval=100, save_best='score', rule='greater')))
    hook = next(hook for hook in runner.hooks if isinstance(hook, CheckpointHook))
    hook.before_train(runner)
    for epoch, score in ((1, 0.1), (2, 0.3), (2, 0.5)):  # the last one under the name of the one before
        runner.train_loop._epoch = epoch
        hook._save_best_checkpoint(runner, dict(score=score))
    assert kept == [[], ['best_score_epoch_1.pth'], ['best_score_epoch_2.pth']]
    assert [path.name for path in tmp_path.glob('best_*.pth')] == ['best_score_epoch_2.pth']
