"""Adapt a network to other images without their classes, by gradient reversal."""
import argparse
import sys

import gradmod  # first: it makes Theano and Lasagne importable
import lasagne
import numpy as np
import theano
import theano.tensor as T
from lasagne.layers import DenseLayer, InputLayer, get_output

from common import MISSING, add_arguments, generator
from digits import load_data
try:
    from tqdm import tqdm
except ImportError as error:
    sys.exit(MISSING % error)


def shift(images):
    """The target domain: the same kind of digits, one pixel to the right."""
    shifted = np.zeros_like(images)
    shifted[..., 1:] = images[..., :-1]
    return shifted


class Adversarial:
    """Features, a classifier of digits and one of domains that fights them."""

    def __init__(self):
        self.factor = theano.shared(np.float32(0), 'factor')
        self.x = T.tensor4('x')
        features = InputLayer((None, 1, 8, 8), self.x)
        features = DenseLayer(features, 128)
        features = DenseLayer(features, 64)
        self.digit = DenseLayer(features, 10,
                                nonlinearity=lasagne.nonlinearities.softmax)
        reverse = gradmod.GradientReversal(factor=self.factor)
        domain = lasagne.layers.NonlinearityLayer(features, reverse)
        domain = DenseLayer(domain, 64)
        self.domain = DenseLayer(domain, 1,
                                 nonlinearity=lasagne.nonlinearities.sigmoid)
        self.step = self._step()
        self.predict = theano.function(
            [self.x], get_output(self.digit).argmax(axis=1))

    def _step(self):
        """A step on a batch whose first half has classes, and is the source."""
        classes = T.ivector('classes')
        digit, domain = get_output([self.digit, self.domain])
        n = classes.shape[0]
        is_target = T.arange(2 * n) >= n
        cross_entropy = lasagne.objectives.categorical_crossentropy
        loss = (cross_entropy(digit[:n], classes).mean() +
                lasagne.objectives.binary_crossentropy(
                    domain[:, 0], is_target).mean())
        params = lasagne.layers.get_all_params([self.digit, self.domain],
                                               trainable=True)
        updates = lasagne.updates.momentum(loss, params, learning_rate=0.01)
        return theano.function([self.x, classes], loss, updates=updates)


def train(net, source, classes, target, epochs, factor, rng):
    """Train with a reversal factor that grows as in the paper."""
    half, title = 32, 'reversal' if factor else 'no reversal'
    for epoch in tqdm(range(epochs), desc=title, unit='epoch'):
        growth = 2 / (1 + np.exp(-10. * epoch / epochs)) - 1
        net.factor.set_value(np.float32(factor * growth))
        order = rng.permutation(len(source))
        for i in range(0, len(order) - half + 1, half):
            batch = order[i:i + half]
            others = rng.randint(len(target), size=half)
            net.step(np.concatenate([source[batch], target[others]]),
                     classes[batch])


def main():
    parser = argparse.ArgumentParser(
        description=__doc__ + ' The network learns the classes of scikit-learn'
        "'s digits, and sees the same kind of digits, shifted by a pixel, "
        'without classes. A classifier of the two domains sits on its features '
        'behind gradmod.GradientReversal (Ganin 2015): it learns to tell the '
        'domains apart, the features learn to prevent that. Prints the '
        'accuracy on shifted digits that were not seen, without and with.')
    add_arguments(parser, epochs=60)
    args = parser.parse_args()

    accuracies = []
    for factor in 0, 0.3:
        rng = generator(args.seed)
        images, classes, test_images, test_classes = load_data(rng)
        half = len(images) // 2  # the domains have no digit in common
        net = Adversarial()
        train(net, images[:half], classes[:half], shift(images[half:]),
              args.epochs, factor, rng)
        source, target = [(net.predict(x) == test_classes).mean()
                          for x in (test_images, shift(test_images))]
        print('%s reversal: test accuracy %.1f %% on the source, %.1f %% on '
              'the target' % ('with' if factor else 'without',
                              100 * source, 100 * target))
        accuracies.append(target)
    if accuracies[1] <= accuracies[0]:
        sys.exit('Reversal has not helped: train longer (--epochs)')


if __name__ == '__main__':
    main()
