"""How far to trust a saliency method: does it depend on what was learned?

`randomization_test` puts random weights in the place of the trained ones,
layer by layer, and says how similar the maps stay [1]_. `class_sensitivity`
says how similar the maps of two classes are. A method whose maps hardly change
explains neither the weights nor the class.

References
----------
.. [1] Adebayo, Gilmer, Muelly, Goodfellow, Hardt, Kim (2018): Sanity Checks for
   Saliency Maps. NeurIPS. arXiv:1810.03292.
"""
from collections import OrderedDict
from collections.abc import Mapping

import numpy as np

from .errors import describe, name_of
from .network import flatten, named_layers, _unknown_name
from .saliency import _check_seed, _wrong, compile_saliency_function

# Lasagne, scipy, scikit-image and matplotlib are imported inside of functions.

# The options that are not a method's.
COMPILATION = 'input_var', 'logits', 'mode', 'givens'


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

    Raises
    ------
    TypeError
        If an argument is not of the kind described.
    """
    if not isinstance(value, np.ndarray):
        raise TypeError(_wrong('permute', 'an array', value))
    if not isinstance(rng, np.random.RandomState):
        raise TypeError(_wrong('permute', 'rng to be a RandomState', rng))
    return rng.permutation(value.ravel()).reshape(value.shape)


def spearman(maps, others, absolute=False):
    """Spearman's rank correlation of each map with another.

    Parameters
    ----------
    maps, others : arrays of shape (n, ...)
        The maps. Those of four dimensions or more have channels on axis 1,
        which are summed.
    absolute : bool
        Whether to take absolute values first, before channels are summed.

    Returns
    -------
    array of float64
        From -1 to 1, one for each pair of maps. NaN where it is undefined: one
        of the two maps is constant, or not finite.

    Raises
    ------
    TypeError
        If the maps are no arrays of real numbers.
    ValueError
        If they are not of one shape, or of no dimensions.

    Notes
    -----
    Equal values share the mean of their ranks. The sums over channels are those
    of the code of [1]_, which then scales each map, of no effect on ranks, and
    clips it at its 99th percentile, which makes the largest 1 % equal. That is
    left out here.

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
        v = v.astype('float64')
        v = abs(v) if absolute else v
        v = (v.sum(axis=0) if v.ndim > 2 else v).ravel()
        if not np.isfinite(v).all():
            return np.full(v.shape, np.nan)
        return rankdata(v) - (v.size + 1) / 2.
    return np.array([_cosine(ranks(a), ranks(b)) for a, b in zip(
        *_as_maps('spearman', maps, others))])


def spearman_abs(maps, others):
    """Spearman's rank correlation of absolute values; see `spearman`.

    Parameters
    ----------
    maps, others : arrays of shape (n, ...)
        The maps.

    Returns
    -------
    array of float64
        One for each pair of maps.

    Raises
    ------
    TypeError, ValueError
        As for `spearman`.
    """
    return spearman(maps, others, absolute=True)


def ssim(maps, others):
    """The structural similarity of each map with another, by scikit-image.

    Parameters
    ----------
    maps, others : arrays of shape (n, channels, height, width)
        The maps, of 11 x 11 pixels or more.

    Returns
    -------
    array of float64
        1 for equal maps. NaN where one of the two is constant, or not finite.

    Raises
    ------
    TypeError
        If the maps are no arrays of real numbers.
    ValueError
        If they are of another shape.
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
    try:
        from skimage.metrics import structural_similarity
    except ImportError as error:
        raise ImportError('ssim needs scikit-image: pip install '
                          '"gradmod[examples]"') from error
    maps, others = _as_maps('ssim', maps, others)
    shape = maps.shape
    if len(shape) != 4 or min(shape[2:]) < 11:
        raise ValueError('ssim: expected maps of shape (n, channels, height, '
                         'width), of 11 x 11 pixels or more, got %s' % (shape,))

    def scaled(m):
        m = m.astype('float64')
        return (m - m.min()) / (m.max() - m.min())

    def similarity(a, b):
        if not (np.isfinite([a, b]).all() and np.ptp(a) and np.ptp(b)):
            return np.nan
        return np.mean([structural_similarity(
            u, v, gaussian_weights=True, data_range=1)
            for u, v in zip(scaled(a), scaled(b))])
    return np.array([similarity(a, b) for a, b in zip(maps, others)])


def _as_maps(caller, *maps):
    """Two arrays of maps; checked."""
    a, b = maps = [np.asarray(m) for m in maps]
    for m in maps:
        if m.dtype.kind not in 'biuf':
            raise TypeError(_wrong(caller, 'maps of real numbers', m))
    if a.shape != b.shape or not a.ndim:
        raise ValueError('%s: expected maps of one shape, got %s and %s' %
                         (caller, a.shape, b.shape))
    return a, b


MEASURES = dict((f.__name__, f) for f in (spearman, spearman_abs, ssim))


class RandomizationReport(object):
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
    similarity : OrderedDict of arrays of shape (steps, images)
        By measure: the similarity of each map to that of the trained network.
    classes, others : arrays of int, or None
        The class that the maps are of; the one that `class_cosine` compares
        with. None where a function is the target, or there is one class.
    class_cosine : array of shape (images,), or None
        The cosine of the maps of these two classes, in the trained network.
    maps : array of shape (1 + steps, images, ...), or None
        The maps of the trained network, and those after each step, if asked
        for.
    """

    def __init__(self, description, cascading, names, unchanged, similarity,
                 classes, others, class_cosine, maps):
        self.description, self.cascading = description, cascading
        self.names, self.unchanged = names, unchanged
        self.similarity = similarity
        self.classes, self.others = classes, others
        self.class_cosine, self.maps = class_cosine, maps

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
        return int(np.isnan(list(self.similarity.values())).any(axis=0).sum())

    def __repr__(self):
        values = list(self.similarity.values())
        n = values[0].shape[1]
        width = max(map(len, self.names + ['randomized']))
        lines = ['%s, %d image%s, %s' % (
            self.description, n, 's' * (n != 1),
            'each layer with those before it' if self.cascading
            else 'one layer at a time')]
        lines.append('  '.join(['randomized'.ljust(width)]
                               + list(self.similarity)))
        means = [self.mean(m) for m in self.similarity]
        for i, name in enumerate(self.names):
            lines.append('  '.join([name.ljust(width)] + [
                ('%.3f' % mean[i]).rjust(len(m))
                for m, mean in zip(self.similarity, means)]))
        if self.undefined:
            lines.append('undefined for %d of %d maps, which are constant or '
                         'not finite' % (self.undefined, values[0].size))
        if self.unchanged:
            lines.append('the draws changed nothing in: ' +
                         ', '.join(self.unchanged))
        if self.class_cosine is not None:
            lines.append('cosine to the map of another class: %.3f' %
                         _mean(self.class_cosine))
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
                       method='gradient', cascading=True, layers=None,
                       measures=('spearman', 'spearman_abs'), draw=permute,
                       seed=0, keep_maps=False, batch_size=64, **options):
    """How similar the maps stay as the weights of a network are randomized.

    The model parameter randomization test of [1]_, and beside it the cosine of
    `class_sensitivity`. The network is as before afterwards.

    Parameters
    ----------
    network : lasagne.layers.Layer
        The output layer of a trained network.
    images : array of shape (n, ...)
        What to compute maps of.
    rule, method, **options
        As for `compile_saliency_function`. A method's own option `seed` cannot
        be given here.
    target : None, 'max', int, vector of int or function
        As for `compile_saliency_function`. By default the class that the
        trained network takes an image for. The classes stay the same as weights
        are randomized, as in [1]_: else a map would also change because the
        random network takes the image for something else. That a function of
        the logits means the same is up to you.
    cascading : bool
        Whether to keep what is randomized already as the next step follows. If
        not, each step has all other layers as trained.
    layers : list or dict, optional
        The steps, in their order. Each is a layer or the name of one; in a dict
        it may be a list of those, all randomized at once, and the key is what
        to call it. By default each layer that has parameters, from the output
        down: ``lasagne.layers.get_all_layers`` in reverse. Names are those of
        `modified`.
    measures : sequence
        'spearman', 'spearman_abs' and 'ssim', which needs scikit-image: the
        functions of these names in `gradmod.sanity`, where the formulas are.
        Or functions of your own: of two arrays of maps, to a vector.
    draw : callable
        From the trained value of a parameter, which it may change, and a
        ``RandomState`` to the random value. By default `permute`.
    seed : int
        Parameter i of ``lasagne.layers.get_all_params`` gets a
        ``RandomState([seed, i])``. So its random value is the same in all
        steps, cascading or not, for all methods, and whichever layers are
        asked for.
    keep_maps : bool
        Whether the report has the maps.
    batch_size : int
        How many images to compute at once.

    Returns
    -------
    RandomizationReport
        It prints as a table: the mean over the images for each step, after a
        line with the method; last comes the cosine.

    Raises
    ------
    TypeError
        If an argument is not of the kind described.
    ValueError
        If a layer is not part of the network or has no parameters, a name is
        that of several layers, a class does not exist, or `draw` or a measure
        gives an array of another shape; and as `compile_saliency_function` and
        its result do.

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
    [1]_: the tag says what the next training changes, and a layer frozen by its
    removal has learned as well. The statistics of a batch normalization come
    from the data, too.

    The saliency function has the network's own shared variables and is
    compiled once. At the end, and on any exception, each gets its very array
    back.

    What to make of the numbers: a method fails the test if its maps stay
    similar. That they change does not show that they explain anything. Compare
    with the plain gradient on the same images.

    References
    ----------
    .. [1] Adebayo, Gilmer, Muelly, Goodfellow, Hardt, Kim (2018): Sanity Checks
       for Saliency Maps. NeurIPS. arXiv:1810.03292.

    Examples
    --------
    >>> import gradmod
    >>> import numpy as np
    >>> import theano.tensor as T
    >>> from gradmod.sanity import randomization_test
    >>> from lasagne.layers import DenseLayer, InputLayer
    >>> rng = np.random.RandomState(0)
    >>> net = InputLayer((None, 8), T.matrix('x', dtype='float32'))
    >>> net = DenseLayer(net, 40, W=rng.randn(8, 40).astype('float32'))
    >>> net = DenseLayer(net, 4, W=rng.randn(40, 4).astype('float32'),
    ...                  nonlinearity=None, name='logits')
    >>> images = rng.rand(5, 8).astype('float32')
    >>> randomization_test(net, images, rule=gradmod.GuidedBackprop)
    gradient under GuidedBackprop, 5 images, each layer with those before it
    randomized     spearman  spearman_abs
    logits            0.681         0.519
    #1 DenseLayer     0.457         0.329
    cosine to the map of another class: 0.670

    One layer alone, with draws from another distribution:

    >>> def normal(value, rng):
    ...     return rng.normal(0, .05, value.shape)
    >>> report = randomization_test(net, images, layers=['logits'], draw=normal)
    >>> report.similarity['spearman'].shape
    (1, 5)
    """
    caller = 'randomization_test'
    from lasagne.layers import Layer, get_all_params
    from lasagne.utils import unique
    if not isinstance(network, Layer):
        raise TypeError(_wrong(caller, 'network to be a Lasagne layer, the '
                               'output', network))
    if not callable(draw):
        raise TypeError(_wrong(caller, 'draw to be a function of an array and '
                               'a RandomState', draw))
    _check_seed(caller, seed)
    names = named_layers(network)
    steps = _steps(caller, network, names, layers)
    measures = _measures(caller, measures)
    trained = [(p, p.get_value(borrow=True)) for p in unique(
        get_all_params(network) + [p for v in names for p in v.get_params()])]

    f, logits = _compile(network, images, rule, target, method, batch_size,
                         options)
    classes = others = class_cosine = None
    if logits is not None:
        classes = _classes(caller, 'target', target, logits)

    def explain(classes):
        maps = f(images, classes, batch_size)
        maps.flags.writeable = False  # a measure has no business to
        return maps
    maps = explain(classes)
    if logits is not None and logits.shape[1] > 1:
        others = _classes(caller, 'other', None, logits, classes)
        class_cosine = _cosines(maps, explain(others))

    def restore():
        for p, value in trained:
            p.set_value(value, borrow=True)

    def randomize(i):
        p, value = trained[i]
        random = np.asarray(draw(value.copy(),
                                 np.random.RandomState([seed, i])))
        if random.shape != value.shape or random.dtype.kind not in 'biuf':
            raise ValueError(_wrong(
                caller, 'draw to return numbers of shape %s for %s' %
                (value.shape, p), random))
        p.set_value(random.astype(value.dtype), borrow=True)
        return not np.array_equal(p.get_value(borrow=True), value)

    similarity = OrderedDict((name, []) for name in measures)
    unchanged, kept = [], [maps]
    try:
        for name, params in steps:
            if not cascading:
                restore()
            changed = [randomize(i) for i, (p, _) in enumerate(trained)
                       if p in params]
            if not any(changed):
                unchanged.append(name)
            now = explain(classes)
            for key, measure in measures.items():
                result = np.asarray(measure(maps, now))
                if result.shape != maps.shape[:1]:
                    raise ValueError(_wrong(
                        caller, 'the measure %s to return a number for each of '
                        '%d images' % (key, len(maps)), result))
                similarity[key].append(result)
            if keep_maps:
                kept.append(now)
    finally:
        restore()
    return RandomizationReport(
        f.description, bool(cascading), [name for name, _ in steps], unchanged,
        OrderedDict((key, np.array(v)) for key, v in similarity.items()),
        classes, others, class_cosine, np.array(kept) if keep_maps else None)


def class_sensitivity(network, images, rule=None, target=None, other=None,
                      method='gradient', batch_size=64, **options):
    """The cosine of the maps of two classes, for each image.

    Parameters
    ----------
    network, rule, method, **options
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
        If an argument is not of the kind described.
    ValueError
        If a class does not exist, or `other` is the same as `target`; and as
        `compile_saliency_function` and its result do.

    Notes
    -----
    The runner-up is the class that the explanation has to tell from the maximal
    one. The two may well share evidence: judge by the plain gradient's cosine
    on the same images. Why many rules depend on the later layers so little,
    and so on the class, is in [1]_.

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
    caller = 'class_sensitivity'
    if callable(target):
        raise TypeError(_wrong(caller, 'target to be a class', target))
    f, logits = _compile(network, images, rule, target, method, batch_size,
                         options)
    classes = _classes(caller, 'target', target, logits)
    others = _classes(caller, 'other', other, logits, classes)
    return _cosines(f(images, classes, batch_size),
                    f(images, others, batch_size))


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
    TypeError
        If `reports` is no dict of reports.
    ValueError
        If they differ in their steps or measures, or there are none.
    ImportError
        Without matplotlib.
    """
    if not (isinstance(reports, Mapping) and all(
            isinstance(r, RandomizationReport) for r in reports.values())):
        raise TypeError(_wrong('plot_reports', 'reports to be a dict of '
                               'reports of randomization_test', reports))
    kinds = set((r.cascading,) + tuple(r.names) + tuple(r.similarity)
                for r in reports.values())
    if len(kinds) != 1:
        raise ValueError('plot_reports: expected reports of the same steps and '
                         'measures, got %d different kinds' % len(kinds))
    from .plot import _Figure
    first = next(iter(reports.values()))
    panels, steps = len(first.similarity), first.cascading + len(first.names)
    figure = _Figure((panels * max(3.5, 1 + .2 * steps), 4),
                     constrained_layout=True)
    for i, measure in enumerate(first.similarity):
        axes = figure.add_subplot(1, panels, i + 1)
        known = measure in MEASURES  # from -1 to 1, for equal maps
        start = ['trained'] * (first.cascading and known)
        ticks = start + first.names
        for report in reports.values():
            axes.plot([1] * len(start) + list(report.mean(measure)),
                      '.-' if first.cascading else '.')
        axes.axhline(0, color='.7', linewidth=.8)
        axes.set(title=measure, xticks=range(len(ticks)))
        if known:
            axes.set_ylim(-1.05 if axes.get_ylim()[0] < -.5 else -.55, 1.05)
        axes.set_xticklabels(ticks, rotation=90, fontsize=7)
    # As labels, titles that begin with "_" would be left out.
    legend = axes.legend(axes.lines[:len(reports)], [''] * len(reports),
                         fontsize=7)
    for text, title in zip(legend.texts, reports):
        text.set_text(str(title).replace('\n', ' '))
    return figure


def _steps(caller, network, names, layers):
    """Pairs: the name of a step, the parameters that it randomizes."""
    from lasagne.layers import Layer, get_all_layers
    if layers is None:
        layers = [v for v in reversed(get_all_layers(network))
                  if v.get_params()]
    if not isinstance(layers, (Mapping, list, tuple)):
        raise TypeError(_wrong(caller, 'layers to be a list or a dict of '
                               'layers or their names', layers))

    def find(wanted):
        if not isinstance(wanted, (str, Layer)):
            raise TypeError(_wrong(caller, 'layers to have layers or their '
                                   'names', wanted))
        found = [v for v in names if wanted in (v, names[v])]
        if not found and isinstance(wanted, str):
            raise _unknown_name(caller, wanted, list(names.values()))
        if not found:
            raise ValueError('%s: the layer %s in layers is not part of the '
                             'network' % (caller, describe(wanted)))
        if len(found) > 1:
            raise ValueError('%s: expected layers to have names of one layer '
                             'each, got %r, of %d' % (caller, wanted,
                                                      len(found)))
        (layer,) = found
        params = layer.get_params()
        if not params:
            raise ValueError('%s: the layer %s in layers has no parameters' %
                             (caller, names[layer]))
        return names[layer], params

    if isinstance(layers, Mapping):
        steps = [(str(key), [p for wanted in flatten(value)
                             for p in find(wanted)[1]])
                 for key, value in layers.items()]
    else:
        steps = [find(wanted) for wanted in layers]
    if not steps or not all(params for _, params in steps):
        raise ValueError('%s: expected layers with parameters, got none%s' % (
            caller, ''.join(' in %r' % name for name, p in steps if not p)))
    return steps


def _measures(caller, measures):
    """The measures by name."""
    if not isinstance(measures, (list, tuple)):
        measures = [measures]
    functions = OrderedDict()
    for m in measures:
        function = MEASURES.get(m) if isinstance(m, str) else m
        if not callable(function):
            raise ValueError(_wrong(caller, 'measures to be functions or some '
                                    'of %s' % ', '.join(MEASURES), m))
        if name_of(function) in functions:
            raise ValueError('%s: expected measures of different names, got '
                             'two called %s' % (caller, name_of(function)))
        functions[name_of(function)] = function
    if not functions:
        raise ValueError('%s: expected a measure, got none' % caller)
    return functions


def _compile(network, images, rule, target, method, batch_size, options):
    """A saliency function, and the logits of the images.

    The logits are None where the target is a function, of whatever there is.
    """
    f = compile_saliency_function(
        network, rule, target if callable(target) else 'given', method,
        **options)
    if callable(target):
        return f, None
    logits = compile_saliency_function(
        network, target='all', method=lambda score, x: score.value,
        **dict((k, v) for k, v in options.items() if k in COMPILATION))
    return f, logits(images, batch_size=batch_size)


def _classes(caller, name, value, logits, besides=None):
    """The class of each image; by default the largest, but for `besides`."""
    n, count = logits.shape
    every = np.arange(n)
    if besides is not None:
        logits = logits.astype('float64')
        logits[every, besides] = -np.inf
    if value is None or isinstance(value, str) and value == 'max':
        classes = logits.argmax(axis=1)
    else:
        classes = np.asarray(value)
        if classes.dtype.kind not in 'iu' or classes.shape not in ((), (n,)):
            raise TypeError(_wrong(
                caller, '%s to be None, a class as an int, or a vector of '
                'ints, one for each of %d images' % (name, n), value))
        wrong = classes[(classes < 0) | (classes >= count)]
        if wrong.size:
            raise ValueError('%s: expected %s to be a class from 0 to %d, got '
                             '%d' % (caller, name, count - 1, wrong[0]))
        classes = np.full(n, classes)
    if besides is not None and (classes == besides).any():
        raise ValueError('%s: expected %s to be another class than target, got '
                         '%d for both' % (caller, name,
                                          classes[classes == besides][0]))
    return classes


def _cosine(a, b):
    """The cosine of two vectors, NaN where one of them is 0 or not finite."""
    norms = np.sqrt(a.dot(a)) * np.sqrt(b.dot(b))
    return a.dot(b) / norms if norms and np.isfinite(norms) else np.nan


def _cosines(maps, others):
    return np.array([_cosine(np.asarray(a, 'float64').ravel(),
                             np.asarray(b, 'float64').ravel())
                     for a, b in zip(maps, others)])


def _mean(values):
    """The mean of those that are no NaN."""
    values = values[~np.isnan(values)]
    return values.mean() if values.size else np.nan
