"""What rules cost on a device: maps of a ResNet-32, images in and maps out.

    . VENV/device.sh
    export THEANO_FLAGS=$DEVICE_FLAGS
    VENV/bin/python -m tests.device.benchmark cifar_model_n5.npz

Prints the median time of each way, relative to the plain gradient too, and how
often the compiled function copies between the host and the device. The ways
take turns, there and back. To see how far the maps are from those of the
processor, run it there first, with THEANO_FLAGS=device=cpu,floatX=float32 and
``--save FILE``, then on the device with ``--compare FILE``.
"""
import os
import sys
import time
from functools import partial

import gradmod  # before Theano and Lasagne
from gradmod import lrp

import numpy as np

from . import graphs
from ..benchmarks import sides

sys.path.append(os.path.join(os.path.dirname(__file__), '../../examples'))

import cifar_resnet  # noqa: E402

WAYS = {
    'plain': (None, 'gradient'),
    'GuidedBackprop': (gradmod.GuidedBackprop, 'gradient'),
    'DeconvNet': (gradmod.DeconvNet, 'gradient'),
    'EpsilonPlus': (lrp.EpsilonPlus(
        rules={cifar_resnet.Shortcut: lrp.Gradient()}), 'relevance'),
}


def main():
    parser = sides.parser(__doc__)
    add = parser.add_argument
    add('weights', metavar='PATH', help='see examples/cifar_resnet.py')
    add('--batch', type=int, nargs='+', default=[64], metavar='N')
    add('--rounds', type=int, default=20, metavar='N', help='0: no times')
    add('--save', metavar='PATH', help='write the maps, as .npz')
    add('--compare', metavar='PATH', help='such a file')
    args = parser.parse_args()

    network = cifar_resnet.build_network()
    cifar_resnet.load_weights(network, args.weights)
    functions = {}
    for way, (rule, method) in WAYS.items():
        start = time.perf_counter()
        f = functions[way] = gradmod.compile_saliency_function(
            network, rule, method=method)
        print(f'{way}: {time.perf_counter() - start:.0f} s to compile, '
              f'{sum(graphs.transfers(f.function).values())} transfers',
              flush=True)
    images = np.random.RandomState(0).normal(
        size=(max(args.batch), 3, 32, 32)).astype('float32')
    maps = {way: f(images[:64]) for way, f in functions.items()}
    if args.save:
        np.savez(args.save, **maps)
    if args.compare:
        with np.load(args.compare) as expected:
            for way, got in maps.items():
                error = abs(got - expected[way]).max()
                print(f'{way}: largest difference {error:.1e}, relative to '
                      'the largest value '
                      f'{error / abs(expected[way]).max():.1e}')
    for n in args.batch if args.rounds else []:
        calls = {way: partial(f, images[:n], batch_size=n)
                 for way, f in functions.items()}
        seconds = {way: values[1:] for way, values in sides.timings(
            calls, args.rounds + 1).items()}  # the first warms up
        print(f'\nbatch {n}, {args.rounds} rounds: median (quartiles)')
        for way, values in seconds.items():
            low, middle, high = np.percentile(values, [25, 50, 75]) * 1000
            print(f'{way:15} {middle:7.1f} ms ({low:.1f} to {high:.1f}), '
                  f'{middle / np.median(seconds["plain"]) / 1000:.3f} of plain')


if __name__ == '__main__':
    main()
