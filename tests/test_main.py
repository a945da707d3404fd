"""Tests of the doctor, and of what it fixes.

Nothing here may reach the user's files or this environment's packages: what
writes does so in folders of its own, or runs in an environment of its own.
"""
import builtins
import configparser
import glob
import importlib
import io
import json
import os
import shutil
import stat
import subprocess
import sys
import sysconfig
import textwrap
import types
from unittest import mock

import numpy as np
import pytest

from gradmod import compat, doctor, finder, fix

import theano
import theano.tensor as T

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(compat.__file__)))
PACKAGES = [ROOT] + [folder for folder in sys.path if os.path.isdir(folder)]
QUICK = 'cxx='  # a Theano that compiles nothing
CACHE = 'base_compiledir=%s' % theano.config.base_compiledir


@pytest.fixture
def environment(tmp_path):
    """A function that runs Python in a new virtual environment.

    It sees our packages, but not by its own site-packages, which are empty.
    """
    folder = tmp_path / 'environment'
    subprocess.check_call([sys.executable, '-m', 'venv', '--without-pip',
                           str(folder)])
    # If coverage is measured, then in there as well.
    for name in glob.glob(os.path.join(sysconfig.get_path('purelib'),
                                       '*cov*.pth')):
        shutil.copy(name, sysconfig.get_path('purelib',
                                             vars={'base': str(folder)}))
    home = tmp_path / 'home'
    home.mkdir()
    python = str(folder / ('Scripts' if os.name == 'nt' else 'bin') / 'python')

    def run(*arguments, packages=PACKAGES, flags=QUICK, **settings):
        env = {name: value for name, value in os.environ.items()
               if not name.startswith('THEANO')}
        env.update(HOME=str(home), USERPROFILE=str(home), THEANO_FLAGS=flags,
                   PYTHONPATH=os.pathsep.join(packages), **settings)
        process = subprocess.Popen(
            (python,) + arguments, cwd=str(tmp_path), env=env,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            universal_newlines=True)
        out, err = process.communicate()
        run.status = process.returncode
        run.out, run.err = out, err
        return out

    run.home = home
    run.pth = lambda: [
        name for folder, _, names in os.walk(str(tmp_path / 'environment'))
        for name in names if name == fix.PTH]
    return run


@pytest.fixture
def package(tmp_path):
    """Write a package; return the folder to put on the path."""
    def write(name, text):
        folder = tmp_path / 'packages' / name
        folder.mkdir(parents=True)
        (folder / '__init__.py').write_text(textwrap.dedent(text))
        return str(folder.parent)
    return write


def snapshot(folder):
    return {os.path.join(where, name): open(os.path.join(where, name),
                                            'rb').read()
            for where, _, names in os.walk(str(folder)) for name in names
            if not name.endswith('.pyc')}


# The doctor on a healthy installation

@pytest.mark.parametrize('flags', ['compute_test_value=raise',
                                   'profile=True,profiling.destination=stdout'])
def test_settings_that_do_no_harm(environment, flags):
    report = json.loads(environment('-m', 'gradmod', '--json', flags=QUICK + ',' +
                                    flags).split('\nFunction profiling')[0])
    assert environment.status == 0 and report['ok'], report


def test_healthy(environment, capsys):
    report = json.loads(environment('-m', 'gradmod', '--json', flags=CACHE))
    assert environment.status == 0
    assert report['ok'] and report['verdict'] == 'gradmod works here.'
    assert report['problems'] == []
    facts = report['facts']
    assert facts['theano'] == theano.__version__
    assert facts['numpy'] == np.__version__
    assert facts['python'] == '%d.%d.%d' % sys.version_info[:3]
    assert str(environment.home) not in facts['compiledir']
    assert len(facts['compat']) == len(compat.actions)

    test = report['self-test']
    assert test['tolerance'] < 1e-4
    for name, used, other in [('no override', 'plain', 'guided'),
                              ('gradmod', 'guided', 'plain')]:
        assert test[name][used] < test['tolerance'] < .1 < test[name][other]
    recent = tuple(map(int, theano.__version__.split('.')[:2])) >= (1, 0)
    assert test['recipe']['plain' if recent else 'guided'] < test['tolerance']
    assert ('ignored' in test['op.grad assigned']) == recent

    doctor.show(report)
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == 'verdict       gradmod works here.'
    assert any(line.startswith('theano        ' + theano.__version__)
               for line in lines)
    assert all(any(action in line for line in lines)
               for action in facts['compat'])


def test_backward():
    random = np.random.RandomState(3)
    x = random.randn(4, 3)
    weights = [random.randn(3, 6), random.randn(6, 6), random.randn(6, 2)]

    def cost(x):
        for w in weights:
            x = np.maximum(x.dot(w), 0)
        return x.sum()

    for i, j in np.ndindex(x.shape):
        step = np.zeros_like(x)
        step[i, j] = 1e-6
        slope = (cost(x + step) - cost(x - step)) / 2e-6
        assert np.isclose(doctor.backward(x, weights, False)[i, j], slope)

    # one sample and one unit at a time
    for sample, result in zip(x, doctor.backward(x, weights, True)):
        values = [sample]
        for w in weights:
            values.append([max(sum(a * b for a, b in zip(values[-1], column)),
                               0) for column in w.T])
        g = [1.] * len(values[-1])
        for w, value in zip(weights[::-1], values[::-1]):
            g = [a if a > 0 and v > 0 else 0. for a, v in zip(g, value)]
            g = [sum(a * b for a, b in zip(g, row)) for row in w]
        assert np.allclose(result, g)


# The doctor on broken installations

def check_broken(environment, *words, **settings):
    out = environment('-m', 'gradmod', **settings)
    assert environment.status == 1
    assert 'Traceback' not in out + environment.err
    assert '\nPROBLEM ' in out and 'What to do: ' in out
    assert 'does not work here' in out.splitlines()[-1]
    for word in words:
        assert word in out
    return out


@pytest.mark.parametrize('error, words', [
    ('AttributeError("bad luck\\nand more")', ['AttributeError: bad luck\n']),
    ('ImportError("libc.so.7")', ['ImportError: libc.so.7']),
    ('ModuleNotFoundError("No", name="scipy.linalg")',
     ['scipy.linalg is missing', 'pip install "scipy<1.12" "numpy<1.24"']),
    ('ModuleNotFoundError("No", name="pkg_resources")',
     ['pip install "setuptools<80.9"']),
    ('Exception("Compilation failed: Python.h: No such file")',
     ['C headers', 'python3-dev']),
])
def test_theano_cannot_be_imported(environment, package, error, words):
    broken = package('theano', 'raise ' + error)
    check_broken(environment, *words, packages=[broken] + PACKAGES)


@pytest.mark.parametrize('name, text, flags', [
    ('theano', 'x = 1', ''), ('theano', 'import theano\ntheano.tensor', ''),
    ('numpy', '', ''), ('numpy', '', 'blas.ldflags='),
    ('lasagne', 'import lasagne\nlasagne.layers', QUICK)])
def test_a_file_that_hides_a_package(environment, tmp_path, name, text, flags):
    path = tmp_path / (name + '.py')
    path.write_text(text)
    out = check_broken(environment, '%s hides the package %s.' % (path, name),
                       'Rename that file', flags=flags)
    assert 'missing' not in out


def test_flags_of_the_interpreter(environment, tmp_path):
    folder = environment('-c', 'import sysconfig; '
                         'print(sysconfig.get_path("purelib"))').strip()
    with open(os.path.join(folder, 'packages.pth'), 'w') as f:
        f.write('\n'.join(PACKAGES))
    (tmp_path / 'numpy.py').write_text('')  # which -I does not see
    environment('-I', '-m', 'gradmod')
    assert environment.status == 0, environment.out


def test_flags_that_not_every_python_has(monkeypatch):
    seen = []

    def run(command, **kwargs):
        seen.append(command)
        raise subprocess.TimeoutExpired('python', 1)
    monkeypatch.setattr(doctor.subprocess, 'run', run)
    for flags, expected in [
            (dict(isolated=0, ignore_environment=1, no_user_site=1), '-E -s'),
            (dict(isolated=1, ignore_environment=0, no_user_site=0,
                  safe_path=True), '-I -P')]:
        monkeypatch.setattr(doctor, 'sys', types.SimpleNamespace(
            executable='python', flags=types.SimpleNamespace(**flags)))
        with pytest.raises(RuntimeError):
            doctor.run_self_test()
        assert ' '.join(seen.pop()[1:-2]) == expected


def test_broken_in_json(environment, package):
    broken = package('theano', 'raise AttributeError("bad luck")')
    packages = [broken] + PACKAGES
    report = json.loads(
        environment('-m', 'gradmod', '--json', packages=packages))
    assert '\n  "ok": false' in environment.out
    assert environment.status == 1
    assert not report['ok'] and report['self-test'] is None
    assert [p['problem'] for p in report['problems']] == [
        'AttributeError: bad luck']
    for argument in '--fix', '--unfix':
        environment('-m', 'gradmod', argument, packages=packages)
        assert environment.status == (argument == '--fix')
        assert 'Nothing' in environment.out.splitlines()[-1]
        assert environment.pth() == []


def test_another_program_gets_its_error(environment, package):
    package('theano', 'raise AttributeError("bad luck")')
    packages = [package('mine', 'import gradmod')] + PACKAGES
    for arguments in ('-c', 'import gradmod'), ('-m', 'mine.part'):
        environment(*arguments, packages=packages)
        assert environment.status == 1
        assert environment.out == ''
        assert environment.err.splitlines()[-1] == 'AttributeError: bad luck'


def test_numpy_is_too_new(monkeypatch):
    error = AttributeError("module 'numpy' has no attribute 'bool'.\nMore")
    for version, new in [('1.9.3', False), ('1.23.5', False), ('1.24.0', True),
                         ('2.0.0rc1', True)]:
        monkeypatch.setattr(np, '__version__', version)
        problem, advice = doctor.explain(error)
        assert ('numpy %s is too new' % version in problem) == new
        assert ('"numpy<1.24"' in advice) == new


def test_a_numpy_without_a_version(monkeypatch):
    monkeypatch.setitem(sys.modules, 'numpy', types.ModuleType('numpy'))
    assert not doctor.numpy_is_too_new()


def test_no_folder_for_compiled_code(environment, tmp_path):
    (tmp_path / 'file').write_text('')
    check_broken(
        environment, 'no folder for what it compiles', str(tmp_path / 'file'),
        flags='base_compiledir=%s' % (tmp_path / 'file' / 'theano'))


def test_unreadable_settings(environment):
    rc = environment.home / '.theanorc'
    rc.write_text('floatX = float32\n')
    check_broken(environment, 'settings cannot be read', 'Mend %s.' % rc)
    assert rc.read_text() == 'floatX = float32\n'


def test_a_blas_that_does_not_link(environment):
    (environment.home / '.theanorc').write_text(
        '[blas]\nldflags = -lnone_such\n')
    check_broken(environment, 'does not link with blas.ldflags = -lnone_such',
                 '.theanorc', flags=CACHE)


def test_no_compiler(environment, tmp_path):
    out = environment('-m', 'gradmod', PATH=str(tmp_path), flags='')
    assert environment.status == 0
    assert 'note          No C++ compiler' in out
    assert out.splitlines()[-1] == 'verdict       gradmod works here.'


def test_a_compiler_that_is_not_there(environment):
    out = check_broken(environment,
                       'There is no compiler /none/g++, which cxx is set to.',
                       'THEANO_FLAGS or %s' % (environment.home / '.theanorc'),
                       flags=CACHE + ',cxx=/none/g++')
    assert 'No C++ compiler' not in out and 'did not end' not in out


@pytest.mark.skipif(sys.version_info < (3, 7), reason='needs reconfigure')
def test_an_output_that_has_no_encoding(monkeypatch):
    monkeypatch.setattr(doctor, 'examine', lambda failure: {
        'ok': True, 'verdict': 'd\u00e9j\u00e0'})
    monkeypatch.setattr(sys, 'stdout', io.StringIO())
    assert doctor.main(['--json']) == 0
    assert json.loads(sys.stdout.getvalue())['verdict'] == 'd\u00e9j\u00e0'


def test_an_output_of_ascii(environment, tmp_path):
    folder = tmp_path / 'caf\xe9'
    environment('-m', 'gradmod', PYTHONIOENCODING='ascii',
                flags='%s,base_compiledir=%s' % (QUICK, folder))
    assert environment.status == 0, environment.err
    assert str(folder).replace('\xe9', '\\xe9') in environment.out


def test_lasagne(monkeypatch):
    test = {'tolerance': 1e-6, 'recipe': 'ValueError: no',
            'no override': {'plain': 0.}, 'gradmod': {'guided': 0.}}
    monkeypatch.setattr(doctor, 'run_self_test', lambda: dict(test))
    monkeypatch.setitem(sys.modules, 'lasagne', None)
    monkeypatch.setattr(doctor, 'version', lambda name: 'not installed')
    report = doctor.examine()
    assert report['ok'] and 'No Lasagne' in report['notes'][-1]
    # there, and broken
    monkeypatch.setattr(doctor, 'version', lambda name: '0.1')
    report = doctor.examine()
    assert not report['ok']
    assert 'lasagne is missing' in report['problems'][0]['problem']


@pytest.mark.parametrize('wrong', ['no override', 'gradmod'])
@pytest.mark.parametrize('value', [.01, float('nan')])
def test_wrong_values(wrong, value):
    test = {'tolerance': 1e-6, 'no override': {'plain': 1e-7, 'guided': .3},
            'gradmod': {'plain': .3, 'guided': 1e-7}}
    assert doctor.judge(test) == []
    test[wrong]['plain'] = test[wrong]['guided'] = test['tolerance']
    assert doctor.judge(test) == []
    test[wrong] = {'plain': value, 'guided': value}
    ((problem, advice),) = doctor.judge(test)
    assert '%.2g of the largest' % value in problem
    assert ('BLAS' in advice) == (wrong == 'no override')


@pytest.mark.parametrize('value, words', [
    (float('nan'), 'NaN'), (float('inf'), 'Infinity')])
def test_wrong_values_in_json(monkeypatch, capsys, value, words):
    wrong = {'plain': value, 'guided': .3}
    monkeypatch.setattr(doctor, 'run_self_test', lambda: {
        'tolerance': 1e-6, 'no override': wrong, 'recipe': wrong})
    assert doctor.main(['--json']) == 1

    def refuse(constant):
        raise ValueError('not JSON: ' + constant)
    report = json.loads(capsys.readouterr().out, parse_constant=refuse)
    assert not report['ok'] and report['verdict'].startswith('gradmod does not')
    assert report['self-test']['no override'] == {'plain': words, 'guided': .3}


def test_recipe_verdict():
    for result, words in [
            ({'plain': 0., 'guided': .3}, 'is ignored'),
            ({'plain': .3, 'guided': 0.}, 'is used'),
            ({'plain': 1e-6, 'guided': .3}, 'is ignored'),
            ({'plain': .3, 'guided': 1e-6}, 'is used'),
            ({'plain': .3, 'guided': .3}, 'gives neither'),
            ('TypeError: no', 'fails (TypeError: no)')]:
        assert doctor.recipe_verdict(
            {'tolerance': 1e-6, 'recipe': result}).startswith(words)


@pytest.mark.skipif(os.name == 'nt', reason='needs a shell script')
@pytest.mark.parametrize('script, words', [
    ('kill -SEGV $$', 'crashed with signal 11'),
    ('kill -HUP $$', '^It crashed with signal 1.$'),
    ('for i in 1 2 3; do echo $i >&2; done; exit 1', '^3$'),
    ('printf %0400d 0 >&2; exit 1', '^0{300}$'),
    ('exec sleep 60', 'more than 0.2 seconds')])
def test_self_test_does_not_end(monkeypatch, tmp_path, script, words):
    python = tmp_path / 'python'
    python.write_text('#!/bin/sh\n%s\n' % script)
    python.chmod(0o755)
    monkeypatch.setattr(sys, 'executable', str(python))
    with pytest.raises(RuntimeError, match=words):
        doctor.run_self_test(.2 if 'sleep' in script else 60)


def test_facts_that_cannot_be_had(tmp_path):
    assert doctor.version('no_such_package') == 'not installed'
    assert doctor.compiler('') is None
    assert doctor.compiler('no-such-compiler') is None
    assert doctor.blas_threads('') is None
    assert doctor.blas_threads(
        '-L%s -lnone_such -lm' % tmp_path) == 'does not say'


def test_command_line(capsys):
    for arguments in ['--yes'], ['--fix', '--unfix'], ['--json', '--fix']:
        with pytest.raises(SystemExit):
            doctor.main(arguments)
        assert 'python -m gradmod: error' in capsys.readouterr().err


# Theano's settings

FLAGS = '-lopenblas'
OURS = '\n[blas]\nldflags = -lopenblas\n'


def options(text):
    parser = configparser.RawConfigParser()
    parser.read_string(text)
    return {name: dict(parser.items(name)) for name in parser.sections()}


@pytest.mark.parametrize('text', [
    None, '', '\n\n', '# a comment', '[global]\nfloatX = float32',
    '[global]\r\nfloatX = float32\r\n', '; one\n\n[gcc]\ncxxflags = -O2\n -g\n',
    '[blas]\nfoo = bar\n', '[global]\ndevice=cpu\n\n[blas]  # mine\n',
    '[blas]\r\n# \xe9\r\n', '[blas]\n\n[nvcc]\n'])
def test_setting_and_back(tmp_path, text):
    path = tmp_path / '.theanorc'
    if text is not None:
        path.write_bytes(text.encode('utf-8'))
        path.chmod(0o640)
    fix.carry_out([fix.add_setting(str(path), FLAGS)])
    expected = options(text or '')
    expected.setdefault('blas', {})['ldflags'] = FLAGS
    with open(str(path), encoding='utf-8', newline='') as f:
        new = f.read()
    assert options(new) == expected
    at = new.index('# python -m gradmod')
    assert new[:at] == (text or '')[:at]
    assert new.endswith((text or '')[at:])

    fix.carry_out([fix.remove_setting(str(path))])
    if text is None:
        assert not path.exists()
    else:
        assert path.read_bytes() == text.encode('utf-8')
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
        assert fix.remove_setting(str(path)) is None
    assert os.listdir(str(tmp_path)) == ([] if text is None else ['.theanorc'])


@pytest.mark.parametrize('before, edit, after', [
    (None, lambda s: s + '[gcc]\ncxxflags = -O2\n',
     '[gcc]\ncxxflags = -O2\n'),
    (None, lambda s: s + 'mine = 1\n', '[blas]\nmine = 1\n'),
    (None, lambda s: '[global]\nfloatX = float32\n' + s,
     '[global]\nfloatX = float32\n'),
    (None, lambda s: '[global]\nfloatX = float32\n' + s + 'mine = 1\n',
     '[global]\nfloatX = float32\n[blas]\nmine = 1\n'),
    ('# rc\n[blas]\n', lambda s: s + 'mine = 1\n', '# rc\n[blas]\nmine = 1\n'),
    ('[global]\nfloatX = float32\n', lambda s: s.replace('32', '64'),
     '[global]\nfloatX = float64\n'),
    ('[global]\nfloatX = float32\n', lambda s: s.replace('\n', '\r\n'),
     '[global]\r\nfloatX = float32\r\n'),
])
def test_back_after_an_edit(tmp_path, before, edit, after):
    path = tmp_path / 'rc'
    if before is not None:
        path.write_text(before)
    fix.carry_out([fix.add_setting(str(path), FLAGS)])
    path.write_bytes(edit(path.read_bytes().decode()).encode())
    fix.carry_out([fix.remove_setting(str(path))])
    assert path.read_bytes().decode() == after


@pytest.mark.parametrize('edit', [
    lambda s: s.replace('\nldflags = ' + FLAGS, '\nldflags = -lmkl_rt'),
    lambda s: s.replace('\nldflags', '\nother = 1\nldflags'),
    lambda s: ''.join(s.splitlines(True)[1:])])
def test_a_setting_that_became_the_users(tmp_path, edit):
    path = tmp_path / 'rc'
    fix.carry_out([fix.add_setting(str(path), FLAGS)])
    path.write_text(edit(path.read_text()))
    assert fix.remove_setting(str(path)) is None


@pytest.mark.parametrize('text', [
    '  [global]\nfloatX = float32\n',   # would continue our line
    '# mine\r[blas]\rfoo = 1\r',         # as Python reads it, three lines
    '[blas]\n  mine = 1\n',             # the same
    '[blas]'])                          # where would a line go?
def test_settings_that_cannot_be_added_to(tmp_path, text):
    path = tmp_path / 'rc'
    path.write_text(text)
    with pytest.raises(fix.Refusal, match='section .blas.'):
        fix.add_setting(str(path), FLAGS)


@pytest.mark.parametrize('edit', [
    lambda s: s + '[blas]\n',
    lambda s: s.replace('[blas]', '[gcc]')])
def test_settings_that_cannot_be_taken_back(tmp_path, edit):
    path = tmp_path / 'rc'
    path.write_text('[blas]\nmine = 1\n')
    fix.carry_out([fix.add_setting(str(path), FLAGS)])
    path.write_text(edit(path.read_text()))
    with pytest.raises(fix.Refusal, match='yourself'):
        fix.remove_setting(str(path))


# Writing

def test_a_link_stays_a_link(tmp_path):
    (tmp_path / 'dotfiles').mkdir()
    real = tmp_path / 'dotfiles' / 'rc'
    real.write_text('[global]\n')
    link = tmp_path / '.theanorc'
    link.symlink_to(real)
    fix.carry_out([fix.add_setting(str(link), FLAGS)])
    assert link.is_symlink() and FLAGS in real.read_text()
    fix.carry_out([fix.remove_setting(str(link))])
    assert link.is_symlink() and real.read_text() == '[global]\n'


@pytest.mark.skipif(os.name == 'nt', reason='needs users by number')
@pytest.mark.parametrize('user', [0, 1234])
def test_a_file_keeps_its_owner(tmp_path, monkeypatch, user):
    path = tmp_path / 'rc'
    path.write_text('old')
    path.chmod(0o640)
    before, calls = path.stat(), []
    owner = os.stat_result(tuple(before[:4]) + (1234, 5678) + tuple(before[6:]))
    stat_of = os.stat
    monkeypatch.setattr(os, 'stat', lambda name, *args, **kwargs: (
        owner if str(name) == str(path) else stat_of(name, *args, **kwargs)))
    monkeypatch.setattr(os, 'geteuid', lambda: user)
    monkeypatch.setattr(os, 'chown', lambda *args: calls.append(args))
    fix.write(str(path), b'new')  # others may not give files away
    assert calls == ([] if user else [(str(path) + '.gradmod', 1234, 5678)])
    assert path.read_text() == 'new'
    assert stat.S_IMODE(stat_of(str(path)).st_mode) == 0o640


@pytest.mark.parametrize('failing', [
    'folder', 'protected', 'late'])
def test_all_or_nothing(tmp_path, monkeypatch, failing):
    (tmp_path / 'file').write_text('old')
    one = fix.Change(str(tmp_path / 'one'), None, b'new', '')
    two = fix.Change(str(tmp_path / 'file'), b'old', b'new', '')
    three = fix.Change(str(tmp_path / 'three'), None, b'new', '')
    if failing == 'folder':  # a home that is not there
        three.path = str(tmp_path / 'none' / 'three')
    elif failing == 'protected':  # as root may do it all the same
        access = os.access
        monkeypatch.setattr(os, 'access', lambda path, mode: (
            path != two.path and access(path, mode)))
    else:  # such as a full disk
        replace = os.replace

        def fails(source, target):
            if target == three.path:
                raise OSError(28, 'No space left on device')
            replace(source, target)
        monkeypatch.setattr(os, 'replace', fails)
    before = snapshot(tmp_path)
    with pytest.raises(fix.Refusal):
        fix.carry_out([one, two, three])
    assert snapshot(tmp_path) == before


# --fix and --unfix

@pytest.fixture
def here(monkeypatch, tmp_path):
    """An environment and a home in this process."""
    for name in ('THEANO_FLAGS', 'THEANORC'):
        monkeypatch.delenv(name, raising=False)
    for name in ('HOME', 'USERPROFILE'):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setattr(fix, 'pth_file', lambda: str(tmp_path / fix.PTH))
    monkeypatch.setattr(fix, 'check_environment', lambda: None)
    monkeypatch.setattr(compat, 'ldflags', FLAGS)
    monkeypatch.setattr(compat, 'actions', ('Set ...',))
    return tmp_path


def test_fix_both(here, monkeypatch, capsys):
    rc = here / '.theanorc'
    rc.write_text('[global]\nfloatX = float32\n')
    before = snapshot(here)
    assert not fix.readied()
    assert fix.fix(yes=False) == 0
    assert snapshot(here) == before
    out = capsys.readouterr().out
    assert 'Would write %s' % (here / fix.PTH) in out
    assert 'Would write %s' % rc in out and '    ldflags = -lopenblas\n' in out
    assert out.splitlines()[-1].endswith('--fix --yes')

    assert fix.fix(yes=True) == 0
    assert capsys.readouterr().out.count('Wrote ') == 2
    assert compat.user_setting() == str(rc)
    assert fix.readied()

    # as compat finds things from then on
    monkeypatch.setattr(compat, 'ldflags', None)
    monkeypatch.setattr(compat, 'actions', ('It is set.', 'Scan.'))
    fixed = snapshot(here)
    for yes in False, True:
        assert fix.fix(yes) == 0
        assert 'Nothing to do' in capsys.readouterr().out
        assert snapshot(here) == fixed

    assert fix.unfix() == 0
    out = capsys.readouterr().out
    assert out.count('Removed ') == 2
    assert str(rc) in out and '-lopenblas' in out and fix.PTH in out
    assert snapshot(here) == before
    assert fix.unfix() == 0
    assert 'Nothing to remove' in capsys.readouterr().out


@pytest.mark.parametrize('flags', ['', '-L/env/scipy.libs -lopenblas', None])
def test_fix_leaves_settings(here, monkeypatch, capsys, flags):
    monkeypatch.setattr(compat, 'ldflags', flags)
    monkeypatch.setattr(compat, 'actions', ('Because.', 'Scan.'))
    assert fix.fix(yes=True) == 0
    assert os.listdir(str(here)) == [fix.PTH]
    out = capsys.readouterr().out
    assert ('Because.' if flags is None else 'Leaves ') in out


def test_fix_where_nothing_is_wrong(here, monkeypatch, capsys):
    monkeypatch.setattr(compat, 'ldflags', None)
    assert fix.readied()
    assert fix.fix(yes=True) == 0
    assert 'Nothing to do' in capsys.readouterr().out
    assert os.listdir(str(here)) == []


def test_fix_another_settings_file(here, monkeypatch):
    monkeypatch.setenv('THEANORC', os.pathsep.join(['~/mine', '~/other']))
    assert fix.fix(yes=True) == 0
    assert sorted(os.listdir(str(here))) == [fix.PTH, 'mine']
    assert fix.unfix() == 0
    assert os.listdir(str(here)) == []
    monkeypatch.setenv('THEANORC', '')
    assert fix.fix(yes=True) == 1
    assert os.listdir(str(here)) == []


def test_a_pth_of_somebody_else(here, capsys):
    (here / fix.PTH).write_text('/somewhere\n')
    assert fix.fix(yes=True) == 1
    assert 'Nothing was changed' in capsys.readouterr().out
    assert fix.unfix() == 0
    assert (here / fix.PTH).read_text() == '/somewhere\n'
    assert os.listdir(str(here)) == [fix.PTH]
    # one of an earlier gradmod is replaced
    (here / fix.PTH).write_text(fix.HEAD + 'import sys\n')
    assert fix.fix(yes=True) == 0
    assert (here / fix.PTH).read_text() == fix.pth_text()


def test_no_home_no_packages(here, monkeypatch, capsys):
    for name in ('HOME', 'USERPROFILE'):
        monkeypatch.setenv(name, str(here / 'none'))
    for yes in False, True:
        assert fix.fix(yes) == 1
        out = capsys.readouterr().out
        assert 'no folder' in out and 'Nothing was changed' in out
    monkeypatch.setattr(fix, 'pth_file', lambda: str(here / 'none' / fix.PTH))
    assert fix.fix(yes=True) == 1
    assert os.listdir(str(here)) == []


def test_not_in_an_environment(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, 'prefix', str(tmp_path))
    monkeypatch.setattr(sys, 'base_prefix', str(tmp_path / 'base'))
    fix.check_environment()
    monkeypatch.setattr(sys, 'base_prefix', str(tmp_path))
    with pytest.raises(fix.Refusal, match='not in a virtual environment'):
        fix.check_environment()
    (tmp_path / 'conda-meta').mkdir()
    fix.check_environment()


# The .pth file at work

def test_natural_order(environment):
    environment('-m', 'gradmod', '--fix')
    assert environment.status == 0 and environment.pth() == []
    home = snapshot(environment.home)
    environment('-m', 'gradmod', '--fix', '--yes')
    assert environment.status == 0 and environment.pth() == [fix.PTH]
    assert environment('-c', '''if 1:
        import theano.tensor as T
        import lasagne, sys, theano
        from theano.tensor.signal.downsample import max_pool_2d
        assert theano.tensor is T and sys.modules['theano'] is theano
        from gradmod import compat
        print(len(compat.actions), theano.config.blas.ldflags)
        ''').split(' ')[0] == str(len(compat.actions)), environment.err
    environment('-m', 'gradmod', '--unfix')
    assert environment.status == 0 and environment.pth() == []
    assert {name: data for name, data in snapshot(environment.home).items()
            if '.theano' + os.sep not in name} == home


GRADMOD = '''
    import builtins
    builtins.log = getattr(builtins, 'log', []) + ['gradmod']
    import theano
'''
THEANO = '''
    import builtins
    builtins.log = getattr(builtins, 'log', []) + ['theano']
    from . import part
'''
REPORT = '''
import sys
assert theano is sys.modules['theano'] and theano.part.parent is theano
assert type(theano.__loader__).__name__ == 'SourceFileLoader'
assert type(theano.__spec__.loader).__name__ == 'SourceFileLoader'
print(*log)
'''


@pytest.fixture
def readied(environment, package):
    """An environment with the file, and stand-ins for gradmod and Theano."""
    environment('-c', 'import sysconfig; print(sysconfig.get_path("purelib"))',
                packages=[])
    with open(os.path.join(environment.out.strip(), fix.PTH), 'w') as f:
        f.write(fix.pth_text())
    folder = package('theano', THEANO)
    with open(os.path.join(folder, 'theano', 'part.py'), 'w') as f:
        f.write('import theano as parent')

    def run(program):
        out = environment('-c', program, packages=[folder])
        assert environment.status == 0, environment.err
        assert environment.err == ''
        return out.split()
    return run


@pytest.mark.parametrize('program, log', [
    ('import theano', ['gradmod', 'theano']),
    ('import theano.part; import theano', ['gradmod', 'theano']),
    ('import gradmod; import theano', ['gradmod', 'theano']),
    ('import importlib.util; importlib.util.find_spec("theano");'
     'import theano', ['gradmod', 'theano'])])
def test_order(readied, package, program, log):
    package('gradmod', GRADMOD)
    assert readied(program + REPORT) == log


def test_without_gradmod(readied):
    assert readied('print(1)') == ['1']
    assert readied('import theano' + REPORT) == ['theano']


def test_reload(readied, package):
    package('gradmod', GRADMOD)
    assert readied('import importlib, theano; importlib.reload(theano)'
                   + REPORT) == ['gradmod', 'theano', 'theano']


def test_without_theano(readied, package, tmp_path):
    package('gradmod', GRADMOD)
    os.rename(str(tmp_path / 'packages' / 'theano'), str(tmp_path / 'gone'))
    assert readied('''if 1:
        try:
            import theano
        except ModuleNotFoundError as error:
            print(error.name)''') == ['theano']


def test_a_theano_that_fails(readied, package, tmp_path):
    package('gradmod', GRADMOD)
    path = tmp_path / 'packages' / 'theano' / 'part.py'
    path.write_text('raise KeyError("first")')
    program = '''if 1:
        import sys
        for _ in range(2):
            try:
                import theano
            except KeyError as error:
                print(error.args[0], 'theano' in sys.modules)'''
    assert readied(program) == ['first', 'False'] * 2


def test_it_is_run_twice(readied):
    # as Python does in a virtual environment
    assert readied('''if 1:
        import sys
        names = [type(finder).__name__ for finder in sys.meta_path]
        print(names.count('GradmodFinder'))''') == ['1']


# The finder once more, in this process

@pytest.fixture
def readied_here(package, monkeypatch):
    """What `readied` is, in this process; the real modules are put back."""
    folder = package('theano', THEANO)
    with open(os.path.join(folder, 'theano', 'part.py'), 'w') as f:
        f.write('import theano as parent')
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setattr(builtins, 'log', [], raising=False)

    class Finder:
        def find_spec(self, name, path=None, target=None):
            if name == 'theano':
                return finder.find_spec(self, name, path, target)

    monkeypatch.setattr(sys, 'meta_path', [Finder()] + sys.meta_path)
    with mock.patch.dict(sys.modules):
        for name in list(sys.modules):
            if name.split('.')[0] in ('gradmod', 'theano'):
                del sys.modules[name]

        def run(program, gradmod):
            if gradmod is None:
                sys.modules['gradmod'] = None  # as if it were not there
            else:
                package('gradmod', gradmod)
            exec(program + REPORT.replace('print(*log)', ''), {})
            assert (Finder in map(type, sys.meta_path)) == (gradmod is None)
            return builtins.log
        yield run


@pytest.mark.parametrize('program, log', [
    ('import theano', ['gradmod', 'theano']),
    ('import gradmod; import theano', ['gradmod', 'theano']),
    ('import importlib, theano; importlib.reload(theano)',
     ['gradmod', 'theano', 'theano']),
    # found before, and made afterwards: it is what was imported
    ('import importlib.util; spec = importlib.util.find_spec("theano");'
     'import theano; made = importlib.util.module_from_spec(spec);'
     'spec.loader.exec_module(made); assert made is theano',
     ['gradmod', 'theano'])])
def test_order_here(readied_here, program, log):
    assert readied_here(program, GRADMOD) == log


def test_order_here_with_another_gradmod(readied_here):
    assert readied_here('import theano', None) == ['theano']


def test_a_gradmod_that_imports_no_theano(readied_here):
    assert readied_here('import theano', 'log.append("gradmod")') == [
        'gradmod', 'theano']


def test_what_the_finder_leaves_to_others(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    # The first is no finder of today's kind.
    monkeypatch.setattr(sys, 'meta_path', [object()] + sys.meta_path)
    assert finder.find_spec(None, 'no_such_module', None, None) is None
    (tmp_path / 'only_a_folder').mkdir()
    spec = finder.find_spec(None, 'only_a_folder', None, None)
    assert list(spec.submodule_search_locations) == [
        str(tmp_path / 'only_a_folder')]
    assert not isinstance(spec.loader, finder.Loader)


# What does not come up in a whole and healthy installation

def test_importing_the_program_runs_nothing(capsys):
    assert importlib.import_module('gradmod.__main__').main is doctor.main
    assert capsys.readouterr().out == ''


def test_versions(monkeypatch, package):
    # imported, and without a specification
    odd = types.ModuleType('odd_module')
    odd.__version__ = '7.1'
    monkeypatch.setitem(sys.modules, 'odd_module', odd)
    assert doctor.version('odd_module') == '7.1'

    # what a package does not say, its distribution does
    monkeypatch.syspath_prepend(package('of_no_distribution', ''))
    known = doctor.version('lasagne')
    monkeypatch.delattr('lasagne.__version__')
    for _ in range(2):
        assert doctor.version('lasagne') == known
        assert doctor.version('of_no_distribution') == 'unknown'
        # the same without importlib.metadata, as on Python 3.6 and 3.7
        monkeypatch.delattr(importlib, 'metadata', raising=False)
        monkeypatch.setitem(sys.modules, 'importlib.metadata', None)


def test_programs_that_fail(tmp_path):
    assert 'No such file' in doctor.first_line([str(tmp_path / 'none')])
    assert 'exit status 3' in doctor.first_line(
        [sys.executable, '-c', 'raise SystemExit(3)'])


def test_blas_threads(tmp_path):
    for name, code, words in [
            ('mkl', 'int MKL_Get_Max_Threads() { return 3; }',
             'MKL, threads: 3'),
            ('open', 'const char *openblas_get_config() { return "Mine 1.2"; }'
             'int openblas_get_num_threads() { return 5; }',
             'Mine 1.2, threads: 5'),
            ('other', 'int get_num_threads() { return 7; }',
             'does not say')]:
        (tmp_path / 'blas.cpp').write_text('extern "C" { %s }' % code)
        subprocess.check_call(['g++', '-shared', '-fPIC', 'blas.cpp', '-o',
                               'lib%s.so' % name], cwd=str(tmp_path))
        for flag in '-l' + name, '-l:lib%s.so' % name:
            assert doctor.blas_threads('-L%s -lm %s' % (
                tmp_path, flag)) == words


def test_import_order(here, monkeypatch):
    assert 'makes it any' in doctor.import_order()
    assert fix.fix(yes=True) == 0
    assert doctor.import_order() == 'any'
    monkeypatch.setattr(fix, 'pth_file', lambda: str(here))
    assert doctor.import_order().startswith(
        'gradmod before Theano. %s cannot be read: ' % here)


def test_what_the_recipe_means_to_compute():
    z, g = np.meshgrid(np.float32([-2, 0, 3]), np.float32([-1, 0, 5]))
    zs, gs = T.fmatrices('zg')
    # Theano 1.0 does not call it
    (gradient,) = doctor.recipe(T.nnet.relu, zs).grad([zs], [gs])
    assert gradient.dtype == 'float32'
    assert np.array_equal(gradient.eval({zs: z, gs: g}),
                          np.where((z > 0) & (g > 0), g, 0))


def test_self_test_without_the_recipe(monkeypatch, capsys):
    def recipe(rectify, z):
        raise ValueError('no\nmore')
    monkeypatch.setattr(doctor, 'recipe', recipe)
    times = iter([10., 12.346])
    monkeypatch.setattr(doctor, 'time', types.SimpleNamespace(
        time=lambda: next(times)))
    doctor.self_test()
    result = json.loads(
        capsys.readouterr().out.split('\n' + doctor.RESULT)[1])
    assert result['recipe'] == 'ValueError: no'
    assert result['seconds'] == 2.35
    assert result['tolerance'] == 50 * np.finfo(theano.config.floatX).eps
    assert result['no override']['plain'] < result['tolerance']
    assert result['gradmod']['guided'] < result['tolerance']
    assert result['gradmod']['plain'] > .1


@pytest.mark.skipif(os.name == 'nt', reason='needs a shell script')
def test_self_test_says_nothing(monkeypatch, tmp_path):
    python = tmp_path / 'python'
    python.write_text('#!/bin/sh\necho Theano chats\n')
    python.chmod(0o755)
    monkeypatch.setattr(sys, 'executable', str(python))
    with pytest.raises(RuntimeError, match='^It printed no result.$'):
        doctor.run_self_test()


def test_without_numpy_it_is_not_too_new(monkeypatch):
    monkeypatch.setitem(sys.modules, 'numpy', None)
    assert doctor.numpy_is_too_new() is False


def test_a_self_test_that_fails_for_no_known_reason():
    problem, advice = doctor.explain_self_test(
        RuntimeError('Bad luck.'),
        {'blas.ldflags': '', 'cxx': 'g++', 'compiler': 'g++'})
    assert problem == 'The self-test did not end. Bad luck.'
    assert 'THEANO_FLAGS=blas.ldflags= ' in advice


def test_flags_that_do_not_link(monkeypatch):
    def explained(compiler='g++', flags='-lmine', links=False, where=None):
        monkeypatch.setattr(compat, 'links', lambda flags: links)
        monkeypatch.setattr(compat, 'user_setting', lambda: where)
        return doctor.explain_self_test(
            RuntimeError('Bad luck.'),
            {'blas.ldflags': flags, 'cxx': compiler, 'compiler': compiler})[0]
    unknown = 'The self-test did not end. Bad luck.'
    assert explained(compiler='') == explained(flags='') == unknown
    assert explained(links=True) == unknown
    assert explained(where='the file').endswith(
        'blas.ldflags = -lmine, set in the file.')
    assert explained().endswith('-lmine, which Theano found.')


def test_unknown_errors(monkeypatch):
    monkeypatch.setenv('THEANO_FLAGS', 'floatX=float16')
    problem, advice = doctor.explain(ValueError('%0400d' % 0))
    assert problem == 'ValueError: ' + 300 * '0'
    assert 'THEANO_FLAGS (floatX=float16)' in advice
    monkeypatch.delenv('THEANO_FLAGS')
    assert 'THEANO_FLAGS (not set)' in doctor.explain(ValueError())[1]


def test_a_self_test_that_takes_too_long(monkeypatch):
    def wait(*_, timeout, **__):
        raise subprocess.TimeoutExpired('python', timeout)
    monkeypatch.setattr(subprocess, 'run', wait)
    monkeypatch.setattr(doctor, 'gather', lambda failure: {
        'cxx': '', 'compiler': None, 'blas.ldflags': '', 'device': 'cpu',
        'lasagne': 'not installed'})
    report = doctor.examine()
    assert not report['ok'] and report['self-test'] is None
    assert 'more than 600 seconds' in report['problems'][0]['problem']


def test_remarks(monkeypatch):
    facts = {'cxx': 'g++', 'compiler': 'g++', 'blas.ldflags': '-lopenblas',
             'lasagne': '0.1', 'device': 'cpu'}
    assert doctor.remarks(facts) == []
    facts['blas.ldflags'] = ''
    (note,) = doctor.remarks(facts)
    assert note.startswith('No BLAS: ')
    facts.update({'blas.ldflags': '-lopenblas', 'device': 'cuda0'})
    for back_end, notes in [
            (None, ['The device cuda0 did not start: Theano uses the CPU.']),
            (types.SimpleNamespace(pygpu_activated=False),
             ['The device cuda0 did not start: Theano uses the CPU.']),
            (types.SimpleNamespace(pygpu_activated=True), [])]:
        monkeypatch.setitem(sys.modules, 'theano.gpuarray', back_end)
        assert doctor.remarks(facts) == notes


def test_write_leaves_nothing_behind(tmp_path):
    # neither where its own file cannot be made, nor where it cannot be moved
    with pytest.raises(FileNotFoundError):
        fix.write(str(tmp_path / 'none' / 'file'), b'new')
    (tmp_path / 'folder').mkdir()
    with pytest.raises(OSError):
        fix.write(str(tmp_path / 'folder'), b'new')
    assert os.listdir(str(tmp_path)) == ['folder']


def test_unfix_refuses(here, capsys):
    assert fix.fix(yes=True) == 0
    rc = here / '.theanorc'
    rc.write_text(rc.read_text() + '[blas]\n')  # the section twice
    before = snapshot(here)
    assert set(before) == {str(rc), str(here / fix.PTH)}
    assert fix.unfix() == 1
    out = capsys.readouterr().out
    assert 'delete the line that gradmod wrote yourself' in out
    assert out.splitlines()[-1] == 'Nothing was changed.'
    assert snapshot(here) == before


def test_the_environment_counts_where_the_file_is_missing(here, monkeypatch):
    monkeypatch.setattr(compat, 'ldflags', None)
    monkeypatch.setattr(compat, 'actions', ('It is set.', 'Scan.'))
    assert fix.fix(yes=True) == 0

    def refuse():
        raise fix.Refusal('Not in this environment.')
    monkeypatch.setattr(fix, 'check_environment', refuse)
    assert fix.fix(yes=True) == 0  # it is there
    assert fix.unfix() == 0
    assert fix.fix(yes=True) == 1
    assert os.listdir(str(here)) == []


@pytest.mark.skipif(os.name == 'nt', reason='needs a shell script')
def test_a_compiler_with_arguments(tmp_path):
    program = tmp_path / 'cxx'
    program.write_text('#!/bin/sh\necho one $1\necho two\necho three\n')
    program.chmod(0o755)
    assert doctor.compiler('%s -O2' % program) == '%s, one --version' % program


def test_blas_threads_in_another_folder(tmp_path):
    (tmp_path / 'blas.cpp').write_text(
        'extern "C" int MKL_Get_Max_Threads() { return 3; }')
    subprocess.check_call(['g++', '-shared', '-fPIC', 'blas.cpp', '-o',
                           'libmine.so'], cwd=str(tmp_path))
    assert doctor.blas_threads('-L%s -L%s -lmine' % (
        tmp_path / 'none', tmp_path)) == 'MKL, threads: 3'


def test_backward_at_zero():
    x, weights = np.zeros((1, 2)), [np.ones((2, 3))]
    for guided in False, True:
        assert not doctor.backward(x, weights, guided).any()
        assert (doctor.backward(x + 1, weights, guided) == 3).all()


def test_the_recipe_near_zero():
    z, g = np.meshgrid(np.float32([-.5, .5]), np.float32([-.5, .5]))
    zs, gs = T.fmatrices('zg')
    (gradient,) = doctor.recipe(T.nnet.relu, zs).grad([zs], [gs])
    assert np.array_equal(gradient.eval({zs: z, gs: g}), [[0, 0], [0, .5]])
