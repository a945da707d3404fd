"""The base class of all rules: from a nonlinearity to one with a new gradient."""
import numbers

import numpy as np
import theano
import theano.tensor as T
from theano.configparser import change_flags
from theano.tensor.opt import Assert
from theano.tensor.var import _tensor_py_operators  # on host or device

from .op import GradientOverrideOp, conform


def _describe(value):
    if isinstance(value, theano.Variable):
        return 'a variable of type %s' % value.type
    return '%s (%.60r)' % (type(value).__name__, value)


def _surely_of_shape(variables, v):
    """Whether `v` is made from one of `variables` by elementwise ops alone."""
    seen, stack = set(), [v]
    while stack:
        v = stack.pop()
        if v in variables:
            return True
        if v.owner and isinstance(v.owner.op, T.Elemwise) and v not in seen:
            seen.add(v)
            stack.extend(v.owner.inputs)
    return False


class ModifiedBackprop(object):
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
        f = self.nonlinearity
        if isinstance(f, ModifiedBackprop):
            name = repr(f)
        else:
            name = getattr(f, '__name__', type(f).__name__)
        return '%s(%s)' % (type(self).__name__, name)

    def __getstate__(self):
        # Ops are remade on first use; the graphs they came from are not kept.
        return dict(self.__dict__, ops={})

    def grad(self, inputs, out_grads):
        """The gradient with respect to the input of the nonlinearity.

        Parameters
        ----------
        inputs : list of one Variable
            The input x of the nonlinearity f.
        out_grads : list of one Variable
            The gradient g of the cost with respect to f(x), of f(x)'s type.

        Returns
        -------
        tuple of one Variable
            What takes the place of f'(x) g. It needs the shape of x; a float
            of another width is cast to the dtype of x. A list, a bare
            variable and a numpy array are taken as well; a number fills the
            shape of x.
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
            What Theano's ``as_tensor_variable`` takes.

        Returns
        -------
        Variable
            ``nonlinearity(x)``, through which ``theano.grad`` uses `grad`. If
            `x` is of an integer dtype there is no gradient to override, and
            this is the plain nonlinearity.

        Raises
        ------
        TypeError
            If `x` cannot be made a tensor; if the nonlinearity does not return
            one float tensor; if `grad` returns something else than one
            gradient of the kind described there.
        ValueError
            If the nonlinearity or `grad` draws random numbers.
        """
        try:
            variable = T.as_tensor_variable(x)
        except Exception:
            variable = None
        if variable is None or variable.dtype in T.complex_dtypes:
            raise TypeError('%r: expected a real Theano tensor variable, a '
                            'numpy array or a number, got %s' %
                            (self, _describe(x)))
        x = variable
        if x.dtype in T.discrete_dtypes:
            return self.nonlinearity(x)
        op = self.ops.get(x.type)
        if op is None:
            op = self.ops.setdefault(x.type, self._make_op(x.type))
        return op(x)

    @change_flags(compute_test_value='off')  # the stand-ins have none
    def _make_op(self, type):
        x = type('x')
        y = self.nonlinearity(x)
        if isinstance(y, (list, tuple)) and len(y) == 1:
            (y,) = y
        if not (isinstance(y, theano.Variable)
                and getattr(y, 'dtype', None) in T.float_dtypes):
            raise TypeError('%r: expected the nonlinearity to return one float '
                            'tensor variable, got %s' % (self, _describe(y)))

        def grad_overrides(inputs, out_grads):
            (g,) = out_grads
            return [self._gradient(x, y, g)]
        return GradientOverrideOp([x], [y], grad_overrides, name=repr(self))

    def _gradient(self, x, y, g):
        """Make of what `grad` returns one variable of exactly x's type."""
        result = self.grad([x], [g])
        if isinstance(result, (list, tuple)):
            if len(result) != 1:
                raise TypeError('%r.grad: expected 1 gradient, for the one '
                                'input, got %d' % (self, len(result)))
            (result,) = result
        if result is None:
            raise TypeError('%r.grad: expected a gradient, got None: forgot '
                            'to return it?' % self)
        if np.ndim(result) == 0 and isinstance(result, (numbers.Number, np.ndarray)):
            result = T.fill(x, np.asarray(result))
        elif isinstance(result, np.ndarray):
            result = T.constant(result)
        if not (isinstance(result, _tensor_py_operators)
                and result.ndim == x.ndim
                and result.dtype not in T.complex_dtypes):
            raise TypeError('%r.grad: expected a real tensor of %d dimensions, '
                            'like the input, got %s' %
                            (self, x.ndim, _describe(result)))
        known = [x, g] if _surely_of_shape([x], y) else [x]
        if not _surely_of_shape(known, result):
            for i in range(x.ndim):  # Theano drops those that it can prove
                result = Assert(
                    '%r.grad: the gradient does not have the shape of the '
                    'input: dimension %d differs' % (self, i))(
                        result, T.eq(result.shape[i], x.shape[i]))
        return conform(result, x.type)
