import gradmod  # noqa: F401  before Theano and Lasagne, as users are told to


def pytest_configure(config):
    # Theano and Lasagne are older than the numpy and the Python under them.
    for module in ('theano', 'lasagne', 'pkg_resources'):
        config.addinivalue_line('filterwarnings',
                                'ignore::DeprecationWarning:%s' % module)
    config.addinivalue_line('filterwarnings',
                            'ignore:.*pkg_resources.*:UserWarning')
