"""What the benchmarks share: clocks, and processes that compute in turns."""
import argparse
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack

import numpy as np

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', '..')


def parser(description):
    return argparse.ArgumentParser(
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter)


def ratio(a, b):
    """The median of a / b, and its quartiles."""
    low, middle, high = np.percentile(np.divide(a, b), [25, 50, 75])
    return f'{middle:.3f} ({low:.3f} to {high:.3f})'


def peak():
    """The most memory that this process has had so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024.


def timings(functions, rounds, clock=time.perf_counter):
    """The seconds of each, round by round, which go there and back."""
    seconds = {name: [] for name in functions}
    for round in range(rounds):
        for name in list(functions)[::-1 if round % 2 else 1]:
            start = clock()
            functions[name]()
            seconds[name].append(clock() - start)
    return seconds


def environment(flags='floatX=float32', **more):
    """Of a process of one thread, with the gradmod that is here."""
    def joined(by, *values):
        return by.join(filter(None, values))
    return dict(
        os.environ, OMP_NUM_THREADS='1', OPENBLAS_NUM_THREADS='1',
        MKL_NUM_THREADS='1',
        PYTHONPATH=joined(os.pathsep, ROOT, os.environ.get('PYTHONPATH')),
        THEANO_FLAGS=joined(',', os.environ.get('THEANO_FLAGS'), flags), **more)


# Here and with PyTorch, in processes of their own.

def options(description, package, weights, rounds):
    parse = parser(description)
    add = parse.add_argument
    add('--torch-python', metavar='PATH',
        help=f'an interpreter with torch and {package}')
    add('--weights', metavar='PATH', help=weights + ' (default: random)')
    add('--rounds', type=int, default=rounds, metavar='N')
    add('--child', nargs=3, help=argparse.SUPPRESS)
    return parse


def load(path):
    with np.load(path) as archive:
        return [archive[f'arr_{i}'] for i in range(len(archive.files))]


def parsed(parser, **makers):
    """The arguments; but a child computes, once for each line of stdin.

    ``makers[which](way, weights, batch)`` returns a function of nothing, and the
    seconds that it took to compile.
    """
    args = parser.parse_args()
    if not args.child:
        return args
    which, way, folder = args.child
    function, compiling = makers[which](
        way, os.path.join(folder, 'weights.npz'),
        np.load(os.path.join(folder, 'batch.npy')))
    np.save(os.path.join(folder, f'{which}-{way}.npy'), function())
    print('READY', compiling, flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        function()
        print('TIME', time.perf_counter() - start, peak(), flush=True)
    sys.exit()


def answer(process):
    """The numbers of a child's next answer."""
    for line in process.stdout:
        if line.startswith(('READY', 'TIME')):
            return [float(word) for word in line.split()[1:]]
    sys.exit(f'{process.args}: the process ended; its message is above')


def compare(program, args, ways, weights, batch):
    """Print what each way takes, by the first, here and with PyTorch.

    Return how far the results are apart.
    """
    pythons = {'here': (sys.executable, environment())}
    if args.torch_python:
        pythons['there'] = args.torch_python, environment()
        del pythons['there'][1]['PYTHONPATH']
    calls = [(which, way) for which in pythons for way in ways]
    processes, compiling, memory, results = {}, {}, {}, {}
    seconds = {call: [] for call in calls}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        np.savez(os.path.join(folder, 'weights.npz'),
                 *[v.astype('float32') for v in weights])
        np.save(os.path.join(folder, 'batch.npy'), batch.astype('float32'))
        for call in calls:  # one is ready before the next starts
            python, env = pythons[call[0]]
            processes[call] = stack.enter_context(subprocess.Popen(
                [python, os.path.abspath(program), '--child', *call, folder],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env,
                universal_newlines=True, bufsize=1))
            (compiling[call],) = answer(processes[call])
            results[call] = np.load(os.path.join(folder, '-'.join(call) + '.npy'))
        for round in range(args.rounds + 1):
            for call in random.sample(calls, len(calls)):
                processes[call].stdin.write('\n')
                took, memory[call] = answer(processes[call])
                if round:  # the first warms up
                    seconds[call].append(took)

    def cell(figures, *key):  # and by the first way
        value, first = [np.median(figures[k]) for k in (key, (key[0], ways[0]))]
        return f'{value:.4g} ({value / first:.2f})'
    print('| | compile, s | memory, MB | here, s | PyTorch, s '
          '| here / PyTorch (quartiles) | difference |\n|' + '---|' * 7)
    errors = []
    for way in ways:
        row = [way, cell(compiling, 'here', way), cell(memory, 'here', way),
               cell(seconds, 'here', way)]
        if args.torch_python:
            ours, theirs = results['here', way], results['there', way]
            errors.append(abs(ours - theirs).max() / abs(theirs).max())
            row += [cell(seconds, 'there', way),
                    ratio(seconds['here', way], seconds['there', way]),
                    f'{errors[-1]:.1e}']
        print('|', ' | '.join(row), '|')
    return errors
