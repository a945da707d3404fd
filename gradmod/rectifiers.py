"""The gates of `GuidedBackprop` and `DeconvNet` as scalar ops with C code.

Written with Theano's own operations they would be slower, and products of a
gradient with masks are multiplied out across layers by Theano's optimizer,
which needs exponential memory. An op of one's own is opaque to it, and is
still fused with the elementwise operations around it, on CPU and GPU.
"""
import theano.scalar as scalar
import theano.tensor as T


class _Gate(scalar.ScalarOp):
    """Lets the last input, the gradient, pass or puts 0 in its place."""

    # Theano's in-place optimizer makes such ops anew by their class, with the
    # constructor's arguments of `ScalarOp`.
    def output_types(self, types):
        if not all(t in scalar.float_types for t in types):
            raise TypeError('%s: expected floats, got %s' % (
                self, ', '.join(str(t) for t in types)))
        if hasattr(self, 'output_types_preference'):
            return super().output_types(types)
        return [types[-1]]

    def c_code_cache_version(self):
        return (4,)


class GuidedRectifier(_Gate):
    """g [z > 0] [g > 0], elementwise, of z and g; NaN if g is and z > 0."""

    nin = 2

    def impl(self, z, g):
        return 0. if g <= 0 or not z > 0 else g

    def c_code(self, node, name, inputs, outputs, sub):
        # The sign of a gradient is a coin toss to a branch predictor, so there
        # is nothing here that compilers make a branch of: the larger of two
        # integers and a mask. The bits of a positive float are those of a
        # positive integer. NaN may have either sign: `nan` is a positive one
        # where g is a negative one, and 0 elsewhere.
        # Where there is C code for float16, it computes in float32.
        (z, g), (out,) = inputs, outputs
        bits, minus_infinity, nan = (
            (64, '0xfff0000000000000', '0x7ff8000000000000')
            if node.outputs[0].type.dtype == 'float64' else
            (32, '0xff800000', '0x7fc00000'))
        return """{
            union {npy_float%(bits)d value; npy_int%(bits)d bits;} g;
            g.value = %(g)s;
            npy_int%(bits)d nan = %(nan)s & -(npy_int%(bits)d)(
                (npy_uint%(bits)d)g.bits > %(minus_infinity)s);
            g.bits = g.bits > nan ? g.bits : nan;
            g.bits &= -(npy_int%(bits)d)(%(z)s > 0);
            %(out)s = g.value;
        }""" % {'bits': bits, 'nan': nan, 'minus_infinity': minus_infinity,
                'z': z, 'g': g, 'out': out}

    def grad(self, inputs, output_grads):
        (z, g), (v,) = inputs, output_grads
        is_open = scalar.and_(z > z.zeros_like(), g > g.zeros_like())
        return [z.zeros_like(), scalar.switch(is_open, v, v.zeros_like())]


class Rectifier(_Gate):
    """g [g > 0], elementwise, of g; NaN if g is."""

    nin = 1

    def impl(self, g):
        return 0. if g <= 0 else g

    def c_code(self, node, name, inputs, outputs, sub):
        (g,), (out,) = inputs, outputs
        return '%s = %s <= 0 ? 0 : %s;' % (out, g, g)

    def grad(self, inputs, output_grads):
        (g,), (v,) = inputs, output_grads
        return [scalar.switch(g > g.zeros_like(), v, v.zeros_like())]


guided_rectifier = T.Elemwise(GuidedRectifier())
rectifier = T.Elemwise(Rectifier())
