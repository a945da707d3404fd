"""What ``python -m gradmod`` prints: whether gradmod works here, and why not.

The self-test runs in a process of its own: a broken BLAS can end a process,
and Theano prints what it likes when it compiles.
"""
import argparse
import importlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import theano
import theano.tensor as T

from . import __version__, compat
from .rules import GuidedBackprop

RESULT = 'gradmod self-test: '  # before it, among whatever Theano prints


# The facts

def compiler():
    """The C++ compiler's path and what it says of itself; None without one."""
    path = shutil.which((theano.config.cxx.split() or [''])[0])
    return path and '{}, {}'.format(path, subprocess.run(
        [path, '--version'], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        errors='replace').stdout.split('\n')[0])


def distributions():
    """Those that the package ``theano`` was installed from, by their versions."""
    named = [re.match(r'(theano(?:[-_]pymc)?-[\d.]*\d).*-info$', path.name, re.I)
             for path in Path(theano.__file__).parents[1].iterdir()]
    return sorted(match.group(1) for match in named if match)


def gather():
    """The facts, by name."""
    config, lines = theano.config, None
    if compat.ldflags is not None:  # by which Theano would choose the same
        lines = f'[blas]\nldflags = {compat.ldflags}'
    return {
        'gradmod': __version__, 'theano': theano.__version__,
        'distribution': distributions(),
        'lasagne': None, 'numpy': np.__version__,
        'scipy': getattr(sys.modules.get('scipy'), '__version__', None),
        'python': platform.python_version(), 'interpreter': sys.executable,
        'cxx': config.cxx, 'compiler': compiler(),
        'blas.ldflags': config.blas.ldflags, 'device': config.device,
        'floatX': config.floatX, 'compiledir': config.compiledir,
        'compat': list(compat.actions),
        'theanorc': lines}


# The self-test

def self_test():
    """Print, as JSON, what gradients Theano gives for a network of two layers.

    By name, how far each is from numpy's plain gradient and from its guided
    one, in units of the largest value.
    """
    start = time.time()
    dtype = theano.config.floatX
    random = np.random.RandomState(0)
    arrays = [random.randn(n, 8).astype(dtype) for n in (5, 8, 8)]
    a, v, w = (array.astype('float64') for array in arrays)
    z = a.dot(v)
    g = (np.maximum(z, 0).dot(w) > 0).dot(w.T) * (z > 0)
    expected = {'plain': g.dot(v.T), 'guided': np.maximum(g, 0).dot(v.T)}
    # Theano 1.0.5 compiles some ops anew in every process, such as the one
    # behind h.sum(): as few of them as possible are met here.
    x, ones = T.matrices(2)

    def rectify(z):
        return T.switch(z > 0, z, 0)

    def gradient(nonlinearity):
        h = x
        for weight in arrays[1:]:
            h = nonlinearity(T.dot(h, theano.shared(weight)))
        return theano.grad(None, x, known_grads={h: ones})

    values = theano.function([x, ones], [
        gradient(rectify), gradient(GuidedBackprop(rectify))])(
            arrays[0], np.ones_like(arrays[0]))
    scale = np.abs(expected['plain']).max()
    result = {name: {to: float(np.abs(value - expected[to]).max() / scale)
                     for to in expected}
              for name, value in zip(('no override', 'gradmod'), values)}
    result['tolerance'] = 50 * float(np.finfo(dtype).eps)
    result['seconds'] = round(time.time() - start, 2)
    print('\n' + RESULT + json.dumps(result))


def run_self_test(seconds=600):
    """`self_test` in a process of its own; its result, or a `RuntimeError`."""
    env = {name: value for name, value in os.environ.items()
           if name != 'THEANO_GPU_IS_ALREADY_ACTIVE'}  # not there
    try:
        process = subprocess.run(
            [sys.executable, '-c', 'import gradmod.doctor, theano; '
             'theano.config.compute_test_value = "off"; '
             'gradmod.doctor.self_test()'],
            env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            errors='replace', timeout=seconds)
    except subprocess.TimeoutExpired:
        raise RuntimeError(f'It took more than {seconds} seconds. Is another '
                           'process compiling, or has one left a lock? '
                           'theano-cache unlock removes it.')
    if process.returncode < 0:
        raise RuntimeError(f'It crashed with signal {-process.returncode}.')
    for line in process.stdout.split('\n'):
        if line.startswith(RESULT):
            return json.loads(line[len(RESULT):])
    raise RuntimeError(process.stderr.strip().split('\n')[-1][:300])


# The findings

def explain(error, facts):
    """Why the self-test did not end, and what to do about it."""
    flags, files = facts['blas.ldflags'], ' or '.join(compat.settings_files())
    if facts['cxx'] and not facts['compiler']:
        return (f'There is no compiler {facts["cxx"]}, which cxx is set to. '
                f'Mend that setting, in THEANO_FLAGS or {files}.')
    if facts['compiler'] and flags and not compat.links(flags):
        where = compat.user_setting()
        where = f'set in {where}' if where else 'which Theano found'
        return (f'The compiler does not link with blas.ldflags = {flags}, '
                f'{where}. Mend that; without it gradmod looks for a BLAS.')
    return (f'The self-test did not end. {error} -- Try it without a BLAS: '
            f'THEANO_FLAGS={compat.blas_flag()}= and with a fresh folder for '
            'compiled code: THEANO_FLAGS=base_compiledir=FOLDER')


def judge(test):
    """The problems that the values of the self-test show."""
    plain, guided = test['no override']['plain'], test['gradmod']['guided']
    if not plain <= test['tolerance']:
        return ['Theano\'s plain gradient differs from numpy\'s by '
                f'{plain:.2g} of the largest value. Suspect the BLAS: try '
                f'THEANO_FLAGS={compat.blas_flag()}= (none).']
    if not guided <= test['tolerance']:
        return ['The override is not used: guided backprop differs from '
                f'numpy\'s by {guided:.2g} of the largest value. This should '
                'never be. Please report it, with this report.']
    return []


def remarks(facts):
    """What works, and could be better."""
    found = []
    if not facts['cxx']:
        found.append('No C++ compiler: Theano runs in Python, many times '
                     'slower. Install g++.')
    elif not facts['blas.ldflags']:
        found.append('No BLAS: dense layers and convolutions are slower. '
                     'Install one, such as libopenblas-dev, or scipy<1.12.')
    if len(facts['distribution']) > 1:
        found.append(' and '.join(facts['distribution']) + ' share one folder: '
                     'to upgrade or uninstall one breaks the other. '
                     + compat.CHOOSE)
    gpu = sys.modules.get('theano.gpuarray')
    if (facts['device'].startswith(('cuda', 'opencl'))
            and not getattr(gpu, 'pygpu_activated', False)):
        found.append(f'The device {facts["device"]} did not start: Theano '
                     'uses the CPU.')
    return found


def examine():
    """Everything that the doctor has to say, as a dictionary for JSON."""
    facts, problems, test = gather(), [], None
    notes = remarks(facts)
    try:
        test = run_self_test()
        problems += judge(test)
    except RuntimeError as error:
        problems.append(explain(error, facts))
    try:
        facts['lasagne'] = importlib.import_module('lasagne').__version__
    except Exception as error:
        if (isinstance(error, ModuleNotFoundError)
                and error.name == 'lasagne'):
            notes.append('No Lasagne: override_in and saliency_map work on '
                         'expressions. For networks: pip install Lasagne')
        else:
            problems.append(compat.advise(error, 'lasagne'))
    verdict = ('gradmod does not work here as it should.' if problems else
               'gradmod works here.')
    return {'ok': not problems, 'verdict': verdict, 'facts': facts,
            'self-test': test, 'notes': notes, 'problems': problems}


# What is printed

def show(report):
    """The same for people: one line a fact."""
    rows, test = dict(report['facts']), report['self-test']
    encoding = sys.stdout.encoding or 'ascii'
    if rows['theanorc']:
        rows['theanorc'] = [
            f'With these lines in {compat.settings_files()[0]}, import theano '
            'may come before import gradmod:', *rows['theanorc'].split('\n')]
        if '-L' in compat.ldflags:
            rows['theanorc'].append('This BLAS is in this environment. '
                                    'THEANORC can name a file for it alone.')
    if test:
        rows['self-test'] = (
            f'{test["seconds"]:.1f} seconds; guided backprop is '
            f'{test["gradmod"]["guided"]:.1g} from numpy\'s, '
            f'{test["gradmod"]["plain"]:.2g} from the plain gradient '
            '(greatest difference, by the largest value)')
    rows.update({'note': report['notes'], 'PROBLEM': report['problems'],
                 'verdict': report['verdict']})
    for name, value in rows.items():
        for line in value if isinstance(value, list) else [value or 'none']:
            line = f'{name:13} {line}'.encode(encoding, 'backslashreplace')
            print(line.decode(encoding))
            name = ''


def main(argv=None):
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(
        prog='python -m gradmod', description='Say whether gradmod works '
        'here, and prove it. The exit status is 0 if it does, else 1.')
    parser.add_argument('--json', action='store_true',
                        help='print the same for programs')
    args = parser.parse_args(argv)
    report = examine()
    if args.json:  # which has no NaN and no Infinity: they become strings
        print(json.dumps(json.loads(json.dumps(report), parse_constant=str),
                         indent=2))
    else:
        show(report)
    return 0 if report['ok'] else 1
