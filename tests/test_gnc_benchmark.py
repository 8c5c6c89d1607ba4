"""The study of generalised neural collapse: its tables and picture come from its records, and a run resumes."""
import json
import shutil
from argparse import Namespace
from pathlib import Path

import gnc

ROOT = Path(__file__).resolve().parents[1]


def record(job):
    study, name, seed = job
    out = dict(study=study, name=name, seed=seed)
    if study == 'curves':
        points = dict(epoch=[0, 1], train=[1.0, 99.0 + seed], test=[1.0, 12.0], gnc1=[2.0, 0.01], gnc2=[0.1, 0.4],
                      gnc3=[1.0, 0.001])
        out.update(d=int(name[2:4]), curve=points, rho_lower=0.5, rho_upper=0.5, free_rho=0.55)
    elif study == 'assignment':
        out.update(test=80.0 + seed, train=99.0, per_class=dict(automobile=80.0, cat=70.0, dog=75.0, truck=85.0))
        if name == 'learned':
            out.update(similar='cat opposite truck', dissimilar='cat opposite dog')
    else:
        d, k = (int(part.partition('=')[2]) for part in name.split(','))
        tied = dict(lower=0.5, upper=0.5, rattlers=0, hits=3)
        out.update(d=d, K=k, restarts=8, tied=tied, free=dict(tied, lower=0.5 + 1e-4 * (k == 100), rattlers=2))
    return out


def test_the_pages_have_the_tables_that_the_records_give(tmp_path):
    page = ROOT / 'docs' / 'gnc.md'
    copy = tmp_path / 'page.md'
    shutil.copy(page, copy)
    gnc.insert(list(gnc.STUDIES), copy)
    assert copy.read_text() == page.read_text()


def test_tables_and_picture(tmp_path, monkeypatch):
    monkeypatch.setattr(gnc, 'RESULTS', tmp_path / 'gnc.jsonl')
    monkeypatch.setattr(gnc, 'code_rho', lambda dim: 0.625)
    jobs = [job for study in gnc.STUDIES for job in gnc.jobs_of(study)]
    assert len(set(jobs)) == len(jobs)
    assert gnc.table(list(gnc.STUDIES)) == ''
    gnc.RESULTS.write_text(''.join(json.dumps(record(job)) + '\n' for job in jobs))
    curves, assignment, codes = (gnc.table([study]).splitlines() for study in gnc.STUDIES)
    assert curves[6].startswith('| d=10, tau=1/10 | 3 | 100.0 ± 1.0 | 12.0 ± 0.0 | 0.0100 ± 0.0000 | 0.500 ± 0.000 | '
                                '0.550 ± 0.000 | 0.625 | 80 ± 0 |')
    assert any(line.startswith('| cat opposite dog | 3 | 81.0 ± 1.0') and 'dissimilar (3 of 3)' in line
               for line in assignment)
    assert any(line.startswith('| (10, 100) |') and line.endswith('| free better by 1.0e-04 |') for line in codes)
    assert codes[4].endswith('| equal |')
    gnc.plot(tmp_path / 'curves.png')
    assert (tmp_path / 'curves.png').stat().st_size < 200_000


def test_a_run_does_what_is_not_done(tmp_path, capsys):
    args = Namespace(studies=['codes'], jobs=1, only=None, results=tmp_path / 'gnc.jsonl', data_root='', epochs=None)
    jobs = gnc.jobs_of('codes')
    args.results.write_text(''.join(json.dumps(record(job)) + '\n' for job in jobs))
    gnc.run(args)
    assert f'0 jobs to do, {len(jobs)} done' in capsys.readouterr().out
    assert len(args.results.read_text().splitlines()) == len(jobs)


def test_every_run_has_its_config():
    for config, _ in gnc.CURVES.values():
        assert (ROOT / 'configs' / 'gnc' / config).is_file()
