"""Train a small network on handwritten digits, and draw saliency maps of it."""
import argparse
import sys

import gradmod  # first: it makes Theano and Lasagne importable
import lasagne
import numpy as np
import theano
import theano.tensor as T
from lasagne.layers import (Conv2DLayer, DenseLayer, InputLayer,
                            MaxPool2DLayer, NonlinearityLayer)

from common import (MISSING, RULES, add_arguments, draw, generator, in_turns,
                    integer, picture, print_statistics, saliency_maps)
try:
    from sklearn.datasets import load_digits
    from tqdm import tqdm
except ImportError as error:
    sys.exit(MISSING % error)

ENOUGH = 0.97  # test accuracy, below which the maps would mean little


def load_data(rng):
    """Shuffle scikit-learn's digits, and hold a quarter of them out."""
    digits = load_digits()
    order = rng.permutation(len(digits.target))
    images = digits.images[order, np.newaxis].astype('float32') / 16
    classes = digits.target[order].astype('int32')
    n = len(order) // 4
    return images[n:], classes[n:], images[:n], classes[:n]


def build_network():
    net = InputLayer((None, 1, 8, 8))
    net = Conv2DLayer(net, 32, 3, pad='full')  # rectified, by default
    net = Conv2DLayer(net, 32, 3)
    net = MaxPool2DLayer(net, 2)
    net = Conv2DLayer(net, 64, 3)
    logits = DenseLayer(net, 10, nonlinearity=None)
    return NonlinearityLayer(logits, lasagne.nonlinearities.softmax)


def train(network, images, classes, epochs, rng, learning_rate=0.3):
    x = lasagne.layers.get_all_layers(network)[0].input_var
    y = T.ivector('classes')
    loss = lasagne.objectives.categorical_crossentropy(
        lasagne.layers.get_output(network), y).mean()
    params = lasagne.layers.get_all_params(network, trainable=True)
    updates = lasagne.updates.sgd(loss, params, learning_rate)
    step = theano.function([x, y], loss, updates=updates)
    progress = tqdm(range(epochs), desc='training', unit='epoch')
    for _ in progress:
        batches = np.array_split(rng.permutation(len(images)),
                                 -(-len(images) // 32))
        losses = [step(images[batch], classes[batch]) for batch in batches]
        progress.set_postfix(loss='%.4f' % np.mean(losses))


def main():
    parser = argparse.ArgumentParser(
        description=__doc__ + ' The digits come with scikit-learn. The picture '
        'shows some that were held out from training, each with four maps of '
        'the logit of its predicted class: the gradient, guided '
        'backpropagation, DeconvNet, and zero (rectifiers pass no gradient).')
    parser.add_argument('--output', metavar='PATH', type=picture,
                        default='digits.png',
                        help='the picture to write (default: %(default)s)')
    parser.add_argument('--images', metavar='N', type=integer(1, 32),
                        default=6,
                        help='how many digits to draw (default: %(default)s)')
    add_arguments(parser, epochs=15)
    args = parser.parse_args()

    rng = generator(args.seed)
    images, classes, test_images, test_classes = load_data(rng)
    network = build_network()
    train(network, images, classes, args.epochs, rng)

    x = lasagne.layers.get_all_layers(network)[0].input_var
    probabilities = lasagne.layers.get_output(network, deterministic=True)
    predicted = theano.function([x], probabilities.argmax(axis=1))(test_images)
    accuracy = (predicted == test_classes).mean()
    print('test accuracy: %.1f %% of %d digits' %
          (100 * accuracy, len(predicted)))
    if accuracy < ENOUGH:
        sys.exit('That is less than %.0f %%, and the maps of such a network '
                 'mean little: train it longer (--epochs)' % (100 * ENOUGH))

    maps = saliency_maps(network.input_layer, test_images, RULES)
    print_statistics(maps)
    chosen = in_turns(test_classes)[:args.images]
    draw(args.output, 1 - test_images[chosen],  # 1 is ink
         ['predicted %d\ntrue %d' % (predicted[i], test_classes[i])
          for i in chosen],
         {method: values[chosen] for method, values in maps.items()},
         'Gradient of the logit of the predicted class with respect to the '
         'pixels, as each method computes it. White is 0, and each map has '
         'its own scale: up to the 99.5th percentile of its absolute values '
         '(P99.5).')


if __name__ == '__main__':
    main()
