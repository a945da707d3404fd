"""What it takes to fit patterns, beside the forward passes alone.

A network like VGG, of random weights, on noise of 64 x 64 pixels, one thread.
Prints the CPU time of both for each part of the images, without what it takes
to compile, and the largest memory so far, which should not grow:

    OMP_NUM_THREADS=1 python tests/benchmarks/patterns.py --images 10000
"""
import argparse
import resource
import time

import gradmod  # noqa: F401  before Theano and Lasagne
import lasagne
import numpy as np
import theano
from gradmod.pattern import fit_patterns
from lasagne.layers import (Conv2DLayer, DenseLayer, InputLayer, MaxPool2DLayer,
                            get_all_layers, get_output)


def build_network():
    net = InputLayer((None, 3, 64, 64))
    for filters in 64, 128, 256, 256:
        for _ in range(2):
            net = Conv2DLayer(net, filters, 3, pad='same',
                              W=lasagne.init.HeNormal(2 ** .5))
        net = MaxPool2DLayer(net, 2)
    return DenseLayer(DenseLayer(net, 512), 10, nonlinearity=None)


def batches(count, size, marks):
    """Noise; the CPU time when each was asked for, and after the last."""
    rng = np.random.RandomState(0)
    for i in range(0, count, size):
        marks.append(time.process_time())
        yield rng.rand(min(size, count - i), 3, 64, 64).astype('float32')
    marks.append(time.process_time())


def main():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add('--images', type=int, default=640, metavar='N')
    add('--batch', type=int, default=32, metavar='N')
    add('--parts', type=int, default=5, metavar='N')
    args = parser.parse_args()
    theano.config.floatX = 'float32'
    lasagne.random.set_rng(np.random.RandomState(0))
    network = build_network()
    x = get_all_layers(network)[0].input_var
    forward = theano.function([x], get_output(network, deterministic=True))
    ratios, total = [], None
    print('| images | forward | fit | ratio | memory |\n|---|---|---|---|---|')
    for part in range(args.parts):
        count, plain, fit = args.images // args.parts, [], []
        for batch in batches(count, args.batch, plain):
            forward(batch)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        some = fit_patterns(network, batches(count, args.batch, fit))
        total = total + some if total else some
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        plain, fit = [marks[-1] - marks[0] for marks in (plain, fit)]
        ratios.append(fit / plain)
        print(f'| {count * (part + 1)} | {plain:.1f} s | {fit:.1f} s '
              f'| {ratios[-1]:.2f} | {before / 1024:.0f}, {after / 1024:.0f} MB '
              '|', flush=True)
    print(f'ratio: {np.median(ratios):.2f} (median), '
          f'{min(ratios):.2f} to {max(ratios):.2f}; {total}')


if __name__ == '__main__':
    main()
