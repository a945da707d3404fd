"""What it takes to fit patterns, beside the forward passes alone.

A network like VGG, of random weights, on noise of 64 x 64 pixels, one thread.
Prints the CPU time of both so far, without what it takes to compile, and the
largest memory so far, which should not grow with the images:

    OMP_NUM_THREADS=1 python tests/benchmarks/patterns.py --images 10000
"""
import argparse
import resource

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
    """Noise; and the CPU time and memory before each batch and after all."""
    rng = np.random.RandomState(0)
    for i in range(0, count + size, size):
        usage = resource.getrusage(resource.RUSAGE_SELF)
        marks.append((usage.ru_utime + usage.ru_stime, usage.ru_maxrss))
        if i < count:
            yield rng.rand(min(size, count - i), 3, 64, 64).astype('float32')


def main():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add('--images', type=int, default=640, metavar='N')
    add('--batch', type=int, default=32, metavar='N')
    args = parser.parse_args()
    theano.config.floatX = 'float32'
    lasagne.random.set_rng(np.random.RandomState(0))
    network = build_network()
    x = get_all_layers(network)[0].input_var
    forward = theano.function([x], get_output(network, deterministic=True))
    plain, fit = [], []
    for batch in batches(args.images, args.batch, plain):
        forward(batch)
    fit_patterns(network, batches(args.images, args.batch, fit))
    print('| images | forward passes | fit | ratio | memory of both |\n'
          '|---|---|---|---|---|')
    steps = np.linspace(0, len(plain) - 1, min(len(plain), 6)).astype(int)
    for i in steps[1:]:
        a, b = [marks[i][0] - marks[0][0] for marks in (plain, fit)]
        print(f'| {min(i * args.batch, args.images)} | {a:.0f} s | {b:.0f} s '
              f'| {b / a:.2f} | {plain[i][1] / 1024:.0f}, '
              f'{fit[i][1] / 1024:.0f} MB |')


if __name__ == '__main__':
    main()
