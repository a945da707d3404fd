"""Tests of the doctor.

Nothing here may reach the user's files: programs run with a home of their own.
"""
import importlib
import io
import json
import os
import re
import subprocess
import sys
import types

import numpy as np
import pytest

from gradmod import compat, doctor

import theano

QUICK = 'cxx='  # a Theano that compiles nothing
CACHE = f'base_compiledir={theano.config.base_compiledir}'


@pytest.fixture
def examine(start):
    """The doctor's exit status and output, of what may be no quick Theano."""
    def run(*arguments, flags=QUICK, **settings):
        status, out, err = start('-m', 'gradmod', *arguments, flags=flags,
                                 **settings)
        assert 'Traceback' not in out + err
        return status, out
    return run


# On a healthy installation

@pytest.mark.parametrize('flags', [
    'compute_test_value=raise', pytest.param(
        'profile=True,profiling.destination=stdout', marks=pytest.mark.slow)])
def test_settings_that_do_no_harm(examine, flags):
    status, out = examine('--json', flags=f'{QUICK},{flags}')
    report = json.loads(out.split('\nFunction profiling')[0])
    assert status == 0 and report['ok'], report


@pytest.mark.slow
def test_healthy(examine, tmp_path):
    status, out = examine('--json', flags=CACHE)
    report = json.loads(out)
    assert status == 0 and report['ok'] and report['problems'] == []
    facts = report['facts']
    assert facts['python'] == '%d.%d.%d' % sys.version_info[:3]
    for name in 'theano', 'numpy', 'lasagne', 'scipy':
        assert facts[name] == importlib.import_module(name).__version__
    assert facts['compiler'].startswith(facts['cxx'] + ', ')
    assert str(tmp_path) not in facts['compiledir']
    assert len(facts['compat']) == len(compat.actions)

    test = report['self-test']
    assert test['tolerance'] < 1e-4
    for name, used, other in [('no override', 'plain', 'guided'),
                              ('gradmod', 'guided', 'plain')]:
        assert test[name][used] < test['tolerance'] < .1 < test[name][other]


def report_of(**facts):
    return {'ok': True, 'verdict': 'It works.', 'notes': [], 'problems': [],
            'self-test': None, 'facts': dict({'theanorc': None}, **facts)}


def test_show(capsys, monkeypatch):
    def shown(report):
        doctor.show(report)
        return capsys.readouterr().out.splitlines()

    report = report_of(cxx='', compat=['One.', 'Two.'])
    assert shown(report) == [
        'theanorc      none', 'cxx           none', 'compat        One.',
        '              Two.', 'verdict       It works.']

    monkeypatch.setenv('THEANORC', os.pathsep.join(['/mine', '/other']))
    report = report_of(theanorc='[blas]\nldflags = -L/a -lb')
    report.update(notes=['A note.'], problems=['Bad.', 'Worse.'])
    report['self-test'] = {'seconds': 2.34, 'gradmod': {
        'guided': 1.23e-9, 'plain': .359}}
    for ldflags, more in ('-L/a', 1), ('-lb', 0), ('', 0):
        monkeypatch.setattr(compat, 'ldflags', ldflags)
        first, *lines = shown(report)
        assert ' /mine, ' in first and lines[:2] == [
            '              [blas]', '              ldflags = -L/a -lb']
        assert len(lines[2:-5]) == more
        assert re.match(r'self-test +2\.3 s.* 1e-09 .* 0\.36 ', lines[-5])
        assert lines[-4:] == [
            'note          A note.', 'PROBLEM       Bad.',
            '              Worse.', 'verdict       It works.']


@pytest.mark.parametrize('ldflags, lines', [
    (None, None), ('', '[blas]\nldflags = '),
    ('-L/a -lb', '[blas]\nldflags = -L/a -lb')])
def test_lines_of_theanorc(monkeypatch, ldflags, lines):
    monkeypatch.setattr(compat, 'ldflags', ldflags)
    assert doctor.gather()['theanorc'] == lines


# On a broken one. What keeps Theano from being imported is in test_compat.py.

@pytest.mark.slow
def test_what_is_broken(examine, tmp_path):
    def check(*words, **settings):
        status, out = examine(**settings)
        assert status == 1 and '\nPROBLEM ' in out
        assert out.splitlines()[-1].endswith('gradmod does not work here as '
                                             'it should.')
        assert all(word in out for word in words), out
        return out
    rc, module = tmp_path / '.theanorc', tmp_path / 'lasagne.py'
    module.write_text('import lasagne\nlasagne.layers')
    check(f'{module} hides the package lasagne.')
    module.unlink()
    rc.write_text('[blas]\nldflags = -lnone_such\n')
    check('does not link with blas.ldflags = -lnone_such, set in '
          f'{rc}.', flags=CACHE)
    # By now Theano can be imported without it; see test_compat.py.
    rc.unlink()
    out = check('There is no compiler /none/g++, which cxx is set to.',
                f'THEANO_FLAGS or {rc}', flags=CACHE + ',cxx=/none/g++')
    assert 'No C++ compiler' not in out and 'did not end' not in out


def test_no_compiler(examine, tmp_path):
    status, out = examine(PATH=str(tmp_path), flags='')
    assert status == 0 and 'note          No C++ compiler' in out
    assert out.splitlines()[-1] == 'verdict       gradmod works here.'


@pytest.mark.parametrize('name, ok', [
    ('lasagne', True), ('lasagne.layers', False), ('pkg_resources', False)])
def test_lasagne(monkeypatch, name, ok):
    def fail(_):
        raise ModuleNotFoundError('No', name=name)
    monkeypatch.setattr(doctor, 'run_self_test', lambda: values())
    monkeypatch.setattr(doctor.importlib, 'import_module', fail)
    report = doctor.examine()
    assert report['ok'] == ok and report['facts']['lasagne'] is None
    said = report['notes' if ok else 'problems'][-1]
    assert ('No Lasagne' if ok else f'{name} is missing') in said
    monkeypatch.setattr(doctor.importlib, 'import_module',
                        lambda _: types.SimpleNamespace())  # without a version
    assert not doctor.examine()['ok']


# The output

@pytest.mark.parametrize('encoding', [None, 'ascii'])
def test_an_output_that_knows_ascii_alone(monkeypatch, encoding):
    out = (io.StringIO() if encoding is None
           else io.TextIOWrapper(io.BytesIO(), encoding, write_through=True))
    monkeypatch.setattr(sys, 'stdout', out)
    doctor.show(report_of(home='caf\xe9'))
    out.seek(0)
    assert 'home          caf\\xe9\n' in out.read()


def test_command_line(capsys):
    assert importlib.import_module('gradmod.__main__').main is doctor.main
    assert capsys.readouterr().out == ''
    with pytest.raises(SystemExit) as caught:
        doctor.main(['--fix'])
    assert caught.value.code == 2
    assert 'python -m gradmod: error' in capsys.readouterr().err


# The self-test

def values(plain=1e-7, guided=1e-7):
    return {'tolerance': 1e-6, 'seconds': 1.,
            'no override': {'plain': plain, 'guided': .3},
            'gradmod': {'plain': .3, 'guided': guided}}


@pytest.mark.parametrize('wrong, words', [
    ('plain', 'Suspect the BLAS'), ('guided', 'The override is not used')])
def test_wrong_values(wrong, words):
    assert doctor.judge(values()) == []
    assert doctor.judge(values(**{wrong: 1e-6})) == []
    for value in .01, float('nan'):
        (problem,) = doctor.judge(values(**{wrong: value}))
        assert words in problem and f' {value:.2g} of the largest' in problem


@pytest.mark.parametrize('value, words', [
    (float('nan'), 'NaN'), (float('inf'), 'Infinity')])
def test_wrong_values_in_json(monkeypatch, capsys, value, words):
    monkeypatch.setattr(doctor, 'run_self_test', lambda: values(plain=value))
    assert doctor.main(['--json']) == 1
    out = capsys.readouterr().out
    report = json.loads(out, parse_constant=pytest.fail)  # not JSON
    assert '\n  "ok": false' in out
    assert report['verdict'].startswith('gradmod does not')
    assert report['self-test']['no override'] == {'plain': words, 'guided': .3}


@pytest.mark.usefixtures('no_compiler')
def test_self_test(monkeypatch, capsys):
    times = iter([10., 12.346] * 2)
    monkeypatch.setattr(doctor, 'time', types.SimpleNamespace(
        time=lambda: next(times)))

    def result():
        doctor.self_test()
        return json.loads(
            capsys.readouterr().out.split('\n' + doctor.RESULT)[1])
    right = result()
    assert right['seconds'] == 2.35
    assert right['tolerance'] == 50 * np.finfo(theano.config.floatX).eps
    assert doctor.judge(right) == []
    assert .1 < right['gradmod']['plain'] < 2
    assert right['no override']['guided'] == right['gradmod']['plain']
    monkeypatch.setattr(doctor, 'GuidedBackprop', lambda rectify: rectify)
    (problem,) = doctor.judge(result())
    assert 'override is not used' in problem


@pytest.mark.skipif(os.name == 'nt', reason='needs a shell script')
@pytest.mark.parametrize('script, words', [
    ('kill -SEGV $$', '^It crashed with signal 11.$'),
    ('kill -HUP $$', '^It crashed with signal 1.$'),
    ('for i in 1 2 3; do echo $i >&2; done; exit 1', '^3$'),
    ('echo "$THEANO_GPU_IS_ALREADY_ACTIVE, $OTHER" >&2', '^, other$'),
    ('printf %0400d 0 >&2; exit 1', '^0{300}$')])
def test_self_test_does_not_end(monkeypatch, tmp_path, script, words):
    python = tmp_path / 'python'
    python.write_text(f'#!/bin/sh\necho Theano chats\n{script}\n')
    python.chmod(0o755)
    monkeypatch.setattr(sys, 'executable', str(python))
    monkeypatch.setenv('THEANO_GPU_IS_ALREADY_ACTIVE', 'active')
    monkeypatch.setenv('OTHER', 'other')
    with pytest.raises(RuntimeError, match=words):
        doctor.run_self_test()


def test_a_self_test_that_takes_too_long(monkeypatch):
    def wait(*_, timeout, **__):
        assert timeout == 600
        raise subprocess.TimeoutExpired('python', timeout)
    facts = doctor.gather()
    monkeypatch.setattr(doctor, 'gather', lambda: facts)
    monkeypatch.setattr(subprocess, 'run', wait)
    report = doctor.examine()
    assert not report['ok'] and report['self-test'] is None
    assert 'more than 600 seconds' in report['problems'][0]


def test_explain(monkeypatch):
    def explained(cxx='g++', compiler='g++', flags='-lmine', links=False,
                  where=None):
        monkeypatch.setattr(compat, 'links', lambda flags: links)
        monkeypatch.setattr(compat, 'user_setting', lambda: where)
        return doctor.explain(RuntimeError('Bad luck.'), {
            'blas.ldflags': flags, 'cxx': cxx, 'compiler': compiler})
    unknown = explained(links=True)
    assert 'did not end. Bad luck.' in unknown
    assert explained(flags='') == explained('', None) == unknown
    assert 'no compiler g++' in explained(compiler=None)
    for where, words in ('the file', 'set in the file'), (None, 'found'):
        said = explained(where=where)
        assert 'blas.ldflags = -lmine' in said and words in said


# The facts and the notes

@pytest.mark.skipif(os.name == 'nt', reason='needs a shell script')
def test_compiler(tmp_path, monkeypatch):
    program = tmp_path / 'cxx'
    program.write_text('#!/bin/sh\necho one $1 >&2\necho two\necho three\n')
    program.chmod(0o755)
    for cxx, words in [(f'{program} -O2', f'{program}, one --version'),
                       ('', None), ('no-such-compiler', None)]:
        monkeypatch.setattr(doctor, 'theano', types.SimpleNamespace(
            config=types.SimpleNamespace(cxx=cxx)))
        assert doctor.compiler() == words


def test_distributions(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, 'theano', types.SimpleNamespace(
        __file__=str(tmp_path / 'theano' / '__init__.py')))
    for name in ('theano', 'Theano_PyMC-1.1.2.dist-info', 'Theano-1.0.4.txt',
                 'Theano-1.0.5-py3.8.egg-info', 'theano_lstm-0.1.dist-info'):
        (tmp_path / name).mkdir()
    assert doctor.distributions() == ['Theano-1.0.5', 'Theano_PyMC-1.1.2']


def test_remarks(monkeypatch):
    facts = {'cxx': 'g++', 'blas.ldflags': '-lopenblas', 'device': 'cpu',
             'distribution': ['Theano-1.0.5']}
    assert doctor.remarks(facts) == []
    (note,) = doctor.remarks(dict(facts, distribution=[
        'Theano-1.0.5', 'Theano_PyMC-1.1.2']))
    assert 'Theano-1.0.5 and Theano_PyMC-1.1.2' in note and 'uninstall' in note
    for cxx, missing in ('g++', 'No BLAS'), ('', 'No C++ compiler'):
        (note,) = doctor.remarks(dict(facts, cxx=cxx, **{'blas.ldflags': ''}))
        assert missing in note
    for device in 'cuda0', 'opencl0:0':
        for failed, back_end in [
                (True, None),
                (True, types.SimpleNamespace(pygpu_activated=False)),
                (False, types.SimpleNamespace(pygpu_activated=True))]:
            monkeypatch.setitem(sys.modules, 'theano.gpuarray', back_end)
            notes = doctor.remarks(dict(facts, device=device))
            assert [device in note for note in notes] == [True] * failed
