"""Saliency maps: expressions, and functions from numpy arrays to numpy arrays."""
import threading
import warnings

import numpy as np
import theano
import theano.tensor as T
from theano import scalar
from theano.ifelse import IfElse

from ._theano import Constant, DimShuffle, OpFromGraph, Variable
from .errors import check_count, describe, name_of
from .graphs import flags, inputs_of, scalar_op, walk
from .methods import METHODS
from .score import Score, as_classes, is_word


def saliency_map(network, rule=None, target=None, method='gradient',
                 input_var=None, layer=None, logits=True, **options):
    """The saliency map of a network's output, as an expression.

    Parameters
    ----------
    network : lasagne.layers.Layer or Variable
        The output layer of a Lasagne network, whose output is then computed
        with ``deterministic=True``; or the output of a network of any library,
        of shape (samples, classes).
    rule : optional
        What the network's rectifiers are to be under. It goes onto the
        expression of the output: what `override_in` takes, and finds every
        rectifier, however it was written. For a Lasagne network also a dict of
        rules by layer, or a composite of `gradmod.lrp`: what `modified` takes.
        By default the network is taken as it is.
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
        'gradient', 'gradient_x_input', 'relevance', 'smoothgrad',
        'integrated_gradients', 'gradcam' or 'guided_gradcam': the functions of
        these names in `gradmod.methods`, where the formulas are; or a function
        of your own that takes a `gradmod.score.Score` and the input.
    input_var : Variable, optional
        What the map is of, of shape (samples, ...) and a float dtype. A Lasagne
        network with one input does not need it. Where the input layer has an
        expression of one variable, the map is of that variable.
    layer : Variable, lasagne.layers.Layer or str, optional
        For Grad-CAM: an expression that the output was made from; for a Lasagne
        network one of its layers, or the name of one.
    logits : bool
        Whether to take the gradient of the logits if the output is a softmax,
        a sigmoid or the logarithm of one, Theano's or one of the usual forms
        by hand; see `gradmod.logits`. Behind them a gradient vanishes where the
        network is sure.
    **options
        Those of the method.

    Returns
    -------
    Variable
        The map, of the shape and dtype of the input, but for the target
        'all' and methods of your own. That of 'integrated_gradients' has a
        ``tag.completeness_error``.

    Raises
    ------
    TypeError, ValueError
        If an argument is not of the kind described; for a rule, as `override_in`
        and `modified` do.
    AssertionError
        When the expression is evaluated, if a class does not exist, or there
        is not one for each sample.

    See Also
    --------
    compile_saliency_function : the same as a function of numpy arrays.

    Warns
    -----
    UserWarning
        If the output depends on random draws, such as those of dropout; if
        there is a copy of the old recipe in it, whose gradient Theano ignores.

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
    >>> saliency = gradmod.saliency_map(y, input_var=x)
    >>> print(saliency.eval({x: np.float32([[1, 2], [1, 4]])}))
    [[3. 0.]
     [0. 1.]]
    """
    score = _score(network, rule, target, input_var, layer, logits)
    _warn_of_graph(score, {})
    return _explain(score, target, method, options)


def _score(network, rule, target, *args, divided=False):
    # For 'all', of class 0 for now.
    return Score(network, rule, 0 if is_word(target, 'all') else target, *args,
                 divided=divided)


def _explain(score, target, method, options):
    """The map of a score by a method; for the target 'all', of each class."""
    if isinstance(method, str) and method in METHODS:
        method = METHODS[method]
    if not callable(method):
        raise ValueError(
            f'expected method to be a function or one of {", ".join(METHODS)} '
            '(guided backpropagation and DeconvNet are rules for these: '
            f'rule=gradmod.GuidedBackprop), got {describe(method)}')

    def explain(score):
        result = method(score, score.x, **options)
        if not (isinstance(result, Variable) and getattr(result, 'ndim', 0)):
            raise TypeError('expected method to return a tensor of maps, got '
                            f'{describe(result)}')
        return result
    if not is_word(target, 'all'):
        return explain(score)

    def step(c):
        result = explain(score.of(c))
        error = getattr(result.tag, 'completeness_error', None)
        return [result] if error is None else [result, error]
    outputs, _ = theano.scan(step, sequences=[T.arange(score.z.shape[1])])
    maps, *errors = outputs if isinstance(outputs, list) else [outputs]
    maps = maps.dimshuffle(1, 0, *range(2, maps.ndim))
    for error in errors:
        maps.tag.completeness_error = error.T
    return maps


@flags(compute_test_value='off')  # the input for classes has none
def compile_saliency_function(network, rule=None, target=None,
                              method='gradient', input_var=None, layer=None,
                              logits=True, mode=None, givens=None, **options):
    """Compile a function from images to their saliency maps.

    One function does for all images and all classes.

    Parameters
    ----------
    network : lasagne.layers.Layer or Variable
        As for `saliency_map`; an expression needs its `input_var`.
    rule, method, input_var, layer, logits, **options
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
        As for `saliency_map`; if the target gives one number for the whole
        batch; if the rule relates the samples of a batch to each other, as
        `DeepLiftRescale` does, or a baseline has an array for each sample: the
        function divides arrays into batches. If the output depends on another
        input besides, not in `givens`.

    See Also
    --------
    saliency_map : the same as an expression. See there for what a target is,
        and for what must hold of batch normalization.

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
    ...     return abs(gradmod.methods.gradient(score, x)).max(axis=1)
    >>> gradmod.compile_saliency_function(net, method=strongest)(images).shape
    (10,)
    """
    takes_classes = not (callable(target) or is_word(target, 'all'))
    shape = getattr(network, 'output_shape', ())
    count = shape[1] if len(shape) == 2 else None
    if takes_classes and not is_word(target, None, 'max', 'given'):
        as_classes(target, count)
    score = _score(network, rule, None if takes_classes else target, input_var,
                   layer, logits, divided=True)
    inputs, givens = [score.x], dict(givens or {})
    if takes_classes:
        classes = T.lvector('classes')
        inputs.append(classes)
        score = score.of(classes, maximal=True)
    _check_batches(score, options.get('baseline', 0))
    _warn_of_graph(score, givens)
    result = _explain(score, target, method, options)
    outputs = [result, score.z if is_word(target, 'all') else score.value]
    if hasattr(result.tag, 'completeness_error'):
        outputs.append(result.tag.completeness_error)
    others = [v for v in _above(outputs, inputs, givens) if not (
        v.owner or v in inputs or isinstance(v, Constant)
        or hasattr(v, 'get_value'))]
    if others:
        raise ValueError(f'the output depends on {others}, too: say with which '
                         f'values, by givens={{{others[0]}: ...}}')
    # Under ZeroBackprop a map depends on neither of the two.
    function = theano.function(inputs, outputs, mode=mode, givens=givens,
                               on_unused_input='ignore')
    description = method if isinstance(method, str) else name_of(method)
    if rule is not None:
        description += f' under {name_of(rule)}'
    return SaliencyFunction(function, description, score.x.dtype, score.shape,
                            count, takes_classes, target)


def _above(outputs, inputs, givens):
    """All that `outputs` are made from, where `givens` are in their places."""
    def parents(v):
        if v in givens:
            return [v for v in [givens[v]] if isinstance(v, Variable)]
        above = [] if v in inputs else inputs_of(v)
        if above and (isinstance(v.owner.op, IfElse)
                      or scalar_op(v) == scalar.switch):
            value = above[0]
            while value.owner and isinstance(value.owner.op, DimShuffle):
                (value,) = value.owner.inputs
            value = givens.get(value, value)
            if not isinstance(value, Variable):  # Keras' learning phase
                half = len(above) // 2 + 1
                return above[1:half] if np.all(value) else above[half:]
        return above
    return (v for v in walk(outputs, parents) if v not in givens)


def _check_batches(score, baseline):
    """Refuse what depends on where an array of images is divided."""
    if score.value.ndim == 0:
        raise TypeError('expected the target to give one score for each sample, '
                        'such as z[:, 2], got one for the whole batch: maps '
                        'would depend on its size')
    if np.ndim(baseline) == score.x.ndim and np.shape(baseline)[0] != 1:
        raise ValueError('expected a baseline of the shape of one sample, got '
                         f'shape {np.shape(baseline)}: each batch would meet '
                         'its first ones')


def _warn_of_graph(score, givens):
    """Warn, once, of draws and of a gradient that nothing calls."""
    for v in _above([score.value], [], givens):
        op = v.owner and v.owner.op
        if isinstance(op, OpFromGraph) and 'grad' in vars(op):
            warnings.warn(f'{op}.grad was assigned, which Theano 1.0 ignores: '
                          'its true gradient is used. Derive the rule from '
                          'gradmod.ModifiedBackprop', stacklevel=3)
            return
        if any(getattr(i, 'default_update', None) for i in inputs_of(v)):
            warnings.warn(f'the output depends on random draws, of {op}: maps '
                          'differ from call to call. Build the network with '
                          'deterministic=True, or say what is drawn by givens',
                          stacklevel=3)
            return


class SaliencyFunction:
    """A compiled function from images to their saliency maps.

    What `compile_saliency_function` returns. It takes and returns numpy
    arrays. It has the network's own weights: new values of those count, without
    compiling again. It pickles, with a copy of the weights; another process
    compiles it when it loads it. To pickle that of a deep network takes a deep
    recursion: call ``sys.setrecursionlimit(10000)`` before. Threads that share
    it take turns.

    Attributes
    ----------
    function : theano function
        What was compiled: from a batch of images, and a vector of classes
        unless the target is 'all' or a function, to a list of their maps, their
        scores and, for integrated gradients, the completeness error.
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
        self._takes_classes = takes_classes
        self._target = target if takes_classes else None
        self._lock = threading.Lock()  # Theano's functions share their storage

    def __getstate__(self):
        return dict(self.__dict__, _lock=None)

    def __setstate__(self, state):
        vars(self).update(state, _lock=threading.Lock())

    def __repr__(self):
        return (f'<saliency function: {self.description} of {self.dtype} '
                f'{self.shape}>')

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
            If a shape does not fit, a class does not exist, an image is not
            finite (a rule could turn a NaN into a map that looks right), or
            there is not one score and one map for each image.
        AssertionError
            If a class does not exist, for an expression, whose number of
            classes is not known before.
        ImportError
            If a progress bar is asked for without tqdm.

        Warns
        -----
        UserWarning
            If maps are zero everywhere, or not finite: once, with their number.
        """
        images = self._check_images(images)
        n = images.shape[0]
        classes = self._check_classes(target, n)
        check_count('batch_size', batch_size)
        size = min(batch_size, self.shape[0] or batch_size)
        errors, count, zero, not_finite = [], 0, 0, 0
        with self._lock:
            for i in _bar(progress, range(0, n, size)):
                batch = slice(i, min(i + size, n))
                maps, scores, *error = self._compute(
                    images[batch], i, *[c[batch] for c in classes])
                errors += error
                # For 'all', an image has a map for each of its scores.
                rows = maps.reshape(scores.size, -1)
                count += len(rows)
                zero += len(rows) - rows.any(axis=1).sum()
                not_finite += len(rows) - np.isfinite(rows).all(axis=1).sum()
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
        if zero or not_finite:
            warnings.warn(
                f'of {count} maps {zero} are zero everywhere and {not_finite} '
                'are not finite. The score may be saturated: explain the '
                'logits. Or a rule lets nothing pass, as DeconvNet where all '
                'gradients of a layer are negative: compare with rule=None. Or '
                'all is well: nothing speaks for the class (Grad-CAM), or the '
                'image that a gradient is multiplied with is 0', stacklevel=2)
        return out

    def _check_images(self, images):
        if not isinstance(getattr(images, 'shape', None), tuple):
            try:
                images = np.asarray(images)
            except ValueError:  # of different shapes
                images = np.empty(len(images), object)
            if images.dtype == object:
                raise TypeError('expected one array of images, got objects of '
                                'different kinds: images and their classes are '
                                'two arguments')
            if images.dtype.kind in 'iuf':  # Python's numbers have no dtype
                images = images.astype(self.dtype)
        shape = (None,) + self.shape[1:]
        if (len(images.shape) != len(shape) or images.shape[0] == 0 or not all(
                known in (None, n) for known, n in zip(shape, images.shape))):
            raise ValueError(f'expected one image or more, of shape {shape}, got '
                             f'{images.shape}')
        if not np.can_cast(images.dtype, self.dtype):
            raise TypeError(
                f'expected images of dtype {self.dtype}, got {images.dtype}, '
                'which it cannot hold exactly: convert them by '
                f'images.astype({self.dtype!r})')
        return images

    def _check_classes(self, target, n):
        """A list of the vector of classes, if the function takes one."""
        if not self._takes_classes:
            if target is not None:
                raise TypeError("expected no target in the call (it was compiled "
                                "for 'all' or a function), got "
                                f'{describe(target)}')
            return []
        if target is None:
            target = self._target
        if is_word(target, 'given'):
            raise TypeError('expected a target in the call (it was compiled for '
                            "'given'), got none")
        if is_word(target, None, 'max'):
            return [np.full(n, -1)]
        target = as_classes(target, self.classes)
        if target.ndim and len(target) != n:
            raise ValueError(f'expected a target for each of {n} images, got '
                             f'{len(target)}')
        return [np.full(n, target)]

    def _check_out(self, out, shape, dtype):
        if out.shape != shape:  # a larger one would be filled in part
            raise ValueError(f'expected out to be an array of shape {shape}, got '
                             f'{out.shape}')
        if not np.can_cast(dtype, out.dtype, 'same_kind'):
            raise TypeError(f'expected out to be of a dtype for {dtype}, got '
                            f'{out.dtype}')

    def _compute(self, images, start, *classes):
        # Aligned, for C code, and no subclass, which may hide a NaN.
        images = np.require(images, self.dtype, 'AE')
        n = len(images)
        if not np.isfinite(images).all():
            finite = np.isfinite(images).reshape(n, -1).all(axis=1)
            raise ValueError('expected finite images, got NaN or infinity in '
                             f'image {start + finite.argmin()}')
        missing = (self.shape[0] or n) - n
        if missing:  # a network with a fixed number of samples
            images, *classes = [np.concatenate([v, v[-1:].repeat(missing, 0)])
                                for v in (images,) + classes]
        maps, *others = self.function(images, *classes)
        for what, values in [('map', maps)] + [('score', v) for v in others]:
            if len(values) != len(images):
                raise ValueError(f'expected one {what} for each of {len(images)} '
                                 f'images, got {len(values)}')
        return [v[:n] for v in [maps] + others]


def _bar(progress, batches):
    if not progress:
        return batches
    try:
        from tqdm import tqdm
    except ImportError as error:
        raise ImportError('progress=True needs tqdm: pip install '
                          '"gradmod[examples]"') from error
    return tqdm(batches, unit='batch')
