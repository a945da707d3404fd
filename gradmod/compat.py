"""Make ``import theano`` and ``import lasagne`` work on this installation.

``import gradmod`` runs this module first. Four troubles are met here, each
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

Where the user has set ``blas.ldflags``, that stands, and where Theano has been
imported already, the first two are too late. `actions` tells what was done,
and `ldflags` what ``blas.ldflags`` was set to, if it was.
"""
import configparser
import ctypes
import glob
import importlib
import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
import types
import warnings


def settings_files():
    """The files that Theano reads settings from, whether or not they exist."""
    files = os.environ.get('THEANORC', '~/.theanorc').split(os.pathsep)
    if 'THEANORC' not in os.environ and sys.platform == 'win32':
        files.append('~/.theanorc.txt')
    return [os.path.expanduser(name) for name in files]


def user_setting():
    """Say where the user has set ``blas.ldflags``; None if nowhere.

    Reads what Theano reads, and as Theano does. Whatever is so broken that
    Theano cannot read it raises the same error here.
    """
    flags = shlex.shlex(os.environ.get('THEANO_FLAGS', ''), posix=True)
    flags.whitespace = ','
    flags.whitespace_split = True
    if any(flag.strip().startswith('blas.ldflags=') for flag in flags):
        return 'THEANO_FLAGS'
    parser = configparser.RawConfigParser()
    found = parser.read(settings_files())
    return ', '.join(found) if parser.has_option('blas', 'ldflags') else None


def numpy_blas():
    """What numpy says of its BLAS; None where Theano would fail on that."""
    with warnings.catch_warnings():  # that it is deprecated; Theano needs it
        warnings.simplefilter('ignore', DeprecationWarning)
        import numpy.distutils
    config = getattr(numpy.distutils, '__config__', None)
    return getattr(config, 'blas_opt_info', None)


def theano_finds(info):
    """Whether Theano's own search, led by what numpy says, will find a BLAS.

    What numpy's wheels say is true only of the machine that built them.
    """
    return bool(importlib.util.find_spec('mkl')) or any(
        os.path.exists(os.path.join(folder, 'lib' + name + end))
        for folder in info.get('library_dirs', [])
        for name in info.get('libraries', []) for end in ('.so', '.a'))


def wheel_libraries(package):
    """Each OpenBLAS inside the wheel of a package, which is not imported."""
    spec = importlib.util.find_spec(package)
    for folder in spec and spec.submodule_search_locations or ():
        for inside in (folder + '.libs', os.path.join(folder, '.libs')):
            yield from sorted(glob.glob(
                os.path.join(glob.escape(inside), 'libopenblas*.so')))


def candidates():
    """Pairs of an OpenBLAS library and the flags with which to link it.

    A system library that is there to be linked with was put there on purpose.
    One that some other package brought along comes last: those in the wheels
    are loaded anyway, by numpy and by Theano's import of scipy, and are rarely
    the older ones. numpy's serves up to numpy 1.21, scipy's up to scipy 1.13:
    after that the names of the functions differ.
    """
    yield 'libopenblas.so.0', '-lopenblas'
    for package in ('numpy', 'scipy'):
        for library in wheel_libraries(package):
            folder, name = os.path.split(library)
            # Theano knows no quotes, and commas and colons mean something in
            # the run path, to which it adds the folder.
            if folder == shlex.quote(folder) and not set(',:') & set(folder):
                yield library, '-L%s -l%s' % (
                    folder, name[len('lib'):-len('.so')])
    yield 'libopenblas.so.0', '-l:libopenblas.so.0'


def multiplies(gemm, dtype):
    """Whether ``sgemm_`` or ``dgemm_`` gets a product of whole numbers right.

    The matrices are as large as OpenBLAS multiplies without starting threads.
    """
    import numpy as np
    m, n, k = 61, 63, 67
    a = np.asfortranarray((np.arange(m * k) % 7 - 3).reshape(m, k), dtype)
    b = np.asfortranarray((np.arange(k * n) % 5 - 2).reshape(k, n), dtype)
    c = np.full((m, n), np.nan, dtype, order='F')
    expected = a.astype('int64').dot(b.astype('int64'))
    m, n, k = (np.array(size, 'int32') for size in (m, n, k))
    one, zero = np.array(1, dtype), np.array(0, dtype)
    gemm(b'N', b'N', m.ctypes, n.ctypes, k.ctypes,
         one.ctypes, a.ctypes, m.ctypes, b.ctypes, k.ctypes,
         zero.ctypes, c.ctypes, m.ctypes)
    return np.array_equal(c, expected)


def works(library):
    """Whether a library can be loaded, is an OpenBLAS, and computes right."""
    try:
        blas = ctypes.CDLL(library)
        blas.openblas_get_num_threads  # Theano's convolutions link with these
        blas.openblas_set_num_threads
        blas.openblas_get_config.restype = ctypes.c_char_p
        return (b'USE64BITINT' not in blas.openblas_get_config()
                and multiplies(blas.sgemm_, 'float32')
                and multiplies(blas.dgemm_, 'float64'))
    except (OSError, AttributeError):
        return False


def links(flags):
    """Whether g++, which Theano calls, links with these flags."""
    compiler = shutil.which('g++')
    return bool(compiler) and not subprocess.call(
        [compiler, '-shared', '-nostdlib', '-o', os.devnull] + flags.split(),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def choose_blas():
    """Return a value for ``blas.ldflags``, or None to leave it, and why."""
    where = user_setting()
    if where:
        return None, 'blas.ldflags is set in %s, and stays as it is.' % where
    info = numpy_blas()
    linux = sys.platform.startswith('linux')
    if info is not None and (not linux or theano_finds(info)):
        return None, 'Left the search for a BLAS to Theano.'
    for library, flags in candidates() if linux else ():
        if works(library) and links(flags):
            return flags, ('Set blas.ldflags in THEANO_FLAGS to use the '
                           'OpenBLAS in %s.' % library)
    if info is None:
        return '', ('Set blas.ldflags in THEANO_FLAGS to use no BLAS: none '
                    'was found, and with this numpy Theano fails to search.')
    return None, 'Found no OpenBLAS, and left the search to Theano.'


def import_theano(ldflags):
    """Import Theano as if ``THEANO_FLAGS`` had a value for ``blas.ldflags``.

    The variable keeps the value, unless the import fails. A worker process
    that unpickles a Theano function imports theano before it meets any code
    that could import gradmod; it would fail where this process does not, or
    compile for another BLAS.
    """
    before = os.environ.get('THEANO_FLAGS')
    ours = 'blas.ldflags=' + ldflags
    os.environ['THEANO_FLAGS'] = ours + ',' + before if before else ours
    # An import that failed earlier has left modules that have read the old
    # value (in a notebook: `import theano`, an error, then `import gradmod`).
    for name in [name for name in sys.modules if name.startswith('theano.')]:
        del sys.modules[name]
    try:
        import theano  # noqa: F401
    except BaseException:
        if before is None:
            del os.environ['THEANO_FLAGS']
        else:
            os.environ['THEANO_FLAGS'] = before
        raise


def set_blas():
    """Meet the first and the second trouble; return as `choose_blas` does."""
    if 'theano' in sys.modules:
        return None, ('Theano was imported before gradmod: its BLAS stays as '
                      'it is.')
    ldflags, reason = choose_blas()
    if ldflags is not None:
        import_theano(ldflags)
    return ldflags, reason


def set_scan():
    """Meet the third trouble, and say so if it was there.

    Theano imports the extension when it first compiles a scan, so that this
    helps whenever Theano itself was imported.
    """
    name = 'theano.scan_module.scan_perform_ext'
    if sys.version_info < (3, 11) or name in sys.modules:
        return None
    import theano
    source = os.path.join(os.path.dirname(theano.__file__),
                          'scan_module', 'c_code', 'scan_perform.c')
    if not os.path.exists(source):
        return None
    with open(source, encoding='latin-1') as code:
        if '#include "longintrepr.h"' not in code.read():
            return None
    sys.modules[name] = None
    return ('Told Theano to run scan in Python: its C extension does not '
            'compile on Python %d.%d.' % sys.version_info[:2])


def max_pool_2d(input, ds, ignore_border=None, st=None, padding=(0, 0),
                mode='max'):
    """``theano.tensor.signal.pool.pool_2d`` under the names of Theano 0.8."""
    from theano.tensor.signal.pool import pool_2d
    return pool_2d(input, ds, ignore_border, st, padding, mode)


def set_downsample():
    """Meet the fourth trouble, and say so if it was there."""
    name = 'theano.tensor.signal.downsample'
    try:
        importlib.import_module(name)
        return None
    except ImportError:
        from theano.tensor import signal
    signal.downsample = sys.modules[name] = types.ModuleType(
        name, "gradmod's stand-in for a module that Lasagne 0.1 imports.")
    signal.downsample.max_pool_2d = max_pool_2d
    return 'Added a stand-in for %s, which Lasagne 0.1 imports.' % name


def runs_as_program():
    """Whether ``python -m gradmod`` is what imports gradmod."""
    frame = sys._getframe()
    while frame and frame.f_globals.get('__name__', '').split('.')[0] in (
            'gradmod', 'importlib', '_frozen_importlib'):
        frame = frame.f_back
    return bool(frame) and frame.f_globals.get('__name__') == 'runpy'


try:
    ldflags, reason = set_blas()
    actions = tuple(filter(None, (reason, set_scan(), set_downsample())))
except Exception as error:
    if not runs_as_program():
        raise
    from . import doctor  # Python would not get there: gradmod comes first
    sys.exit(doctor.main(failure=error))
