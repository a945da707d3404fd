"""Draw saliency maps of photographs, by a network trained on ImageNet.

The network is SqueezeNet 1.0 (Iandola et al. 2016), whose weights are a file
of 660 KB (Han, Mao, Dally 2016): compressed_SqueezeNet.net, at the top of
https://github.com/songhan/SqueezeNet-Deep-Compression.

DeconvNet is not among the maps: on this network its map is zero everywhere,
since no positive gradient gets through all rectifiers.
"""
import argparse
import sys

import gradmod  # first: it makes Theano and Lasagne importable
import lasagne
import numpy as np
import theano
from lasagne.layers import (ConcatLayer, Conv2DLayer, GlobalPoolLayer,
                            InputLayer, MaxPool2DLayer)

from common import draw, picture, print_statistics, saliency_maps
from photographs import file, load_images

SOURCE = 'https://github.com/songhan/SqueezeNet-Deep-Compression'
SIDE = 227  # pixels
MEAN = np.reshape([104, 117, 123], (3, 1, 1))  # of blue, green and red
PHOTOGRAPHS = 'chelsea', 'coffee', 'stereo_motorcycle', 'camera'
MAPS = ['gradient', 'smoothgrad', 'guided', 'gradcam', 'guided_gradcam',
        'relevance']


def build_network():
    """SqueezeNet 1.0 up to the logits, which are means over all pixels."""
    net = InputLayer((None, 3, SIDE, SIDE))
    net = Conv2DLayer(net, 96, 7, stride=2)  # rectified, by default
    net = MaxPool2DLayer(net, 3, 2)
    for fire in range(2, 10):
        filters = 16 * (fire // 2)  # of the layer that squeezes
        net = Conv2DLayer(net, filters, 1)
        net = ConcatLayer([Conv2DLayer(net, 4 * filters, 1),
                           Conv2DLayer(net, 4 * filters, 3, pad=1)])
        if fire in (4, 8):
            net = MaxPool2DLayer(net, 3, 2)
    net.name = 'features'
    return GlobalPoolLayer(Conv2DLayer(net, 1000, 1))


def decode(data, shapes):
    """Yield the weights and the biases of each layer from the file's bytes.

    All is little-endian. First the number of stored weights of each layer,
    uint32. Then for each layer a codebook of 256 float32; the biases, float32;
    a byte for each stored weight, its index in the codebook; and 4 bits for
    each, the low half of a byte first: the gap between its position and that
    of the one before it. What lies in a gap has the codebook's first value.
    """
    offset = 0

    def take(dtype, count):
        nonlocal offset
        values = np.frombuffer(data, dtype, int(count), offset)
        offset += values.nbytes
        return values
    counts = take('<u4', len(shapes)).astype(int)
    for shape, count in zip(shapes, counts):
        codebook, b = take('<f4', 256), take('<f4', shape[0])
        indices, pairs = take('u1', count), take('u1', (count + 1) // 2)
        gaps = np.stack([pairs & 15, pairs >> 4], axis=1).ravel()[:count]
        W = np.full(shape, codebook[0])
        W.flat[np.cumsum(gaps + 1, dtype=int) - 1] = codebook[indices]
        yield W, b
    if offset != len(data):
        raise ValueError('%d bytes are left over' % (len(data) - offset))


def load_weights(network, path):
    """Fill `network` from the compressed file, if all of it fits."""
    layers = [v for v in lasagne.layers.get_all_layers(network)
              if isinstance(v, Conv2DLayer)]
    with open(path, 'rb') as file:
        data = file.read()
    try:
        arrays = list(decode(data, [v.W.get_value().shape for v in layers]))
    except (ValueError, IndexError) as error:
        sys.exit('%s: expected compressed_SqueezeNet.net (%s). It is 660 KB, '
                 'at the top of %s' % (path, error, SOURCE))
    for layer, (W, b) in zip(layers, arrays):
        # Made for correlation, and Conv2DLayer convolves.
        layer.W.set_value(W[:, :, ::-1, ::-1].astype('float32'))
        layer.b.set_value(b.astype('float32'))


def load_names(path):
    """The names of the classes, or their numbers if there is no file."""
    if path is None:
        return ['class %d' % i for i in range(1000)]
    with open(path, encoding='utf-8') as file:
        names = file.read().splitlines()
    if len(names) != 1000:
        sys.exit('%s: expected 1000 names of classes, one a line, got %d' %
                 (path, len(names)))
    return names


def main():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--weights', metavar='PATH', type=file, required=True,
                        help='compressed_SqueezeNet.net, see above')
    parser.add_argument('--classes', metavar='PATH', type=file,
                        help="the names of ImageNet's 1000 classes, in their "
                        'usual order, one a line (default: their numbers)')
    parser.add_argument('--image', metavar='PATH', type=file, nargs='+',
                        default=[],
                        help='photographs of any size; the largest square in '
                        'the middle is cut out and resized to 227 x 227 pixels '
                        '(default: four that come with scikit-image)')
    parser.add_argument('--output', metavar='PATH', type=picture,
                        default='imagenet.png',
                        help='the picture to write (default: %(default)s)')
    args = parser.parse_args()

    theano.config.floatX = 'float32'
    names = load_names(args.classes)
    network = build_network()
    load_weights(network, args.weights)
    images = load_images(args.image, PHOTOGRAPHS, SIDE)
    pixels = np.array(list(images.values()))
    inputs = 255 * pixels[..., ::-1].transpose(0, 3, 1, 2) - MEAN
    inputs = inputs.astype('float32')

    x = lasagne.layers.get_all_layers(network)[0].input_var
    logits = theano.function(
        [x], lasagne.layers.get_output(network, deterministic=True))(inputs)
    labels = []
    for name, z in zip(images, logits):
        best = z.argsort()[::-1][:3]
        print('%s: %s' % (name, ', '.join(
            '%s (logit %.1f)' % (names[i], z[i]) for i in best)))
        labels.append(names[best[0]].replace(' ', '\n'))

    maps = saliency_maps(network, inputs, MAPS, 'features')
    print_statistics(maps)
    draw(args.output, pixels, labels, maps,
         'Maps of the logit of the predicted class, summed over the three '
         'colour channels. White is 0, and each map has its own scale: up to '
         'the 99.5th percentile of its absolute values (P99.5). Relevance is '
         'by gradmod.lrp.EpsilonPlus.', size=SIDE / 160)


if __name__ == '__main__':
    main()
