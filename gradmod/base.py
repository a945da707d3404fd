"""From a function to the same function with another gradient."""
import inspect
import numbers
import sys

import numpy as np
import theano
import theano.tensor as T

from ._theano import (Assert, DisconnectedType, Elemwise, Print,
                      TensorVariable, is_zero)
from .device import is_transfer, move_to_device
from .errors import describe, is_float_tensor, name_of
from .graphs import conform, flags, inputs_of, true_gradients, walk
from .op import GradientOverrideOp


class Name:
    """What a rule is called, as functions are; it may be given another name."""

    def __get__(self, rule, kind):
        return repr(rule)


class ModifiedBackprop:
    """A nonlinearity with its own forward pass and another gradient.

    Subclasses define `grad`. An instance is used wherever the nonlinearity
    itself would be, on as many layers as wanted, and keeps one op for each
    type of input that it meets.

    Parameters
    ----------
    nonlinearity : callable
        A function of one Theano variable, or several, that returns one of a
        float dtype. It may refer to shared variables (the slope of a
        parametric rectifier) and to other symbolic variables: gradients with
        respect to those stay true. It may not draw random numbers.

    Attributes
    ----------
    nonlinearity : callable
        As given.
    calls : int
        How often it was applied.
    ops : dict
        The ops made so far, by the type of their input (a tuple of types where
        there are several).

    Raises
    ------
    TypeError
        If `nonlinearity` is not callable.

    See Also
    --------
    override_gradient : the same for a function, without a class.

    Notes
    -----
    `nonlinearity` and `grad` are each called once for each type of input (the
    number of dimensions, the dtype, the broadcast pattern, the device), when
    the instance is first applied to it, on symbolic stand-ins. An error in a
    rule therefore appears where it is applied. A parameter of a rule that
    should be adjustable later is a shared variable; a plain number is read at
    that first use.

    Examples
    --------
    >>> import numpy as np
    >>> import gradmod
    >>> import theano, theano.tensor as T
    >>> class Halve(gradmod.ModifiedBackprop):
    ...     def grad(self, inputs, out_grads):
    ...         (g,) = out_grads
    ...         return (g / 2,)
    >>> x = T.vector('x', dtype='float32')
    >>> y = Halve(T.nnet.relu)(x)
    >>> print(theano.grad(y.sum(), x).eval({x: np.float32([-1, 2])}))
    [0.5 0.5]
    """

    calls = 0

    def __init_subclass__(cls, **options):
        super().__init_subclass__(**options)
        for name in 'L_op', 'R_op':  # methods of Theano's ops
            if hasattr(cls, name):
                raise TypeError(f'{cls.__name__}.{name} would never be called: '
                                'define grad(self, inputs, out_grads)')

    def __init__(self, nonlinearity):
        if not callable(nonlinearity):
            raise TypeError(f'{type(self).__name__}: expected a function first, '
                            f'options by name, got {describe(nonlinearity)}')
        self.nonlinearity = nonlinearity
        self.ops = {}

    def __repr__(self):
        return f'{type(self).__name__}({name_of(self.nonlinearity)})'

    __name__ = Name()

    def __getstate__(self):
        # Ops are remade on first use; the graphs they came from are not kept.
        return dict(vars(self), ops={}, calls=0)

    def around(self, nonlinearity):
        """The same rule of another nonlinearity.

        It has the attributes of this one. A subclass that keeps more of its
        nonlinearity than the attribute of that name overrides this.
        """
        rule = object.__new__(type(self))
        vars(rule).update(vars(self), nonlinearity=nonlinearity, ops={},
                          calls=0)
        return rule

    def grad(self, inputs, out_grads):
        """The gradient with respect to the input of the nonlinearity.

        Parameters
        ----------
        inputs : list of Variable
            The input z of the nonlinearity f; all of them, if f has several.
        out_grads : list of one Variable
            The gradient g of the cost with respect to f(z), of f(z)'s type.
        outputs : list of one Variable
            f(z); given to a `grad` that has a parameter of this name.
        true_grads : list of Variable
            f'(z) g, the gradient without an override; given to a `grad` that
            has a parameter of this name.

        Returns
        -------
        tuple of Variable
            What takes the place of f'(z) g, for each input. It needs the shape
            of z; any real dtype is cast to that of z. A list, a bare variable
            and a numpy array are taken as well; a number fills the shape of z.
            None in the place of a variable means the true gradient, a variable
            of ``theano.gradient.DisconnectedType`` that there is none. An
            input of integers takes None, such a variable or zeros.

        Notes
        -----
        A rule that extends another one's `grad` passes on the parameters that
        that one has.
        """
        raise NotImplementedError(f'{type(self).__name__} does not define '
                                  'grad(self, inputs, out_grads)')

    def __call__(self, *inputs):
        """Apply the nonlinearity.

        Parameters
        ----------
        *inputs : Variable, numpy array or number
            x: what Theano's ``as_tensor_variable`` takes, where an int counts
            as a float. Moved to the GPU that is active, if any; see
            `gradmod.device.move_to_device`.

        Returns
        -------
        Variable
            ``nonlinearity(x)``, through which ``theano.grad`` uses `grad`: a
            tensor of the host, whatever `x` is, as Theano's own functions
            return. If `x` is of an integer dtype there is no gradient to
            override, and this is the plain nonlinearity.

        Raises
        ------
        TypeError
            If `x` cannot be made a tensor; if the nonlinearity does not return
            one float tensor; if `grad` returns something else than one
            gradient of the kind described there.
        ValueError
            If the nonlinearity or `grad` draws random numbers.
        """
        if 'ops' not in vars(self):
            raise TypeError(f'{type(self).__name__}.__init__: expected it to '
                            'call super().__init__(nonlinearity)')
        self.calls += 1
        inputs = [x if isinstance(x, TensorVariable) else T.as_tensor_variable(
            float(x) if isinstance(x, int) else x) for x in inputs]
        if all(x.dtype in T.discrete_dtypes for x in inputs):
            return self.nonlinearity(*inputs)
        inputs = [move_to_device(x) for x in inputs]
        types = tuple(x.type for x in inputs)
        key = types if len(types) > 1 else types[0]
        if key not in self.ops:
            self.ops.setdefault(key, self._make_op(types))
        y = self.ops[key](*inputs)
        return T.as_tensor_variable(y)  # of the host, as Theano's own

    @flags(compute_test_value='off')  # the stand-ins have none
    def _make_op(self, types):
        stand_ins = [type() for type in types]
        # `nonlinearity` and `grad` get variables of the host, so that they may
        # use ops that know of no device. The optimizer drops these moves.
        inputs = [T.as_tensor_variable(x) for x in stand_ins]
        y = self.nonlinearity(*inputs)
        if isinstance(y, (list, tuple)) and len(y) == 1:
            (y,) = y
        if not is_float_tensor(y):
            raise TypeError(f'{self!r}: expected a float tensor (see .astype) from '
                            f'{name_of(self.nonlinearity)}, got {describe(y)}')
        y = T.as_tensor_variable(y)
        return GradientOverrideOp(
            stand_ins, [y if inputs == stand_ins else move_to_device(y)],
            lambda stand_ins, gs: self.gradients(stand_ins, inputs, y, *gs),
            name=repr(self))

    def gradients(self, wrt, inputs, y, g):
        """What `grad` returns for f(`inputs`) = `y`, of the types of `wrt`.

        Parameters
        ----------
        wrt : list of Variable
            What `inputs` are, or are moved from: what to differentiate by
            where `grad` asks for true gradients.
        inputs, y, g
            The inputs, the output, and the gradient with respect to it.

        Returns
        -------
        list of Variable
            One gradient for each of `wrt`, checked and cast.
        """
        g = T.as_tensor_variable(g)
        takes = inspect.signature(self.grad).parameters
        more = {}
        if 'outputs' in takes:
            more['outputs'] = [y]
        if 'true_grads' in takes:
            more['true_grads'] = true_gradients(y, inputs, g, 'zero', 'raise')
        results = self.grad(list(inputs), [g], **more)
        if results is None:
            raise TypeError(f'{self!r}.grad: expected a gradient, got None: '
                            'forgot to return it?')
        if not isinstance(results, (list, tuple)):
            results = [results]
        if len(results) != len(inputs):
            raise TypeError(f'{self!r}.grad: expected a gradient for each of '
                            f'{len(inputs)} input(s), got {len(results)}')
        results = [self._as_gradient(r, x, w.type, y, g)
                   for r, x, w in zip(results, inputs, wrt)]
        true = iter(true_gradients(
            y, [w for w, r in zip(wrt, results) if r is None], g,
            'Disconnected'))
        return [next(true) if r is None else r for r in results]

    def _as_gradient(self, result, x, type, y, g):
        """One gradient as a variable; None for the true one."""
        if x.dtype in T.discrete_dtypes:
            if result is not None and is_zero(result) not in ('yes', True):
                raise TypeError(f'{self!r}.grad: expected None for the input of '
                                f'dtype {x.dtype}, got {describe(result)}')
            return x.zeros_like(theano.config.floatX)  # as Theano's own ops do
        if (result is None or
                isinstance(getattr(result, 'type', None), DisconnectedType)):
            return result
        if (isinstance(result, (numbers.Number, np.ndarray))
                and np.asarray(result).dtype.kind in 'biuf'):
            result = (T.constant(result) if np.ndim(result)
                      else T.fill(x, np.asarray(result, x.dtype)))
        if not (isinstance(result, TensorVariable) and result.ndim == x.ndim
                and result.dtype not in T.complex_dtypes):
            raise TypeError(f'{self!r}.grad: expected a real tensor of {x.ndim} '
                            f'dimensions, got {describe(result)}')
        known = [x]
        if y.broadcastable == x.broadcastable and _surely_of_shape([x], y):
            known.append(g)
        if not _surely_of_shape(known, result):
            for i in range(x.ndim):  # of one for all, Theano loses the words
                result = Assert(f'{self!r}.grad: not of the shape of the input: '
                                f'dimension {i} differs')(
                                    result, T.eq(result.shape[i], x.shape[i]))
        return conform(result, type)


def _surely_of_shape(variables, v):
    """Whether `v` is made from one of `variables` by elementwise ops alone."""
    def parents(v):
        op = v.owner and v.owner.op
        elementwise = isinstance(op, (Elemwise, Print)) or is_transfer(op)
        return inputs_of(v) if elementwise else []

    return any(above in variables for above in walk([v], parents))


def is_composite(rule):
    """Whether a rule has a plan for the layers of a network."""
    return hasattr(rule, 'plan') and not isinstance(rule, type)


def check_rule(rule, function=True):
    """Refuse what is no rule, or (where that counts) no function to one.

    Nothing would call the gradient of a copy of the old recipe.
    """
    kind = rule if isinstance(rule, type) else type(rule)
    if hasattr(kind, 'plan') or getattr(kind, 'of_layers', False):
        raise TypeError(f'{kind.__name__} is for layers: pass their network, and '
                        "lrp.EpsilonPlus() or lrp.Composite({'a': lrp.ZPlus()})")
    has_gradient = hasattr(kind, 'grad') or hasattr(kind, 'L_op')
    if not (issubclass(kind, ModifiedBackprop) or
            function and callable(rule) and not has_gradient):
        raise TypeError('expected a rule, derived from gradmod.ModifiedBackprop, '
                        f'got {describe(rule)}')


def override_gradient(function=None, grad=None):
    """Give a function of Theano variables another gradient.

    Parameters
    ----------
    function : callable
        Takes one or more Theano variables, returns one Theano variable of a
        float dtype. Left out, a decorator for such a function is returned.
    grad : callable
        ``grad(inputs, out_grads)``: it gets the list of the function's inputs
        and a list with the gradient g of the cost with respect to the output.
        If it has a parameter `outputs`, also a list with the output; if it has
        a parameter `true_grads`, the list of gradients that Theano itself
        would compute. It returns a list with the gradient with respect to each
        input (a bare variable, if there is one input). None means the true
        gradient.

    Returns
    -------
    callable
        Takes what `function` takes, also numpy arrays and numbers, and returns
        what it returns, with the new gradient. Make it once and use it often:
        it keeps one op for each combination of types of input. It pickles if
        `function` and `grad` do.

    Raises
    ------
    TypeError
        If `function` or `grad` is not callable. When the result is called:
        as for `ModifiedBackprop`.

    See Also
    --------
    ModifiedBackprop : the contract in full; the same as a class.

    Notes
    -----
    Where `grad` gives every gradient and does not take `true_grads`,
    `function` need not be differentiable. Zero gradients have to be asked for,
    as ``x.zeros_like()``.

    Examples
    --------
    The sign function with the gradient of the identity:

    >>> import numpy as np
    >>> import gradmod
    >>> import theano, theano.tensor as T
    >>> sign = gradmod.override_gradient(
    ...     T.sgn, lambda inputs, out_grads: out_grads)
    >>> x = T.vector('x', dtype='float32')
    >>> dx = theano.grad((3 * sign(x)).sum(), x)
    >>> print(dx.eval({x: np.float32([-2, 1])}))
    [3. 3.]

    As a decorator; a gradient that is clipped, and another that is left alone:

    >>> def clip_first(inputs, out_grads, true_grads):
    ...     return [T.clip(true_grads[0], -1, 1), None]
    >>> @gradmod.override_gradient(grad=clip_first)
    ... def product(x, y):
    ...     return x * y
    >>> y = T.vector('y', dtype='float32')
    >>> dx, dy = theano.grad(product(x, y).sum(), [x, y])
    >>> values = np.float32([2, 3]), np.float32([.5, 7])
    >>> print(theano.function([x, y], dx)(*values))
    [0.5 1. ]
    >>> print(theano.function([x, y], dy)(*values))
    [2. 3.]
    """
    if function is None and callable(grad):
        return lambda function: override_gradient(function, grad)
    return OverriddenFunction(function, grad)


class OverriddenFunction(ModifiedBackprop):
    """What `override_gradient` returns."""

    def __init__(self, function, grad):
        if not (callable(function) and callable(grad)):
            raise TypeError('override_gradient: expected two functions, got '
                            f'{describe(function)} and {describe(grad)}')
        super().__init__(function)
        self.grad = grad
        self.__doc__ = getattr(function, '__doc__', None)
        self.__module__ = getattr(function, '__module__', None)

    def __repr__(self):
        return (f'override_gradient({name_of(self.nonlinearity)}, '
                f'{name_of(self.grad)})')

    def __reduce__(self):
        # A decorated function is found under its name, in the place of the
        # function that was decorated.
        name = getattr(self.nonlinearity, '__qualname__', '')
        place = sys.modules.get(self.__module__)
        for part in name.split('.'):
            place = getattr(place, part, None)
        if place is self:
            return name
        return OverriddenFunction, (self.nonlinearity, self.grad)
