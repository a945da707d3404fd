"""Tests of what happens before Theano is imported.

Most of it can happen only once in a process, so it happens in processes of
their own, each with an empty home and no settings but those given.
"""
import json
import os
import subprocess
import sys
import types
from unittest import mock

import numpy as np
import pytest

from gradmod import compat

import theano
import theano.tensor as T

from .conftest import ROOT
from .internals import is_same_graph

FLAG = compat.blas_flag()
QUICK = 'cxx=,'  # a Theano that compiles nothing, where BLAS is not the point

# Programs find `report` defined, which hands results to the test.
PRELUDE = '''
import json, os, sys
def report(**results):
    from gradmod import compat
    import theano
    print(json.dumps(dict(results, ldflags=theano.config.blas.ldflags,
                          flags=os.environ.get('THEANO_FLAGS'),
                          chosen=compat.ldflags, actions=compat.actions)))
'''


@pytest.fixture
def python(start):
    """Run a program elsewhere; return what it reports and its stderr."""
    def run(program='import gradmod; report()', flags='', **settings):
        status, out, err = start('-c', PRELUDE + program, flags=flags,
                                 **settings)
        assert status == 0, err
        return json.loads(out.splitlines()[-1]), err
    return run


@pytest.fixture
def unset(monkeypatch, tmp_path):
    """No setting by the user, in this process."""
    for name in ('THEANO_FLAGS', 'THEANORC'):
        monkeypatch.delenv(name, raising=False)
    for name in ('HOME', 'USERPROFILE'):
        monkeypatch.setenv(name, str(tmp_path))


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Write a package, importable during the test."""
    # This also puts back the modules of that name that there were.
    with mock.patch.dict(sys.modules):
        def write(name, init=''):
            for known in list(sys.modules):
                if known.split('.')[0] == name:
                    del sys.modules[known]
            folder = tmp_path / 'site' / name
            folder.mkdir(parents=True)
            (folder / '__init__.py').write_text(init)
            monkeypatch.syspath_prepend(str(folder.parent))
            return folder
        yield write


RIGHT = 'a[i + p * *lda] * b[p + j * *ldb]'


@pytest.fixture
def library(tmp_path):
    """Compile a small OpenBLAS, right or wrong."""
    def build(path, config='OpenBLAS', gemm=RIGHT, without='nothing'):
        source = f'''
            extern "C" {{
            const char *openblas_get_config() {{ return "{config}"; }}
            int openblas_get_num_threads() {{ return 1; }}
            void openblas_set_num_threads(int n) {{}}
        '''
        for name, real in ('sgemm_', 'float'), ('dgemm_', 'double'):
            source += f'''
            void {name}(char *ta, char *tb, int *m, int *n, int *k, {real} *alpha,
                    {real} *a, int *lda, {real} *b, int *ldb, {real} *beta,
                    {real} *c, int *ldc) {{
                for (int i = 0; i < *m; i++) for (int j = 0; j < *n; j++) {{
                    {real} &sum = c[i + j * *ldc];
                    sum = *beta || *ta != 'N' || *tb != 'N';
                    for (int p = 0; p < *k; p++)
                        sum += *alpha * ({gemm});
                }}
            }}'''
        code = tmp_path / 'blas.cpp'
        code.write_text(source.replace(without, 'something_else') + '}')
        path = tmp_path / path
        path.parent.mkdir(parents=True, exist_ok=True)
        subprocess.check_call([
            'g++', '-shared', '-fPIC', str(code), '-o', str(path),
            '-Wl,-soname,libopenblas.so.0'])
        return str(path)
    return build


# The whole, on this installation

@pytest.mark.slow
def test_what_is_chosen(python, start):
    flags = 'linker=py,optimizer=fast_compile'
    result, err = python('import gradmod, lasagne; report()', flags=flags)
    found = result['actions'][0].split('OpenBLAS in ')
    assert result['chosen'] == (result['ldflags'] if found[1:] else None)
    if len(found) == 2:
        assert 'openblas' in result['ldflags']
        assert result['flags'] == f'{FLAG}={result["ldflags"]},{flags}'
        assert compat.links(result['ldflags'])
        assert compat.works(found[1][:-1])
    if result['ldflags']:
        assert 'BLAS' not in err

    # A process that this one starts need not know of gradmod.
    _, out, _ = start('-c', f'import theano; print(theano.config.{FLAG})',
                      flags=result['flags'])
    assert out == result['ldflags'] + '\n'


@pytest.mark.slow
def test_a_setting_stands(python, tmp_path):
    flags = QUICK + f'{FLAG}='
    result, _ = python(flags=flags)
    assert result['ldflags'] == '' and result['flags'] == flags
    assert 'THEANO_FLAGS' in result['actions'][0]

    rc = tmp_path / '.theanorc'
    rc.write_text('[blas]\nldflags = -lm\n')
    result, _ = python(flags=QUICK)
    assert result['ldflags'] == '-lm' and result['flags'] == QUICK
    assert str(rc) in result['actions'][0]


@pytest.mark.slow
def test_too_late_for_blas(python):
    flags = QUICK + f'{FLAG}='  # as some numpy need
    result, _ = python('''
import theano
import gradmod, lasagne
from theano.tensor.signal.downsample import max_pool_2d
report()''', flags)
    assert result['flags'] == flags
    assert result['ldflags'] == ''
    assert 'imported before' in result['actions'][0]
    told = any('scan' in said for said in result['actions'])
    assert told == (sys.version_info >= (3, 11))


def test_no_compiler_no_blas(python, tmp_path):
    result, _ = python(PATH=str(tmp_path))
    assert result['ldflags'] == ''
    assert [result['flags'], result['chosen']] == (
        [f'{FLAG}=,', ''] if compat.numpy_blas() is None else [None, None])


@pytest.mark.slow
def test_a_system_library(python, library, tmp_path):
    there = tmp_path / 'lib'
    there.mkdir()
    (there / 'libopenblas.so.0').write_text('/* no library */')
    settings = dict(flags=QUICK, LD_LIBRARY_PATH=str(there),
                    LIBRARY_PATH=str(there))
    result, _ = python(**settings)
    assert 'libopenblas.so.0.' not in result['actions'][0]

    (there / 'libopenblas.so').symlink_to(library('lib/libopenblas.so.0'))
    result, _ = python(**settings)
    assert result['ldflags'] == result['chosen'] == '-lopenblas'
    assert result['actions'][0].endswith(' libopenblas.so.0.')


# Where the user has set what

@pytest.mark.parametrize('flags, there', [
    ('', False), ('blas.ldflags=', True),
    ('floatX=float32, blas.ldflags=-lmkl_rt', True),
    ('blas.ldflags=-L/a -Wl\\,-rpath\\,/a,device=cpu', True),
    ('"blas.ldflags=-L/a b"', True),
    ('blas.ldflags', False),
    ('floatX=float32,,', False),
    ('base_compiledir=/a/blas.ldflags=', False),
    ('compiledir_format=a\\,blas.ldflags=b', False),
])
def test_user_setting_in_theano_flags(unset, monkeypatch, flags, there):
    flags = flags.replace('blas.ldflags', FLAG)
    monkeypatch.setenv('THEANO_FLAGS', flags)
    assert compat.user_setting() == ('THEANO_FLAGS' if there else None)
    # as Theano reads it
    parsed = theano.configparser.parse_config_string(flags, False)
    assert (FLAG in parsed) == there


def test_user_setting_in_files(unset, monkeypatch, tmp_path):
    (tmp_path / 'one').write_text('[global]\nfloatX = float32\n')
    (tmp_path / 'two').write_text('[blas]\nldflags =\n')
    (tmp_path / '.theanorc.txt').write_text('[blas]\nldflags =\n')
    assert compat.user_setting() is None
    monkeypatch.setattr(sys, 'platform', 'win32')
    assert compat.user_setting() == str(tmp_path / '.theanorc.txt')
    monkeypatch.setenv('THEANORC', os.pathsep.join(['~/none', '~/one']))
    assert compat.user_setting() is None
    monkeypatch.setenv('THEANORC', os.pathsep.join(['~/two', '~/one']))
    assert compat.user_setting() == f'{tmp_path / "two"}, {tmp_path / "one"}'


# Which BLAS

def test_a_wrong_library_does_not_work(library, tmp_path):
    assert compat.works(library('right.so'))
    (tmp_path / 'text.so').write_text('/* no library */')
    assert not compat.works(str(tmp_path / 'text.so'))
    assert not compat.works(str(tmp_path / 'none.so'))
    for i, wrong in enumerate([
            dict(gemm=RIGHT + ' + (sizeof(*a) < 8)'),  # of floats alone
            dict(gemm=RIGHT + ' + (sizeof(*a) == 8)'),
            # the last number alone
            dict(gemm=RIGHT + ' + (i + 1 == *m && j + 1 == *n)'),
            dict(gemm='a[p + i * *k] * b[j + p * *n]'),
            dict(gemm='a[i + (*k - 1 - p) * *lda] * b[p + j * *ldb]'),
            dict(gemm='a[i + p / 8 * 8 * *lda] * b[p + j * *ldb]'),
            dict(config='OpenBLAS 0.3.21 USE64BITINT'),
            *(dict(without=name) for name in (
                'openblas_get_config', 'openblas_get_num_threads',
                'openblas_set_num_threads', 'sgemm_', 'dgemm_'))]):
        assert not compat.works(library(f'wrong{i}.so', **wrong))


def test_links(library, tmp_path, monkeypatch):
    library('libmine.so')
    assert compat.links('-L%s -lmine' % tmp_path)
    assert not compat.links('-L%s -lyours' % tmp_path)
    monkeypatch.setenv('PATH', str(tmp_path))
    assert not compat.links('-L%s -lmine' % tmp_path)


def test_candidates(monkeypatch, tmp_path):
    """numpy before scipy, each with folders beside and inside the package."""
    def spec(*folders):
        return types.SimpleNamespace(
            submodule_search_locations=list(map(str, folders)) or None)
    first, last = [('libopenblas.so.0', flags)
                   for flags in ('-lopenblas', '-l:libopenblas.so.0')]
    found, expected = {}, []
    monkeypatch.setattr(compat.importlib.util, 'find_spec', found.get)
    for name in 'numpy', 'scipy':
        found[name] = spec(tmp_path / name)
        for inside in tmp_path / f'{name}.libs', tmp_path / name / '.libs':
            inside.mkdir(parents=True)
            for library in 'openblasp-r0-1f.3.9.dev', 'gfortran':
                (inside / f'lib{library}.so').write_text('')
            expected.append((f'{inside}/libopenblasp-r0-1f.3.9.dev.so',
                             f'-L{inside} -lopenblasp-r0-1f.3.9.dev'))
    assert list(compat.candidates()) == [first, *expected, last]
    for scipy in None, spec():  # a scipy.py
        found['scipy'] = scipy
        assert list(compat.candidates()) == [first, *expected[:2], last]
    # what a setting cannot have in it
    for name in ('a b', 'a,b', 'a:b', "a'b", 'a"b', 'a\\b', 'a$b', 'a#b',
                 '\xe9'):
        libs = tmp_path / name / 'numpy.libs'
        libs.mkdir(parents=True)
        (libs / 'libopenblas.so').write_text('')
        found['numpy'] = spec(tmp_path / name / 'numpy')
        assert list(compat.candidates()) == [first, last], name


def test_theano_finds(tmp_path, package):
    info = dict(libraries=['mine'], library_dirs=[str(tmp_path)])
    assert not compat.theano_finds({})
    assert not compat.theano_finds(info)
    (tmp_path / 'libmine.so').write_text('')
    assert compat.theano_finds(info)
    assert not compat.theano_finds(dict(info, library_dirs=['/none']))
    package('mkl')
    assert compat.theano_finds({})


def test_choose_blas(unset, monkeypatch, library, tmp_path):
    def choose(info, candidates):
        monkeypatch.setattr(compat, 'numpy_blas', lambda: info)
        monkeypatch.setattr(compat, 'candidates', lambda: candidates)
        return compat.choose_blas()

    monkeypatch.delitem(sys.modules, 'theano')
    right, wrong = library('libright.so'), library('libwrong.so', gemm='1')
    flags = f'-L{tmp_path} -l'
    candidates = [('none', '-lnone'), (wrong, flags + 'wrong'),
                  (right, flags + 'missing'), (right, flags + 'right')]
    for info in None, {}:
        found, said = choose(info, candidates)
        assert found == flags + 'right' and right in said
    own = dict(libraries=['right'], library_dirs=[str(tmp_path)])
    assert choose(own, candidates)[0] is None
    assert choose({}, candidates[:3])[0] is None
    assert choose(None, candidates[:3])[0] == ''


# How Theano is told

@pytest.mark.parametrize('before', [None, '', 'floatX=float32'])
def test_import_theano(unset, monkeypatch, package, before):
    package('theano', """
from .config import FLAGS
if 'blas.ldflags=-L/a -lb' not in FLAGS:
    raise AttributeError('blas_opt_info')
""").joinpath('config.py').write_text(
        'import os\nFLAGS = os.environ.get("THEANO_FLAGS", "")')
    if before is not None:
        monkeypatch.setenv('THEANO_FLAGS', before)
    with pytest.raises(AttributeError, match='blas_opt_info'):
        compat.import_theano('')
    assert os.environ.get('THEANO_FLAGS') == before
    with pytest.raises(AttributeError, match='blas_opt_info'):
        import theano  # noqa: F401
    compat.import_theano('-L/a -lb')  # though it failed before
    after = f'blas.ldflags=-L/a -lb,{before or ""}'
    assert sys.modules['theano'].FLAGS == os.environ['THEANO_FLAGS'] == after


# Theano-PyMC

@pytest.mark.parametrize('source, with_graph, flag, overwritten', [
    ('', False, 'blas.ldflags', False),
    ('', True, 'blas.ldflags', True),
    ('change_flags = config.change_flags', True, 'blas__ldflags', False),
])
def test_is_pymc(unset, monkeypatch, package, source, with_graph, flag,
                 overwritten):
    folder = package('theano', 'if 0:\n ' + (source or 'pass'))
    if with_graph:
        (folder / 'graph').mkdir()
    assert compat.is_pymc() == (flag == 'blas__ldflags')
    assert compat.is_overwritten() == overwritten
    advice = compat.advise(RuntimeError('any'))
    assert ('uninstall -y Theano Theano-PyMC' in advice) == overwritten
    compat.import_theano('-lb')
    assert os.environ['THEANO_FLAGS'] == f'{flag}=-lb,'
    for name in 'blas.ldflags', 'blas__ldflags':
        monkeypatch.setenv('THEANO_FLAGS', f'{name}=-lb')
        assert compat.user_setting() == (
            'THEANO_FLAGS' if name == flag else None)


def test_names_for_lasagne():
    from theano.sandbox.rng_mrg import MRG_RandomStreams
    x, y = T.vectors('xy')
    assert isinstance(x, theano.Variable)
    assert isinstance(x, theano.gof.Variable)
    assert list(theano.gof.graph.inputs([T.exp(x) + y])) == [x, y]
    assert MRG_RandomStreams(1).uniform((2,)).ndim == 1


# Scan

@pytest.mark.parametrize('name, init', [
    ('scan_module', ''), ('scan', '# config.change_flags')])
def test_set_scan(monkeypatch, package, name, init):
    extension = f'theano.{name}.scan_perform_ext'
    code = package('theano', init) / name / 'c_code'
    code.mkdir(parents=True)
    for version, source, told in [
            ((3, 11, 7), None, False),
            ((3, 10, 13), '#include "longintrepr.h"', False),
            ((3, 11, 7), '#include "mended.h"', False),
            ((3, 11, 7), '#include "longintrepr.h"', True)]:
        if source:
            (code / 'scan_perform.c').write_text(source)
        monkeypatch.setattr(sys, 'version_info', version)
        assert bool(compat.set_scan()) == told == (extension in sys.modules)
    assert sys.modules[extension] is None
    assert compat.set_scan() is None  # once


# Lasagne 0.1

def test_downsample():
    from theano.tensor.signal import downsample, pool
    x = T.tensor4()
    a = np.random.RandomState(1).randn(2, 3, 6, 7).astype(theano.config.floatX)
    f = theano.function([x], downsample.max_pool_2d(x, (2, 3), True))
    assert np.array_equal(
        f(a), a[..., :6].reshape(2, 3, 3, 2, 2, 3).max((3, 5)))
    for mode in ('max', 'average_inc_pad', 'average_exc_pad'):
        assert is_same_graph(
            downsample.max_pool_2d(x, ds=(3, 2), ignore_border=True,
                                   st=(1, 2), padding=(1, 0), mode=mode),
            pool.pool_2d(x, ws=(3, 2), ignore_border=True,
                         stride=(1, 2), pad=(1, 0), mode=mode))
    assert compat.set_downsample() is None  # as it is there already
    assert sys.modules['theano.tensor.signal.downsample'] is downsample


# What cannot be imported

def test_advice(unset, monkeypatch):
    for error, words in [
            (ModuleNotFoundError('No', name='scipy.linalg'), [
                'scipy.linalg is missing', f'"{sys.executable}" -m pip install '
                '"numpy<1.24" "scipy<1.12" "setuptools<80.9" Theano']),
            (Exception('Compilation failed\nPython.h: No such'), [
                'python3-dev']),
            (ValueError('%0400d' % 0), [
                f"ValueError: {288 * '0'} -", str(compat.settings_files()[0]),
                'THEANO_FLAGS=base_compiledir='])]:
        for word in words:
            assert word in compat.advise(error)
    error = AttributeError("module 'numpy' has no attribute 'bool'")
    for version, new in [('1.9.3', False), ('1.23.5', False), ('1.24.0', True),
                         ('2.0.0rc1', True)]:
        monkeypatch.setattr(np, '__version__', version)
        said = compat.advise(error)
        assert (f'numpy {version} is too new' in said) == new
        assert ('install "numpy<1.24"' in said) == new
    monkeypatch.delattr(np, '__version__')  # a folder of that name
    assert 'too new' not in compat.advise(error)


@pytest.mark.parametrize('name, text, flags', [
    ('theano', 'x = 1', ''), ('theano', 'import theano\ntheano.tensor', ''),
    ('numpy', '', ''), ('numpy', '', f'{FLAG}='),
    ('scipy', 'raise KeyError', QUICK)])
def test_a_file_that_hides_a_package(start, tmp_path, name, text, flags):
    path = tmp_path / f'{name}.py'
    path.write_text(text)
    status, _, err = start('-m', 'gradmod', flags=flags)
    assert status == 1
    assert err.splitlines()[-1].startswith(
        f'ImportError: {path} hides the package {name}. Rename that file')


@pytest.mark.parametrize('said, cause', [
    ('AttributeError: bad luck', 'AttributeError: bad luck'),
    ('Theano was installed over Theano-PyMC', 'both Theano and Theano-PyMC')])
def test_everybody_gets_the_advice(start, package, said, cause):
    folder = package('theano', 'raise AttributeError("bad luck")')
    if cause not in said:
        (folder / 'graph').mkdir()
    status, _, err = start('-c', 'import gradmod', PYTHONPATH=os.pathsep.join(
        [str(folder.parent), ROOT]))
    assert status == 1
    assert err.splitlines()[-1].startswith(f'ImportError: {said}')
    assert f'{cause}\n\nThe above exception was' in err


@pytest.mark.skipif(compat.is_pymc(), reason='Theano-PyMC makes the folder, '
                    'and says that it cannot, when it first compiles')
def test_settings_of_no_use(start, tmp_path):
    def check(*words, **settings):
        status, _, err = start('-c', 'import gradmod', **settings)
        last = err.splitlines()[-1]
        assert status == 1 and last.startswith('ImportError: ')
        assert all(word in last for word in words), last
    (tmp_path / 'file').write_text('')
    check('Unable to create the compiledir directory',
          'THEANO_FLAGS=base_compiledir=FOLDER',
          flags=f'base_compiledir={tmp_path / "file" / "theano"}')
    rc = tmp_path / '.theanorc'
    rc.write_text('floatX = float32\n')
    check('Error: File contains no section', str(rc))
    check('/none/g++', 'THEANO_FLAGS', THEANORC='',
          flags=f'base_compiledir={tmp_path},cxx=/none/g++')
