"""Saliency maps: expressions, and functions from numpy arrays to numpy arrays.

A method is a function ``method(score, x, **options)`` of a `Score` and of the
input x. In the formulas S(x) is the score of one sample x, by default the
logit of its maximal class, and dS/dx is the gradient that Theano computes: the
true one, or that of the rule which the network is under.
"""
import inspect
import numbers
from collections.abc import Mapping
from contextlib import ExitStack

import numpy as np
import theano
import theano.tensor as T

from ._theano import (Assert, DimShuffle, LogSoftmax, Softmax, SoftmaxWithBias,
                      TensorVariable, ancestors, randomstate_constructor,
                      raw_random)
from .errors import describe, is_float_tensor, name_of
from .expression import override_in
from .network import modified
from .graphs import conform, flags, graft
from .rules import GuidedBackprop

# Lasagne and tqdm are imported inside of functions, by those that need them.


def _wrong(caller, expected, got):
    return '%s: expected %s, got %s' % (caller, expected, describe(got))


class Score(object):
    """What is explained: the score of each sample, as a function of the input.

    ``score(point)`` is the score at `point`, a variable of x's type. A class
    stays the one that was asked for at x: where x is taken for a cat, this is
    the logit of the cat at any point.

    Attributes
    ----------
    x : Variable
        The input.
    value : Variable
        The score at x: a vector of one number for each sample; a scalar, if
        that is what a function given as the target returns.
    fixed : list of Variable
        What depends on x but is the same at all points. In ``theano.scan``, it
        belongs to the `non_sequences`.
    """

    def __init__(self, build, rule, x, select, fixed):
        self._build, self._select = build, select
        self.x, self.fixed = x, fixed
        self.value = select(build(rule))

    def __call__(self, point):
        if point is self.x:
            return self.value
        memo = dict((v, v) for v in self.fixed)
        memo[self.x] = point
        (value,) = graft([self.value], memo)
        return value

    def under(self, rule):
        """The same score of the same network, with the gradient of `rule`."""
        return Score(self._build, rule, self.x, self._select, self.fixed)


def gradient(score, x):
    """The gradient: dS/dx.

    Parameters
    ----------
    score : Score
        What is explained.
    x : Variable
        Where.

    Returns
    -------
    Variable
        The map, of the type of `x`.

    Raises
    ------
    TypeError
        If `score` is no `Score`, or `x` not of the type of its input.

    Notes
    -----
    That of [1]_, with its sign and for each channel (the paper shows the
    largest absolute value over the channels). Under a rule it is guided
    backpropagation or the DeconvNet.

    References
    ----------
    .. [1] Simonyan, Vedaldi, Zisserman (2013): Deep Inside Convolutional
       Networks. arXiv:1312.6034.
    """
    _check_score('gradient', score, x)
    return conform(theano.grad(score(x).sum(), x), x.type)


def gradient_x_input(score, x):
    """The gradient times the input: x dS/dx.

    Parameters
    ----------
    score, x
        As for `gradient`.

    Returns
    -------
    Variable
        The map, of the type of `x`.

    Raises
    ------
    TypeError
        As for `gradient`.

    References
    ----------
    .. [1] Shrikumar, Greenside, Shcherbina, Kundaje (2016): Not Just a Black
       Box. arXiv:1605.01713.
    """
    _check_score('gradient_x_input', score, x)
    return x * gradient(score, x)


def smoothgrad(score, x, samples=50, sigma=.15, seed=0):
    """SmoothGrad: the mean of dS/dx at x + e_1, ..., x + e_samples.

    The e_k are normal noise of mean 0 and standard deviation
    sigma (max x - min x), for the maximum and minimum of each sample [1]_.

    Parameters
    ----------
    score, x
        As for `gradient`.
    samples : int
        How many noisy copies.
    sigma : number
        The standard deviation of the noise; the paper recommends .1 to .2.
    seed : int
        For ``numpy.random.RandomState``, whose ``normal(size=(samples,) +
        x.shape[1:])`` is the noise before it is scaled.

    Returns
    -------
    Variable
        The map, of the type of `x`.

    Raises
    ------
    TypeError
        As for `gradient`.
    ValueError
        If `samples` is no int from 1 up, `sigma` no finite number from 0 up,
        or `seed` no int from 0 to 2**32 - 1.

    Notes
    -----
    The class is that of x itself, not that of a noisy copy. All samples get
    the same noise, scaled, and so does each call: the map of an image depends
    on nothing but the image, wherever it is in whatever batch. The copies are
    taken one after the other (``theano.scan``), so that memory does not grow
    with their number.

    References
    ----------
    .. [1] Smilkov, Thorat, Kim, Viegas, Wattenberg (2017): SmoothGrad: Removing
       Noise by Adding Noise. arXiv:1706.03825.
    """
    _check_score('smoothgrad', score, x)
    _check_count('smoothgrad', 'samples', samples)
    if not (isinstance(sigma, numbers.Real)
            and 0 <= sigma <= np.finfo(x.dtype).max):
        raise ValueError(_wrong('smoothgrad', 'sigma to be a finite number from '
                                '0 up', sigma))
    _check_seed('smoothgrad', seed)
    generator = randomstate_constructor(np.random.RandomState(seed))
    size = (samples,) + tuple(x.shape[i] for i in range(1, x.ndim))
    _, noise = raw_random.normal(generator, size, ndim=x.ndim, dtype=x.dtype)
    axes = tuple(range(1, x.ndim))
    scale = T.constant(np.asarray(sigma, x.dtype)) * (
        x.max(axis=axes, keepdims=True) - x.min(axis=axes, keepdims=True))
    return _mean_gradient(score, x, lambda e: x + scale * e, noise, scale)


def integrated_gradients(score, x, steps=50, baseline=0):
    """Integrated gradients: (x - b) times the mean of dS/dx from b to x.

    The mean is that over the points b + (k - 1/2) / steps (x - b), for k from
    1 to `steps` [1]_.

    Parameters
    ----------
    score, x
        As for `gradient`.
    steps : int
        How many points.
    baseline : number, numpy array or Variable
        b, which broadcasts against x: a number, or an array of the shape of
        one sample.

    Returns
    -------
    Variable
        The map, of the type of `x`. Its ``tag.completeness_error`` is a vector
        of one number for each sample, S(x) - S(b) - the sum of the map: 0 but
        for the error of the approximation, if the gradient is the true one.

    Raises
    ------
    TypeError
        If the target gives one score for the whole batch, or the baseline is
        no tensor of finite numbers with at most as many dimensions as x; and
        as for `gradient`.
    ValueError
        If `steps` is no int from 1 up.

    Notes
    -----
    The paper sums over the points k / steps, the right ends of the intervals;
    their midpoints approximate the integral better. The points are taken one
    after the other, so that memory does not grow with their number.

    Under a rule the attributions do not sum to anything in particular.

    References
    ----------
    .. [1] Sundararajan, Taly, Yan (2017): Axiomatic Attribution for Deep
       Networks. ICML.
    """
    _check_score('integrated_gradients', score, x)
    _check_count('integrated_gradients', 'steps', steps)
    if score.value.ndim != 1:
        raise TypeError(_wrong('integrated_gradients', 'a target that gives one '
                               'score for each sample', score.value))
    b = baseline
    if not isinstance(b, theano.Variable):
        b = np.asarray(b)
        if b.dtype.kind in 'biuf' and np.isfinite(b.astype(x.dtype)).all():
            b = T.constant(b.astype(x.dtype))
    if not (isinstance(b, TensorVariable)
            and b.dtype not in T.complex_dtypes):
        raise TypeError(_wrong('integrated_gradients', 'a baseline of finite '
                               'real numbers', baseline))
    if b.ndim > x.ndim:
        raise TypeError(_wrong('integrated_gradients', 'a baseline of at most '
                               '%d dimensions' % x.ndim, baseline))
    b = conform(T.zeros_like(x) + T.cast(b, x.dtype), x.type)
    fractions = T.constant(((np.arange(steps) + .5) / steps).astype(x.dtype))
    result = (x - b) * _mean_gradient(
        score, x, lambda fraction: b + fraction * (x - b), fractions, b)
    result.tag.completeness_error = (
        score(x) - score(b) - result.sum(axis=tuple(range(1, x.ndim))))
    return result


def gradcam(score, x, layer):
    """Grad-CAM: relu of the sum of a_c A_c over the channels c of a layer.

    A_c is channel c of the layer's output, and a_c the mean of dS/dA_c over
    its pixels [1]_.

    Parameters
    ----------
    score, x
        As for `gradient`.
    layer : Variable, lasagne.layers.Layer or str
        A, of shape (samples, channels, height, width), or with as many other
        dimensions as `x` has: an expression that the output was made from; for
        a network, one of its layers, or the name of one. In the paper, the
        last convolution, after its rectifier.

    Returns
    -------
    Variable
        The map, of the type of `x`: brought to the size of the input by linear
        interpolation, and the same in all channels.

    Raises
    ------
    TypeError
        If `layer` does not have as many dimensions as the input; and as for
        `gradient`.
    ValueError
        If the output is not made from `layer`.

    Notes
    -----
    The interpolation is (bi)linear between the centres of pixels and constant
    beyond the outermost ones, as in OpenCV's ``resize`` and in PyTorch's with
    ``align_corners=False``.

    References
    ----------
    .. [1] Selvaraju et al. (2017): Grad-CAM: Visual Explanations from Deep
       Networks via Gradient-based Localization. ICCV.
    """
    _check_score('gradcam', score, x)
    if not (is_float_tensor(layer) and layer.ndim == x.ndim > 2):
        raise TypeError(_wrong('gradcam', 'layer to have as many dimensions as '
                               'the input, 3 or more', layer))
    _check_source('gradcam', 'layer', layer, score.value)
    g = theano.grad(score(x).sum(), layer)
    weights = g.mean(axis=tuple(range(2, x.ndim)), keepdims=True)
    cam = T.nnet.relu((weights * layer).sum(axis=1))
    for axis in range(2, x.ndim):
        # Sums over axis 1 and appends the new one: a cycle through all.
        cam = T.tensordot(cam, _interpolation(
            layer.shape[axis], x.shape[axis], x.dtype), axes=[[1], [1]])
    return conform(T.zeros_like(x) + T.shape_padaxis(cam, 1), x.type)


def guided_gradcam(score, x, layer, guide=GuidedBackprop):
    """Guided Grad-CAM: Grad-CAM times guided backpropagation.

    Parameters
    ----------
    score, x, layer
        As for `gradcam`.
    guide : callable
        The rule of the second factor.

    Returns
    -------
    Variable
        The map, of the type of `x`.

    Raises
    ------
    TypeError, ValueError
        As for `gradcam`, and for what applies the rule: `modified` for a
        network, `override_in` for an expression.

    Notes
    -----
    See `gradcam` for the source. Grad-CAM has the true gradient (unless the
    network is put under a rule), the other factor that of `guide`.
    """
    return gradcam(score, x, layer) * gradient(score.under(guide), x)


METHODS = dict((f.__name__, f) for f in (
    gradient, gradient_x_input, smoothgrad, integrated_gradients, gradcam,
    guided_gradcam))


def _mean_gradient(score, x, point, sequence, *fixed):
    """The mean of the gradients at ``point(s)`` for each s of `sequence`."""
    def step(s, total, *_):
        return total + gradient(score, conform(point(s), x.type))
    totals, _ = theano.scan(
        step, sequences=[sequence], outputs_info=[T.zeros_like(x)],
        non_sequences=[x] + score.fixed + list(fixed))
    return conform(totals[-1] / T.cast(sequence.shape[0], x.dtype), x.type)


def _interpolation(old, new, dtype):
    """The matrix that interpolates `old` pixels linearly at `new` positions."""
    old, new = T.cast(old, dtype), T.cast(new, dtype)
    position = (T.arange(new, dtype=dtype) + .5) * (old / new) - .5
    position = T.clip(position, 0, old - 1)
    distance = abs(position.dimshuffle(0, 'x') - T.arange(old, dtype=dtype))
    return T.maximum(0, 1 - distance)


def _check_score(caller, score, x):
    if not isinstance(score, Score):
        raise TypeError(_wrong(caller, 'a Score', score))
    if getattr(x, 'type', None) != score.x.type:
        raise TypeError(_wrong(caller, 'x to be a variable of the type of the '
                               'input, %s' % score.x.type, x))


def _check_seed(caller, seed):
    if not (isinstance(seed, numbers.Integral) and 0 <= seed < 2**32):
        raise ValueError(_wrong(caller, 'seed to be an int from 0 to 2**32 - 1',
                                seed))


def _check_count(caller, name, count):
    if (not isinstance(count, numbers.Integral) or isinstance(count, bool)
            or count < 1):
        raise ValueError(_wrong(caller, name + ' to be an int from 1 up', count))


def _check_source(caller, name, source, output):
    if source not in ancestors([output]):
        raise ValueError(_wrong(caller, name + ' to be what the output is made '
                                'from', source))


def _check_compilation(caller, mode, givens):
    try:
        known = isinstance(theano.compile.get_mode(mode), theano.compile.Mode)
    except Exception:  # there is none of this name
        known = False
    if not known:
        raise TypeError(_wrong(caller, 'mode to be a mode of Theano, or the name '
                               'of one', mode))
    if not (givens is None or isinstance(givens, Mapping) and all(
            isinstance(v, theano.Variable) for v in givens)):
        raise TypeError(_wrong(caller, 'givens to be a dict whose keys are Theano '
                               'variables', givens))


def _check_options(caller, method, options):
    try:
        signature = inspect.signature(method)
    except ValueError:  # something built in
        return
    try:
        signature.bind(None, None, **options)
    except TypeError as error:
        raise TypeError('%s: expected the options of the method %s%s, got %s: %s'
                        % (caller, name_of(method), signature,
                           ', '.join(options) or 'none', error)) from None


def _before_softmax(output):
    """The logits that `output` is the softmax of; else `output` itself."""
    v = output
    while v.owner and isinstance(v.owner.op, (T.Reshape, DimShuffle, T.Flatten,
                                              T.Rebroadcast)):
        v = v.owner.inputs[0]
    if not (v.owner and isinstance(v.owner.op, (Softmax, SoftmaxWithBias,
                                                LogSoftmax))):
        return output
    z = v.owner.inputs[0]
    if isinstance(v.owner.op, SoftmaxWithBias):
        z = z + v.owner.inputs[1]
    (logits,) = graft([output], {v: conform(z, v.type)})
    return logits


def _pick(z, classes):
    if classes.ndim == 0:
        return z[:, classes]
    return z[T.arange(z.shape[0]), classes]


def _as_classes(caller, target, n_classes=None):
    """`target`, a class or a vector of them, as an array; checked."""
    classes = np.asarray(target)
    if classes.dtype.kind not in 'iu' or classes.ndim > 1:
        raise TypeError(_wrong(caller, "target to be None, 'max', 'all', a class "
                               'as an int, a vector of ints or a function of the '
                               'logits', target))
    wrong = classes.astype('int64') < 0  # some of uint64, too
    if n_classes is not None:
        wrong |= classes >= n_classes
    if wrong.any():
        raise ValueError('%s: expected target to be a class from 0 to %s, got '
                         '%d' % (caller, 'that of the last logit'
                                 if n_classes is None else n_classes - 1,
                                 classes[wrong].flat[0]))
    return classes.astype('int64')


def _is(target, *words):
    return (target is None or isinstance(target, str)) and target in words


def _symbolic_classes(caller, target, z):
    """`target` as a variable that fails where it is no class of `z`."""
    if _is(target, None, 'max'):
        return z.argmax(axis=1)
    if isinstance(target, theano.Variable):
        if (getattr(target, 'ndim', 2) > 1
                or target.dtype not in T.int_dtypes + T.uint_dtypes):
            raise TypeError(_wrong(caller, 'target, if it is a variable, to be a '
                                   'scalar or a vector of integers', target))
    else:
        target = T.constant(_as_classes(caller, target))
    conditions = [T.and_(T.ge(target, 0), T.lt(target, z.shape[1])).all()]
    if target.ndim:
        conditions.append(T.eq(target.shape[0], z.shape[0]))
    return Assert('%s: expected target to be one class for each sample, from 0 '
                  'to that of the last logit' % caller)(target, *conditions)


class _Network(object):
    """A network or an expression, to be built under one rule or another.

    Attributes
    ----------
    build : callable
        From a rule, or None, to a list of the output and, if a layer is given,
        that layer's output.
    x, shape, classes
        The input; its shape and the number of classes, as far as known.
    """

    def __init__(self, caller, network, x, layer):
        layers = [] if layer is None else [layer]
        if isinstance(network, theano.Variable):
            outputs = [network] + layers
            self.build = lambda rule: (
                outputs if rule is None else override_in(outputs, rule)[0])
            self.x, self.shape, self.classes = x, None, None
        else:
            self._open(caller, network, x, layers)
        if not (is_float_tensor(self.x) and self.x.ndim > 1):
            raise TypeError(_wrong(caller, 'input_var (which an expression needs) '
                                   'to be a variable of a float dtype and two '
                                   'dimensions or more', self.x))
        self.shape = self.shape or (None,) * self.x.ndim

    def _open(self, caller, network, x, layers):
        from lasagne.layers import (InputLayer, Layer, get_all_layers,
                                    get_output)
        if not isinstance(network, Layer):
            raise TypeError(_wrong(caller, 'a Lasagne layer or a Theano variable',
                                   network))
        everything = get_all_layers(network)
        found = [v for v in everything for wanted in layers
                 if wanted is v or isinstance(wanted, str) and wanted == v.name]
        if len(found) != len(layers):
            raise ValueError(_wrong(
                caller, 'layer to be one layer of the network, or the name of one '
                '(there are: %s)' % (', '.join(
                    v.name for v in everything if v.name) or 'none'), layers[0]))
        inputs = dict((v.input_var, v.shape) for v in everything
                      if isinstance(v, InputLayer))
        if x is None and len(inputs) == 1:
            (x,) = inputs
        if not any(x is v for v in inputs):
            raise ValueError(_wrong(caller, 'input_var to be an input of the '
                                    'network, one of %s' % list(inputs), x))

        def build(rule):
            with ExitStack() if rule is None else modified(network, rule):
                return get_output([network] + found, deterministic=True)
        self.build, self.x, self.shape = build, x, tuple(inputs[x])
        self.classes = (network.output_shape[1]
                        if len(network.output_shape) == 2 else None)


def _saliency(caller, network, rule, target, method, logits, options,
              given=None):
    """The map of a `_Network`.

    `given`, a vector of classes of which -1 is the maximal one, takes the
    place of `target`.
    """
    if isinstance(method, str) and method in METHODS:
        method = METHODS[method]
    if not callable(method):
        raise ValueError(_wrong(
            caller, 'method to be a function or one of %s (guided '
            'backpropagation and DeconvNet are rules for these: rule='
            'gradmod.GuidedBackprop)' % ', '.join(sorted(METHODS)), method))
    _check_options(caller, method, options)
    output, *layer = network.build(rule)
    _check_source(caller, 'input_var', network.x, output)
    if layer:
        options = dict(options, layer=layer[0])

    def build(r):  # for `rule`, what has `layer` in its graph
        return output if r is rule else network.build(r)[0]

    def prepare(output):
        return _before_softmax(output) if logits else output

    def explain(select, fixed=()):
        def checked(output):
            value = select(prepare(output))
            if not (is_float_tensor(value) and value.ndim < 2):
                raise TypeError(_wrong(caller, 'a score for each sample, or one '
                                       'for all, of a float dtype', value))
            return value
        result = method(Score(build, rule, network.x, checked, list(fixed)),
                        network.x, **options)
        if not (isinstance(result, theano.Variable)
                and getattr(result, 'ndim', 0)):
            raise TypeError(_wrong(caller, 'method to return a tensor of maps',
                                   result))
        return result

    if callable(target):
        return explain(target)
    z = prepare(output)
    if z.ndim != 2:
        raise TypeError(_wrong(caller, 'an output of shape (samples, classes), '
                               'or a function for the target', z))
    if _is(target, 'all'):
        return _for_all_classes(explain, z)
    if given is not None:
        target = T.switch(given < 0, z.argmax(axis=1), given)
    classes = _symbolic_classes(caller, target, z)
    return explain(lambda z: _pick(z, classes), [classes])


def _for_all_classes(explain, z):
    def step(c):
        result = explain(lambda z: _pick(z, c))
        error = getattr(result.tag, 'completeness_error', None)
        return [result] if error is None else [result, error]
    outputs, _ = theano.scan(step, sequences=[T.arange(z.shape[1])])
    maps, *errors = outputs if isinstance(outputs, list) else [outputs]
    maps = maps.dimshuffle(1, 0, *range(2, maps.ndim))
    for error in errors:
        maps.tag.completeness_error = error.T
    return maps


def saliency_map(output, input_var=None, target=None, method='gradient',
                 rule=None, logits=True, **options):
    """The saliency map of a network's output, as an expression.

    Parameters
    ----------
    output : Variable or lasagne.layers.Layer
        The output of a network of any library, of shape (samples, classes); or
        the output layer of a Lasagne network, whose output is then computed
        with ``deterministic=True``.
    input_var : Variable
        What the map is of, of shape (samples, ...) and a float dtype. For a
        Lasagne network with one input it can be left out.
    target : optional
        What the score of a sample is:

        - None or 'max': the logit of its maximal class, of the first one where
          there is a tie (``logits.max(axis=1)`` sends a gradient to each);
        - an int: that class; or a vector of ints, one for each sample, as a
          numpy array or a Theano variable;
        - 'all': all classes, one after the other. The map has them on a second
          axis: shape (samples, classes, ...);
        - a function from the logits to a vector with the score of each sample,
          or to one number for all. The logits may then be of any shape.
    method : str or callable
        'gradient', 'gradient_x_input', 'smoothgrad', 'integrated_gradients',
        'gradcam' or 'guided_gradcam': the functions of these names in
        `gradmod.saliency`, where the formulas are; or a function of your own
        that takes a `Score` and the input.
    rule : optional
        The rule that the network's rectifiers are to be under: what `modified`
        takes for a Lasagne network, what `override_in` takes for an
        expression. By default the network is taken as it is.
    logits : bool
        Whether to take the gradient of the logits if `output` is a softmax or
        log-softmax of some: if one of Theano's is its last operation but for
        reshapes. (A softmax written out as exponentials stays.)
    **options
        Those of the method. Any method gets a `layer` of a Lasagne network as
        that layer's output.

    Returns
    -------
    Variable
        The map, of the shape and dtype of `input_var`, but for the target
        'all' and methods of your own. That of 'integrated_gradients' has a
        ``tag.completeness_error``.

    Raises
    ------
    TypeError, ValueError
        If an argument is not of the kind described; for a rule, as `modified`
        and `override_in` do.
    AssertionError
        When the expression is evaluated, if a class does not exist, or there
        is not one for each sample.

    See Also
    --------
    compile_saliency_function : the same as a function of numpy arrays.

    Notes
    -----
    The gradient is that of the sum over the samples, which for each sample is
    its own as long as no sample influences the score of another. **Batch
    normalization must be deterministic**, that is, use stored statistics; so
    must dropout.

    A function as the target is applied at every point that a method looks at,
    while the classes of all other targets stay those at the input itself.

    For 'all', the forward pass is computed once, and then the gradients one
    after the other. All intermediate values of the forward pass stay in memory
    meanwhile, and the result is as many times the input as there are classes.
    The loops of this and of the methods that average keep their intermediate
    values as well, unless Theano's flag ``scan.allow_gc=True`` is set, which
    about halves the memory of a ResNet-32.

    Examples
    --------
    >>> import gradmod
    >>> import numpy as np
    >>> import theano, theano.tensor as T
    >>> x = T.matrix('x', dtype='float32')
    >>> y = T.nnet.softmax(x * np.float32([3, 1]))
    >>> saliency = gradmod.saliency_map(y, x)
    >>> print(saliency.eval({x: np.float32([[1, 2], [1, 4]])}))
    [[3. 0.]
     [0. 1.]]
    """
    network = _Network('saliency_map', output, input_var, options.get('layer'))
    return _saliency('saliency_map', network, rule, target, method, logits,
                     options)


@flags(compute_test_value='off')  # the input for classes has none
def compile_saliency_function(network, rule=None, target=None,
                              method='gradient', input_var=None, logits=True,
                              mode=None, givens=None, **options):
    """Compile a function from images to their saliency maps.

    One function does for all images and all classes.

    Parameters
    ----------
    network : lasagne.layers.Layer or Variable
        As the `output` for `saliency_map`; an expression needs its `input_var`.
    rule, method, input_var, logits, **options
        As for `saliency_map`.
    target : optional
        As for `saliency_map`, but not a vector: the classes of the samples are
        given when the function is called. What is said here (None, 'max', an
        int) counts in calls that give none; 'given' makes that an error. For
        'all' and for a function, calls give none.
    mode : optional
        Theano's compilation mode.
    givens : dict, optional
        As for ``theano.function``: from other inputs that the output depends
        on to their values, such as ``{K.learning_phase(): numpy.uint8(0)}``
        for a Keras model with dropout or batch normalization.

    Returns
    -------
    SaliencyFunction
        Takes arrays of images, or any other samples, and returns arrays.

    Raises
    ------
    TypeError, ValueError
        As for `saliency_map`.
    theano.gof.fg.MissingInputError
        If the output depends on another input besides, not in `givens`.

    See Also
    --------
    saliency_map : the same as an expression. See there for what a target is,
        and for what must hold of batch normalization.

    Notes
    -----
    A rule that relates the samples of a batch to each other, as
    `DeepLiftRescale` does, is not for this function, which divides arrays into
    batches. Nor is an array that has a baseline for each sample: every batch
    would meet its first ones.

    Examples
    --------
    >>> import gradmod
    >>> import numpy as np
    >>> from lasagne.layers import DenseLayer, InputLayer
    >>> from lasagne.nonlinearities import softmax
    >>> import theano.tensor as T
    >>> net = InputLayer((None, 4), T.matrix('x', dtype='float32'))
    >>> net = DenseLayer(net, 8)
    >>> net = DenseLayer(net, 3, nonlinearity=softmax)
    >>> f = gradmod.compile_saliency_function(net, gradmod.GuidedBackprop)
    >>> f
    <saliency function: gradient under GuidedBackprop of float32 (None, 4)>
    >>> images = np.ones((10, 4), 'float32')
    >>> f(images).shape                               # the maximal class
    (10, 4)
    >>> f(images, 2).shape                            # class 2
    (10, 4)
    >>> f(images, [0, 1, 2, 0, 1, 2, 0, 1, 2, 0], batch_size=4).shape
    (10, 4)

    All classes; another method with its options; a method of your own:

    >>> f = gradmod.compile_saliency_function(net, target='all')
    >>> f(images).shape
    (10, 3, 4)
    >>> f = gradmod.compile_saliency_function(
    ...     net, method='integrated_gradients', steps=20, baseline=.5)
    >>> maps = f(images)
    >>> bool(abs(f.completeness_error).max() < .1)
    True
    >>> def strongest(score, x):
    ...     return abs(gradmod.saliency.gradient(score, x)).max(axis=1)
    >>> gradmod.compile_saliency_function(net, method=strongest)(images).shape
    (10,)
    """
    caller = 'compile_saliency_function'
    net = _Network(caller, network, input_var, options.get('layer'))
    _check_compilation(caller, mode, givens)
    given = None
    if not (callable(target) or _is(target, 'all')):
        given = T.lvector('classes')
        if not _is(target, None, 'max', 'given'):
            _as_classes(caller, target, net.classes)
    result = _saliency(caller, net, rule, target, method, logits, options,
                       given)
    outputs = [result]
    if hasattr(result.tag, 'completeness_error'):
        outputs.append(result.tag.completeness_error)
    # Under ZeroBackprop a map depends on neither of the two.
    function = theano.function([net.x] + ([] if given is None else [given]),
                               outputs, mode=mode, givens=givens,
                               on_unused_input='ignore')
    description = method if isinstance(method, str) else name_of(method)
    if rule is not None:
        description += ' under ' + name_of(rule)
    return SaliencyFunction(
        function, description, net.x.dtype, net.shape, net.classes,
        given is not None, None if callable(target) else target)


class SaliencyFunction(object):
    """A compiled function from images to their saliency maps.

    What `compile_saliency_function` returns. It takes and returns numpy
    arrays. It has the network's own weights: new values of those count, without
    compiling again. It pickles, with a copy of the weights; another process
    compiles it when it loads it. To pickle that of a deep network takes a deep
    recursion: call ``sys.setrecursionlimit(10000)`` before.

    Attributes
    ----------
    function : theano function
        What was compiled: from a batch of images, and a vector of classes
        unless the target is 'all' or a function, to a list of their maps and,
        for integrated gradients, the completeness error.
    dtype : str
        The dtype of images and maps.
    shape : tuple of int or None
        The shape of a batch of images, as far as it is known.
    classes : int or None
        The number of classes, if known.
    completeness_error : array or None
        What the map of each image in the last call falls short of, where the
        method is integrated gradients; see there. Its shape is (images,), or
        (images, classes) for the target 'all'.
    """

    completeness_error = None

    def __init__(self, function, description, dtype, shape, classes,
                 takes_classes, target):
        self.function, self.description = function, description
        self.dtype, self.shape, self.classes = dtype, shape, classes
        self._takes_classes, self._target = takes_classes, target

    def __repr__(self):
        return '<saliency function: %s of %s %s>' % (
            self.description, self.dtype, self.shape)

    def __call__(self, images, target=None, batch_size=64, progress=False,
                 out=None):
        """The maps of images.

        Parameters
        ----------
        images : array
            Of shape (n, ...) and the dtype of the network's input, or one that
            it can hold exactly. Also what gives such arrays when it is sliced:
            a memory map, an array of h5py or zarr.
        target : None, 'max', int or vector of int
            The class of all images, or of each. By default that said when the
            function was compiled.
        batch_size : int
            How many images to compute at once. Maps do not depend on it. A
            network with a fixed number of samples gets no more than these, and
            copies of the last image where there are too few.
        progress : bool
            Whether to show a progress bar. Needs tqdm.
        out : array, optional
            Where to write the maps, such as a memory map: of their shape, and
            a dtype that numpy casts theirs to ('same_kind').

        Returns
        -------
        array
            The maps, of the shape and dtype of `images` (in the dtype of the
            network's input); for the target 'all' of shape (n, classes, ...).
            `out`, if given.

        Raises
        ------
        TypeError
            If an argument is not of the kind described. A dtype that does not
            fit is an error rather than cast.
        ValueError
            If a shape does not fit, a class does not exist, or an image is
            not finite (a rule could turn a NaN into a map that looks right).
        AssertionError
            If a class does not exist, for an expression, whose number of
            classes is not known before.
        ImportError
            If a progress bar is asked for without tqdm.
        """
        images = self._check_images(images)
        n = images.shape[0]
        classes = self._check_classes(target, n)
        _check_count(self, 'batch_size', batch_size)
        size = min(batch_size, self.shape[0] or batch_size)
        errors = []
        for i in _bar(progress, range(0, n, size)):
            batch = slice(i, min(i + size, n))
            maps, *error = self._compute(images[batch], i,
                                         *[c[batch] for c in classes])
            errors += error
            if out is None:
                if len(maps) == n:
                    out = maps
                    continue
                out = np.empty((n,) + maps.shape[1:], maps.dtype)
            elif i == 0:
                self._check_out(out, (n,) + maps.shape[1:], maps.dtype)
            out[batch] = maps
        if errors:
            self.completeness_error = np.concatenate(errors)
        return out

    def iter(self, batches, target=None, batch_size=64, progress=False):
        """The maps of one batch of images after the other.

        Parameters
        ----------
        batches : iterable
            Arrays of images, or pairs (a tuple) of images and their target,
            each as for a call.
        target, batch_size, progress
            As for a call; `target` where a batch comes without one.

        Yields
        ------
        array
            The maps of one batch. `completeness_error` is then that of this
            batch.

        Raises
        ------
        TypeError, ValueError, AssertionError, ImportError
            As for a call, when its turn comes.
        """
        if (isinstance(batches, theano.Variable)
                or not (hasattr(type(batches), '__iter__')
                        or hasattr(type(batches), '__getitem__'))):
            raise TypeError(_wrong(self, 'an iterable of batches', batches))
        for batch in _bar(progress, batches):
            images, t = batch if isinstance(batch, tuple) else (batch, target)
            yield self(images, t, batch_size)

    def _check_images(self, images):
        if not isinstance(getattr(images, 'shape', None), tuple):
            images = np.asarray(images)
        shape = (None,) + self.shape[1:]
        if (len(images.shape) != len(shape) or images.shape[0] == 0 or not all(
                known in (None, n) for known, n in zip(shape, images.shape))):
            raise ValueError('%r: expected one image or more, of shape %s, got '
                             '%s' % (self, shape, images.shape))
        if not np.can_cast(images.dtype, self.dtype):
            raise TypeError(
                '%r: expected images of dtype %s, got %s, which it cannot hold '
                'exactly: convert them by images.astype(%r)' %
                (self, self.dtype, images.dtype, self.dtype))
        return images

    def _check_classes(self, target, n):
        """A list of the vector of classes, if the function takes one."""
        if not self._takes_classes:
            if target is not None:
                raise TypeError(_wrong(self, "no target in the call (it was "
                                       "compiled for 'all' or a function)",
                                       target))
            return []
        if target is None:
            target = self._target
        if _is(target, 'given'):
            raise TypeError("%r: expected a target in the call (it was compiled "
                            "for 'given'), got none" % self)
        if _is(target, None, 'max'):
            return [np.full(n, -1)]
        target = _as_classes(self, target, self.classes)
        if target.ndim and len(target) != n:
            raise ValueError('%r: expected a target for each of %d images, got '
                             '%d' % (self, n, len(target)))
        return [np.full(n, target)]

    def _check_out(self, out, shape, dtype):
        if getattr(out, 'shape', None) != shape:
            raise ValueError('%r: expected out to be an array of shape %s, got '
                             '%s' % (self, shape, getattr(
                                 out, 'shape', describe(out))))
        if not np.can_cast(dtype, out.dtype, 'same_kind'):
            raise TypeError('%r: expected out to be of a dtype for %s, got %s' %
                            (self, dtype, out.dtype))

    def _compute(self, images, start, *classes):
        # Aligned, for C code, and no subclass, which may hide a NaN.
        images = np.require(images, self.dtype, 'AE')
        n = len(images)
        if not np.isfinite(images).all():
            finite = np.isfinite(images).reshape(n, -1).all(axis=1)
            raise ValueError('%r: expected finite images, got NaN or infinity in '
                             'image %d' % (self, start + finite.argmin()))
        missing = (self.shape[0] or n) - n
        if missing:  # a network with a fixed number of samples
            images, *classes = [np.concatenate([v, v[-1:].repeat(missing, 0)])
                                for v in (images,) + classes]
        maps, *error = self.function(images, *classes)
        if len(maps) != len(images):
            raise ValueError('%r: expected the method to return a map for each of '
                             '%d images, got %d' % (self, len(images), len(maps)))
        return [v[:n] for v in [maps] + error]


def _bar(progress, batches):
    if not progress:
        return batches
    try:
        from tqdm import tqdm
    except ImportError as error:
        raise ImportError('progress=True needs tqdm: pip install '
                          '"gradmod[examples]"') from error
    return tqdm(batches, unit='batch')
