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
import argparse
import os
import sys
import time

import gradmod  # before Theano and Lasagne
from gradmod import lrp

import numpy as np

sys.path.append(os.path.join(os.path.dirname(__file__), '../../examples'))

import cifar_resnet  # noqa: E402

WAYS = {
    'plain': (None, 'gradient'),
    'GuidedBackprop': (gradmod.GuidedBackprop, 'gradient'),
    'DeconvNet': (gradmod.DeconvNet, 'gradient'),
    'EpsilonPlus': (lrp.EpsilonPlus(
        rules={cifar_resnet.Shortcut: lrp.Gradient()}), 'relevance'),
}


def transfers(f):
    return sum(gradmod.device.is_transfer(n.op)
               for n in f.function.maker.fgraph.apply_nodes)


def timings(functions, images, rounds):
    """The times of each way in seconds, but for those of a first round."""
    seconds = {way: [] for way in functions}
    for round in range(rounds + 1):
        for way in list(functions)[::1 if round % 2 else -1]:
            start = time.perf_counter()
            functions[way](images, batch_size=len(images))
            if round:
                seconds[way].append(time.perf_counter() - start)
    return seconds


def main():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
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
        functions[way] = gradmod.compile_saliency_function(
            network, rule, method=method)
        print(f'{way}: {time.perf_counter() - start:.0f} s to compile, '
              f'{transfers(functions[way])} transfers', flush=True)
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
        seconds = timings(functions, images[:n], args.rounds)
        print(f'\nbatch {n}, {args.rounds} rounds: median (quartiles)')
        for way, values in seconds.items():
            low, middle, high = np.percentile(values, [25, 50, 75]) * 1000
            print(f'{way:15} {middle:7.1f} ms ({low:.1f} to {high:.1f}), '
                  f'{middle / np.median(seconds["plain"]) / 1000:.3f} of plain',
                  flush=True)


if __name__ == '__main__':
    main()
