"""What a saliency function costs beside the theano.function written by hand.

Times both on a ResNet-32 for images of CIFAR-10's size, one after the other in
turn, and prints how much memory the process has needed at most after more and
more images. Run it with OMP_NUM_THREADS=1.
"""
import argparse
import os
import resource
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, '..', '..'),
                os.path.join(HERE, '..', '..', 'examples')]

import gradmod  # noqa: E402  before Theano and Lasagne
import lasagne  # noqa: E402
import numpy as np  # noqa: E402
import theano  # noqa: E402
import theano.tensor as T  # noqa: E402
from cifar_resnet import build_network, load_weights  # noqa: E402

RULES = {'none': None, 'guided': gradmod.GuidedBackprop,
         'deconvnet': gradmod.DeconvNet}


def make_up_weights(network):
    rng = np.random.RandomState(0)
    for param in lasagne.layers.get_all_params(network):
        shape = param.get_value().shape
        if param.name == 'W':
            value = rng.normal(0, np.sqrt(2. / np.prod(shape[1:])), shape)
        else:
            value = np.full(shape, param.name in ('gamma', 'inv_std'))
        param.set_value(value.astype(param.dtype))


def by_hand(network, rule):
    logits = network.input_layer
    images = lasagne.layers.get_all_layers(network)[0].input_var
    if rule is None:
        scores = lasagne.layers.get_output(logits, deterministic=True)
    else:
        with gradmod.modified(network, rule):
            scores = lasagne.layers.get_output(logits, deterministic=True)
    score = scores[T.arange(scores.shape[0]), scores.argmax(axis=1)].sum()
    return theano.function([images], theano.grad(score, images))


def loop(function, images, batch_size):
    maps = np.empty_like(images)
    for i in range(0, len(images), batch_size):
        maps[i:i + batch_size] = function(images[i:i + batch_size])
    return maps


def timed(function, *args):
    wall, cpu = time.time(), time.process_time()
    result = function(*args)
    return time.time() - wall, time.process_time() - cpu, result


def peak():
    """The most memory that this process has had so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024.


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--weights', metavar='PATH',
                        help='an .npz file for examples/cifar_resnet.py '
                        '(default: made up)')
    parser.add_argument('--rule', choices=sorted(RULES), default='guided')
    parser.add_argument('--method', default='gradient',
                        help='that of the memory figures (default: gradient)')
    parser.add_argument('--target', default='max',
                        help="that of the memory figures, 'max' or 'all'")
    parser.add_argument('--batch', type=int, default=64, metavar='N')
    parser.add_argument('--images', type=int, default=128, metavar='N',
                        help='how many for each timing (default: 128)')
    parser.add_argument('--rounds', type=int, default=9, metavar='N',
                        help='how many timings of each; 0 for none')
    parser.add_argument('--memory', type=int, nargs='*', metavar='N',
                        default=[64, 256, 1024],
                        help='numbers of images after which to print memory')
    args = parser.parse_args()

    theano.config.floatX = 'float32'
    network = build_network()
    if args.weights:
        load_weights(network, args.weights)
    else:
        make_up_weights(network)
    rule = RULES[args.rule]
    images = np.random.RandomState(1).normal(
        size=(args.images, 3, 32, 32)).astype('float32')

    if args.rounds:
        bare = by_hand(network, rule)
        ours = gradmod.compile_saliency_function(network, rule)
        times = {'by hand': [], 'saliency function': []}
        for round in range(args.rounds + 1):
            wall, cpu, expected = timed(loop, bare, images, args.batch)
            times['by hand'].append((wall, cpu))
            wall, cpu, maps = timed(lambda: ours(images,
                                                 batch_size=args.batch))
            times['saliency function'].append((wall, cpu))
        print('largest difference of the maps: %g of %g' %
              (abs(maps - expected).max(), abs(expected).max()))
        medians = []
        for name, values in times.items():
            medians.append(np.median(values[1:], axis=0))  # but the first
            print('%-18s %.3f s, %.3f s of processor, for %d images' %
                  ((name,) + tuple(medians[-1]) + (args.images,)))
        print('ratio              %.3f, %.3f of processor' %
              tuple(medians[1] / medians[0]))

    ours = gradmod.compile_saliency_function(network, rule, args.target,
                                             args.method)
    print('peak memory after compiling: %.0f MB' % peak())
    for n in args.memory:
        for i in range(0, n, args.batch):
            ours(images[np.arange(i, min(i + args.batch, n)) % len(images)],
                 batch_size=args.batch)
        print('after %5d images in batches: %.0f MB' % (n, peak()))
    with tempfile.TemporaryDirectory() as folder:
        for n in args.memory:
            maps = ours(images[:1])
            stack = np.memmap(os.path.join(folder, 'images'), 'float32', 'w+',
                              shape=(n,) + images.shape[1:])
            out = np.memmap(os.path.join(folder, 'maps'), 'float32', 'w+',
                            shape=(n,) + maps.shape[1:])
            ours(stack, batch_size=args.batch, out=out)
            print('after %5d images from file to file: %.0f MB, of which at '
                  'most %.0f MB are pages of the files' %
                  (n, peak(), (stack.nbytes + out.nbytes) / 2.**20))
            del stack, out


if __name__ == '__main__':
    main()
