"""What the examples share: the maps of a Lasagne network and their picture."""
import argparse
import os
import sys
import textwrap
import warnings

import gradmod  # first: it makes Theano and Lasagne importable
import lasagne
import numpy as np
import theano
import theano.tensor as T

MISSING = ('The examples need more than gradmod itself does (%s). Install it '
           'with: pip install "gradmod[examples]"')
try:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LinearSegmentedColormap, Normalize
    from matplotlib.figure import Figure
    from tqdm import tqdm
except ImportError as error:
    sys.exit(MISSING % error)

# Lasagne 0.1 calls an argument of Theano by its former name.
warnings.filterwarnings('ignore', 'The `image_shape` keyword')

METHODS = {  # the title of the column, and the rule
    'gradient': ('gradient', None),
    'guided': ('guided\nbackprop', gradmod.GuidedBackprop),
    'deconvnet': ('DeconvNet', gradmod.DeconvNet),
    'zero': ('zero', gradmod.ZeroBackprop),
}


def output_with_rule(output_layer, rule):
    """The output of a network whose rectifiers have the gradient of `rule`.

    Only ``get_output`` has to see the rule: the expression that it returns
    keeps the new gradient, and the network is left as it was.
    """
    relu = lasagne.nonlinearities.rectify
    layers = [layer for layer in lasagne.layers.get_all_layers(output_layer)
              if getattr(layer, 'nonlinearity', None) is relu]
    if not layers:
        raise ValueError('%s would change nothing: no layer of the network '
                         'has the nonlinearity rectify' % rule.__name__)
    modded_relu = rule(relu)  # one instance for all layers
    try:
        for layer in layers:
            layer.nonlinearity = modded_relu
        return lasagne.layers.get_output(output_layer, deterministic=True)
    finally:
        for layer in layers:
            layer.nonlinearity = relu


def saliency_function(logits, rule=None):
    """Compile a function from a batch of images to their maps.

    Parameters
    ----------
    logits : lasagne.layers.Layer
        The layer before the softmax.
    rule : subclass of gradmod.ModifiedBackprop, optional
        The gradient of the rectifiers. By default their own.

    Returns
    -------
    function
        From an array of images to one of the same shape: for each image, the
        gradient of the logit of its predicted class.
    """
    images = lasagne.layers.get_all_layers(logits)[0].input_var
    if rule is None:
        scores = lasagne.layers.get_output(logits, deterministic=True)
    else:
        scores = output_with_rule(logits, rule)
    predicted = scores.argmax(axis=1)
    # No image sees another, so the gradient of the sum is that of each.
    target = scores[T.arange(scores.shape[0]), predicted].sum()
    return theano.function([images], theano.grad(target, images))


def saliency_maps(logits, images, methods):
    """The maps of `images` as a dict, by method."""
    progress = tqdm(methods, desc='compiling', unit='map')
    return {method: saliency_function(logits, METHODS[method][1])(images)
            for method in progress}


def print_statistics(maps):
    """Print how large the maps are, and how like the plain gradient."""
    print('%-10s%18s%18s%17s' % ('method', 'cosine similarity',
                                 'non-zero values', 'largest |value|'))
    for method, values in maps.items():
        cosine = '-'
        if 'gradient' in maps:
            a, b = (m.reshape(len(m), -1) for m in (values, maps['gradient']))
            norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
            cosine = ('%.3f' % ((a * b).sum(axis=1) / norms).mean()
                      if norms.all() else 'undefined')
        print('%-10s%18s%16.1f %%%17.3g' % (
            method, cosine, 100 * (values != 0).mean(), abs(values).max()))
    if 'gradient' in maps:
        print('(cosine similarity: to the gradient, mean over the images)')


def draw(path, images, labels, maps, caption):
    """Write a picture: a row for each image, a column for it and each method.

    Parameters
    ----------
    path : str
        The file to write.
    images : array of shape (n, h, w) or (n, h, w, 3)
        The images, from 0 to 1. Without colours, 1 is ink.
    labels : list of str
        What to write beside each image.
    maps : dict of arrays of shape (n, h, w)
        The maps, by method. Each is divided by its largest absolute value.
    caption : str
        What to write below.
    """
    diverging = LinearSegmentedColormap.from_list(
        'diverging', ['#053061', '#4393c3', 'white', '#d6604d', '#67001f'],
        N=257)  # odd, so that zero is one of them: white
    # Inches. A cell is 160 dots wide: a multiple of 8 pixels and of 32.
    cell, gap, left, right, top = 1, 0.075, 0.95, 0.1, 0.45
    width = left + (1 + len(maps)) * (cell + gap) - gap + right
    lines = textwrap.wrap(caption, int(width / 0.058))
    bottom = 0.6 + 0.12 * len(lines)
    height = top + len(images) * (cell + gap) - gap + bottom
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)

    def add_axes(x, y, w, h):  # from the lower left corner
        return figure.add_axes([x / width, y / height, w / width, h / height])

    titles = ['image'] + [METHODS[method][0] for method in maps]
    for row, image in enumerate(images):
        cells = [(image, 'gray_r', 0)]
        for values in maps.values():
            largest = abs(values[row]).max() or 1  # no division of 0 by 0
            cells.append((values[row] / largest, diverging, -1))
        for column, (pixels, colours, lowest) in enumerate(cells):
            axes = add_axes(left + column * (cell + gap), bottom +
                            (len(images) - 1 - row) * (cell + gap), cell, cell)
            axes.imshow(pixels, cmap=colours, vmin=lowest, vmax=1,
                        interpolation='nearest')
            axes.set_xticks([])
            axes.set_yticks([])
            for spine in axes.spines.values():
                spine.set_color('0.7')
                spine.set_linewidth(0.6)
            if row == 0:
                axes.set_title(titles[column], fontsize=9, pad=4)
            if column == 0:
                axes.set_ylabel(labels[row], fontsize=9, rotation=0,
                                ha='right', va='center', labelpad=5)

    x = left + cell + gap
    scale = ScalarMappable(Normalize(-1, 1), diverging)
    scale.set_array([])
    bar = figure.colorbar(
        scale, cax=add_axes(x, bottom - 0.2, width - x - right, 0.075),
        orientation='horizontal', ticks=[-1, 0, 1])
    bar.outline.set_edgecolor('0.7')
    bar.outline.set_linewidth(0.6)
    bar.ax.tick_params(length=2, width=0.6, color='0.7', pad=2)
    numbers = bar.ax.set_xticklabels(['\u2212max', '0', '+max'], fontsize=7)
    numbers[0].set_ha('left')
    numbers[-1].set_ha('right')
    figure.text(0.1 / width, (bottom - 0.48) / height, '\n'.join(lines),
                fontsize=7, va='top')
    try:
        figure.savefig(path, dpi=160)
    except OSError as error:
        sys.exit('The picture cannot be written: %s' % error)
    print('wrote %s' % path)


def picture(text):
    """An argument that names a picture to write."""
    folder = os.path.dirname(os.path.abspath(text))
    if os.path.splitext(text)[1] not in ('.png', '.pdf', '.svg'):
        raise argparse.ArgumentTypeError(
            'expected a name that ends in .png, .pdf or .svg, got %r' % text)
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
