"""Draw saliency maps of a residual network that was trained on CIFAR-10."""
import argparse
import os
import sys
import textwrap

import gradmod  # first: it makes Theano and Lasagne importable
import lasagne
import numpy as np
import theano
import theano.tensor as T
from lasagne.layers import (Conv2DLayer, DenseLayer, ElemwiseSumLayer,
                            GlobalPoolLayer, InputLayer, Layer,
                            NonlinearityLayer)
from lasagne.nonlinearities import rectify, softmax

from common import (METHODS, MISSING, RULES, draw, picture,
                    print_statistics, saliency_maps)
try:
    import skimage.data
    from PIL import Image, ImageOps
    from skimage.transform import resize
    from skimage.util import img_as_float
except ImportError as error:
    sys.exit(MISSING % error)

CLASSES = ('airplane', 'automobile', 'bird', 'cat', 'deer', 'dog', 'frog',
           'horse', 'ship', 'truck')
MEAN = np.reshape([0.4914, 0.4822, 0.4465], (3, 1, 1))  # of CIFAR-10
PHOTOGRAPHS = ('chelsea', 'horse', 'stereo_motorcycle', 'rocket', 'astronaut',
               'coffee')  # in scikit-image itself, with nothing to download


class BatchNorm(Layer):
    """Batch normalization with stored statistics (Lasagne 0.1 has none)."""

    def __init__(self, incoming):
        super().__init__(incoming)
        for name in 'beta', 'gamma', 'mean', 'inv_std':
            setattr(self, name, self.add_param(
                lasagne.init.Constant(0), self.input_shape[1:2], name))

    def get_output_for(self, x, **kwargs):
        beta, gamma, mean, inv_std = (
            p.dimshuffle('x', 0, 'x', 'x')
            for p in (self.beta, self.gamma, self.mean, self.inv_std))
        return (x - mean) * (gamma * inv_std) + beta


class Shortcut(Layer):
    """Every other pixel, and zeros around as many channels (option A)."""

    def get_output_shape_for(self, shape):
        n, channels, height, width = shape
        return n, 2 * channels, height // 2, width // 2

    def get_output_for(self, x, **kwargs):
        x = x[:, :, ::2, ::2]
        zeros = T.zeros_like(x[:, ::2])
        return T.concatenate([zeros, x, zeros], axis=1)


def convolution(net, filters, stride=1):
    return BatchNorm(Conv2DLayer(net, filters, 3, stride, pad='same',
                                 b=None, nonlinearity=None))


def build_network(n=5):
    """The CIFAR-10 network of 6 n + 2 layers by He et al. (2015).

    Layers are added in the order that the Lasagne Recipes have them in, which
    is the order of the weights in a file.
    """
    net = InputLayer((None, 3, 32, 32))
    net = NonlinearityLayer(convolution(net, 16), rectify)
    for filters in 16, 32, 64:
        for block in range(n):
            smaller = filters > 16 and block == 0
            branch = convolution(net, filters, stride=2 if smaller else 1)
            branch = convolution(NonlinearityLayer(branch, rectify), filters)
            shortcut = Shortcut(net) if smaller else net
            net = ElemwiseSumLayer([branch, shortcut])
            net = NonlinearityLayer(net, rectify)
    net.name = 'features'
    logits = DenseLayer(GlobalPoolLayer(net), 10, nonlinearity=None)
    return NonlinearityLayer(logits, softmax)


def load_weights(network, path):
    """Fill `network` from an .npz file, if each array in it is as expected."""
    params = lasagne.layers.get_all_params(network)
    names = ['arr_%d' % i for i in range(len(params))]
    try:
        with np.load(path) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except Exception as error:  # what numpy raises depends on the file
        sys.exit('%s: expected an .npz file of arrays (%s)' % (path, error))
    if set(arrays) != set(names):
        sys.exit('%s: expected the %d arrays of a ResNet-32, %s to %s, got %d: '
                 '%s' % (path, len(names), names[0], names[-1], len(arrays),
                         textwrap.shorten(', '.join(sorted(arrays)), 60)))
    for name, param in zip(names, params):
        expected, got = param.get_value().shape, arrays[name]
        if expected != got.shape or got.dtype.kind != 'f':
            sys.exit('%s: expected %s, which is a %s, to be floats of shape '
                     '%s, got %s of shape %s' %
                     (path, name, param.name, expected, got.dtype, got.shape))
    for name, param in zip(names, params):
        value = arrays[name].astype('float32')
        if value.ndim == 4:  # made for correlation, and Conv2DLayer convolves
            value = value[:, :, ::-1, ::-1]
        param.set_value(value)


def read(path):
    """An image file as an RGBA array, the right way up."""
    with Image.open(path) as image:
        if image.mode not in ('1', 'L', 'LA', 'P', 'PA', 'RGB', 'RGBA'):
            raise ValueError('expected RGB, RGBA or grey, of 8 bits, got %s' %
                             image.mode)
        return np.array(ImageOps.exif_transpose(image).convert('RGBA'))


def prepare(image):
    """Make an image RGB, 32 x 32 pixels, with values from 0 to 1."""
    image = img_as_float(image)
    if image.ndim == 2:
        image = np.repeat(image[:, :, np.newaxis], 3, axis=2)
    if image.shape[2] == 4:  # put it on white
        alpha = image[:, :, 3:]
        image = alpha * image[:, :, :3] + 1 - alpha
    height, width = image.shape[:2]
    side = min(height, width)
    y, x = (height - side) // 2, (width - side) // 2
    return resize(image[y:y + side, x:x + side], (32, 32), mode='reflect',
                  anti_aliasing=True)


def load_images(paths):
    """Prepare the images at `paths`, or else scikit-image's: a dict by name."""
    images = {}
    for path in paths:
        try:
            images[path] = prepare(read(path))
        except Exception as error:  # what is raised depends on the format
            sys.exit('%s: not an image that can be used (%s)' % (path, error))
    for name in () if paths else PHOTOGRAPHS:
        try:
            image = getattr(skimage.data, name)()
        except Exception as error:  # another version of scikit-image
            print('skipped %s, which scikit-image could not load (%s)' %
                  (name, error), file=sys.stderr)
            continue
        images[name] = prepare(image[0] if isinstance(image, tuple) else image)
    if not images:
        sys.exit('There is no image to look at: name some (--image)')
    return images


def file(text):
    """An argument that names a file to read."""
    if not os.path.isfile(text):
        raise argparse.ArgumentTypeError('there is no file %r' % text)
    return text


def main():
    parser = argparse.ArgumentParser(
        description=__doc__ + ' The picture shows photographs as the network '
        'gets them, each with maps of the logit of its predicted class.')
    parser.add_argument('--weights', metavar='PATH', type=file, required=True,
                        help='the .npz file of the ResNet-32 (n = 5) of the '
                        'Lasagne Recipes, papers/deep_residual_learning')
    parser.add_argument('--image', metavar='PATH', type=file, nargs='+',
                        default=[],
                        help='photographs of any size, RGB, RGBA (put on '
                        'white) or grey; the largest square in the middle is '
                        'cut out and resized to 32 x 32 pixels with '
                        'anti-aliasing (default: those in scikit-image)')
    parser.add_argument('--output', metavar='PATH', type=picture,
                        default='cifar_resnet.png',
                        help='the picture to write (default: %(default)s)')
    parser.add_argument('--method', metavar='NAME', choices=METHODS, nargs='+',
                        default=RULES,
                        help='the maps to draw, of: ' + ', '.join(METHODS) +
                        ' (default: ' + ', '.join(RULES) + ')')
    args = parser.parse_args()

    theano.config.floatX = 'float32'
    images = load_images(args.image)
    network = build_network()
    load_weights(network, args.weights)
    pixels = np.array(list(images.values()))
    inputs = (pixels.transpose(0, 3, 1, 2) - MEAN).astype('float32')

    x = lasagne.layers.get_all_layers(network)[0].input_var
    probabilities = theano.function(
        [x], lasagne.layers.get_output(network, deterministic=True))(inputs)
    labels = []
    print('The network takes everything for one of: %s' % ', '.join(CLASSES))
    for name, p in zip(images, probabilities):
        best = p.argmax()
        print('%s: %s, p = %.6f' % (name, CLASSES[best], p[best]))
        labels.append('%s\np = %.3f' % (CLASSES[best], p[best]))

    maps = saliency_maps(network.input_layer, inputs, args.method, 'features')
    print_statistics(maps)
    caption = ('Maps of the logit of the predicted class, summed over the '
               'three colour channels. White is 0, and each map has its own '
               'scale: up to the 99.5th percentile of its absolute values '
               '(P99.5).')
    if 'deconvnet' in maps:
        caption += (' The DeconvNet of a network without max-pooling depends '
                    'on the predicted class alone.')
    draw(args.output, pixels, labels, maps, caption)


if __name__ == '__main__':
    main()
