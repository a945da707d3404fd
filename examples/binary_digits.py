"""Train a network with binary activations, by the straight-through estimator."""
import argparse
import sys

import gradmod  # first: it makes Theano and Lasagne importable
import lasagne
import numpy as np
import theano
import theano.tensor as T
from lasagne.layers import DenseLayer, InputLayer

from common import add_arguments, generator
from digits import load_data, train

ENOUGH = 0.95  # test accuracy


def build_network(binarize):
    net = InputLayer((None, 1, 8, 8))
    for _ in range(2):
        net = DenseLayer(net, 512, nonlinearity=binarize)
    return DenseLayer(net, 10, nonlinearity=lasagne.nonlinearities.softmax)


def accuracy_of(network, images, classes):
    x = lasagne.layers.get_all_layers(network)[0].input_var
    output = lasagne.layers.get_output(network, deterministic=True)
    predicted = theano.function([x], output.argmax(axis=1))(images)
    return (predicted == classes).mean()


def main():
    parser = argparse.ArgumentParser(
        description=__doc__ + ' All hidden units are -1 or 1: the sign of '
        'their input, whose derivative is 0. First with that derivative, then '
        'with gradmod.StraightThrough, which takes it to be 1 where the input '
        'is between -1 and 1 (Hubara 2016).')
    add_arguments(parser, epochs=15)
    args = parser.parse_args()

    accuracies = []
    for title, binarize in [
            ('true gradient', T.sgn),
            ('straight-through', gradmod.StraightThrough(T.sgn, bound=1))]:
        rng = generator(args.seed)
        images, classes, test_images, test_classes = load_data(rng)
        network = build_network(binarize)
        train(network, images, classes, args.epochs, rng, learning_rate=0.03)
        accuracies.append(accuracy_of(network, test_images, test_classes))
        print('%-17s test accuracy: %.1f %% of %d digits' % (
            title + ',', 100 * accuracies[-1], len(test_classes)))
    if accuracies[-1] < ENOUGH:
        sys.exit('That is less than %.0f %%: train longer (--epochs)' %
                 (100 * ENOUGH))


if __name__ == '__main__':
    main()
