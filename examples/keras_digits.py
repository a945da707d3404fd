"""Train a small Keras model on handwritten digits, and draw maps of it.

The model knows nothing of gradmod: `override_in` finds its rectifiers in the
finished expression, and it is not built again.

The Keras that has a Theano back end, 2.3.1, does not import on Python 3.10 and
later. This makes an environment for it, with Python 3.8:

    python3.8 -m venv .venv-keras && .venv-keras/bin/pip install ".[examples]" \
-r tests/clients/requirements-keras.txt
"""
import argparse
import os
import sys

os.environ['KERAS_BACKEND'] = 'theano'  # read when Keras is imported
import gradmod  # noqa: E402
import numpy as np  # noqa: E402

from common import (MISSING, METHODS, add_arguments, draw,  # noqa: E402
                    in_turns, integer, picture, print_statistics)
from digits import ENOUGH, load_data  # noqa: E402
try:
    import keras
    from keras import backend as K
    from keras.layers import (Activation, BatchNormalization, Conv2D, Dense,
                              Dropout, Flatten, Input, MaxPooling2D, ReLU)
except ImportError as error:
    sys.exit(MISSING % error + ' and: pip install -r '
             'tests/clients/requirements-keras.txt, on Python 3.8')

RULES = ['gradient', 'guided', 'deconvnet', 'integrated']


def build_model():
    """Rectifiers in each of the ways in which Keras has them."""
    x = Input((8, 8, 1))
    h = Conv2D(24, 3, padding='same', activation='relu')(x)
    h = ReLU()(Conv2D(24, 3)(h))
    h = MaxPooling2D(2)(h)
    h = Activation('relu')(BatchNormalization()(Conv2D(48, 2)(h)))
    h = Dropout(.3)(Flatten()(h))
    return keras.models.Model(x, Dense(10, activation='softmax')(h))


def main():
    parser = argparse.ArgumentParser(
        description='Train a small Keras model on the digits that come with '
        'scikit-learn. The picture shows some that were held out from '
        'training, each with maps of the logit of its predicted class.')
    parser.add_argument('--output', metavar='PATH', type=picture,
                        default='keras_digits.png',
                        help='the picture to write (default: %(default)s)')
    parser.add_argument('--images', metavar='N', type=integer(1, 32),
                        default=4,
                        help='how many digits to draw (default: %(default)s)')
    add_arguments(parser, epochs=12)
    args = parser.parse_args()

    np.random.seed(args.seed)
    images, classes, test_images, test_classes = load_data(np.random)
    images, test_images = (v.transpose(0, 2, 3, 1)  # the channel comes last
                           for v in (images, test_images))
    model = build_model()
    model.compile('adam', 'sparse_categorical_crossentropy')
    model.fit(images, classes, epochs=args.epochs, verbose=2)
    predicted = model.predict(test_images).argmax(axis=1)
    accuracy = (predicted == test_classes).mean()
    print('test accuracy: %.1f %% of %d digits' %
          (100 * accuracy, len(predicted)))
    if accuracy < ENOUGH:
        sys.exit('That is less than %.0f %%, and the maps of such a network '
                 'mean little: train it longer (--epochs)' % (100 * ENOUGH))

    _, report = gradmod.override_in(model.output, gradmod.GuidedBackprop)
    print('rectifiers in the expression:\n%r' % report)
    chosen = in_turns(test_classes)[:args.images]
    maps = {}
    for name in RULES:
        _, rule, method = METHODS[name]
        maps[name] = gradmod.compile_saliency_function(
            model.output, rule, method=method, input_var=model.input,
            # no dropout, and the stored statistics
            givens={K.learning_phase(): np.uint8(0)})(test_images[chosen])
    print_statistics(maps)
    draw(args.output, 1 - test_images[chosen],  # 1 is ink
         ['predicted %d\ntrue %d' % (predicted[i], test_classes[i])
          for i in chosen], maps,
         'Maps of a trained Keras model, for the logit of the predicted class. '
         'White is 0, and each map has its own scale: up to the 99.5th '
         'percentile of its absolute values (P99.5).')


if __name__ == '__main__':
    main()
