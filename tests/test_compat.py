"""Tests of what happens before Theano is imported.

Most of it can happen only once in a process, so it happens in processes of
their own, each with an empty home and no settings but those given.
"""
import json
import os
import subprocess
import sys
from unittest import mock

import numpy as np
import pytest

from gradmod import compat

import theano
import theano.tensor as T
from theano.gof.graph import is_same_graph

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(compat.__file__)))
QUICK = 'cxx=,'  # a Theano that compiles nothing, where BLAS is not the point

# Programs find `report` defined, which hands results to the test.
PRELUDE = '''
import json, os, sys
def report(**results):
    from gradmod import compat
    import theano
    print(json.dumps(dict(results, ldflags=theano.config.blas.ldflags,
                          flags=os.environ.get('THEANO_FLAGS'),
                          actions=compat.actions)))
'''


@pytest.fixture
def python(tmp_path):
    """Run a program elsewhere; return what it reports and its stderr."""
    def run(program, flags='', **settings):
        env = {name: value for name, value in os.environ.items()
               if not name.startswith('THEANO')}
        env.update(HOME=str(tmp_path), USERPROFILE=str(tmp_path),
                   PYTHONPATH=ROOT, **settings)
        if flags:
            env['THEANO_FLAGS'] = flags
        process = subprocess.Popen(
            [sys.executable, '-c', PRELUDE + program], cwd=str(tmp_path),
            env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            universal_newlines=True)
        out, err = process.communicate()
        assert process.returncode == 0, err
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
    """Write a package and its submodules, importable during the test."""
    # This also puts back the modules of that name that there were.
    with mock.patch.dict(sys.modules):
        def write(name, **modules):
            for known in list(sys.modules):
                if known.split('.')[0] == name:
                    del sys.modules[known]
            folder = tmp_path / 'site [1]' / name
            folder.mkdir(parents=True)
            modules.setdefault('__init__', '')
            for module, text in modules.items():
                (folder / (module + '.py')).write_text(text)
            monkeypatch.syspath_prepend(str(folder.parent))
            return folder
        yield write


@pytest.fixture
def library(tmp_path):
    """Compile a small OpenBLAS, right or wrong."""
    def build(path, config='OpenBLAS', gemm='a[i + p * *m] * b[p + j * *k]',
              without=None):
        source = '''
            extern "C" {
            const char *openblas_get_config() { return "CONFIG"; }
            int openblas_get_num_threads() { return 1; }
            void openblas_set_num_threads(int n) {}
        '''
        for name, real in (('sgemm_', 'float'), ('dgemm_', 'double')):
            source += '''
            void %s(char *, char *, int *m, int *n, int *k, REAL *alpha,
                    REAL *a, int *, REAL *b, int *, REAL *beta,
                    REAL *c, int *) {
                for (int i = 0; i < *m; i++) for (int j = 0; j < *n; j++) {
                    c[i + j * *m] = 0;
                    for (int p = 0; p < *k; p++)
                        c[i + j * *m] += GEMM;
                }
            }'''.replace('REAL', real) % name
        source = source.replace('CONFIG', config).replace('GEMM', gemm) + '}'
        if without:
            source = source.replace(without, 'something_else')
        code = tmp_path / 'blas.cpp'
        code.write_text(source)
        path = tmp_path / path
        path.parent.mkdir(parents=True, exist_ok=True)
        subprocess.check_call([
            'g++', '-shared', '-fPIC', str(code), '-o', str(path),
            '-Wl,-soname,libopenblas.so.0'])
        return str(path)
    return build


# The whole, on this installation

WORK = '''
import gradmod, theano, lasagne
import pickle
import numpy as np
import theano.tensor as T

a = np.arange(12.).reshape(3, 4).astype('float32')
x, y = T.fmatrices('xy')
z = T.dot(x, y.T)
dot = theano.function([x, y], z, mode=theano.Mode('c', 'fast_run'))
with open('z.pkl', 'wb') as f:
    pickle.dump(z, f)

u = T.dvector()
h, _ = theano.scan(lambda e, h: T.tanh(h + e), u,
                   T.constant(np.float64(0)))
scan = theano.function([u], theano.grad(h[-1], u))

report(dot=dot(a, a).tolist(), scan=scan([.3, -.2]).tolist(),
       scan_extension='theano.scan_module.scan_perform_ext' in sys.modules)
'''


def test_a_working_theano(python, tmp_path):
    flags = 'linker=py,optimizer=fast_compile'
    result, err = python(WORK, flags=flags)
    a = np.arange(12.).reshape(3, 4)
    assert np.array_equal(result['dot'], a.dot(a.T))
    slope = 1 - np.tanh(np.tanh(.3) - .2) ** 2
    assert np.allclose(result['scan'],
                       [slope * (1 - np.tanh(.3) ** 2), slope])

    found = result['actions'][0].split('to use the OpenBLAS in ')
    if len(found) == 2:
        assert 'openblas' in result['ldflags']
        assert result['flags'] == 'blas.ldflags=%s,%s' % (
            result['ldflags'], flags)
        assert compat.links(result['ldflags'])
        assert compat.works(found[1][:-1])
    if result['ldflags']:
        assert 'BLAS' not in err

    # Another process, to which a variable is sent, need not know of gradmod.
    program = ("import pickle; pickle.load(open('z.pkl', 'rb'));"
               "import theano; print(repr(theano.config.blas.ldflags))")
    out = subprocess.check_output(
        [sys.executable, '-c', program], cwd=str(tmp_path),
        env=dict(os.environ, HOME=str(tmp_path), THEANO_FLAGS=result['flags']))
    assert out.decode().strip() == repr(result['ldflags'])


def test_a_setting_in_theano_flags_stands(python):
    flags = QUICK + 'blas.ldflags='
    result, _ = python('report()', flags=flags)
    assert result['ldflags'] == ''
    assert result['flags'] == flags
    assert result['actions'][0] == (
        'blas.ldflags is set in THEANO_FLAGS, and stays as it is.')


def test_a_setting_in_theanorc_stands(python, tmp_path):
    rc = tmp_path / '.theanorc'
    rc.write_text('[blas]\nldflags = -lm\n')
    result, _ = python('report()', flags=QUICK)
    assert result['ldflags'] == '-lm'
    assert result['flags'] == QUICK
    assert str(rc) in result['actions'][0]


def test_too_late_for_blas(python):
    flags = QUICK + 'blas.ldflags='  # as some numpy need
    result, _ = python('''
import theano
import gradmod, lasagne
from theano.tensor.signal.downsample import max_pool_2d
report(scan='theano.scan_module.scan_perform_ext' in sys.modules)''', flags)
    assert result['flags'] == flags
    assert result['ldflags'] == ''
    assert result['actions'][0].startswith('Theano was imported before')
    assert result['scan'] == (sys.version_info >= (3, 11))


def test_no_compiler_no_blas(python, tmp_path):
    result, _ = python('report()', PATH=str(tmp_path))
    assert result['ldflags'] == ''
    if compat.numpy_blas() is None:
        assert result['flags'] == 'blas.ldflags='
        assert 'use no BLAS' in result['actions'][0]
    else:
        assert result['flags'] is None
        assert 'Found no OpenBLAS' in result['actions'][0]


def test_a_system_library(python, library, tmp_path):
    there = str(tmp_path / 'lib')
    (tmp_path / 'lib').mkdir()
    runtime = tmp_path / 'lib' / 'libopenblas.so.0'
    settings = dict(flags=QUICK, LD_LIBRARY_PATH=there, LIBRARY_PATH=there)

    runtime.write_text('/* no library */')
    result, _ = python('report()', **settings)
    assert 'libopenblas.so.0.' not in result['actions'][0]

    library('lib/libopenblas.so.0')
    os.symlink(str(runtime), str(tmp_path / 'lib' / 'libopenblas.so'))
    result, _ = python('report()', **settings)
    assert result['ldflags'] == '-lopenblas'
    assert result['actions'][0] == (
        'Set blas.ldflags in THEANO_FLAGS to use the OpenBLAS in '
        'libopenblas.so.0.')


# Where the user has set what

def test_user_setting_nowhere(unset):
    assert compat.user_setting() is None


@pytest.mark.parametrize('flags, there', [
    ('blas.ldflags=', True),
    ('floatX=float32, blas.ldflags=-lmkl_rt', True),
    ('blas.ldflags=-L/a -Wl\\,-rpath\\,/a,device=cpu', True),
    ('"blas.ldflags=-L/a b"', True),
    ('blas.ldflags', False),
    ('floatX=float32,,', False),
    ('base_compiledir=/a/blas.ldflags=', False),
    ('compiledir_format=a\\,blas.ldflags=b', False),
])
def test_user_setting_in_theano_flags(unset, monkeypatch, flags, there):
    monkeypatch.setenv('THEANO_FLAGS', flags)
    assert compat.user_setting() == ('THEANO_FLAGS' if there else None)
    # as Theano reads it
    parsed = theano.configparser.parse_config_string(flags, False)
    assert ('blas.ldflags' in parsed) == there


def test_user_setting_in_several_files(unset, monkeypatch, tmp_path):
    (tmp_path / 'one').write_text('[global]\nfloatX = float32\n')
    (tmp_path / 'two').write_text('[blas]\nldflags =\n')
    monkeypatch.setenv('THEANORC', os.pathsep.join(['~/none', '~/one']))
    assert compat.user_setting() is None
    monkeypatch.setenv('THEANORC', os.pathsep.join(['~/two', '~/one']))
    assert str(tmp_path / 'two') in compat.user_setting()


def test_user_setting_on_windows(unset, monkeypatch, tmp_path):
    (tmp_path / '.theanorc.txt').write_text('[blas]\nldflags = -lm\n')
    assert compat.user_setting() is None
    monkeypatch.setattr(sys, 'platform', 'win32')
    assert compat.user_setting() == str(tmp_path / '.theanorc.txt')
    monkeypatch.setenv('THEANORC', '~/none')
    assert compat.user_setting() is None


# Which BLAS

def test_works(library):
    assert compat.works(library('right.so'))


@pytest.mark.parametrize('wrong', [
    dict(gemm='a[i + p * *m] * b[p + j * *k] + 1'),
    dict(gemm='a[p + i * *k] * b[j + p * *n]'),
    dict(config='OpenBLAS 0.3.21 USE64BITINT'),
    dict(without='openblas_get_config'),
    dict(without='openblas_get_num_threads'),
    dict(without='openblas_set_num_threads'),
    dict(without='sgemm_'),
    dict(without='dgemm_'),
])
def test_a_wrong_library_does_not_work(library, wrong):
    assert not compat.works(library('wrong.so', **wrong))


def test_no_library_does_not_work(tmp_path):
    (tmp_path / 'libopenblas.so.0').write_text('/* no library */')
    assert not compat.works(str(tmp_path / 'libopenblas.so.0'))
    assert not compat.works(str(tmp_path / 'none.so'))
    assert not compat.works('')


def test_links(library, tmp_path, monkeypatch):
    library('libmine.so')
    assert compat.links('-L%s -lmine' % tmp_path)
    assert not compat.links('-L%s -lyours' % tmp_path)
    monkeypatch.setenv('PATH', str(tmp_path))
    assert not compat.links('-L%s -lmine' % tmp_path)


def test_wheel_libraries(package):
    assert list(compat.wheel_libraries('no_such_package')) == []
    folder = package('packed', __init__='raise ImportError')
    assert list(compat.wheel_libraries('packed')) == []
    expected = []
    for inside in (folder.parent / 'packed.libs', folder / '.libs'):
        inside.mkdir()
        for name in ('libgfortran.so', 'libopenblasp-r0.3.so'):
            (inside / name).write_text('')
        expected.append(str(inside / 'libopenblasp-r0.3.so'))
    assert list(compat.wheel_libraries('packed')) == expected


def test_candidates(monkeypatch):
    monkeypatch.setattr(compat, 'wheel_libraries', lambda package: [
        '/%s/libopenblasp-r0-1f.3.9.dev.so' % package])
    assert list(compat.candidates()) == [
        ('libopenblas.so.0', '-lopenblas'),
        ('/numpy/libopenblasp-r0-1f.3.9.dev.so',
         '-L/numpy -lopenblasp-r0-1f.3.9.dev'),
        ('/scipy/libopenblasp-r0-1f.3.9.dev.so',
         '-L/scipy -lopenblasp-r0-1f.3.9.dev'),
        ('libopenblas.so.0', '-l:libopenblas.so.0')]


@pytest.mark.parametrize('folder', [
    '/a b', '/a,b', '/a:b', "/a'b", '/a"b', '/a\\b', '/a$b', '/a#b', '/\xe9'])
def test_candidates_in_an_impossible_folder(monkeypatch, folder):
    monkeypatch.setattr(compat, 'wheel_libraries', lambda package: [
        folder + '/libopenblas.so'])
    assert [library for library, _ in compat.candidates()] == [
        'libopenblas.so.0', 'libopenblas.so.0']


def test_theano_finds(tmp_path, package):
    info = dict(libraries=['mine'], library_dirs=[str(tmp_path)])
    assert not compat.theano_finds({})
    assert not compat.theano_finds(info)
    (tmp_path / 'libmine.so').write_text('')
    assert compat.theano_finds(info)
    assert not compat.theano_finds(dict(info, library_dirs=['/none']))
    package('mkl')
    assert compat.theano_finds({})


@pytest.fixture
def search(unset, monkeypatch):
    """Let the search for a BLAS meet what the test says; return its result."""
    def run(info, candidates=(), platform='linux'):
        monkeypatch.setattr(sys, 'platform', platform)
        monkeypatch.setattr(compat, 'numpy_blas', lambda: info)
        monkeypatch.setattr(compat, 'candidates', lambda: candidates)
        return compat.choose_blas()
    return run


def test_choose_blas(search, library, tmp_path):
    right, wrong = library('libright.so'), library('libwrong.so', gemm='1')
    flags = '-L%s -l' % tmp_path
    candidates = [('none', '-lnone'), (wrong, flags + 'wrong'),
                  (right, flags + 'missing'), (right, flags + 'right')]
    for info in None, {}:
        ldflags, reason = search(info, candidates)
        assert ldflags == flags + 'right'
        assert reason.endswith('to use the OpenBLAS in %s.' % right)

    own = dict(libraries=['right'], library_dirs=[str(tmp_path)])
    assert search(own, candidates) == (
        None, 'Left the search for a BLAS to Theano.')


def test_choose_no_blas(search):
    ldflags, reason = search(None)
    assert ldflags == '' and 'none was found' in reason
    ldflags, reason = search({})
    assert ldflags is None and 'Found no OpenBLAS' in reason


@pytest.mark.parametrize('platform', ['darwin', 'win32'])
def test_choose_blas_elsewhere(search, library, tmp_path, platform):
    right = [(library('libright.so'), '-L%s -lright' % tmp_path)]
    assert search(None, right, platform)[0] == ''
    assert search({}, right, platform) == (
        None, 'Left the search for a BLAS to Theano.')


# How Theano is told

READS_FLAGS = 'import os\nFLAGS = os.environ.get("THEANO_FLAGS", "")'


@pytest.mark.parametrize('before, after', [
    (None, 'blas.ldflags=-L/a -lb'),
    ('', 'blas.ldflags=-L/a -lb'),
    ('floatX=float32', 'blas.ldflags=-L/a -lb,floatX=float32'),
])
def test_import_theano(unset, monkeypatch, package, before, after):
    package('theano', __init__='from .config import FLAGS', config=READS_FLAGS)
    if before is not None:
        monkeypatch.setenv('THEANO_FLAGS', before)
    compat.import_theano('-L/a -lb')
    assert sys.modules['theano'].FLAGS == after
    assert os.environ['THEANO_FLAGS'] == after


@pytest.mark.parametrize('before', [None, '', 'floatX=float32'])
def test_import_theano_fails(unset, monkeypatch, package, before):
    package('theano', __init__='raise KeyError("broken")')
    if before is not None:
        monkeypatch.setenv('THEANO_FLAGS', before)
    with pytest.raises(KeyError, match='broken'):
        compat.import_theano('')
    assert os.environ.get('THEANO_FLAGS') == before


def test_import_theano_that_failed_before(unset, package):
    package('theano', config=READS_FLAGS, __init__="""
from .config import FLAGS
if 'blas.ldflags' not in FLAGS:
    raise AttributeError('blas_opt_info')
""")
    with pytest.raises(AttributeError, match='blas_opt_info'):
        import theano  # noqa: F401
    compat.import_theano('')
    assert sys.modules['theano'].FLAGS == 'blas.ldflags='


# Scan

EXTENSION = 'theano.scan_module.scan_perform_ext'


@pytest.mark.parametrize('version, source, told', [
    ((3, 11, 7), '#include "longintrepr.h"', True),
    ((3, 11, 7), '#include "mended.h"', False),
    ((3, 11, 7), None, False),
    ((3, 10, 13), '#include "longintrepr.h"', False),
])
def test_set_scan(monkeypatch, package, version, source, told):
    code = package('theano') / 'scan_module' / 'c_code'
    code.mkdir(parents=True)
    if source is not None:
        (code / 'scan_perform.c').write_text(source)
    monkeypatch.setattr(sys, 'version_info', version)
    sentence = compat.set_scan()
    if told:
        assert sys.modules[EXTENSION] is None
        assert sentence.endswith('on Python 3.11.')
    else:
        assert EXTENSION not in sys.modules
        assert sentence is None


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


def test_downsample_is_there_already():
    from theano.tensor.signal import downsample
    assert compat.set_downsample() is None
    assert sys.modules['theano.tensor.signal.downsample'] is downsample


def test_multiplies():
    def gemm(ta, tb, m, n, k, one, a, lda, b, ldb, zero, c, ldc, wrong=0):
        m, n, k, one, a, b, zero, c = [
            v._arr for v in (m, n, k, one, a, b, zero, c)]
        assert a.shape == (m, k) and b.shape == (k, n) and c.shape == (m, n)
        c[...] = one * a.dot(b) + (zero * c if zero else 0)
        c[-1, -1] += wrong
    for dtype in 'float32', 'float64':
        assert compat.multiplies(gemm, dtype)
        assert not compat.multiplies(
            lambda *args: gemm(*args, wrong=1), dtype)
