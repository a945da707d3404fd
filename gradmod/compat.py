"""Make ``import theano`` and ``import lasagne`` work on this installation.

``import gradmod`` runs this module first. Five troubles are met here, each
only where it would strike:

1. numpy 1.22 and later lack what Theano reads there to find a BLAS: ``import
   theano`` raises AttributeError, ``... no attribute 'blas_opt_info'``, unless
   ``blas.ldflags`` is set.
2. With an earlier numpy Theano searches, and on most machines finds nothing,
   though numpy or scipy brings an OpenBLAS along. Theano is told to link with
   that one, or with the system's.
3. On Python 3.11 the C extension of ``theano.scan`` does not compile. Theano
   is told that it is not there, and takes its own Python version.
4. Lasagne 0.1 imports ``theano.tensor.signal.downsample``, which Theano 0.9
   dropped. A stand-in takes its place.
5. Theano-PyMC, the other distribution of the package ``theano``, has other
   names for four things that Lasagne uses. They get their old ones, too.

Where the user has set ``blas.ldflags``, that stands, and where Theano has been
imported already, the first two are too late. `actions` says what was done,
and `ldflags` is what ``blas.ldflags`` was set to, or None.

Where Theano cannot be imported, ImportError says what to do about it.
"""
import configparser
import ctypes
import importlib.machinery
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import types
import warnings
from pathlib import Path


def settings_files():
    """The files that Theano reads settings from, whether or not they exist."""
    more = os.pathsep + '~/.theanorc.txt' if sys.platform == 'win32' else ''
    files = os.environ.get('THEANORC', '~/.theanorc' + more)
    return [os.path.expanduser(name) for name in files.split(os.pathsep)]


def theano_folders():
    """Where the package ``theano`` is, which need not be importable."""
    spec = importlib.util.find_spec('theano')
    return map(Path, spec and spec.submodule_search_locations or ())


def is_pymc():
    """Whether the package ``theano`` is that of Theano-PyMC."""
    return any(b'config.change_flags' in path.read_bytes()
               for folder in theano_folders()
               for path in folder.glob('__init__.py'))


def is_overwritten():
    """Whether Theano is installed over Theano-PyMC: nothing compiles then."""
    return not is_pymc() and any((folder / 'graph').exists()
                                 for folder in theano_folders())


def blas_flag():
    """How ``THEANO_FLAGS`` spells ``blas.ldflags``."""
    return 'blas__ldflags' if is_pymc() else 'blas.ldflags'


def user_setting():
    """Where the user has set ``blas.ldflags``; None if nowhere.

    Settings that Theano cannot read raise the same error here.
    """
    flags = os.environ.get('THEANO_FLAGS', '')
    if re.search(rf'(^|[^\\],)[\s"\']*{re.escape(blas_flag())}=', flags):
        return 'THEANO_FLAGS'
    parser = configparser.RawConfigParser()
    found = parser.read(settings_files())
    return ', '.join(found) if parser.has_option('blas', 'ldflags') else None


def numpy_blas():
    """What numpy says of its BLAS; None where Theano would fail on that."""
    with warnings.catch_warnings():  # that it is deprecated; Theano needs it
        warnings.simplefilter('ignore', DeprecationWarning)
        import numpy.distutils
    return getattr(numpy.distutils.__config__, 'blas_opt_info', None)


def theano_finds(info):
    """Whether Theano's own search, led by what numpy says, will find a BLAS.

    What numpy's wheels say is true only of the machine that built them.
    """
    return bool(importlib.util.find_spec('mkl')) or any(
        os.path.exists(f'{folder}/lib{name}{end}') for end in ('.so', '.a')
        for folder in info.get('library_dirs', [])
        for name in info.get('libraries', []))


def candidates():
    """Pairs of an OpenBLAS library and the flags with which to link it.

    A system library that is there to be linked with was put there on purpose.
    One that some other package brought along comes last: those in the wheels
    are loaded anyway, by numpy and by Theano's import of scipy, and are rarely
    the older ones. numpy's serves up to numpy 1.21, scipy's up to scipy 1.13:
    after that the names of the functions differ.
    """
    yield 'libopenblas.so.0', '-lopenblas'
    for package in 'numpy', 'scipy':
        spec = importlib.util.find_spec(package)
        for folder in spec and spec.submodule_search_locations or ():
            # Theano knows no quotes, and commas and colons mean something in
            # the run path, to which it adds the folder.
            for inside in f'{folder}.libs', f'{folder}/.libs':
                for path in Path(inside).glob('libopenblas*.so'):
                    if re.fullmatch(r'[\w@%+=./-]+', str(path), re.ASCII):
                        yield str(path), f'-L{inside} -l{path.stem[3:]}'
    yield 'libopenblas.so.0', '-l:libopenblas.so.0'


def multiplies(gemm, dtype):
    """Whether ``sgemm_`` or ``dgemm_`` gets a product of whole numbers right.

    The matrices are as large as OpenBLAS multiplies without starting threads.
    """
    import numpy as np
    a, b = (np.arange(i * j).reshape(i, j) % 127 - 63
            for i, j in ((61, 67), (67, 63)))
    c = np.full((61, 63), np.nan, dtype)
    m, n, k = (np.array(size, 'int32').ctypes for size in (61, 63, 67))
    one, a_, b_, zero = (np.array(x, dtype).ctypes for x in (1, a, b, 0))
    # It knows columns first: what are our rows make it b' a', which is c'.
    gemm(b'N', b'N', n, m, k, one, b_, n, a_, k, zero, c.ctypes, n)
    return np.array_equal(c, a.dot(b))


def works(library):
    """Whether a library can be loaded, is an OpenBLAS, and computes right."""
    try:
        blas = ctypes.CDLL(library)
        # Theano's convolutions link with these.
        blas.openblas_get_num_threads, blas.openblas_set_num_threads
        blas.openblas_get_config.restype = ctypes.c_char_p
        return (b'USE64BITINT' not in blas.openblas_get_config()
                and multiplies(blas.sgemm_, 'float32')
                and multiplies(blas.dgemm_, 'float64'))
    except (OSError, AttributeError):
        return False


def links(flags):
    """Whether g++, which Theano calls, links with these flags."""
    return bool(shutil.which('g++')) and not subprocess.call(
        ['g++', '-shared', '-nostdlib', '-o', os.devnull] + flags.split(),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def choose_blas():
    """Return a value for ``blas.ldflags``, or None to leave it, and why."""
    if 'theano' in sys.modules:
        return None, 'Theano was imported before gradmod: its BLAS stays.'
    where = user_setting()
    if where:
        return None, f'blas.ldflags is set in {where}, and stays as it is.'
    info = numpy_blas()
    if info is None or not theano_finds(info):
        for library, flags in candidates():
            if works(library) and links(flags):
                return flags, f'Told Theano to use the OpenBLAS in {library}.'
    if info is None:
        return '', 'Told Theano to use no BLAS, as none was found.'
    return None, 'Left the search for a BLAS to Theano.'


def import_theano(ldflags):
    """Import Theano as if ``THEANO_FLAGS`` had a value for ``blas.ldflags``.

    The variable keeps the value, unless the import fails. A worker process
    that unpickles a Theano function imports theano before it meets any code
    that could import gradmod; it would fail where this process does not, or
    compile for another BLAS.
    """
    before = os.environ.get('THEANO_FLAGS')
    os.environ['THEANO_FLAGS'] = f'{blas_flag()}={ldflags},{before or ""}'
    # An import that failed earlier has left modules that have read the old
    # value (in a notebook: `import theano`, an error, then `import gradmod`).
    for name in [name for name in sys.modules if name.startswith('theano.')]:
        del sys.modules[name]
    try:
        import theano  # noqa: F401
    except BaseException:
        del os.environ['THEANO_FLAGS']
        if before is not None:
            os.environ['THEANO_FLAGS'] = before
        raise


def set_scan():
    """Meet the third trouble, and say so if it was there.

    Theano imports the extension when it first compiles a scan, so that this
    helps whenever Theano itself was imported.
    """
    import theano
    name = 'scan' if is_pymc() else 'scan_module'
    ext = f'theano.{name}.scan_perform_ext'
    source = Path(theano.__file__).parent / name / 'c_code/scan_perform.c'
    if (sys.version_info < (3, 11) or ext in sys.modules or not source.exists()
            or b'#include "longintrepr.h"' not in source.read_bytes()):
        return None
    sys.modules[ext] = None
    return ('Told Theano to run scan in Python, where its C extension does '
            'not compile: import gradmod before a scan is compiled.')


def max_pool_2d(input, ds, ignore_border=None, st=None, padding=(0, 0),
                mode='max'):
    """``theano.tensor.signal.pool.pool_2d`` under the names of Theano 0.8."""
    from theano.tensor.signal.pool import pool_2d
    return pool_2d(input, ds, ignore_border, st, padding, mode)


def set_downsample():
    """Meet the fourth trouble, and say so if it was there."""
    from theano.tensor import signal
    name = 'theano.tensor.signal.downsample'
    if name in sys.modules or importlib.util.find_spec(name):
        return None
    signal.downsample = sys.modules[name] = types.ModuleType(
        name, "gradmod's stand-in for a module that Lasagne 0.1 imports.")
    signal.downsample.max_pool_2d = max_pool_2d
    return f'Added {name} for Lasagne 0.1: import gradmod before lasagne.'


#: What to do where the two distributions meet.
CHOOSE = (f'What to do: "{sys.executable}" -m pip uninstall -y Theano '
          'Theano-PyMC, and then install one of them.')


def set_old_names():
    """Meet the fifth trouble, and say so if it was there."""
    if not is_pymc():
        return None
    import theano
    from theano.graph.basic import Variable, graph_inputs
    from theano.sandbox import rng_mrg
    rng_mrg.MRG_RandomStreams = rng_mrg.MRG_RandomStream
    theano.Variable = Variable
    # An attribute alone: who imports theano.gof to tell the two apart still can.
    theano.gof = types.SimpleNamespace(
        Variable=Variable, graph=types.SimpleNamespace(inputs=graph_inputs))
    return ('Gave Theano-PyMC the names that Lasagne uses: import gradmod '
            'before lasagne.')


def advise(error, package='theano'):
    """What keeps a package from being imported, and what to do about it."""
    for name in package, 'theano', 'numpy', 'scipy':
        spec = importlib.machinery.PathFinder.find_spec(name)
        if spec and not spec.submodule_search_locations:
            return (f'{spec.origin} hides the package {name}. Rename that '
                    'file, or run this in another folder.')
    if is_overwritten():
        return ('Theano was installed over Theano-PyMC, which breaks both. '
                + CHOOSE)
    pip = f'What to do: "{sys.executable}" -m pip install "numpy<1.24"'
    numpy = getattr(sys.modules.get('numpy'), '__version__', '0')
    if [int(n) for n in numpy.split('.')[:2]] >= [1, 24]:
        return f'numpy {numpy} is too new for Theano. {pip}'
    if isinstance(error, ModuleNotFoundError):
        return (f'{error.name} is missing. {pip} "scipy<1.12" '
                '"setuptools<80.9" Theano')
    if 'Python.h' in str(error):
        return 'Install the C headers of Python (Debian, Ubuntu: python3-dev).'
    said = ' '.join(f'{type(error).__name__}: {error}'.split())
    return (f'{said[:300]} -- Look at THEANO_FLAGS and '
            f'{", ".join(settings_files())}; THEANO_FLAGS=base_compiledir='
            'FOLDER names a fresh folder for what Theano compiles.')


try:
    if is_overwritten():
        raise RuntimeError('both Theano and Theano-PyMC')
    ldflags, reason = choose_blas()
    if ldflags is not None:
        import_theano(ldflags)
    actions = tuple(filter(None, (reason, set_scan(), set_downsample(),
                                  set_old_names())))
except Exception as error:
    raise ImportError(advise(error)) from error
