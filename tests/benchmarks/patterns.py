"""What it takes to fit patterns, beside the forward passes alone.

A network like VGG, of random weights, on noise of 64 x 64 pixels, one thread.
Both are done in turns, batch by batch. Prints the CPU time of each so far,
without what it takes to compile, and the largest memory so far, which should
not grow with the images:

    OMP_NUM_THREADS=1 python tests/benchmarks/patterns.py --images 10000
"""
import time

import gradmod  # noqa: F401  before Theano and Lasagne
import lasagne
import numpy as np
import theano
from gradmod.pattern import fit_patterns
from lasagne.layers import (Conv2DLayer, DenseLayer, InputLayer, MaxPool2DLayer,
                            get_all_layers, get_output)

from sides import parser, peak


def build_network():
    net = InputLayer((None, 3, 64, 64))
    for filters in 64, 128, 256, 256:
        for _ in range(2):
            net = Conv2DLayer(net, filters, 3, pad='same',
                              W=lasagne.init.HeNormal(2 ** .5))
        net = MaxPool2DLayer(net, 2)
    return DenseLayer(DenseLayer(net, 512), 10, nonlinearity=None)


def batches(count, size, forward, marks):
    """Noise; and the CPU time of `forward` and of what is done with each."""
    rng = np.random.RandomState(0)
    for i in range(0, count, size):
        batch = rng.rand(min(size, count - i), 3, 64, 64).astype('float32')
        times = [time.process_time()]
        forward(batch)
        times.append(time.process_time())
        yield batch
        times.append(time.process_time())
        marks.append((*np.diff(times), len(batch), peak()))


def main():
    parse = parser(__doc__)
    parse.add_argument('--images', type=int, default=640, metavar='N')
    parse.add_argument('--batch', type=int, default=32, metavar='N')
    args = parse.parse_args()
    theano.config.floatX = 'float32'
    lasagne.random.set_rng(np.random.RandomState(0))
    network = build_network()
    x = get_all_layers(network)[0].input_var
    forward = theano.function([x], get_output(network, deterministic=True))
    marks = []
    fit_patterns(network, batches(args.images, args.batch, forward, marks))
    print('| images | forward passes | fit | ratio | memory |\n'
          '|---|---|---|---|---|')
    for i in np.linspace(0, len(marks), min(len(marks), 5) + 1)[1:]:
        plain, fit, count, _ = np.sum(marks[:int(i)], axis=0)
        print(f'| {count:.0f} | {plain:.0f} s | {fit:.0f} s '
              f'| {fit / plain:.2f} | {marks[int(i) - 1][3]:.0f} MB |')


if __name__ == '__main__':
    main()
