"""Randomize the weights of a network, and see which saliency maps notice."""
import argparse
import sys

import gradmod  # first: it makes Theano and Lasagne importable
import lasagne
import numpy as np
import theano
from gradmod import lrp
from gradmod.sanity import plot_reports, randomization_test
from lasagne.layers import get_all_layers

import cifar_resnet
import digits
from common import MISSING, add_arguments, generator, integer, picture
from photographs import file, load_images
try:
    from tqdm import tqdm
except ImportError as error:
    sys.exit(MISSING % error)

OWN = {cifar_resnet.Shortcut: lrp.Gradient()}  # it only moves values
METHODS = {  # by title: what `randomization_test` takes
    'gradient': dict(),
    'gradient x input': dict(method='gradient_x_input'),
    'SmoothGrad': dict(method='smoothgrad', samples=20),
    'integrated gradients': dict(method='integrated_gradients', steps=20),
    'guided backprop': dict(rule=gradmod.GuidedBackprop),
    'DeconvNet': dict(rule=gradmod.DeconvNet),
    'guided Grad-CAM': dict(method='guided_gradcam'),
    'EpsilonPlus': dict(rule=lrp.EpsilonPlus(rules=OWN), method='relevance'),
    'EpsilonAlpha2Beta1': dict(rule=lrp.EpsilonAlpha2Beta1(rules=OWN),
                               method='relevance'),
}


def resnet(weights):
    """The ResNet-32, photographs and their mirror images, and its blocks."""
    network = cifar_resnet.build_network()
    cifar_resnet.load_weights(network, weights)
    images = load_images([], cifar_resnet.PHOTOGRAPHS, 32)
    pixels = np.array(list(images.values()))
    pixels = np.concatenate([pixels, pixels[:, :, ::-1]])
    images = pixels.transpose(0, 3, 1, 2) - cifar_resnet.MEAN
    first, *blocks = np.split(  # convolutions and normalizations, two by two
        [v for v in get_all_layers(network) if v.get_params()][:-1],
        range(2, 62, 4))
    steps = {'logits': network.input_layer}
    for i, block in reversed(list(enumerate(blocks, 1))):
        steps['block %d' % i] = list(block)
    steps['first'] = list(first)
    return network, images.astype('float32'), steps


def small(count, rng):
    """The network of digits.py after training, digits, and its layers."""
    images, classes, test_images, _ = digits.load_data(rng)
    network = digits.build_network()
    digits.train(network, images, classes, 15, rng)
    return network, test_images[:count], None


def main():
    parser = argparse.ArgumentParser(
        description=__doc__ + ' From the output down, layer after layer, the '
        'weights of a trained network are permuted (Adebayo et al. 2018). '
        'Prints how similar the maps are to those of the trained network after '
        "the first such step and after the last: Spearman's rank correlation, "
        'of the values and of the absolute values; and, without randomizing '
        'anything, the cosine of the maps of the two likeliest classes. A map '
        'that explains a decision depends on both. The network is that of '
        'digits.py, which is trained first, or a ResNet-32.')
    parser.add_argument('--weights', metavar='PATH', type=file,
                        help='the .npz file of the ResNet-32 (n = 5) of the '
                        'Lasagne Recipes, papers/deep_residual_learning: take '
                        'this network, and photographs from scikit-image')
    parser.add_argument('--output', metavar='PATH', type=picture,
                        default='sanity_check.png',
                        help='the picture to write, of the similarity after '
                        'each step (default: %(default)s)')
    parser.add_argument('--images', metavar='N', type=integer(1, 400),
                        default=100,
                        help='how many digits to take (default: %(default)s)')
    add_arguments(parser)
    args = parser.parse_args()

    rng = generator(args.seed)
    network, images, steps = (resnet(args.weights) if args.weights
                              else small(args.images, rng))
    reports = {}
    for title, how in tqdm(METHODS.items(), unit='method'):
        reports[title] = randomization_test(network, images, layers=steps,
                                            seed=args.seed, **how)

    names = reports['gradient'].names
    print('%d images. Similarity after %s and after all to %s' %
          (len(images), names[0], names[-1]))
    print('%-20s%18s%18s%19s%11s' % ('', 'spearman', 'spearman_abs',
                                     'cosine of classes', 'undefined'))
    for title, report in reports.items():
        first_and_last = ['%8.3f%8.3f' % tuple(report.mean(m)[[0, -1]])
                          for m in report.similarity]
        print('%-20s%18s%18s%19.3f%11d' % (
            title, first_and_last[0], first_and_last[1],
            np.nanmean(report.class_cosine), report.undefined))
    print('(means over the images; of %d maps, those that are 0 everywhere '
          'have no correlation)' % (len(names) * len(images)))
    try:
        plot_reports(reports).savefig(args.output)
    except OSError as error:
        sys.exit('The picture cannot be written: %s' % error)
    print('wrote %s' % args.output)


if __name__ == '__main__':
    main()
