"""The op that carries a gradient override through a Theano graph."""
from ._theano import (Apply, DisconnectedType, NullType, OpFromGraph, in2out,
                      io_toposort, local_optimizer, optdb)
from .graphs import (captured_variables, compute_test_values, conform, graft,
                     parents_since, true_gradients, walk)


class GradientOverrideOp(OpFromGraph):
    """An ``OpFromGraph`` of one output whose gradient is an expression.

    Theano's own class wraps an overridden gradient in a second op, whose
    gradient is a third, and so on. This one calls `grad_overrides` once, keeps
    the resulting expressions and copies them onto the outer graph whenever
    ``theano.grad`` asks: what stands there afterwards are ordinary nodes, to
    differentiate, pickle and optimize as any others.

    When a function is compiled the op gives way to its inner graph. Modes
    without that rewrite run the op as it is.

    Parameters
    ----------
    inputs : list of Variable
        Stand-ins for the inputs, made for this op.
    outputs : list of Variable
        One expression in terms of `inputs`. Whatever else it or the gradient
        depends on (see `captured_variables`) becomes a further input, which
        callers need not give and whose gradient is the true one.
    grad_overrides : callable
        Called once, with ``(inputs, [output_grad])``; returns a list with one
        expression per input, of that input's type (of a float dtype for one of
        integers).
    name : str
        How the op appears in ``theano.printing.debugprint``.

    Raises
    ------
    ValueError
        If the graph draws random numbers, or has another update: all uses of
        the op would share one.
    """

    def __init__(self, inputs, outputs, grad_overrides, name):
        (output,) = outputs
        output_grad = output.type()
        gradients = list(grad_overrides(inputs, [output_grad]))
        parents = parents_since(inputs[0])
        for variable in walk([output] + gradients, parents):
            if getattr(variable, 'default_update', None) is not None:
                raise ValueError(f'{name} draws random numbers, one for all its '
                                 f'uses: draw outside, and refer to {variable}')
        captured = captured_variables(inputs + [output_grad],
                                      [output] + gradients)
        older = [v for v in walk(captured, parents) if not parents(v)]
        self.made = io_toposort(older, captured)  # without test values
        more = [v.type() for v in captured]
        memo = dict(zip(inputs + captured, inputs + more))
        memo[output_grad] = output_grad
        output, *self.gradients = graft([output] + gradients, memo)
        try:  # of the stand-ins: what is captured may depend on each other
            self.gradients += true_gradients(output, more, output_grad,
                                             'Disconnected')
        except Exception as error:  # no matter, unless somebody needs one
            reason = f'{name} cannot be differentiated: {error}'
            self.gradients += [NullType(reason)() for _ in captured]
        self.output_grad = output_grad
        super().__init__(inputs=inputs + more, outputs=[output], name=name,
                         on_unused_input='ignore')
        # The name under which Theano keeps inputs that callers need not give.
        self.shared_inputs = captured

    def __str__(self):
        return self.name

    def make_node(self, *inputs):
        if len(inputs) != len(self.inputs):  # else a node of ours, made anew
            inputs += tuple(self.shared_inputs)
            compute_test_values(self.made)
        inputs = [self.input_types[i].filter_variable(v)
                  for i, v in enumerate(inputs)]
        return Apply(self, inputs, [t() for t in self.output_types])

    def connection_pattern(self, node):
        return [[not isinstance(g.type, DisconnectedType)]
                for g in self.gradients]

    def L_op(self, inputs, outputs, output_grads):
        (y,), (g,) = outputs, output_grads
        if isinstance(g.type, DisconnectedType):
            g = y.zeros_like()
        memo = dict(zip(self.inputs, inputs))
        memo[self.output_grad] = conform(g, self.output_grad.type)
        return graft(self.gradients, memo)

    def R_op(self, inputs, eval_points):
        raise NotImplementedError(f'{self} has no forward mode (theano.Rop): its '
                                  'gradient is an override')


def expanded(node):
    """The outputs of the inner graph of an op of ours, put on its inputs."""
    return graft(node.op.local_outputs,
                 dict(zip(node.op.local_inputs, node.inputs)))


@local_optimizer([GradientOverrideOp])
def expand_gradient_override(node):
    """Replace the op by its inner graph."""
    if isinstance(node.op, GradientOverrideOp):
        return expanded(node)


# Before the first merge and the first scan optimization, as Theano does with
# its own ``OpFromGraph(inline=True)``.
optdb.register('expand_gradient_override', in2out(expand_gradient_override),
               -0.01, 'fast_compile', 'fast_run')
