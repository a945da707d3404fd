"""What a rule does to a gradient, in numbers."""
import numbers

import numpy as np
import theano
import theano.tensor as T

from .base import ModifiedBackprop
from .errors import describe, is_float_tensor, name_of

VALUES = (-np.inf, -2., -1., -0., 0., 1., 2., np.inf, np.nan)


class GradientReport(object):
    """What `check_gradient` found; prints as a table.

    Attributes
    ----------
    name : str
        The function.
    used : bool or None
        Whether ``theano.grad`` gives what the function's own `grad` says. None
        if the function has no `grad`: there is nothing to be used.
    linear : bool
        Whether the gradient is linear in the incoming gradient g, at finite
        values: whether ``theano.Rop`` can have a meaning.
    values : array of shape (n, n)
        The gradient that ``theano.grad`` gives, by z (rows) and g (columns).
    true : array of shape (n, n) or None
        The gradient without an override, where Theano knows one.
    differs : array of bool of shape (n, n)
        Where the two are not the same.
    z, g : arrays of shape (n,)
        The inputs and incoming gradients that were tried.
    """

    def __init__(self, **attributes):
        self.__dict__.update(attributes)

    def __repr__(self):
        used = {None: 'it has no grad of its own',
                True: 'its grad is used by theano.grad',
                False: 'ITS GRAD IS IGNORED by theano.grad'}[self.used]
        lines = ['%s: %s' % (self.name, used),
                 'linear in g: %s' % ('yes' if self.linear else 'no')]
        if self.used is None:
            lines.append('what follows is the gradient that Theano knows')
        elif self.true is None:
            lines.append('Theano knows no gradient without it')
        elif self.differs.any():
            lines.append('* differs from the gradient without it')
        else:
            lines.append('the same as the gradient without it')
        rows = [['z \\ g'] + ['%g ' % g for g in self.g]]
        for z, values, stars in zip(self.z, self.values, self.differs):
            rows.append(['%g' % z] + ['%.4g%s' % (v, '*' if s else ' ')
                                      for v, s in zip(values, stars)])
        widths = [max(map(len, column)) for column in zip(*rows)]
        return '\n'.join(lines + ['  '.join(
            c.rjust(w) for c, w in zip(row, widths)) for row in rows])


def check_gradient(function, dtype='float32', shape=(1,)):
    """Tell what gradient ``theano.grad`` takes through a function of one input.

    Parameters
    ----------
    function : callable
        A rule, such as ``GuidedBackprop(relu)``, a result of
        `override_gradient`, or any function of one Theano variable.
    dtype : str, optional
        Of z and g.
    shape : tuple of int, optional
        The function is applied to arrays of this shape filled with one number;
        the first number of the gradient is reported. The default does for
        whatever is elementwise.

    Returns
    -------
    GradientReport
        The gradient at all pairs of an input z and an incoming gradient g from
        -inf, -2, -1, -0, 0, 1, 2, inf and nan; where it differs from the true
        one; whether it is linear in g; whether an override is used at all.

    Raises
    ------
    TypeError
        If `function` is not callable, or does not return a float tensor for
        such a variable; if `dtype` is no float dtype, or `shape` no tuple of
        ints from 1 up.

    Examples
    --------
    >>> import gradmod
    >>> import theano.tensor as T
    >>> report = gradmod.check_gradient(gradmod.GuidedBackprop(T.nnet.relu))
    >>> report.used, report.linear
    (True, False)
    >>> print(report)                                    # doctest: +ELLIPSIS
    GuidedBackprop(relu): its grad is used by theano.grad
    linear in g: no
    * differs from the gradient without it
    z \\ g  -inf   -2   -1   -0   0   1   2   inf   nan...
    """
    if not callable(function):
        raise TypeError('check_gradient: expected a function of one Theano '
                        'variable, got %s' % describe(function))
    dtype = dtype.name if isinstance(dtype, np.dtype) else dtype
    if not (isinstance(dtype, str) and dtype in T.float_dtypes):
        raise TypeError('check_gradient: expected dtype to be one of %s, got %s'
                        % (', '.join(T.float_dtypes), describe(dtype)))
    if not (isinstance(shape, (tuple, list)) and all(
            isinstance(n, numbers.Integral) and not isinstance(n, bool)
            and n > 0 for n in shape)):
        raise TypeError('check_gradient: expected shape to be a tuple of ints '
                        'from 1 up, got %s' % describe(shape))
    z = T.TensorType(dtype, (False,) * len(shape))('z')
    y = function(z)
    if not is_float_tensor(y):
        raise TypeError('check_gradient: expected %s to return one float '
                        'tensor variable, got %s' %
                        (name_of(function), describe(y)))
    g = y.type('g')

    def evaluate(gradient):
        f = theano.function([z, g], gradient, on_unused_input='ignore',
                            mode=theano.Mode('py', 'fast_compile'))

        def at(z_value, g_value):
            with np.errstate(all='ignore'):
                value = f(np.full(shape, z_value, dtype),
                          np.full(shape, g_value, g.dtype))
            return np.ravel(value)[0]
        return at

    def table(at):
        return np.array([[at(a, b) for b in VALUES] for a in VALUES], dtype)

    at = evaluate(theano.grad(None, z, known_grads={y: g},
                              disconnected_inputs='ignore'))
    values, true, used = table(at), None, None
    inner = getattr(function, 'nonlinearity', None)
    if inner is not None:
        try:
            true = table(evaluate(theano.grad(
                None, z, known_grads={inner(z): g},
                disconnected_inputs='ignore')))
        except Exception:  # it need not be differentiable
            true = None
    grad = getattr(function, 'grad', None)
    if grad is not None:
        if isinstance(function, ModifiedBackprop):
            own = function.gradients([z], [z], inner(z), g)
        else:  # an object made by another recipe
            own = grad([z], [g])
        used = bool(_same(values, table(evaluate(own))).all())
    finite = [v for v in VALUES if np.isfinite(v)]
    with np.errstate(all='ignore'):  # there may be a pole
        linear = all(np.allclose(at(a, b), b * at(a, 1), equal_nan=True, atol=0,
                                 rtol=20 * np.finfo(dtype).eps)
                     for a in finite for b in finite + [.5, 1e3])
    return GradientReport(
        name=name_of(function), used=used, linear=linear, values=values,
        true=true, z=np.array(VALUES), g=np.array(VALUES),
        differs=(np.zeros(values.shape, bool) if true is None
                 else ~_same(values, true)))


def _same(a, b):
    return (a == b) | (np.isnan(a) & np.isnan(b))
