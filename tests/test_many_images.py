"""examples/many_images.py, with workers that are killed for real."""
import contextlib
import json
import os
import pickle
import re
import subprocess
import sys
import time

import distributed
import numpy as np
import psutil  # which distributed needs
import pytest
import theano
import theano.tensor as T

import gradmod

from .conftest import ROOT

EXAMPLES = os.path.join(ROOT, 'examples')
PROGRAM = os.path.join(EXAMPLES, 'many_images.py')
sys.path.insert(0, EXAMPLES)
import many_images  # noqa: E402
sys.path.remove(EXAMPLES)

rng = np.random.RandomState(1)
P, Q = rng.randn(6, 20), rng.randn(20, 3)
N = 200
X = rng.randn(N, 6)


def expected(x):
    """Guided backpropagation of the maximal class, written out."""
    maps = []
    for v in x:
        hidden = v.dot(P)
        g = Q[:, np.maximum(hidden, 0).dot(Q).argmax()]
        maps.append(P.dot(np.where((hidden > 0) & (g > 0), g, 0)))
    return np.array(maps)


def function(rule=gradmod.GuidedBackprop):
    x = T.dmatrix('x')
    hidden = T.nnet.relu(T.dot(x, theano.shared(P)))
    return gradmod.compile_saliency_function(
        T.dot(hidden, theano.shared(Q)), rule, input_var=x,
        mode=theano.Mode(linker='py', optimizer='fast_compile'))


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp('files')
    (folder / 'guided').write_bytes(pickle.dumps(function()))
    (folder / 'plain').write_bytes(pickle.dumps(function(None)))
    np.save(str(folder / 'images.npy'), X)
    np.save(str(folder / 'others.npy'), X + 1)
    np.save(str(folder / 'wide.npy'), np.ones((3, 6, 2)))
    with_nan = X.copy()
    with_nan[50, 2] = np.nan
    np.save(str(folder / 'nan.npy'), with_nan)
    return folder


def arguments(files, output, *more, **options):
    named = dict({'function': files / 'guided', 'images': files / 'images.npy',
                  'output': output}, **options)
    return list(more) + [word for name, value in sorted(named.items())
                         if value is not None
                         for word in ('--' + name, str(value))]


def start(args, log):
    """The program in a process of its own."""
    env = dict(os.environ, PYTHONPATH=ROOT)
    with open(str(log), 'a') as file:
        return subprocess.Popen([sys.executable, PROGRAM] + args, env=env,
                                stdout=file, stderr=subprocess.STDOUT)


def wait_for(condition, seconds=120):
    end = time.time() + seconds
    while not condition():
        assert time.time() < end
        time.sleep(.01)


def recorded(output):
    """The ranges of images that are recorded to be there."""
    try:
        lines = (output.parent / (output.name + '.done')).read_text()
    except OSError:
        return []
    return [tuple(map(int, line.split())) for line in lines.split('\n')[1:-1]]


@contextlib.contextmanager
def running(args, log, output, count):
    """The program, and its workers, when it has recorded so many ranges."""
    process = start(args, log)
    try:
        wait_for(lambda: len(recorded(output)) > count
                 or process.poll() is not None)
        workers = [p for p in psutil.Process(process.pid).children(
            recursive=True) if 'spawn_main' in ' '.join(p.cmdline())]
        assert workers, log.read_text()
        yield process, workers
    finally:
        process.kill()
        process.wait()
    wait_for(lambda: not any(
        p.is_running() and p.status() != psutil.STATUS_ZOMBIE
        for p in workers))


def call_main(monkeypatch, args):
    monkeypatch.setattr(sys, 'argv', ['many_images.py'] + args)
    many_images.main()


@pytest.mark.slow
def test_the_program_is_killed_and_then_a_worker(files, tmp_path, monkeypatch):
    output, log = tmp_path / 'maps.npy', tmp_path / 'log'
    args = arguments(files, output, chunk=2)
    with running(args, log, output, 10):
        pass
    assert not output.exists()

    # neither of these may go on from there
    for options in {'images': files / 'others.npy'}, {
            'function': files / 'plain'}:
        with pytest.raises(SystemExit, match='to start again'):
            call_main(monkeypatch, arguments(files, output, **options))

    # a line that was half written when the program was killed does not count
    with open(str(output) + '.done', 'a') as file:
        file.write('0 4')
    there = np.zeros(N, bool)
    for first, last in recorded(output):
        there[first:last] = True
    assert there[:many_images.FIRST].all() and 20 < there.sum() < N / 2
    part = np.load(str(output) + '.part', mmap_mode='r+')
    np.testing.assert_allclose(part[there], expected(X[there]), rtol=1e-12)
    there[:many_images.FIRST] = False
    part[there] = 1e6  # to be seen again: it is not computed again
    del part
    before = len(recorded(output))
    with running(args, log, output, before + 10) as (process, workers):
        assert len(workers) == 2, log.read_text()
        workers[0].kill()
        assert before < len(recorded(output)) < 80  # of 97
        assert process.wait(120) == 0, log.read_text()
    assert sorted(p.name for p in tmp_path.iterdir()) == ['log', 'maps.npy']
    maps = np.load(str(output))
    assert (maps[there] == 1e6).all()
    np.testing.assert_allclose(maps[~there], expected(X[~there]), rtol=1e-12)
    missing = N - many_images.FIRST - there.sum()  # the first are not workers'
    assert '%d maps in' % missing in log.read_text()


@pytest.fixture
def scheduler(tmp_path):
    """The address of a scheduler with one worker, which has two threads."""
    file = tmp_path / 'scheduler.json'
    env = dict(os.environ, PYTHONPATH=ROOT)
    common = ['--scheduler-file', str(file), '--no-dashboard']
    processes = []
    try:
        for program, *more in [
                ('scheduler', '--port', '0'),
                ('worker', '--no-nanny', '--nthreads', '2',
                 '--local-directory', str(tmp_path))]:
            processes.append(subprocess.Popen(
                [sys.executable, '-m', f'distributed.cli.dask_{program}',
                 *common, *more], cwd=str(tmp_path), env=env,
                stderr=subprocess.DEVNULL))
            wait_for(file.exists)
        address = json.loads(file.read_text())['address']
        with distributed.Client(address) as client:
            wait_for(client.nthreads)
        yield address
    finally:
        for process in processes:
            process.kill()
            process.wait()


@pytest.mark.slow
def test_a_scheduler_elsewhere(files, tmp_path, scheduler):
    log = tmp_path / 'log'

    def run(name, *more, **options):
        return start(arguments(files, tmp_path / name, *more,
                               scheduler=scheduler, **options), log).wait(120)
    assert run('guided.npy', '--check', chunk=7) == 0, log.read_text()
    np.testing.assert_allclose(np.load(str(tmp_path / 'guided.npy')),
                               expected(X), rtol=1e-12)
    assert 'maps of 64 images computed here' in log.read_text()
    # the worker has a function by now, and gets another
    assert run('plain.npy', function=files / 'plain') == 0, log.read_text()
    np.testing.assert_allclose(np.load(str(tmp_path / 'plain.npy')),
                               function(None)(X), rtol=1e-12)
    assert run('nan.npy', images=files / 'nan.npy', chunk=10) != 0
    assert re.search('No maps of images 48 to 57: ValueError: .* NaN',
                     log.read_text())
    assert not (tmp_path / 'nan.npy').exists()


@pytest.mark.parametrize('options, message', [
    ({'images': None}, '--images is needed'),
    ({'images': 'nowhere.npy'}, "no file 'nowhere.npy'"),
    ({'images': PROGRAM}, 'expected an .npy file'),
    ({'images': 'wide.npy'}, r'\(None, None\), for .* got \(3, 6, 2\)'),
    ({'function': PROGRAM}, 'expected a pickled SaliencyFunction'),
    ({'function': 'images.npy'}, 'expected a pickled SaliencyFunction'),
    ({'rule': 'guided'}, 'has its own rule'),
    ({'output': 'plain'}, 'already'),
    ({'output': os.path.join('nowhere', 'maps.npy')}, 'no folder'),
    ({'workers': 0}, 'whole number'),
    ({'scheduler': 'tcp://127.0.0.1:1'}, 'no scheduler at'),
    ({'scheduler': 'elsewhere://1'}, 'no scheduler at')])
def test_wrong_arguments(files, tmp_path, monkeypatch, capsys, options,
                         message):
    monkeypatch.chdir(files)
    options = dict({'output': tmp_path / 'maps.npy'}, **options)
    with pytest.raises(SystemExit) as caught:
        call_main(monkeypatch, arguments(files, **options))
    assert caught.value.code != 0
    assert re.search(message, str(caught.value) + capsys.readouterr().err)
    assert not (tmp_path / 'maps.npy').exists()


def test_nan_is_not_close(files, tmp_path, monkeypatch, capsys):
    output = tmp_path / 'maps.npy'

    def start():
        return many_images.Output(str(output), X, expected(X[:8]))
    start()
    start()  # which goes on
    part = np.load(str(output) + '.part', mmap_mode='r+')
    part[3, 2] = np.nan
    del part
    with pytest.raises(SystemExit, match='has other maps of the first images'):
        start()

    def run(client, function, images, output, chunk):
        output.write(8, N, np.full((N - 8, 6), np.nan))
    monkeypatch.setattr(many_images, 'connect', lambda *_: open(os.devnull))
    monkeypatch.setattr(many_images, 'run', run)
    with pytest.raises(SystemExit, match='differ by more than rounding'):
        call_main(monkeypatch,
                  arguments(files, tmp_path / 'nan.npy', '--check'))


def test_ranges():
    output = many_images.Output.__new__(many_images.Output)
    for n in range(1, 12):
        for _ in range(20):
            output.n, output.missing = n, rng.rand(n) < .5
            ranges = list(output.ranges(3))
            assert all(0 < stop - start <= 3 for start, stop in ranges)
            covered = [i for start, stop in ranges for i in range(start, stop)]
            assert covered == np.flatnonzero(output.missing).tolist()


def test_a_deep_network_pickles():
    x = T.dmatrix('x')
    y = x
    for _ in range(150):
        y = T.nnet.sigmoid(y)
    f = gradmod.compile_saliency_function(
        y, input_var=x, mode=theano.Mode(linker='py', optimizer=None))
    with pytest.raises(RecursionError):
        pickle.dumps(f)
    assert many_images.dumps(f)
