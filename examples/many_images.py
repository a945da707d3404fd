"""Compute the saliency maps of many images, in many processes, with Dask."""
import argparse
import contextlib
import hashlib
import itertools
import os
import pickle
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import gradmod  # first: it makes Theano and Lasagne importable
import numpy as np

from common import METHODS, MISSING, RULES, generator, integer
try:
    import dask
    from distributed import Client, LocalCluster, as_completed, get_worker
    from tqdm import tqdm
except ImportError as error:
    sys.exit(MISSING % error)

# The other examples are imported inside of functions: the processes of a local
# cluster import this file too.

FIRST = 8  # images whose maps are computed here, before any worker is asked
CLOSE = 1e-4  # how equal maps are that differ in rounding only


def compute(pickled, images):
    """The maps of some images. This is what workers run.

    A worker unpickles the function, which compiles it, once, and keeps it. The
    lock is for workers with several threads: a Theano function runs in one.
    Theano takes aligned arrays only, which those out of a message may not be.
    """
    kept = get_worker().__dict__.setdefault('_many_images',
                                            {'lock': threading.Lock()})
    with kept['lock']:
        if kept.get('pickled') != pickled:
            kept.update(function=pickle.loads(pickled), pickled=pickled)
        return kept['function'](images)


def stream(client, pickled, images, ranges):
    """Compute the maps of ranges of images on the workers of `client`.

    Two ranges for each worker are under way, so that none waits for this
    process, and memory does not grow with the number of images. The scheduler
    keeps the images of a range until their maps are here, and gives them to
    another worker if one is lost. Workers may come and go.

    Yields
    ------
    start, stop, maps
        In the order of completion.
    """
    function = client.submit(bytes, pickled, pure=False)
    ranges, running, finished = iter(ranges), {}, as_completed()
    while True:
        room = max(1, 2 * len(client.nthreads())) - len(running)
        for start, stop in itertools.islice(ranges, max(0, room)):
            future = client.submit(compute, function,
                                   read(images, start, stop), pure=False)
            running[future] = start, stop
            finished.add(future)
        if not running:
            return
        future = next(finished)
        start, stop = running.pop(future)
        try:
            maps = future.result()
        except Exception as error:  # the worker's
            sys.exit('No maps of images %d to %d: %s: %s' % (
                start, stop - 1, type(error).__name__, error))
        del future  # and with it, the worker's copy of the maps
        yield start, stop, maps


class Output:
    """An .npy file of maps that is written range by range.

    It has another name, PATH.part, until all maps are there. Beside it,
    PATH.done has a line for all images and then one for each range whose maps
    are on the disk. A program that is started again goes on from there.

    Parameters
    ----------
    path : str
        The file.
    images : array or str
        The images, or the .npy file that they are in.
    first : array
        The maps of the first images.
    """

    def __init__(self, path, images, first):
        self.path, self.part, self.done = path, path + '.part', path + '.done'
        self.n = len(open_images(images))
        head = '%s\n' % fingerprint(images)
        if os.path.exists(self.part) and os.path.exists(self.done):
            self._resume(head, first)
            return
        if os.path.exists(self.done):
            os.remove(self.done)
        maps = np.lib.format.open_memmap(
            self.part, 'w+', first.dtype, (self.n,) + first.shape[1:])
        self.offset = maps.offset
        del maps
        self.missing = np.ones(self.n, bool)
        with open(self.done, 'w') as file:
            file.write(head)
        self.write(0, len(first), first)

    def _resume(self, head, first):
        with open(self.done, 'r+') as file:
            lines = file.read().splitlines(True)
            if lines and not lines[-1].endswith('\n'):  # killed in the middle
                file.seek(0)
                file.truncate(len(''.join(lines[:-1])))
                del lines[-1]
        if lines[:1] != [head]:
            sys.exit('%s has the maps of other images. Remove it to start '
                     'again, or name another --output.' % self.part)
        maps = np.load(self.part, mmap_mode='r')
        if (maps.shape != (self.n,) + first.shape[1:]
                or maps.dtype != first.dtype
                or not difference(maps[:len(first)], first) <= CLOSE):
            sys.exit('%s has other maps of the first images, those of another '
                     'function. Remove it to start again, or name another '
                     '--output.' % self.part)
        self.offset = maps.offset
        self.missing = np.ones(self.n, bool)
        for line in lines[1:]:
            start, stop = line.split()
            self.missing[int(start):int(stop)] = False

    def ranges(self, size):
        """Where maps are missing: ranges of up to `size`, as (start, stop)."""
        stop = 0
        while self.missing[stop:].any():
            start = stop + self.missing[stop:].argmax()
            stop = start + self.missing[start:start + size].argmin()
            if stop == start:
                stop = min(start + size, self.n)
            yield int(start), int(stop)

    def write(self, start, stop, maps):
        """Write the maps of a range, and then, that they are there."""
        with open(self.part, 'r+b') as file:
            file.seek(self.offset + start * maps[0].nbytes)
            file.write(maps.tobytes())
            file.flush()
            os.fsync(file.fileno())
        with open(self.done, 'a') as file:
            file.write('%d %d\n' % (start, stop))
        self.missing[start:stop] = False

    def finish(self):
        os.replace(self.part, self.path)
        os.remove(self.done)


def open_images(images):
    return np.load(images, mmap_mode='r') if isinstance(images, str) else images


def read(images, start, stop):
    """A range of the images. A file is not kept open: pages of it would be."""
    return np.array(open_images(images)[start:stop])


def fingerprint(images):
    """A line that tells these images from others."""
    array = open_images(images)
    digest = hashlib.sha256()
    for i in range(0, len(array), 64):
        digest.update(read(images, i, i + 64).tobytes())
    return '%s %s %s' % (array.shape, array.dtype.str, digest.hexdigest())


def difference(maps, expected):
    """The largest difference, relative to the largest value."""
    largest = abs(expected).max()
    return abs(maps - expected).max() / (largest if largest else 1)


@contextlib.contextmanager
def connect(address, workers):
    """A Dask client: of the scheduler at `address`, or of a new local cluster.

    The workers of the latter have one thread each, for all that they compute.
    They share this process's Theano directory and find there what it compiled.
    Theano locks it, so that they load the function one after the other, and
    would look at the lock every 5 to 10 seconds if it were not told otherwise.
    """
    # Dask keeps the last 1000 messages of less than a megabyte for debugging.
    dask.config.set({'distributed.admin.low-level-log-length': 10})
    if address is None:
        os.environ['THEANO_FLAGS'] = ('compile.wait=1,compile.timeout=120,'
                                      + os.environ.get('THEANO_FLAGS', ''))
        for name in 'OMP', 'OPENBLAS', 'MKL':
            os.environ.setdefault(name + '_NUM_THREADS', '1')
        with tempfile.TemporaryDirectory() as folder, LocalCluster(
                n_workers=workers, threads_per_worker=1, local_directory=folder,
                dashboard_address=None) as cluster, Client(cluster) as client:
            yield client
        return
    try:
        client = Client(address, timeout=5)
    except (OSError, ValueError) as error:
        sys.exit('There is no scheduler at %s (%s)' % (address, error))
    with client:
        if not client.nthreads():
            sys.exit('The scheduler at %s has no workers yet' % address)
        yield client


def digits(rule):
    """The function for the network of digits.py, and its digits."""
    import digits
    rng = generator(1)
    images, classes, _, _ = digits.load_data(rng)
    network = digits.build_network()
    digits.train(network, images, classes, 15, rng)
    return gradmod.compile_saliency_function(network.input_layer, rule), images


def cifar_resnet(rule, weights):
    """The function for the network of cifar_resnet.py."""
    import cifar_resnet
    import theano
    theano.config.floatX = 'float32'
    network = cifar_resnet.build_network()
    cifar_resnet.load_weights(network, weights)
    return gradmod.compile_saliency_function(network.input_layer, rule)


def dumps(function):
    """Pickle a function, which for a deep network is a deep recursion."""
    limit, size = sys.getrecursionlimit(), threading.stack_size(2**28)
    sys.setrecursionlimit(10**5)
    try:
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(pickle.dumps, function).result()
    finally:
        sys.setrecursionlimit(limit)
        threading.stack_size(size)


def unpickle(path):
    try:
        with open(path, 'rb') as file:
            function = pickle.load(file)
    except Exception as error:  # what is raised depends on the file
        sys.exit('%s: expected a pickled SaliencyFunction (%s: %s)' %
                 (path, type(error).__name__, error))
    if not isinstance(function, gradmod.saliency.SaliencyFunction):
        sys.exit('%s: expected a pickled SaliencyFunction, got a %s' %
                 (path, type(function).__name__))
    return function


def main():
    parser = argparse.ArgumentParser(
        description=__doc__ + ' Without --function and --weights, the network '
        'is that of digits.py, trained first. If this program is stopped, the '
        'same command goes on where it was.')
    network = parser.add_mutually_exclusive_group()
    network.add_argument('--function', metavar='PATH', help='what '
                         'gradmod.compile_saliency_function returned, pickled; '
                         'unpickling runs code: load no file you do not trust')
    network.add_argument('--weights', metavar='PATH', help='the weights of the '
                         'ResNet-32 of cifar_resnet.py')
    parser.add_argument('--rule', choices=RULES, help='the rule of the '
                        'rectifiers: %(choices)s (default: guided; a '
                        '--function has its own)')
    parser.add_argument('--images', metavar='PATH', help='an .npy file of '
                        'images as the network takes them, such as float32 of '
                        'shape (n, 3, 32, 32) (default: digits for the '
                        'network of digits.py)')
    parser.add_argument('--output', metavar='PATH', default='maps.npy',
                        help='the .npy file to write (default: %(default)s)')
    where = parser.add_mutually_exclusive_group()
    where.add_argument('--workers', metavar='N', type=integer(1, 1000),
                       default=2, help='how many processes to start on this '
                       'machine (default: %(default)s)')
    where.add_argument('--scheduler', metavar='ADDRESS', help='a running Dask '
                       'scheduler, such as tcp://host:8786, whose workers have '
                       'gradmod and share no files with this machine')
    parser.add_argument('--chunk', metavar='N', type=integer(1, 10**6),
                        default=64, help='how many images to send to a worker '
                        'at once (default: %(default)s)')
    parser.add_argument('--check', action='store_true', help='compare some of '
                        'the maps with those computed in this process')
    args = parser.parse_args()
    if args.function and args.rule:
        parser.error('a --function has its own rule: leave --rule out')
    if (args.function or args.weights) and not args.images:
        parser.error('--images is needed with --function and --weights')
    if os.path.exists(args.output):
        parser.error('there is already a %r: remove it, or name another '
                     '--output' % args.output)
    if not os.path.isdir(os.path.dirname(os.path.abspath(args.output))):
        parser.error('there is no folder for --output %r' % args.output)
    for path in args.function, args.weights, args.images:
        if path and not os.path.isfile(path):
            parser.error('there is no file %r' % path)
    images = args.images
    try:
        if images and not getattr(open_images(images), 'shape', ()):
            raise ValueError('no array of one dimension or more')
    except (OSError, ValueError) as error:
        sys.exit('%s: expected an .npy file of images (%s)' % (images, error))

    rule = METHODS[args.rule or 'guided'][1]
    if args.function:
        function = unpickle(args.function)
    elif args.weights:
        function = cifar_resnet(rule, args.weights)
    else:
        function, own = digits(rule)
        images = own if images is None else images
    try:
        first = function(read(images, 0, FIRST))
    except (TypeError, ValueError) as error:
        sys.exit('%s: %s' % (args.images, error))
    output = Output(args.output, images, first)
    print(function)
    try:
        with connect(args.scheduler, args.workers) as client:
            run(client, function, images, output, args.chunk)
    except KeyboardInterrupt:
        sys.exit('Stopped: the same command goes on from here.')
    output.finish()
    print('wrote %s' % args.output)
    if args.check:
        chosen = np.sort(np.random.RandomState(0).permutation(output.n)[:64])
        maps = open_images(args.output)[chosen]
        worst = difference(maps, function(open_images(images)[chosen]))
        print('largest difference to the maps of %d images computed here: %.1e '
              'of the largest value' % (len(chosen), worst))
        if not worst <= CLOSE:  # as NaN is not
            sys.exit('The maps differ by more than rounding.')


def run(client, function, images, output, chunk):
    """Compute what is missing of the output, and say how fast that was."""
    missing = int(output.missing.sum())
    before = time.time()
    bar = tqdm(total=output.n, initial=output.n - missing, unit='image')
    with bar:
        start_up = count = 0
        for start, stop, maps in stream(client, dumps(function), images,
                                        output.ranges(chunk)):
            output.write(start, stop, maps)
            bar.update(stop - start)
            if not start_up:
                start_up = time.time() - before
            else:
                count += stop - start
    seconds = time.time() - before
    print('%d maps in %.1f s on %d workers' %
          (missing, seconds, len(client.nthreads())))
    if count:
        print('%.1f s until the first came, then %.1f images/s' %
              (start_up, count / (seconds - start_up)))


if __name__ == '__main__':
    main()
