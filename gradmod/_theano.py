"""What Theano does not export, by the names that gradmod uses.

No other module knows where Theano keeps these.
"""
from theano.compile import optdb  # noqa: F401
from theano.compile.builders import OpFromGraph  # noqa: F401
from theano.configparser import change_flags  # noqa: F401
from theano.gof import (Apply, Constant, Variable,  # noqa: F401
                        local_optimizer)
from theano.gof.graph import (ancestors, io_toposort,  # noqa: F401
                              inputs as graph_inputs)
from theano.gof.null_type import NullType  # noqa: F401
from theano.gof.opt import in2out  # noqa: F401
from theano.gradient import (DisconnectedType,  # noqa: F401
                             _is_zero as is_zero)
from theano.printing import Print  # noqa: F401
from theano.scan_module.scan_op import Scan  # noqa: F401
from theano.scan_module.scan_utils import equal_computations  # noqa: F401
from theano.tensor import raw_random  # noqa: F401
from theano.tensor.elemwise import DimShuffle, Elemwise  # noqa: F401
from theano.tensor.nnet.nnet import (LogSoftmax, Softmax,  # noqa: F401
                                     SoftmaxWithBias)
from theano.tensor.opt import Assert  # noqa: F401
from theano.tensor.shared_randomstreams import (  # noqa: F401
    randomstate_constructor)
# A tensor, on the host or on a device.
from theano.tensor.var import (  # noqa: F401
    _tensor_py_operators as TensorVariable)
