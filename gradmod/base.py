"""From a function to the same function with another gradient."""
import inspect
import numbers
import sys

import numpy as np
import theano
import theano.tensor as T
from theano.printing import Print
from theano.tensor.opt import Assert
from theano.tensor.var import _tensor_py_operators  # on host or device

from .device import is_transfer, move_to_device
from .op import GradientOverrideOp, conform, flags, true_gradients, walk


def is_float_tensor(value):
    return (isinstance(value, _tensor_py_operators)
            and value.dtype in T.float_dtypes)


def _describe(value):
    if isinstance(value, theano.Variable):
        return 'a variable of type %s' % value.type
    return '%s (%.60r)' % (type(value).__name__, value)


def _name(function):
    if isinstance(function, _Overridden):
        return repr(function)
    if isinstance(function, T.Elemwise):
        return str(function.scalar_op)
    return getattr(function, '__name__', type(function).__name__)


def _surely_of_shape(variables, v):
    """Whether `v` is made from one of `variables` by elementwise ops alone."""
    def parents(v):
        op = v.owner and v.owner.op
        elementwise = isinstance(op, (T.Elemwise, Print)) or is_transfer(op)
        return v.owner.inputs if elementwise else []

    return any(above in variables for above in walk([v], parents))


class _Overridden(object):
    """A function, `_function`, that has `grad` for its gradient.

    Keeps in `ops` one op for each combination of types of input.
    """

    def __getstate__(self):
        # Ops are remade on first use; the graphs they came from are not kept.
        return dict(self.__dict__, ops={})

    def __call__(self, *inputs):
        if not inputs:
            raise TypeError('%r: expected one Theano variable or more, got none'
                            % self)
        inputs = [self._as_input(x) for x in inputs]
        if all(x.dtype in T.discrete_dtypes for x in inputs):
            return self._function(*inputs)
        inputs = [move_to_device(x) for x in inputs]
        types = tuple(x.type for x in inputs)
        key = types if len(types) > 1 else types[0]
        op = self.ops.get(key)
        if op is None:
            op = self.ops.setdefault(key, self._make_op(types))
        return T.as_tensor_variable(op(*inputs))  # of the host, as Theano's own

    def _as_input(self, x):
        try:
            if not isinstance(x, _tensor_py_operators):
                x = T.as_tensor_variable(x)
            if x.dtype in T.complex_dtypes:
                raise TypeError
        except Exception:
            raise TypeError('%r: expected a real Theano tensor variable, a '
                            'numpy array or a number, got %s' %
                            (self, _describe(x))) from None
        return x

    @flags(compute_test_value='off')  # the stand-ins have none
    def _make_op(self, types):
        stand_ins = [type() for type in types]
        # `_function` and `grad` get variables of the host, so that they may use
        # ops that know nothing of devices. The optimizer drops these moves.
        inputs = [T.as_tensor_variable(x) for x in stand_ins]
        y = self._function(*inputs)
        if isinstance(y, (list, tuple)) and len(y) == 1:
            (y,) = y
        if not is_float_tensor(y):
            raise TypeError('%r: expected %s to return one float tensor '
                            'variable, got %s' %
                            (self, _name(self._function), _describe(y)))
        y = T.as_tensor_variable(y)
        return GradientOverrideOp(
            stand_ins, [y if inputs == stand_ins else move_to_device(y)],
            lambda stand_ins, gs: self._gradients(stand_ins, inputs, y, *gs),
            name=repr(self))

    def _gradients(self, stand_ins, inputs, y, g):
        """What `grad` returns, as one variable of each stand-in's exact type."""
        g = T.as_tensor_variable(g)
        more = {}
        if _takes(self.grad, 'outputs'):
            more['outputs'] = [y]
        if _takes(self.grad, 'true_grads'):
            more['true_grads'] = self._true(inputs, y, g, 'zero')
        result = self.grad(list(inputs), [g], **more)
        if result is None:
            raise TypeError('%r.grad: expected a gradient, got None: forgot '
                            'to return it?' % self)
        if not isinstance(result, (list, tuple)):
            result = [result]
        if len(result) != len(inputs):
            raise TypeError('%r.grad: expected %d gradient(s), one for each '
                            'input, got %d' %
                            (self, len(inputs), len(result)))
        true = self._true([x for x, r in zip(stand_ins, result) if r is None],
                          y, g, 'Disconnected')
        return [true.pop(0) if r is None else
                conform(self._as_gradient(r, x, y, g), stand_in.type)
                for stand_in, x, r in zip(stand_ins, inputs, result)]

    def _true(self, inputs, y, g, disconnected):
        try:
            return true_gradients(y, inputs, g, disconnected)
        except Exception as error:
            raise TypeError('%r.grad: the true gradient is asked for, but '
                            'Theano cannot differentiate %s: %s' %
                            (self, _name(self._function), error)) from error

    def _as_gradient(self, result, x, y, g):
        if x.dtype in T.discrete_dtypes:
            raise TypeError('%r.grad: expected None for the input of dtype %s, '
                            'which has no gradient, got %s' %
                            (self, x.dtype, _describe(result)))
        if (isinstance(result, (numbers.Number, np.ndarray))
                and np.asarray(result).dtype.kind in 'biuf'):
            result = (T.constant(result) if np.ndim(result)
                      else T.fill(x, np.asarray(result, x.dtype)))
        if not (isinstance(result, _tensor_py_operators)
                and result.ndim == x.ndim
                and result.dtype not in T.complex_dtypes):
            raise TypeError('%r.grad: expected a real tensor of %d dimensions, '
                            'like the input, got %s' %
                            (self, x.ndim, _describe(result)))
        known = [x]
        if y.broadcastable == x.broadcastable and _surely_of_shape([x], y):
            known.append(g)
        if not _surely_of_shape(known, result):
            for i in range(x.ndim):  # Theano drops those that it can prove
                result = Assert(
                    '%r.grad: the gradient does not have the shape of the '
                    'input: dimension %d differs' % (self, i))(
                        result, T.eq(result.shape[i], x.shape[i]))
        return result


def _takes(grad, name):
    try:
        return name in inspect.signature(grad).parameters
    except ValueError:  # something built in
        return False


class ModifiedBackprop(_Overridden):
    """A nonlinearity with its own forward pass and another gradient.

    Subclasses define `grad`. An instance is used wherever the nonlinearity
    itself would be, on as many layers as wanted, and keeps one op for each
    type of input that it meets.

    Parameters
    ----------
    nonlinearity : callable
        A function of one Theano variable that returns one Theano variable of
        a float dtype. It may refer to shared variables (the slope of a
        parametric rectifier) and to other symbolic variables: gradients with
        respect to those stay true. It may not draw random numbers.

    Attributes
    ----------
    nonlinearity : callable
        As given.
    ops : dict
        The ops made so far, by the type of their input.

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

    def __init__(self, nonlinearity):
        if not callable(nonlinearity):
            raise TypeError(
                '%s: expected a function of one Theano variable, such as '
                'lasagne.nonlinearities.rectify, got %s' %
                (type(self).__name__, _describe(nonlinearity)))
        self.nonlinearity = nonlinearity
        self.ops = {}

    def __repr__(self):
        return '%s(%s)' % (type(self).__name__, _name(self.nonlinearity))

    @property
    def _function(self):
        return self.nonlinearity

    def grad(self, inputs, out_grads):
        """The gradient with respect to the input of the nonlinearity.

        Parameters
        ----------
        inputs : list of one Variable
            The input z of the nonlinearity f.
        out_grads : list of one Variable
            The gradient g of the cost with respect to f(z), of f(z)'s type.
        outputs : list of one Variable
            f(z); given to a `grad` that has a parameter of this name.
        true_grads : list of one Variable
            f'(z) g, the gradient without an override; given to a `grad` that
            has a parameter of this name.

        Returns
        -------
        tuple of one Variable
            What takes the place of f'(z) g. It needs the shape of z; any real
            dtype is cast to that of z. A list, a bare variable and a numpy
            array are taken as well; a number fills the shape of z. None in
            the place of the variable means the true gradient.

        Notes
        -----
        A rule that extends another one's `grad` passes on the parameters that
        that one has.
        """
        raise NotImplementedError(
            '%s does not say what gradient to use: define '
            'grad(self, inputs, out_grads), which returns a tuple with the '
            'gradient with respect to the one input' % type(self).__name__)

    def __call__(self, x):
        """Apply the nonlinearity to `x`.

        Parameters
        ----------
        x : Variable, numpy array or number
            What Theano's ``as_tensor_variable`` takes. Moved to the GPU that
            is active, if any; see `gradmod.device.move_to_device`.

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
            raise TypeError('%s.__init__: expected it to call '
                            'super().__init__(nonlinearity), which it does not'
                            % type(self).__name__)
        return super().__call__(x)


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
        as for `ModifiedBackprop`, and if there is not one gradient for each
        input, or one other than None for an input of integers.

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
    >>> sign = gradmod.override_gradient(T.sgn, lambda inputs, out_grads: out_grads)
    >>> x = T.vector('x', dtype='float32')
    >>> print(theano.grad((3 * sign(x)).sum(), x).eval({x: np.float32([-2, 1])}))
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


class OverriddenFunction(_Overridden):
    """What `override_gradient` returns."""

    def __init__(self, function, grad):
        for name, value in ('grad', grad), ('function', function):
            if not callable(value):
                raise TypeError('override_gradient: expected %s to be '
                                'callable, got %s' % (name, _describe(value)))
        self._function = function
        self.grad = grad
        self.ops = {}
        self.__doc__ = getattr(function, '__doc__', None)
        self.__module__ = getattr(function, '__module__', None)

    def __repr__(self):
        return 'override_gradient(%s, %s)' % (
            _name(self._function), _name(self.grad))

    def __reduce__(self):
        # A decorated function is found under its name, in the place of the
        # function that was decorated.
        name = getattr(self._function, '__qualname__', '')
        place = sys.modules.get(self.__module__)
        for part in name.split('.'):
            place = getattr(place, part, None)
        if place is self:
            return name
        return OverriddenFunction, (self._function, self.grad)
