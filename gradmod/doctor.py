"""What ``python -m gradmod`` prints: whether gradmod works here, and why not.

The facts come from this process, which may not have got as far as importing
Theano. The self-test runs in another: a broken BLAS can end a process, and
Theano prints what it likes when it compiles.
"""
import argparse
import configparser
import ctypes
import importlib
import importlib.machinery
import importlib.util
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import time

from . import compat, fix

PYTHON = shlex.quote(sys.executable)
PIP = PYTHON + ' -m pip install '
BOUNDS = {  # those of setup.py that matter where pip is called once more
    'theano': '"Theano==1.0.5" "numpy<1.24"', 'numpy': '"numpy<1.24"',
    'scipy': '"scipy<1.12" "numpy<1.24"', 'pkg_resources': '"setuptools<80.9"'}

RESULT = 'gradmod self-test: '  # before it, among whatever Theano prints


# The facts

def version(name):
    """The version of a package, in words where there is none."""
    try:
        if importlib.util.find_spec(name) is None:
            return 'not installed'
    except ValueError:  # imported, and without a specification
        pass
    try:
        return sys.modules[name].__version__
    except (KeyError, AttributeError):
        pass
    try:
        from importlib import metadata
    except ImportError:  # Python 3.6 and 3.7
        try:
            import pkg_resources
            return pkg_resources.get_distribution(name).version
        except Exception:
            return 'unknown'
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return 'unknown'


def first_line(command):
    """The first line that a program prints; its trouble if it cannot."""
    try:
        return subprocess.check_output(
            command, stderr=subprocess.STDOUT,
            errors='replace').split('\n')[0]
    except (OSError, subprocess.CalledProcessError) as error:
        return str(error)


def compiler(cxx):
    """The C++ compiler and its version; None if there is none."""
    path = cxx and shutil.which(cxx.split()[0])
    return '%s, %s' % (path, first_line([path, '--version'])) if path else None


def blas_threads(ldflags):
    """What the BLAS that flags link with says of itself; None if none is."""
    words = ldflags.split()
    folders = [word[2:] for word in words if word.startswith('-L')] + ['']
    for word in words:
        if not word.startswith('-l'):
            continue
        name = word[3:] if word[2:3] == ':' else 'lib%s.so' % word[2:]
        for folder in folders:
            try:
                blas = ctypes.CDLL(os.path.join(folder, name))
            except OSError:
                continue
            if hasattr(blas, 'openblas_get_num_threads'):
                blas.openblas_get_config.restype = ctypes.c_char_p
                return '%s, threads: %d' % (
                    blas.openblas_get_config().decode(),
                    blas.openblas_get_num_threads())
            if hasattr(blas, 'MKL_Get_Max_Threads'):
                return 'MKL, threads: %d' % blas.MKL_Get_Max_Threads()
    return 'does not say' if words else None


def describe(error):
    """The kind of an error and its message, of several lines the first."""
    lines = str(error).strip().split('\n')
    return '%s: %s' % (type(error).__name__, lines[0][:300])


def import_order():
    """Which of Theano and gradmod may be imported first, in words."""
    try:
        if fix.readied():
            return 'any'
    except fix.Refusal as refusal:
        return 'gradmod before Theano. %s' % refusal
    return 'gradmod before Theano (python -m gradmod --fix makes it any)'


def gather(failure):
    """The facts, by name, without any that a broken installation withholds."""
    facts = {
        'gradmod': version('gradmod'), 'theano': version('theano'),
        'lasagne': version('lasagne'), 'numpy': version('numpy'),
        'scipy': version('scipy'), 'python': platform.python_version(),
        'interpreter': sys.executable}
    if failure is not None:
        facts['compiler'] = compiler('g++')
        return facts
    from theano import config
    facts.update({
        'cxx': config.cxx, 'compiler': compiler(config.cxx),
        'blas.ldflags': config.blas.ldflags,
        'blas': blas_threads(config.blas.ldflags),
        'device': config.device, 'floatX': config.floatX,
        'compiledir': config.compiledir,
        'compat': list(compat.actions),
        'import order': import_order()})
    return facts


# The self-test

def backward(x, weights, guided):
    """In numpy: the gradient of the sum of rectified dense layers."""
    import numpy as np
    inputs = []
    for w in weights:
        inputs.append(x.dot(w))
        x = np.maximum(inputs[-1], 0)
    gradient = np.ones_like(x)
    for z, w in zip(reversed(inputs), reversed(weights)):
        gradient = gradient * (z > 0)
        if guided:
            gradient = gradient * (gradient > 0)
        gradient = gradient.dot(w.T)
    return gradient


def recipe(rectify, z):
    """The way of old: assign `grad` to a ``theano.OpFromGraph``."""
    import theano

    def guided(inputs, out_grads):
        (z,), (g,) = inputs, out_grads
        return [g * (z > 0).astype(z.dtype) * (g > 0).astype(z.dtype)]

    z = z.type()
    op = theano.OpFromGraph([z], [rectify(z)])
    op.grad = guided
    return op


def self_test():
    """Print, as JSON, what gradients Theano gives for a small network.

    By name, how far each is from numpy's plain gradient and from its guided
    one, in units of the largest value.
    """
    import numpy as np
    import theano
    import theano.tensor as T
    from .rules import GuidedBackprop

    start = time.time()
    dtype = theano.config.floatX
    random = np.random.RandomState(0)
    a = random.randn(5, 8).astype(dtype)
    weights = [random.randn(8, 8).astype(dtype) for _ in range(2)]
    expected = {
        name: backward(a.astype('float64'), weights, guided=name == 'guided')
        for name in ('plain', 'guided')}
    scale = np.abs(expected['plain']).max()
    # Theano 1.0.5 compiles some ops anew in every process, such as the one
    # behind h.sum(): as few of them as possible are met here.
    x, ones = T.matrices(2)
    shared = [theano.shared(w) for w in weights]

    def rectify(z):
        return T.switch(z > 0, z, 0)

    def gradient(nonlinearity):
        h = x
        for w in shared:
            h = nonlinearity(T.dot(h, w))
        return theano.grad(None, x, known_grads={h: ones})

    def distances(gradients):
        return [{name: float(np.abs(value - expected[name]).max() / scale)
                 for name in expected}
                for value in theano.function([x, ones], gradients)(
                    a, np.ones_like(a))]

    result = {'tolerance': 50 * float(np.finfo(dtype).eps)}
    result['no override'], result['gradmod'] = distances(
        [gradient(rectify), gradient(GuidedBackprop(rectify))])
    try:
        (result['recipe'],) = distances([gradient(recipe(rectify, x))])
    except Exception as error:  # gradmod works without
        result['recipe'] = describe(error)
    result['seconds'] = round(time.time() - start, 2)
    print('\n' + RESULT + json.dumps(result))


def run_self_test(seconds=600):
    """`self_test` in a process of its own; its result, or a `RuntimeError`."""
    env = {name: value for name, value in os.environ.items()
           if name != 'THEANO_GPU_IS_ALREADY_ACTIVE'}  # not there
    flags = [flag for flag, name in [
        ('-I', 'isolated'), ('-E', 'ignore_environment'),
        ('-s', 'no_user_site'), ('-P', 'safe_path')]  # from Python 3.11 on
        if getattr(sys.flags, name, False)]
    try:
        process = subprocess.run(
            [sys.executable, *flags, '-c',
             'import gradmod, theano; from gradmod.doctor import self_test; '
             'theano.config.compute_test_value = "off"; self_test()'],
            env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            errors='replace', timeout=seconds)
    except subprocess.TimeoutExpired:
        raise RuntimeError('It took more than %g seconds. Is another process '
                           'compiling, or has one left a lock? theano-cache '
                           'unlock removes it.' % seconds)
    if process.returncode < 0:
        raise RuntimeError('It crashed with signal %d.' % -process.returncode)
    if process.returncode:
        lines = process.stderr.strip().split('\n')
        raise RuntimeError(lines[-1][:300])
    for line in process.stdout.split('\n'):
        if line.startswith(RESULT):
            return json.loads(line[len(RESULT):])
    raise RuntimeError('It printed no result.')


# The findings

def numpy_is_too_new():
    """Whether Theano cannot be imported with the numpy that is here."""
    try:
        import numpy
    except ImportError:
        return False
    found = getattr(numpy, '__version__', '0')  # a folder has none
    return [int(n) for n in found.split('.')[:2]] >= [1, 24]


def explain(error, what='gradmod'):
    """What keeps something from being imported, and what to do about it."""
    words = describe(error)
    for name in [what] + list(BOUNDS):
        spec = importlib.machinery.PathFinder.find_spec(name)
        if spec and not spec.submodule_search_locations:
            return ('%s hides the package %s.' % (spec.origin, name),
                    'Rename that file, or run this in another folder.')
    if isinstance(error, ModuleNotFoundError) and error.name:
        name = error.name.split('.')[0]
        return '%s is missing.' % error.name, PIP + BOUNDS.get(name, name)
    if numpy_is_too_new():
        return ('numpy %s is too new for Theano, which stops with %s' % (
            version('numpy'), words), PIP + BOUNDS['numpy'])
    if isinstance(error, (configparser.Error, UnicodeDecodeError)):
        return ('Theano\'s settings cannot be read. ' +
                ' '.join(str(error).split()),
                'Mend %s.' % ' or '.join(compat.settings_files()))
    if 'compiledir' in words:
        return ('Theano has no folder for what it compiles. ' + words,
                'Name one: THEANO_FLAGS=base_compiledir=/tmp/theano')
    if 'Python.h' in str(error):
        return ('The C headers of Python are missing.',
                'Install them: python3-dev on Debian and Ubuntu.')
    return words, (
        'Look at THEANO_FLAGS (%s) and %s. If another Theano has compiled '
        'here, name a fresh folder: THEANO_FLAGS=base_compiledir=/tmp/theano. '
        'The whole error: %s -c "import %s"' % (
            os.environ.get('THEANO_FLAGS') or 'not set',
            ', '.join(compat.settings_files()), PYTHON, what))


def explain_self_test(error, facts):
    """The same, where Theano has been imported, and does not compute."""
    flags = facts['blas.ldflags']
    if facts['cxx'] and not facts['compiler']:
        return ('There is no compiler %s, which cxx is set to.' % facts['cxx'],
                'Mend that setting, in THEANO_FLAGS or %s, or remove it.' %
                ' or '.join(compat.settings_files()))
    if facts['compiler'] and flags and not compat.links(flags):
        where = compat.user_setting()
        return ('The compiler does not link with blas.ldflags = %s, %s.' % (
            flags, 'set in ' + where if where else 'which Theano found'),
            'Mend that setting, or remove it: gradmod then looks for a BLAS.')
    return 'The self-test did not end. %s' % error, (
        'Try it without a BLAS: THEANO_FLAGS=blas.ldflags= and with a fresh '
        'folder for compiled code: THEANO_FLAGS=base_compiledir=/tmp/theano')


def judge(test):
    """The problems that the values of the self-test show."""
    problems = []
    if not test['no override']['plain'] <= test['tolerance']:
        problems.append((
            'Theano\'s plain gradient differs from numpy\'s by %.2g of the '
            'largest value.' % test['no override']['plain'],
            'Suspect the BLAS: try THEANO_FLAGS=blas.ldflags= (none).'))
    elif not test['gradmod']['guided'] <= test['tolerance']:
        problems.append((
            'The override is not used: guided backprop differs from numpy\'s '
            'by %.2g of the largest value.' % test['gradmod']['guided'],
            'This should never be. Please report it, with this report.'))
    return problems


def recipe_verdict(test):
    """What becomes of an assigned ``op.grad``, in words."""
    distance = test['recipe']
    if isinstance(distance, str):
        return 'fails (%s)' % distance
    if distance['plain'] <= test['tolerance']:
        return 'is ignored: it gives the plain gradient'
    if distance['guided'] <= test['tolerance']:
        return 'is used'
    return 'gives neither the plain gradient nor guided backprop'


def remarks(facts):
    """What works, and could be better."""
    found = []
    if not facts['cxx']:
        found.append('No C++ compiler: Theano runs in Python, many times '
                     'slower. Install g++.')
    elif not facts['blas.ldflags']:
        found.append('No BLAS: dense layers and convolutions are slower. '
                     'Install one, such as libopenblas-dev, or scipy<1.12.')
    if facts['lasagne'] == 'not installed':
        found.append('No Lasagne: override_in and saliency_map work on '
                     'expressions; for networks, %sLasagne' % PIP)
    gpu = sys.modules.get('theano.gpuarray')
    if (facts['device'].startswith(('cuda', 'opencl'))
            and not getattr(gpu, 'pygpu_activated', False)):
        found.append('The device %s did not start: Theano uses the CPU.'
                     % facts['device'])
    return found


def examine(failure=None):
    """Everything that the doctor has to say, as a dictionary for JSON.

    Parameters
    ----------
    failure : Exception, optional
        What ``import gradmod`` ended with.
    """
    facts = gather(failure)
    problems, notes, test = [], [], None
    if failure is not None:
        problems.append(explain(failure))
    else:
        notes = remarks(facts)
        try:
            test = run_self_test()
            test['op.grad assigned'] = recipe_verdict(test)
            problems += judge(test)
        except RuntimeError as error:
            problems.append(explain_self_test(error, facts))
        if facts['lasagne'] != 'not installed':
            try:
                importlib.import_module('lasagne')
                facts['lasagne'] = version('lasagne')
            except Exception as error:
                problems.append(explain(error, 'lasagne'))
    if failure is not None:
        verdict = 'gradmod does not work here.'
    elif problems:
        verdict = 'gradmod does not work here as it should.'
    else:
        verdict = 'gradmod works here.'
    return {'ok': not problems, 'verdict': verdict, 'facts': facts,
            'self-test': test, 'notes': notes,
            'problems': [{'problem': what, 'advice': advice}
                         for what, advice in problems]}


# What is printed

def show(report):
    """The same for people: one line a fact."""
    rows = [(name, value) for name, value in report['facts'].items()]
    test = report['self-test']
    if test:
        rows += [
            ('self-test', [
                'a network of two layers, %.1f seconds with its compilation'
                % test['seconds'],
                'guided backprop is %.1g from numpy\'s, %.2g from the plain '
                'gradient' % (test['gradmod']['guided'],
                              test['gradmod']['plain']),
                '(greatest difference, by the largest value)']),
            ('op.grad = ...', 'on an OpFromGraph, ' + test['op.grad assigned'])]
    for problem in report['problems']:
        rows.append(('PROBLEM', [problem['problem'],
                                 'What to do: ' + problem['advice']]))
    rows += [('note', note) for note in report['notes']]
    rows.append(('verdict', report['verdict']))
    for name, value in rows:
        if not isinstance(value, list):
            value = ['none' if value in (None, '') else value]
        for line in value:
            print('%-13s %s' % (name, line))
            name = ''


def main(argv=None, failure=None):
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(
        prog='python -m gradmod', description='Say whether gradmod works '
        'here, and prove it. The exit status is 0 if it does, else 1.')
    what = parser.add_mutually_exclusive_group()
    what.add_argument('--json', action='store_true',
                      help='print the same for programs')
    what.add_argument('--fix', action='store_true',
                      help='show what would be written so that Theano may be '
                      'imported before gradmod')
    what.add_argument('--unfix', action='store_true',
                      help='take back what --fix --yes wrote')
    parser.add_argument('--yes', action='store_true',
                        help='with --fix: write it')
    args = parser.parse_args(argv)
    if args.yes and not args.fix:
        parser.error('--yes goes with --fix')
    if hasattr(sys.stdout, 'reconfigure'):  # from Python 3.7 on
        sys.stdout.reconfigure(errors='backslashreplace')
    if args.unfix:
        return fix.unfix()
    if args.fix and failure is None:
        return fix.fix(args.yes)
    report = examine(failure)
    if args.json:  # which has no NaN and no Infinity: they become strings
        print(json.dumps(json.loads(json.dumps(report), parse_constant=str),
                         indent=2))
    else:
        show(report)
    if args.fix:
        print('Nothing was changed: --fix cannot help with this.')
    return 0 if report['ok'] else 1
