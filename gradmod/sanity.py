"""How far to trust a saliency method: does it depend on what was learned?

`randomization_test` puts random weights in the place of the trained ones, step
by step, and says how similar the maps stay [1]_. `class_sensitivity` says how
similar the maps of two classes are. A method whose maps hardly change explains
neither the weights nor the class.

References
----------
.. [1] Adebayo, Gilmer, Muelly, Goodfellow, Hardt, Kim (2018): Sanity Checks
   for Saliency Maps. NeurIPS. arXiv:1810.03292.
"""
from collections.abc import Mapping
from functools import partial
from types import SimpleNamespace

import numpy as np
from theano.compile import SharedVariable

from ._theano import Variable
from .errors import describe, is_float_tensor, name_of
from .graphs import inputs_of, nodes_below, walk
from .network import find_layers, flatten, named_layers
from .report import BATCH_SIZE, table
from .saliency import compile_saliency_function
from .score import has_classes, is_word

# Lasagne, scipy, scikit-image and matplotlib are imported inside of functions.


def permute(value, rng):
    """The values of an array in random order.

    Parameters
    ----------
    value : array
        A trained parameter.
    rng : numpy.random.RandomState
        What to draw from.

    Returns
    -------
    array
        The same values, each somewhere else.
    """
    return rng.permutation(value.ravel()).reshape(value.shape)


def spearman(maps, others, absolute=False, data_format=None):
    """Spearman's rank correlation of each map with another.

    Parameters
    ----------
    maps, others : arrays of shape (n, ...)
        The maps. Those of four dimensions or more have channels, which are
        summed.
    absolute : bool
        Whether to take absolute values first, before channels are summed.
    data_format : {'channels_first', 'channels_last'}, optional
        Whether axis 1 or the last one has the channels. By default axis 1, but
        an error for what may be images with channels last: maps of at least
        four dimensions, the last of at most 4 values, all between of more.

    Returns
    -------
    array of float64
        From -1 to 1, one for each pair of maps. NaN where it is undefined: one
        of the two maps is constant, or not finite.

    Raises
    ------
    ValueError
        If the maps are not of one shape, or `data_format` has to be given.
    KeyError
        If `data_format` is none of these.

    Notes
    -----
    Equal values share the mean of their ranks. The sums over channels are
    those of the code of [1]_, which then scales each map, of no effect on
    ranks, and clips it at its 99th percentile, which makes the largest 1 %
    equal. That is left out here.

    References
    ----------
    .. [1] Adebayo et al. (2018); https://github.com/adebayoj/
       sanity_checks_saliency

    Examples
    --------
    >>> import numpy as np
    >>> from gradmod.sanity import spearman
    >>> a, b = np.array([[1., 2, -3]]), np.array([[10., 20, 30]])
    >>> print(spearman(a, b), spearman(a, b, absolute=True))
    [-0.5] [1.]
    """
    from scipy.stats import rankdata

    def ranks(v):
        v = abs(v) if absolute else v
        v = (v.sum(axis=0) if v.ndim > 2 else v).ravel()
        if not np.isfinite(v).all():
            return np.full(v.shape, np.nan)
        return rankdata(v) - (v.size + 1) / 2
    return np.array([_cosine(ranks(a), ranks(b)) for a, b in zip(
        *_channels_first(maps, others, data_format))])


def spearman_abs(maps, others, data_format=None):
    """Spearman's rank correlation of absolute values; see `spearman`.

    Parameters
    ----------
    maps, others, data_format
        As for `spearman`.

    Returns
    -------
    array of float64
        One for each pair of maps.

    Raises
    ------
    ValueError, KeyError
        As for `spearman`.
    """
    return spearman(maps, others, True, data_format)


def ssim(maps, others, data_format=None):
    """The structural similarity of each map with another, by scikit-image.

    Parameters
    ----------
    maps, others : arrays of shape (n, channels, height, width)
        The maps, of 11 x 11 pixels or more.
    data_format
        As for `spearman`; (n, height, width, channels) is 'channels_last'.

    Returns
    -------
    array of float64
        1 for equal maps. NaN where one of the two is constant, or not finite.

    Raises
    ------
    ValueError
        If the maps are of another shape; and as for `spearman`.
    KeyError
        As for `spearman`.
    ImportError
        Without scikit-image.

    Notes
    -----
    As in the code of [1]_, each map is scaled to 0..1 by its minimum and
    maximum over all channels; the windows are Gaussian, of standard deviation
    1.5; and the result is the mean over the channels. The range of the values
    is said to be 1, their true one, where that code left it at scikit-image's
    default for floats, 2.

    References
    ----------
    .. [1] Adebayo et al. (2018); see `spearman`.
    """
    from skimage.metrics import structural_similarity
    maps, others = _channels_first(maps, others, data_format)
    if maps.ndim != 4 or min(maps.shape[2:]) < 11:
        raise ValueError('ssim: expected maps with channels, of 11 x 11 pixels'
                         f' or more, got (n, channels, ...) = {maps.shape}')

    def scaled(m):
        return (m - m.min()) / np.ptp(m)
    with np.errstate(all='ignore'):  # a constant is NaN
        return np.array([np.mean([
            structural_similarity(u, v, gaussian_weights=True, data_range=1)
            for u, v in zip(scaled(a), scaled(b))])
            for a, b in zip(maps, others)])


def _channels_first(maps, others, data_format):
    """Both in one array of float64, with channels, if any, on axis 2."""
    both = np.array([maps, others], float)  # which fails for two shapes
    axis = {None: 2, 'channels_first': 2, 'channels_last': -1}[data_format]
    if both.ndim < 5:
        return both
    if data_format is None and both.shape[-1] <= 4 < min(both.shape[2:-1]):
        raise ValueError(f'maps of shape {np.shape(maps)} may have channels '
                         'last: expected data_format to be given')
    return np.moveaxis(both, axis, 2)


MEASURES = {f.__name__: f for f in (spearman, spearman_abs, ssim)}


class RandomizationReport(SimpleNamespace):
    """How similar maps stay as weights are randomized. Prints as a table.

    Attributes
    ----------
    description : str
        The method and the rule.
    cascading : bool
        Whether a step keeps what the steps before it randomized.
    names : list of str
        What each step randomized.
    unchanged : list of str
        Steps whose draws changed nothing, as a permutation does where all
        values of a parameter are equal. Their similarity means nothing.
    similarity : dict of arrays of shape (steps, images)
        By measure: the similarity of each map to that of the trained network.
    zero : array of bool, of shape (images,)
        Whether the map of the trained network is 0 everywhere.
    classes, others : arrays of int, or None
        The class that the maps are of; the one that `class_cosine` compares
        with. None where a function is the target, or there is one class.
    class_cosine : array of shape (images,), or None
        The cosine of the maps of these two classes, in the trained network.
    maps : array of shape (1 + steps, images, ...), or None
        The maps of the trained network, and those after each step, if asked
        for.
    """

    def mean(self, measure):
        """The mean over the images, for each step.

        Parameters
        ----------
        measure : str
            A key of `similarity`.

        Returns
        -------
        array of shape (steps,)
            The mean of those that are defined; NaN where none is.
        """
        return np.array([_mean(v) for v in self.similarity[measure]])

    @property
    def undefined(self):
        """How many maps, of all steps and images, a measure is NaN for."""
        return int(np.any([np.isnan(v) for v in self.similarity.values()],
                          axis=0).sum())

    def __repr__(self):
        n, undefined = len(self.zero), self.undefined
        rows = [('randomized', *self.similarity)] + list(zip(self.names, *[
            [f'{v: .3f}' for v in self.mean(m)] for m in self.similarity]))
        how = 'cascading' if self.cascading else 'one step at a time'
        lines = [f'{self.description}, {n} image{"s" * (n != 1)}, {how}',
                 table(rows)]
        if undefined:
            lines.append(f'undefined for {undefined} of {n * len(self.names)} '
                         'maps, which are constant or not finite')
        if self.zero.any():
            lines.append('zero everywhere in the trained network: '
                         f'{self.zero.sum()} of {n} maps')
        if self.unchanged:
            lines.append('the draws changed nothing in: '
                         + ', '.join(self.unchanged))
        if self.class_cosine is not None:
            missing = np.isnan(self.class_cosine).sum()
            lines.append('cosine to the map of another class: '
                         f'{_mean(self.class_cosine):.3f}'
                         + f', undefined for {missing} of {n}' * bool(missing))
        return '\n'.join(lines)

    def plot(self):
        """Draw the similarity at each step.

        Returns
        -------
        matplotlib.figure.Figure
            As `plot_reports` draws it.
        """
        return plot_reports({self.description: self})


def randomization_test(network, images, rule=None, target=None,
                       method='gradient', input_var=None, cascading=True,
                       layers=None, measures=('spearman', 'spearman_abs'),
                       draw=permute, seed=0, keep_maps=False, data_format=None,
                       batch_size=BATCH_SIZE, **options):
    """How similar the maps stay as the weights of a network are randomized.

    The model parameter randomization test of [1]_, and beside it the cosine of
    `class_sensitivity`. The network is as before afterwards.

    Parameters
    ----------
    network : lasagne.layers.Layer or Variable
        The output of a trained network: a layer, or an expression of
        `input_var` and of shared variables.
    images : array of shape (n, ...)
        What to compute maps of.
    rule, method, input_var, **options
        As for `compile_saliency_function`. A method's own option `seed` cannot
        be given here.
    target : None, 'max', int, vector of int or function
        As for `compile_saliency_function`. By default the class that the
        trained network takes an image for. The classes stay the same as
        weights are randomized, as in [1]_: else a map would also change
        because the random network takes the image for something else. That a
        function of the logits means the same is up to you.
    cascading : bool
        Whether to keep what is randomized already as the next step follows. If
        not, each step has all the rest as trained.
    layers : list or dict, optional
        The steps, in their order. Each is a layer or the name of one, as
        `modified` has it; in a dict it may be a list of those, all randomized
        at once, and the key is what to call it. By default each layer that has
        parameters, from the output down: ``lasagne.layers.get_all_layers`` in
        reverse.

        For an expression, shared variables take the place of layers: those of
        floats between `input_var` and the output, by default from the output
        down. One without a name is called by its number, such as ``'#3'``.
    measures : sequence
        'spearman', 'spearman_abs' and 'ssim', which needs scikit-image: the
        functions of these names in `gradmod.sanity`, where the formulas are.
        Or functions of your own: of two arrays of maps, to a vector.
    draw : callable
        From the trained value of a parameter, which it may change, and a
        ``RandomState`` to the random value. By default `permute`.
    seed : int
        Parameter i of ``lasagne.layers.get_all_params``, or shared variable i
        of an expression, from the input up, gets ``RandomState([seed, i])``.
        So its random value is the same in all steps, cascading or not, for all
        methods, and whichever layers are asked for.
    keep_maps : bool
        Whether the report has the maps.
    data_format : {'channels_first', 'channels_last'}, optional
        Where the maps have their channels; see `spearman`. Functions of your
        own do not get it.
    batch_size : int
        How many images to compute at once.

    Returns
    -------
    RandomizationReport
        It prints as a table: the mean over the images for each step, after a
        line with the method. Below are, if there are any, the number of maps
        that a measure is undefined for, the number that are zero everywhere,
        and the steps that changed nothing; last the cosine.

    Raises
    ------
    ValueError
        If there is nothing to randomize; a layer or variable is not part of
        the network, or has no parameters; a name is that of several; `draw` or
        a measure gives an array of another shape; two measures have one name.
    KeyError
        If a measure or `data_format` is none of those above.
    TypeError, ValueError, AssertionError
        As `compile_saliency_function` and its result do.

    See Also
    --------
    plot_reports : the reports of several methods in one picture.

    Notes
    -----
    [1]_ draws new initial values. Lasagne does not keep the distributions that
    these came from, and so the trained values are permuted within each
    parameter: a random network whose layers have weights of exactly the
    trained mean and spread, for any layer, without an option to set. Where all
    values are equal that changes nothing; the report says where.

    All parameters are randomized, not only trainable ones as in the code of
    [1]_: the tag says what the next training changes, and a layer frozen by
    its removal has learned as well. The statistics of a batch normalization
    come from the data, too.

    What is between the input and the output of an expression is ordered by
    where it comes in last: a weight that several layers share is randomized
    with the one nearest to the output.

    The saliency function has the network's own shared variables and is
    compiled once. At the end, and on any exception, each gets its very array
    back.

    What to make of the numbers: a method fails the test if its maps stay
    similar. That they change does not show that they explain anything. Compare
    with the plain gradient on the same images.

    References
    ----------
    .. [1] Adebayo, Gilmer, Muelly, Goodfellow, Hardt, Kim (2018): Sanity
       Checks for Saliency Maps. NeurIPS. arXiv:1810.03292.

    Examples
    --------
    >>> import gradmod
    >>> import numpy as np
    >>> import theano.tensor as T
    >>> from gradmod.sanity import randomization_test
    >>> from lasagne.layers import DenseLayer, InputLayer, get_output
    >>> rng = np.random.RandomState(0)
    >>> x = T.matrix('x', dtype='float32')
    >>> net = InputLayer((None, 8), x)
    >>> net = DenseLayer(net, 40, W=rng.randn(8, 40).astype('float32'))
    >>> net = DenseLayer(net, 4, W=rng.randn(40, 4).astype('float32'),
    ...                  nonlinearity=None, name='logits')
    >>> images = rng.rand(5, 8).astype('float32')
    >>> randomization_test(net, images, rule=gradmod.GuidedBackprop)
    gradient under GuidedBackprop, 5 images, cascading
    randomized     spearman  spearman_abs
    logits          0.681     0.519
    #1 DenseLayer   0.457     0.329
    cosine to the map of another class: 0.670

    One layer alone, with draws from another distribution:

    >>> def normal(value, rng):
    ...     return rng.normal(0, .05, value.shape)
    >>> report = randomization_test(net, images, layers=['logits'],
    ...                             draw=normal)
    >>> report.similarity['spearman'].shape
    (1, 5)

    An expression:

    >>> report = randomization_test(get_output(net), images, input_var=x)
    >>> report.names
    ['logits.b', 'logits.W', 'b', 'W']
    """
    steps, params = _steps(network, input_var, layers)
    functions = _functions(measures, data_format)
    trained = {p: p.get_value(borrow=True) for p in params}
    explain, maps, found = _explain(network, images, rule, target, method,
                                    input_var, None, batch_size, options)

    def restore():
        for p, value in trained.items():
            p.set_value(value, borrow=True)

    def randomize(i, p):
        value, rng = trained[p], np.random.RandomState([seed, i])
        random = np.asarray(draw(value.copy(), rng))
        if random.shape != value.shape:
            raise ValueError(f'expected draw to give the shape {value.shape} '
                             f'for {p}, got {describe(random)}')
        p.set_value(random.astype(value.dtype), borrow=True)
        return not np.array_equal(p.get_value(borrow=True), value)

    similarity = {key: np.empty((len(steps), len(maps))) for key in functions}
    unchanged, kept = [], [maps]
    try:
        for i, (name, chosen) in enumerate(steps):
            if not cascading:
                restore()
            if not any([randomize(k, p) for k, p in enumerate(params)
                        if p in chosen]):
                unchanged.append(name)
            now = explain(found['classes'])
            for key, function in functions.items():
                result = np.asarray(function(maps.copy(), now.copy()))
                if result.shape != (len(maps),):
                    raise ValueError(f'{key} gave the shape {result.shape} '
                                     f'for {len(maps)} images')
                similarity[key][i] = result
            if keep_maps:
                kept.append(now)
    finally:
        restore()
    return RandomizationReport(
        cascading=bool(cascading), names=[name for name, _ in steps],
        unchanged=unchanged, similarity=similarity,
        zero=~maps.reshape(len(maps), -1).any(axis=1),
        maps=np.array(kept) if keep_maps else None, **found)


def class_sensitivity(network, images, rule=None, target=None,
                      method='gradient', input_var=None, other=None,
                      batch_size=BATCH_SIZE, **options):
    """The cosine of the maps of two classes, for each image.

    Parameters
    ----------
    network, rule, method, input_var, **options
        As for `compile_saliency_function`.
    images : array of shape (n, ...)
        What to compute maps of.
    target : None, 'max', int or vector of int
        The one class, by default the maximal one.
    other : None, int or vector of int
        The other class. By default the one of the largest logit among all but
        `target`: for the maximal class, the runner-up.
    batch_size : int
        How many images to compute at once.

    Returns
    -------
    array of float64, of shape (n,)
        From -1 to 1, over all values of the maps: 1 for maps that differ by a
        factor alone. NaN where one of the two is 0 everywhere, or not finite.

    Raises
    ------
    TypeError
        If the target is a function, or the network has one class.
    ValueError
        If `other` is the same as `target`.
    TypeError, ValueError, AssertionError
        As `compile_saliency_function` and its result do.

    Notes
    -----
    The runner-up is the class that the explanation has to tell from the
    maximal one. The two may well share evidence: judge by the plain gradient's
    cosine on the same images. Why many rules depend on the later layers so
    little, and so on the class, is in [1]_.

    References
    ----------
    .. [1] Sixt, Granz, Landgraf (2020): When Explanations Lie: Why Many
       Modified BP Attributions Fail. ICML.

    Examples
    --------
    >>> import gradmod
    >>> import numpy as np
    >>> import theano.tensor as T
    >>> from gradmod.sanity import class_sensitivity
    >>> x = T.matrix('x', dtype='float32')
    >>> logits = T.dot(x, np.float32([[3, 4], [4, -3]]))
    >>> print(class_sensitivity(logits, np.float32([[1, 2]]), input_var=x))
    [0.]
    """
    *_, found = _explain(network, images, rule, target, method, input_var,
                         other, batch_size, options)
    if found['class_cosine'] is None:
        raise TypeError('expected a class as target, and another one')
    return found['class_cosine']


def plot_reports(reports):
    """Draw how similar maps stay: a panel for each measure, a line a report.

    Parameters
    ----------
    reports : dict of RandomizationReport
        By what to call them. They have the same steps and measures.

    Returns
    -------
    matplotlib.figure.Figure
        The mean over the images, step by step. Cascading ones start with the
        trained network, at 1, unless the measure is a function of your own.
        pyplot does not know of it.

    Raises
    ------
    ValueError
        If they differ in their steps or measures, or there are none.
    ImportError
        Without matplotlib.
    """
    from .plot import Figure
    kinds = {(r.cascading, *r.names, *r.similarity) for r in reports.values()}
    if len(kinds) != 1:
        raise ValueError('expected the same steps and measures in all, got '
                         f'{len(kinds)} kinds')
    first, *_ = reports.values()
    panels, steps = len(first.similarity), first.cascading + len(first.names)
    figure = Figure((panels * max(3.5, 1 + .2 * steps), 4),
                    constrained_layout=True)
    for i, measure in enumerate(first.similarity):
        axes = figure.add_subplot(1, panels, i + 1)
        known = measure in MEASURES  # from -1 to 1, for equal maps
        start = ['trained'] * (first.cascading and known)
        ticks = start + first.names
        for title, report in reports.items():
            axes.plot([1] * len(start) + list(report.mean(measure)),
                      '.-' if first.cascading else '.',
                      label=' ' + ' '.join(str(title).split()))  # "_" hides it
        axes.axhline(0, color='.7')
        axes.set(title=measure, xticks=range(len(ticks)))
        if known:
            axes.set_ylim(-1.05, 1.05)
        axes.set_xticklabels(ticks, rotation='vertical', fontsize=7)
    axes.legend(fontsize=7)
    return figure


def _explain(network, images, rule, target, method, input_var, other,
             batch_size, options):
    """The maps of the images, and their cosines to those of another class.

    Returns a function from classes to maps, the maps of the target, and the
    attributes of the report about classes: None for a function as the
    target, and what is of another class where there is none.
    """
    fixed = not has_classes(target)
    f = compile_saliency_function(
        network, rule, target if fixed else 'given', method, input_var,
        **options)
    found = dict(description=f.description, classes=None, others=None,
                 class_cosine=None)

    explain = partial(f, images, batch_size=batch_size)
    details = f.explain(images, None if fixed else 'max' if target is None
                        else target, batch_size)
    maps, classes = details.maps, details.classes
    if not isinstance(maps, np.ndarray):
        raise TypeError('expected maps of one input: say which by wrt')
    if fixed:
        return explain, maps, found
    if classes.ndim > 1:
        raise TypeError('expected one class for each image, got several')
    found['classes'] = classes
    logits = details.logits.astype('float64')
    if other is not None or logits.shape[1] > 1:
        logits[np.arange(len(maps)), classes] = -np.inf
        if is_word(other, None, 'max'):
            other = logits.argmax(axis=1)
        details = f.explain(images, other, batch_size)
        found['others'] = details.classes
        if (found['others'] == classes).any():
            raise ValueError('expected other to be another class than target, '
                             f'got {found["others"]} and {classes}')
        found['class_cosine'] = np.array([
            _cosine(*np.array([a, b], 'float64').reshape(2, -1))
            for a, b in zip(maps, details.maps)])
    return explain, maps, found


def _shared_variables(output, x):
    """Those of floats that come in between, by where they do so last."""
    nodes, found = list(nodes_below([x], [output])), {}
    depending = {x}.union(*(node.outputs for node in nodes))
    for i, node in enumerate(nodes):
        found.update((v, i) for v in walk(
            [v for v in node.inputs if v not in depending], inputs_of)
            if isinstance(v, SharedVariable) and is_float_tensor(v))
    return sorted(found, key=found.get)


def _steps(network, x, layers):
    """Pairs of the name of a step and what it randomizes; all parameters."""
    if isinstance(network, Variable):
        parts = {p: [p] for p in _shared_variables(network, x)}
        names = {p: p.name or f'#{i}' for i, p in enumerate(parts)}
        default = list(parts)[::-1]
    else:
        from lasagne.layers import get_all_layers
        named = named_layers(network)
        parts = {layer: layer.get_params() for layer in named}
        names = {layer: name for layer, name in named.items() if parts[layer]}
        default = [v for v in get_all_layers(network)[::-1] if v in names]

    def find(wanted):
        (part,) = find_layers(wanted, names, 'those with parameters', one=True)
        return names[part], parts[part]

    if isinstance(layers, Mapping):
        steps = [(str(key), [p for v in flatten(value) for p in find(v)[1]])
                 for key, value in layers.items()]
    else:
        steps = [find(v) for v in (default if layers is None else layers)]
    if not steps:
        raise ValueError('found nothing to randomize')
    return steps, list(dict.fromkeys(flatten(parts)))


def _functions(measures, data_format):
    """The measures by name."""
    functions = {}
    for m in flatten(measures):
        m = MEASURES[m] if isinstance(m, str) else m
        if name_of(m) in functions:
            raise ValueError(f'two measures have the name {name_of(m)}')
        functions[name_of(m)] = (partial(m, data_format=data_format)
                                 if m in MEASURES.values() else m)
    return functions


def _cosine(a, b):
    """The cosine of two vectors, NaN where one of them is 0 or not finite."""
    norms = np.sqrt(a.dot(a)) * np.sqrt(b.dot(b))
    return a.dot(b) / norms if norms and np.isfinite(norms) else np.nan


def _mean(values):
    """The mean of those that are no NaN."""
    values = values[~np.isnan(values)]
    return values.mean() if values.size else np.nan
