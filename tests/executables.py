"""Programs that are the same are compiled once: a fifth of the tests' time.

Each test makes methods and attacks of its own, and so functions that JAX has not compiled yet,
though their programs are those of another test. JAX's cache on disk would know them too, at the
price of writing every one.
"""

import hashlib

from jax._src import compiler

_KNOWN: dict[bytes, object] = {}


def share() -> None:
    """Has a program compiled only where its text, options or devices are new."""
    compile_and_load = compiler.backend_compile_and_load

    def compile_once(backend, module, executable_devices, options, host_callbacks):
        text = module.operation.get_asm(enable_debug_info=False)
        arguments = backend, module, executable_devices, options, host_callbacks
        if host_callbacks or "callback" in text:  # by its address in this process
            return compile_and_load(*arguments)
        _, _, body = text.partition("{")  # after the function's name
        known_by = (body, options.SerializeAsString(), backend.platform, str(executable_devices))
        key = hashlib.sha256(repr(known_by).encode()).digest()
        if key not in _KNOWN:
            _KNOWN[key] = compile_and_load(*arguments)
        return _KNOWN[key]

    compiler.backend_compile_and_load = compile_once


def forget() -> None:
    """Gives back what was compiled."""
    _KNOWN.clear()
