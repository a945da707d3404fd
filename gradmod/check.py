"""What a rule does to a gradient, in numbers."""
from contextlib import suppress

import numpy as np
import theano
import theano.tensor as T

from .base import ModifiedBackprop
from .errors import name_of
from .report import table

VALUES = np.array([-np.inf, -2, -1, -0., 0, 1, 2, np.inf, np.nan])


class GradientReport:
    """What `check_gradient` found; prints as a table.

    Attributes
    ----------
    name : str
        The function.
    used : bool or None
        Whether ``theano.grad`` gives what the function's own `grad` says. None
        if the function has no `grad`: there is nothing to be used.
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
        vars(self).update(attributes)

    def __repr__(self):
        used = {None: 'it has no grad of its own',
                True: 'its grad is used by theano.grad',
                False: 'ITS GRAD IS IGNORED by theano.grad'}[self.used]
        what = ('what follows is the gradient that Theano knows'
                if self.used is None else
                'Theano knows no gradient without it' if self.true is None else
                '* differs from the gradient without it' if self.differs.any()
                else 'the same as the gradient without it')
        rows = [['z \\ g'] + [f'{g:g} ' for g in self.g]]
        for z, values, stars in zip(self.z, self.values, self.differs):
            rows.append([f'{z:g}'] + [f'{v:.4g}' + ('*' if s else ' ')
                                      for v, s in zip(values, stars)])
        return f'{self.name}: {used}\n{what}\n{table(rows, str.rjust)}'


def check_gradient(function, dtype='float32', shape=(1,)):
    """Tell what gradient ``theano.grad`` takes through a function.

    Parameters
    ----------
    function : callable
        A rule, such as ``GuidedBackprop(relu)``, a result of
        `override_gradient`, or any function of one Theano variable that
        returns one of a float dtype.
    dtype : str, optional
        Of z and g: a float dtype.
    shape : tuple of int, optional
        The function is applied to arrays of this shape filled with one number;
        the first number of the gradient is reported. The default does for
        whatever is elementwise.

    Returns
    -------
    GradientReport
        The gradient at all pairs of an input z and an incoming gradient g from
        -inf, -2, -1, -0, 0, 1, 2, inf and nan; where it differs from the true
        one; whether an override is used at all.

    Raises
    ------
    TypeError
        If `dtype` is not a float dtype.

    Examples
    --------
    >>> import gradmod
    >>> import theano.tensor as T
    >>> report = gradmod.check_gradient(gradmod.GuidedBackprop(T.nnet.relu))
    >>> report.used
    True
    >>> print(report)                                    # doctest: +ELLIPSIS
    GuidedBackprop(relu): its grad is used by theano.grad
    * differs from the gradient without it
    z \\ g  -inf   -2   -1   -0   0   1   2   inf   nan...
    """
    z = T.TensorType(dtype, (False,) * len(shape))('z')
    if z.dtype not in T.float_dtypes:  # which would give zeros
        raise TypeError('check_gradient: expected a float dtype, '
                        f'got {z.dtype}')
    y = function(z)
    g = y.type('g')

    def values_of(gradient):
        f = theano.function([z, g], gradient, on_unused_input='ignore',
                            mode=theano.Mode('py', 'fast_compile'))
        with np.errstate(all='ignore'):
            return np.array([[np.ravel(f(np.full(shape, a, z.dtype),
                                         np.full(shape, b, g.dtype)))[0]
                              for b in VALUES] for a in VALUES], z.dtype)

    def through(y):
        return values_of(theano.grad(None, z, known_grads={y: g},
                                     disconnected_inputs='ignore'))

    values, true, used = through(y), None, None
    with suppress(Exception):  # there is none, or it is not differentiable
        true = through(function.nonlinearity(z))
    if hasattr(function, 'grad'):
        own = (function.gradients([z], [z], function.nonlinearity(z), g)
               if isinstance(function, ModifiedBackprop)
               else function.grad([z], [g]))  # made by another recipe
        used = bool(_same(values, values_of(own)).all())
    return GradientReport(
        name=name_of(function), used=used, values=values, true=true,
        differs=~_same(values, values if true is None else true),
        z=VALUES, g=VALUES)


def _same(a, b):
    return (a == b) | (np.isnan(a) & np.isnan(b))
