"""What the benchmarks share: clocks, and processes that compute in turns."""
import argparse
import contextlib
import os
import random
import resource
import subprocess
import sys
import time

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', '..')


def parser(description):
    return argparse.ArgumentParser(
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter)


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


def serve(functions, *batch, compiling=0.):
    """In a child: compute what stdin names, line by line; answer each."""
    print('READY', compiling, flush=True)
    for line in sys.stdin:
        start = time.perf_counter()
        functions[line.strip()](*batch)
        print('TIME', time.perf_counter() - start, peak(), flush=True)


def answer(process):
    """The numbers of a child's next answer."""
    for line in process.stdout:
        if line.startswith(('READY', 'TIME')):
            return [float(word) for word in line.split()[1:]]
    sys.exit(f'{process.args}: the process ended; its message is above')


@contextlib.contextmanager
def children(program, torch_python, calls, folder):
    """Processes that `serve`, by their arguments, each with its first answer.

    The arguments begin with 'here' or 'there', which is with `torch_python`.
    One is ready before the next starts.
    """
    here, found = environment(), {}
    there = {name: v for name, v in here.items() if name != 'PYTHONPATH'}
    try:
        for call in calls:
            python, env = ((sys.executable, here) if call[0] == 'here'
                           else (torch_python, there))
            process = subprocess.Popen(
                [python, os.path.abspath(program), '--child', *call, folder],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env,
                universal_newlines=True, bufsize=1)
            found[call] = [process]
            found[call] += answer(process)
        yield found
    finally:
        for process, *_ in found.values():
            process.stdin.close()
            process.wait()


def in_turns(calls, rounds):
    """The answers of each, by round; `calls`: key, process, line to write."""
    answers = {key: [] for key, _, _ in calls}
    for round in range(rounds + 1):
        for key, process, line in random.sample(calls, len(calls)):
            process.stdin.write(line + '\n')
            found = answer(process)
            if round:  # the first warms up
                answers[key].append(found)
    return answers
