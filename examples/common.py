"""What the examples share: the maps of a Lasagne network and their picture."""
import argparse
import os
import sys
import textwrap
import warnings

import gradmod  # first: it makes Theano and Lasagne importable
import numpy as np
from gradmod import lrp

MISSING = ('The examples need more than gradmod itself does (%s). Install it '
           'with: pip install "gradmod[examples]"')
try:
    from gradmod.plot import plot_saliency
    from matplotlib.transforms import Bbox
    from tqdm import tqdm
except ImportError as error:
    sys.exit(MISSING % error)

# Lasagne 0.1 calls an argument of Theano by its former name.
warnings.filterwarnings('ignore', 'The `image_shape` keyword')

METHODS = {  # the title of the column, the rule, the method
    'gradient': ('gradient', None, 'gradient'),
    'smoothgrad': ('SmoothGrad', None, 'smoothgrad'),
    'gradcam': ('Grad-CAM', None, 'gradcam'),
    'guided': ('guided\nbackprop', gradmod.GuidedBackprop, 'gradient'),
    'guided_gradcam': ('guided\nGrad-CAM', None, 'guided_gradcam'),
    'deconvnet': ('DeconvNet', gradmod.DeconvNet, 'gradient'),
    'zero': ('zero', gradmod.ZeroBackprop, 'gradient'),
    'relevance': ('relevance', lrp.EpsilonPlus(), 'relevance'),
}
RULES = ['gradient', 'guided', 'deconvnet', 'zero']  # gradients, by the rule


def add_arguments(parser, epochs=None):
    """Add ``--epochs``, where there is a default of it, and ``--seed``."""
    if epochs:
        parser.add_argument('--epochs', metavar='N', type=integer(1, 1000),
                            default=epochs,
                            help='how long to train (default: %(default)s)')
    parser.add_argument('--seed', metavar='N', type=integer(0, 2**32 - 1),
                        default=1,
                        help='of all random numbers (default: %(default)s)')


def generator(seed):
    """That of all random numbers, Lasagne's too, which are float32."""
    import lasagne
    import theano
    theano.config.floatX = 'float32'
    rng = np.random.RandomState(seed)
    lasagne.random.set_rng(rng)
    return rng


def in_turns(classes):
    """Indices: one of each class, then a second one of each, and so on."""
    turns = [(classes[:i] == c).sum() for i, c in enumerate(classes)]
    return np.lexsort((classes, turns))


def saliency_maps(logits, images, methods, layer=None):
    """The maps of `images` as a dict, by method.

    Each is of the logit of the predicted class. `layer` is that of Grad-CAM.
    """
    maps = {}
    for name in tqdm(methods, desc='compiling', unit='map'):
        _, rule, method = METHODS[name]
        options = {'layer': layer} if 'gradcam' in method else {}
        f = gradmod.compile_saliency_function(
            logits, rule, method=method, **options)
        with warnings.catch_warnings():  # print_statistics says what is zero
            warnings.filterwarnings('ignore', r'.* 0 are not finite')
            maps[name] = f(images)
    return maps


def print_statistics(maps):
    """Print how large the maps are, and how like the plain gradient."""
    print('%-17s%18s%18s%17s' % ('method', 'cosine similarity',
                                 'non-zero values', 'largest |value|'))
    for method, values in maps.items():
        cosine = '-'
        if 'gradient' in maps:
            a, b = (m.reshape(len(m), -1) for m in (values, maps['gradient']))
            norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
            cosine = ('%.3f' % ((a * b).sum(axis=1) / norms).mean()
                      if norms.all() else 'undefined')
        print('%-17s%18s%16.1f %%%17.3g' % (
            method, cosine, 100 * (values != 0).mean(), abs(values).max()))
    if 'gradient' in maps:
        print('(cosine similarity: to the gradient, mean over the images)')


def draw(path, images, labels, maps, caption, **options):
    """Write a picture: a row for each image, a column for it and each method.

    Parameters
    ----------
    path : str
        The file to write.
    images : array
        The images, from 0 to 1.
    labels : list of str
        What to write beside each image.
    maps : dict of arrays
        The maps, by method.
    caption : str
        What to write below.
    **options
        Those of `gradmod.plot.plot_saliency`.
    """
    titles = [METHODS[method][0] for method in maps]
    figure = plot_saliency(images, list(maps.values()), titles, labels,
                           **options)
    width, height = figure.get_size_inches()
    lines = textwrap.wrap(caption, int(width / 0.058))
    figure.text(0.08 / width, 0, '\n'.join(lines), fontsize=7, va='top')
    with_caption = Bbox([[0, -0.125 * (len(lines) + 1)], [width, height]])
    try:
        figure.savefig(path, bbox_inches=with_caption)
    except OSError as error:
        sys.exit('The picture cannot be written: %s' % error)
    print('wrote %s' % path)


def picture(text, endings=('.png', '.pdf', '.svg')):
    """An argument that names a picture to write."""
    folder = os.path.dirname(os.path.abspath(text))
    if os.path.splitext(text)[1] not in endings:
        raise argparse.ArgumentTypeError(
            'expected a name that ends in %s, got %r' %
            (' or '.join(endings), text))
    if not os.path.isdir(folder):
        raise argparse.ArgumentTypeError('there is no folder %r' % folder)
    return text


def integer(low, high):
    """An argument that is a whole number from `low` to `high`."""
    def parse(text):
        try:
            value = int(text)
        except ValueError:
            value = None
        if value is None or not low <= value <= high:
            raise argparse.ArgumentTypeError(
                'expected a whole number from %d to %d, got %r' %
                (low, high, text))
        return value
    return parse
