"""The gates of `GuidedBackprop` and `DeconvNet` as scalar ops with C code.

Written with Theano's own operations they would be slower, and products of a
gradient with masks are multiplied out across layers by Theano's optimizer,
which needs exponential memory. An op of one's own is opaque to it, and is
still fused with the elementwise operations around it, on CPU and GPU.
"""
import theano.scalar as scalar
import theano.tensor as T


class _Gate(scalar.ScalarOp):
    """Lets the first input, the gradient, pass or puts 0 in its place.

    The first, because Theano's in-place optimizer overwrites the first input
    that it may: the gradient is still in the processor's cache.
    """

    # That optimizer makes such ops anew by their class, with a preference as
    # the argument of the constructor.
    output_types_preference = scalar.transfer_type(0)

    def output_types(self, types):
        if not all(t in scalar.float_types for t in types):
            raise TypeError(f'{self}: expected floats, got {types}')
        return super().output_types(types)

    def c_code_cache_version(self):
        return (5,)


class GuidedRectifier(_Gate):
    """g [z > 0] [g > 0], elementwise, of g and z; NaN if g is and z > 0."""

    nin = 2

    def impl(self, g, z):
        return 0. if g <= 0 or not z > 0 else g

    def c_code(self, node, name, inputs, outputs, sub):
        # The sign of a gradient is a coin toss to a branch predictor, so there
        # is nothing here that compilers make a branch of: two masks. As signed
        # integers, the bits of the floats from -0 down to -infinity are the
        # smallest, up to those of -infinity; 0, the positive floats and NaN of
        # either sign are above.
        # Where there is C code for float16, it computes in float32.
        (g, z), (out,) = inputs, outputs
        bits, minus_infinity = (
            (64, '0xfff0000000000000')
            if node.outputs[0].type.dtype == 'float64' else (32, '0xff800000'))
        integer = f'npy_int{bits}'
        return f"""{{
            union {{npy_float{bits} value; {integer} bits;}} g;
            g.value = {g};
            g.bits &= -({integer})(g.bits > ({integer}){minus_infinity});
            g.bits &= -({integer})({z} > 0);
            {out} = g.value;
        }}"""

    def grad(self, inputs, output_grads):
        (g, z), (v,) = inputs, output_grads
        is_open = scalar.and_(z > z.zeros_like(), g > g.zeros_like())
        return [scalar.switch(is_open, v, v.zeros_like()), z.zeros_like()]


class Rectifier(_Gate):
    """g [g > 0], elementwise, of g; NaN if g is."""

    nin = 1

    def impl(self, g):
        return 0. if g <= 0 else g

    def c_code(self, node, name, inputs, outputs, sub):
        (g,), (out,) = inputs, outputs
        return f'{out} = {g} <= 0 ? 0 : {g};'

    def grad(self, inputs, output_grads):
        (g,), (v,) = inputs, output_grads
        return [scalar.switch(g > g.zeros_like(), v, v.zeros_like())]


guided_rectifier = T.Elemwise(GuidedRectifier())
rectifier = T.Elemwise(Rectifier())
