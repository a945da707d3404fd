import sys, os
sys.modules['theano.scan_module.scan_perform_ext'] = None
os.environ.setdefault('THEANO_FLAGS','blas.ldflags=')
import theano
